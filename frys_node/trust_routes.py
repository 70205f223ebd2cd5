"""Routes about trust: expel a node, and show how well the cluster is protected."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import trio

from balancer.driver import BalancerComponent
from frys_node.base.errors import FrysError, NotFound, NotReady
from frys_node.base.ports import Clock
from frys_node.base.types import NodeId
from frys_node.channel.driver import Channel
from frys_node.issuer_calls import issuer_calls
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.kernel.services.members import Status
from frys_node.observe.log import get_logger
from frys_node.secure.certificates import BACKDATE_S
from frys_node.secure.identity import Identity
from frys_node.secure.keyring import EpochKey
from frys_node.secure.statements import is_node_id
from frys_node.secure.token import TokenInfo
from frys_node.trust.expulsion import EXPEL, Expel, NodeExpelled
from frys_node.trust.keys import HeldKeys, KeySurvey
from membership.driver import MembershipDriver

CONVERGENCE_S = 10.0
"""How long a request waits for everybody to have the new key; it goes on spreading after that."""

DAY_S = 86_400.0

TOKENS_SHOWN_MAX = 32
"""API tokens that one warning names; `token list` names them all."""

log = get_logger(__name__)


class RevocationWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/members/{name}/revoke``; it may be left out."""

    holds_authority: bool = False
    """Also if the node was given the authority's key."""


class TrustRoutes:
    """Handlers over the channel, for people who name nodes."""

    def __init__(
        self,
        channel: Channel,
        balancer: BalancerComponent,
        membership: MembershipDriver,
        clock: Clock,
        *,
        live: Callable[[], Sequence[tuple[NodeId, str]]],
        tokens: Callable[[], Awaitable[list[TokenInfo]]],
        listeners: Callable[[], list[dict[str, str]]],
    ) -> None:
        """`live` returns the members that can be asked, `tokens` asks the issuer, `listeners` what is open here."""
        self._channel = channel
        self._balancer = balancer
        self._membership = membership
        self._clock = clock
        self._live = live
        self._tokens = tokens
        self._listeners = listeners
        channel.expulsions.is_member = self._is_member

    def _is_member(self, node: NodeId) -> bool:
        return self._membership.get(node) is not None or node in self._balancer.placement.record.members()

    def register(self, http: Http) -> None:
        """Add the routes."""
        http.route("POST", "/v1/members/{name}/revoke", self._revoke, scope="admin")
        http.route("GET", "/v1/members/{name}/revoke", self._would_revoke, scope="admin")
        http.route("POST", "/v1/members/{name}/admit", self._admit, scope="admin")
        http.route("GET", "/v1/security", self._security, scope="admin")

    def _find(self, name: str) -> NodeId:
        """Return a node by name, or by its id, which nobody here needs to remember."""
        if is_node_id(name):
            # The issuer knows whether it ever was one: also of those that have left, or that nobody admitted.
            return NodeId(name)
        try:
            return self._membership.insight.find(name)
        except NotFound as error:
            raise NotFound(error.message, hint=error.hint or "frys-node members lists them; an id does, too") from error

    def _name(self, node: NodeId) -> str:
        view = self._membership.get(node)
        return view.name if view is not None else node

    # Expulsion.

    async def _would_revoke(self, request: HttpRequest) -> HttpResponse:
        """Say who is meant, before it is asked for."""
        node = self._find(request.params["name"])
        view = self._membership.get(node)
        body = {
            "name": self._name(node),
            "id": node,
            "status": "unknown" if view is None else view.status,
            "is_expelled": node in self._channel.secrets.revoked,
        }
        return HttpResponse.json(body)

    async def _revoke(self, request: HttpRequest) -> HttpResponse:
        """Have the issuer expel a node, and wait a while until everybody has the key that it never gets."""
        node = self._find(request.params["name"])
        name, start_s = self._name(node), trio.current_time()
        wanted = request.json(RevocationWanted)
        asked = Expel(node, request.principal, wanted.holds_authority)
        made: NodeExpelled = await issuer_calls(self._balancer.ask_issuer)(EXPEL, asked)
        goal = HeldKeys((made.epoch,), made.epoch, made.expelled, made.digest)
        log.warning("operations.node_revoked", peer=name, peer_id=node, epoch=made.epoch, is_new=made.is_new)
        survey: KeySurvey | None = None
        with trio.move_on_after(CONVERGENCE_S):
            survey = await self._channel.keys.converged(lambda: self._others(node), goal)
        survey = survey or await self._channel.keys.survey(self._others(node), goal)
        dead = [view.name for view in self._membership.all() if view.status is Status.DEAD and view.id != node]
        body = msgspec.to_builtins(survey) | {
            "name": name,
            "id": node,
            "is_new": made.is_new,
            "took_s": round(trio.current_time() - start_s, 3),
            "is_on_ring": node in self._balancer.placement.record.members(),
            "dead": dead,
            "warnings": await self._warnings(node, name, made),
        }
        return HttpResponse.json(body)

    async def _admit(self, request: HttpRequest) -> HttpResponse:
        """On the issuer: count a node as a member that a topology record alone speaks for."""
        await trio.lowlevel.checkpoint()
        node = self._find(request.params["name"])
        name, is_new = self._name(node), self._channel.authority.admit(node)
        if is_new:
            log.warning("operations.node_admitted", peer=name, peer_id=node)
        return HttpResponse.json({"name": name, "id": node, "is_new": is_new})

    def _others(self, node: NodeId) -> list[tuple[NodeId, str]]:
        return [member for member in self._live() if member[0] != node]

    async def _warnings(self, node: NodeId, name: str, made: NodeExpelled) -> list[str]:
        """What else the expelled node may hold; it is expelled all the same if nobody can be asked."""
        found: list[str] = []
        if made.held_authority:
            found.append(f"{name} was given the authority's key and can make itself a new node: frys-node ca rotate")
        now_unix_s = self._clock.unix_ns() // 1_000_000_000
        found += api_token_warnings(self._channel.secrets.tokens.infos(now_unix_s), node, name)
        try:
            valid = sum(token.state == "valid" for token in await self._tokens())
            if valid:
                tokens = "join token is" if valid == 1 else "join tokens are"
                found.append(f"{valid} {tokens} valid: revoke what {name} may know (frys-node token list)")
        except FrysError as error:
            found.append(f"the issuer was not asked what else {name} may hold: {error.message}")
        return found

    # The picture.

    async def _security(self, request: HttpRequest) -> HttpResponse:
        channel = self._channel
        members, keys = await channel.protection.survey(self._live())
        sessions, unsigned = channel.protection.sessions(), channel.secrets.unsigned()
        body: dict[str, Any] = {
            "name": channel.identity.node_name,
            "cluster": channel.identity.cluster_name,
            "trouble": channel.trouble,
            "sessions": msgspec.to_builtins(sessions),
            "members": msgspec.to_builtins(members),
            "post_quantum": {
                "sessions": sum(said.post_quantum for said in members),
                "of": sum(said.sessions for said in members),
                "answered": sum(not said.error for said in members),
                "members": len(members),
            },
            "identity": msgspec.to_builtins(channel.protection.posture()),
            "issuer": await self._issuer(),
            "authority": _authority(channel.identity),
            "certificate": self._certificate(members),
            "keys": msgspec.to_builtins(keys) | self._rotation(),
            "expelled": [
                {"id": node, "name": self._name(node), "is_signed": node not in unsigned}
                for node in sorted(channel.secrets.revoked)
            ],
            "last_expulsion_by": last_expulsion_by(channel.secrets.keyring.keys, len(channel.secrets.revoked)),
            "strangers": self._strangers(),
            "tokens": await self._token_counts(),
            "refusals": channel.refusals.by_reason(),
            "listeners": self._listeners(),
        }
        return HttpResponse.json(body)

    async def _issuer(self) -> dict[str, Any]:
        """Who writes the record, and what it says of itself; before there is a record, who let this node in."""
        try:
            view = await self._balancer.verbs.show()
        except NotReady:
            node = self._channel.issuer
            return {
                "id": node,
                "name": self._name(node),
                "term": 0,
                "answers": False,
                "can_admit": None,
                "standby": [],
            }
        return {
            "id": view.issuer,
            "name": self._name(view.issuer),
            "term": view.term,
            "answers": view.answers,
            "can_admit": view.can_admit,
            "standby": view.standby,
        }

    def _strangers(self) -> list[dict[str, str]]:
        """On the issuer, who is connected here or in gossip and was never admitted, or has left."""
        met = [(view.id, view.peer) for view in self._channel.protection.sessions()]
        found = dict(self._channel.authority.strangers([*met, *self._live()]))
        return [{"id": node, "name": name} for node, name in sorted(found.items())]

    def _certificate(self, members: Sequence[Any]) -> dict[str, Any]:
        mine = self._channel.certificate_left_s()
        told = [(said.certificate_left_s, said.name) for said in members if said.certificate_left_s is not None]
        least_s, least = min(told, default=(mine, self._channel.identity.node_name))
        issued_s = int(self._channel.identity.certificate.not_valid_before_utc.timestamp()) + BACKDATE_S
        return {"left_days": mine / DAY_S, "issued_at": issued_s, "least_left_days": least_s / DAY_S, "least": least}

    def _rotation(self) -> dict[str, Any]:
        """When the newest key was made and when the next is due, by the wall clock; None where that is not known."""
        newest, plan = self._channel.secrets.keyring.newest, self._channel.keys.keeper.plan
        made_s = newest.made_unix_s if newest is not None else 0
        if newest is None or not made_s:
            return {"made_at": None, "rotates_at": None}
        return {"made_at": made_s, "rotates_at": int(made_s + plan.life_s(newest)) if plan.is_on else None}

    async def _token_counts(self) -> dict[str, Any]:
        """Count join tokens by state; the issuer may be down."""
        counts: dict[str, Any] = {"valid": 0, "expired": 0, "used": 0, "error": ""}
        try:
            for token in await self._tokens():
                counts[token.state] = counts.get(token.state, 0) + 1
        except FrysError as error:
            counts["error"] = error.message
        return counts


def _authority(identity: Identity) -> dict[str, Any]:
    """Say which authority issues, and when it was made: a change that no operator asked for shows here."""
    started = identity.ca_certificate.not_valid_before_utc.timestamp()
    was_changed = bool(identity.retired or identity.also_trusted)
    made_at = int(started) + BACKDATE_S if was_changed else 0
    return {"id": identity.ca_hash, "trusted": len(identity.authorities), "changed_at": made_at}


def last_expulsion_by(keys: Sequence[EpochKey], expelled: int) -> int | None:
    """Return when, in Unix seconds, all of the expelled were expelled at the latest, by the issuer's clock.

    With each of them the issuer makes a gossip key, which says how many there were by then. Three keys are kept, so the
    time is the last expulsion's own until the keys were rotated three times since, and then the oldest key's.
    """
    made = [key.made_unix_s for key in keys if key.made_unix_s and key.expelled == expelled]
    return min(made) if expelled and made else None


def api_token_warnings(tokens: Sequence[TokenInfo], node: NodeId, name: str) -> list[str]:
    """Name the API tokens that were made through an expelled node: they open the API, and it may have kept them."""
    ids = [token.id for token in tokens if token.made_through == node and token.state == "valid"]
    if not ids:
        return []
    what = "1 API token was" if len(ids) == 1 else f"{len(ids)} API tokens were"
    more = "" if len(ids) <= TOKENS_SHOWN_MAX else f" and {len(ids) - TOKENS_SHOWN_MAX} more"
    shown = " ".join(ids[:TOKENS_SHOWN_MAX]) + more
    return [f"{what} made through {name}, still valid: frys-node token revoke ID, for {shown}"]

"""Routes for the operator's verbs about the ring: remove a dead node, change a factor, move the issuer's role."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import trio

from balancer.changes import CLUSTER
from balancer.driver import BalancerComponent
from balancer.issuer_methods import RemovalView
from frys_node.base.errors import FrysError, NotFound
from frys_node.base.types import NodeId
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.observe.log import get_logger
from membership.driver import MembershipDriver

log = get_logger(__name__)

IDS_SHOWN_MAX = 8
"""Nodes without a name that an error lists."""


class RemovalWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/members/{name}/remove``."""

    accept_loss: bool = False
    keyless: bool = False
    """Also if the node may have the only key of the cluster's authority."""


class FactorWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``PUT /v1/replication/factor``."""

    replication_factor: int
    collection: str = CLUSTER
    """A collection's name; empty: the cluster's own, which is the cache's."""


class PromotionWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/issuer/promote``."""

    destroyed: tuple[str, ...] | None = None
    """Names or ids of all members that do not answer: they are given up with all they held. None: none is."""


class SuccessorWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/issuer/handover``."""

    to: str


class TopologyRoutes:
    """Handlers over the balancer, for people who name nodes."""

    def __init__(
        self, balancer: BalancerComponent, membership: MembershipDriver, revoke: Callable[[NodeId], bool]
    ) -> None:
        self._balancer = balancer
        self._membership = membership
        self._revoke = revoke

    def register(self, http: Http) -> None:
        """Add the routes."""
        http.route("POST", "/v1/members/{name}/remove", self._remove, scope="admin")
        http.route("GET", "/v1/members/{name}/remove", self._removal, scope="read")
        http.route("GET", "/v1/replication/factor", self._replication, scope="read")
        http.route("PUT", "/v1/replication/factor", self._change_factor, scope="admin")
        http.route("GET", "/v1/issuer", self._issuer, scope="read")
        http.route("POST", "/v1/issuer/promote", self._promote, scope="admin")
        http.route("POST", "/v1/issuer/handover", self._hand_over, scope="admin")

    def _find(self, name: str) -> NodeId:
        """Return a node by name or id; one of the ring's that nobody in gossip remembers, by its id."""
        members = self._balancer.placement.record.members()
        if name in members:
            return NodeId(name)
        try:
            return self._membership.insight.find(name)
        except NotFound as error:
            nameless = [node for node in members if self._membership.get(node) is None]
            if not nameless:
                raise
            # Names come from gossip: after a start of all nodes there is none of one that stayed down.
            shown = ", ".join(nameless[:IDS_SHOWN_MAX]) + (" and others" if nameless[IDS_SHOWN_MAX:] else "")
            hint = f"nobody here remembers the names of nodes that are on the ring: {shown}; give the id"
            raise NotFound(error.message, hint=hint) from error

    def _name(self, node: NodeId) -> str:
        view = self._membership.get(node)
        return view.name if view is not None else node

    # Removals.

    async def _remove(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(RemovalWanted)
        node = self._find(request.params["name"])
        view = await self._balancer.verbs.remove(node, accepts_loss=wanted.accept_loss, accepts_keyless=wanted.keyless)
        log.warning("operations.removal_asked", peer=self._name(node), accept_loss=wanted.accept_loss)
        return HttpResponse.json(self._told(node, view), 202)

    async def _removal(self, request: HttpRequest) -> HttpResponse:
        node = self._find(request.params["name"])
        return HttpResponse.json(self._told(node, await self._balancer.verbs.removal(node)))

    def _told(self, node: NodeId, view: RemovalView) -> dict[str, Any]:
        waits_for = []
        for line in view.waits_for:
            who, separator, what = line.partition(": ")
            waits_for.append(f"{self._name(NodeId(who))}{separator}{what}")
        told = msgspec.structs.replace(view, waits_for=waits_for)
        return {"name": self._name(node), "id": node, **msgspec.structs.asdict(told)}

    # Factors.

    async def _replication(self, request: HttpRequest) -> HttpResponse:
        """Show the factors in force, and those that a change under way leads to."""
        await trio.lowlevel.checkpoint()
        record = self._balancer.placement.record
        following = dict(record.next_factors)
        collections = {
            held.name: {
                "replication_factor": held.replication_factor,
                "next": following.get(held.id, held.replication_factor),
            }
            for held in record.collections
        }
        factor, next_factor = record.replication_factor, record.next_replication_factor
        body = {
            "epoch": str(record.epoch),
            "phase": record.phase,
            "replication_factor": factor,
            "next": factor if next_factor is None else next_factor,
            "collections": collections,
        }
        return HttpResponse.json(body)

    async def _change_factor(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(FactorWanted)
        await self._balancer.verbs.change_factor(wanted.collection, wanted.replication_factor)
        body = {"collection": wanted.collection, "replication_factor": wanted.replication_factor}
        return HttpResponse.json(body, 202)

    # The issuer.

    async def _shown(self) -> dict[str, Any]:
        view = await self._balancer.verbs.show()
        successor = "" if view.successor is None else self._name(view.successor)
        return msgspec.structs.asdict(view) | {"name": self._name(view.issuer), "successor": successor}

    async def _issuer(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json(await self._shown())

    async def _promote(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(PromotionWanted)
        destroyed = None if wanted.destroyed is None else [self._find(name) for name in wanted.destroyed]
        record = await self._balancer.verbs.promote(destroyed)
        if destroyed:
            self._balancer.verbs.accept_keyless()
        warnings = [text for node in destroyed or () for text in self._give_up(node)]
        log.warning("operations.issuer_promoted", epoch=str(record.epoch), destroyed=len(destroyed or ()))
        return HttpResponse.json(await self._shown() | {"warnings": warnings})

    def _give_up(self, node: NodeId) -> list[str]:
        """Expel a node whose data was given up, and say what is missing; the others are expelled all the same."""
        name = self._name(node)
        try:
            is_signed = self._revoke(node)
        except FrysError as error:
            log.error("operations.node_not_revoked", peer=name, code=error.code, error=error.message)
            return [f"{name} is not expelled for good: {error.message}; run frys-node node revoke {name}"]
        if is_signed:
            return []
        weak = f"{name} is refused by this node alone, which does not hold the authority's key"
        return [f"{weak}: hand the role to one that does (frys-node issuer handover NAME), then: node revoke {node}"]

    async def _hand_over(self, request: HttpRequest) -> HttpResponse:
        to = request.json(SuccessorWanted).to
        if not to:
            raise NotFound("say which member writes the record next", hint='send {"to": "NAME"}')
        await self._balancer.verbs.hand_over(self._find(to))
        return HttpResponse.json(await self._shown())

"""What an operator may ask of a node: tokens, a leave, moves, snapshots, settings. Routes for the command line.

Tokens belong to the issuer's desk; any node passes the request on. A leave runs in the background, so that its progress
can be shown: the ring first (everything this node holds moves away), then gossip, then the process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import trio

from balancer.driver import BalancerComponent
from balancer.issuer_methods import IssuerStanding
from balancer.seat_driver import REJOIN_HINT
from frys_node.authority_routes import AuthorityRoutes
from frys_node.base.errors import FrysError, NotReady
from frys_node.base.types import NodeId
from frys_node.channel.authority import AuthorityDriver
from frys_node.channel.driver import Channel
from frys_node.channel.issuer import IssuerDesk
from frys_node.channel.keys import ROTATE_KEYS, KeySurvey, RotateKeys
from frys_node.channel.rotation_desk import RotationDesk
from frys_node.channel.rotation_driver import RotationDriver
from frys_node.insight import InsightRoutes
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.lifecycle import ComponentChanged, State
from frys_node.kernel.services.http import HTTP, Http, HttpRequest, HttpResponse
from frys_node.kernel.services.members import MemberChanged, Status
from frys_node.kernel.services.rpc import Method
from frys_node.kernel.services.topology import TopologyChanged
from frys_node.observe.log import get_logger
from frys_node.replication.driver import ReplicationComponent
from frys_node.ring_routes import RingRoutes
from frys_node.saves import SnapshotRoutes
from frys_node.secure.stored import LEFT_PATH, REMOVED
from frys_node.secure.token import TokenInfo
from frys_node.topology_routes import TopologyRoutes
from frys_node.trust_routes import CONVERGENCE_S, TrustRoutes
from frys_node.wire.codec import Message
from membership.driver import MembershipDriver
from snapshots.driver import SnapshotComponent

log = get_logger(__name__)

FRONT = "network"
"""The plugin that provides HTTP."""

RING_STATE = "leaving the ring"
"""A leave's first stage; the seat knows more about it."""

TTL_DEFAULT_S = 3_600.0


class TokenWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/tokens``."""

    ttl_s: float = TTL_DEFAULT_S
    uses: int | None = 1
    """None: any number of times."""
    role: str = "node"


class CreateToken(Message, frozen=True):
    """Ask the issuer for a token."""

    ttl_s: float
    uses: int | None
    role: str


class CreatedToken(Message, frozen=True):
    """The token's text, told once."""

    token: str
    id: str
    expires_at: int | None
    uses: int | None


class ListTokens(Message, frozen=True):
    """Ask the issuer which tokens there are."""


class ListedTokens(Message, frozen=True):
    """Every token without its secret."""

    tokens: list[TokenInfo]


class RevokeToken(Message, frozen=True):
    """Ask the issuer to forget a token."""

    id: str


CREATE_TOKEN: Method[CreateToken, CreatedToken] = Method("operations.create_token", CreateToken, CreatedToken)
LIST_TOKENS: Method[ListTokens, ListedTokens] = Method("operations.list_tokens", ListTokens, ListedTokens)
REVOKE_TOKEN: Method[RevokeToken, ListTokens] = Method("operations.revoke_token", RevokeToken, ListTokens)


class Operations:
    """A component: serves the routes and carries out a leave."""

    name = "operations"

    def __init__(
        self,
        *,
        kernel: Kernel,
        channel: Channel,
        membership: MembershipDriver,
        balancer: BalancerComponent,
        snapshots: SnapshotComponent,
        replication: ReplicationComponent,
        saves: SnapshotRoutes,
        settings: Callable[[], list[dict[str, Any]]],
        listeners: Callable[[], list[dict[str, str]]],
        standby: Sequence[str] = (),
    ) -> None:
        self._kernel = kernel
        self._channel = channel
        self._membership = membership
        self._balancer = balancer
        self._snapshots = snapshots
        self._replication = replication
        self._saves = saves
        self._settings = settings
        self._listeners = listeners
        channel.authority.ask_lost(membership.is_lost)
        self._authority = AuthorityDriver(channel.authority, channel, standby=standby, members=self._live)
        identity, holder = channel.identity, channel.authority
        desk = RotationDesk(identity, holder, kernel.disk, kernel.entropy, kernel.clock)
        self._rotation = RotationDriver(identity, holder, desk, channel, members=self._live)
        balancer.verbs.entrust = self._authority.entrust
        balancer.verbs.standing = self._standing
        balancer.on_removed = self._removed
        self._leave_wanted = trio.Event()
        self._leave_state = ""
        self._leave_error: FrysError | None = None
        self._is_open = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve other nodes' requests to the issuer's desk, and wait for a leave."""
        if not self._is_open:
            self._channel.serve(CREATE_TOKEN, self._serve_create)
            self._channel.serve(LIST_TOKENS, self._serve_list)
            self._channel.serve(REVOKE_TOKEN, self._serve_revoke)
            self._authority.serve()
            self._rotation.serve()
            self._kernel.bus.on(TopologyChanged, self._topology_changed)
            record = self._balancer.machine.record
            if record is not None:
                self._channel.issuer = record.epoch.term.node
            self._kernel.bus.on(MemberChanged, self._member_changed)
            self._kernel.bus.on(ComponentChanged, self._component_changed)
            self._front_is_up()
            self._is_open = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._authority.run)
            nursery.start_soon(self._rotation.run)
            task_status.started()
            while True:
                await self._leave_wanted.wait()
                await self._leave()
                self._leave_wanted = trio.Event()

    def _topology_changed(self, event: TopologyChanged) -> None:
        self._channel.issuer = event.new.term.node

    def _standing(self) -> IssuerStanding:
        return IssuerStanding(self._channel.authority.can_admit, self._authority.standby())

    def _removed(self) -> None:
        """An operator removed this node: it stops, its directory stays as it is and is not started again by mistake."""
        log.error("operations.removed", fix=REJOIN_HINT)
        try:
            self._kernel.disk.write(LEFT_PATH, REMOVED)
        except FrysError as error:
            log.error("operations.removal_not_noted", code=error.code, error=error.message)
        self._kernel.request_stop("removed from the cluster by an operator")

    def _member_changed(self, event: MemberChanged) -> None:
        """A node that left gives its name back."""
        if event.new.status is Status.LEFT and self._channel.desk is not None:
            self._channel.desk.release_name(event.new.id)

    def _component_changed(self, event: ComponentChanged) -> None:
        """A front that was restarted has an empty route table, and perhaps another port."""
        if event.name == FRONT and event.new is State.READY:
            self._front_is_up()

    def _front_is_up(self) -> None:
        http = self._kernel.services.find(HTTP)
        if http is not None:
            self.register(http)
            self._membership.set_http(http.address)

    def register(self, http: Http) -> None:
        """Add the routes."""
        InsightRoutes(self._membership).register(http)
        RingRoutes(
            balancer=self._balancer,
            snapshots=self._snapshots,
            members=self._membership,
            executor=self._kernel.executor,
        ).register(http)
        TopologyRoutes(self._balancer, self._membership, self._channel.revoke).register(http)
        TrustRoutes(
            self._channel,
            self._balancer,
            self._membership,
            self._kernel.clock,
            live=self._live,
            tokens=self._ask_tokens,
            listeners=self._listeners,
        ).register(http)
        AuthorityRoutes(self._balancer.ask_issuer, self._rotation.view, self._membership).register(http)
        self._saves.register(http)
        http.route("POST", "/v1/tokens", self._create_token, scope="admin")
        http.route("GET", "/v1/tokens", self._list_tokens, scope="admin")
        http.route("DELETE", "/v1/tokens/{id}", self._revoke_token, scope="admin")
        http.route("GET", "/v1/keys", self._list_keys, scope="admin")
        http.route("POST", "/v1/keys/rotate", self._rotate_keys, scope="admin")
        http.route("POST", "/v1/leave", self._start_leave, scope="admin")
        http.route("GET", "/v1/leave", self._show_leave, scope="read")
        http.route("GET", "/v1/topology", self._topology, scope="read")
        http.route("GET", "/v1/replication", self._replicas, scope="read")
        http.route("GET", "/v1/config", self._config, scope="admin")

    # Tokens.

    def _desk(self) -> IssuerDesk:
        desk = self._channel.desk
        if desk is None:
            if self._channel.authority.is_issuer:
                raise NotReady(
                    "the issuer does not hold the key of the cluster's authority: no node can join",
                    hint="hand its role to a node that does: frys-node issuer handover NAME",
                )
            raise NotReady("this node is not the issuer", hint="ask the issuer: frys-node issuer show says who it is")
        return desk

    async def _serve_create(self, caller: NodeId, request: CreateToken) -> CreatedToken:
        text, info = self._desk().create_token(ttl_s=request.ttl_s, uses=request.uses, role=request.role)
        log.info("operations.token_created", token_id=info.id, asked_by=caller, uses=request.uses)
        return CreatedToken(text, info.id, info.expires_at, info.uses_left)

    async def _serve_list(self, caller: NodeId, request: ListTokens) -> ListedTokens:
        return ListedTokens(self._desk().list_tokens())

    async def _serve_revoke(self, caller: NodeId, request: RevokeToken) -> ListTokens:
        self._desk().revoke_token(request.id)
        log.info("operations.token_revoked", token_id=request.id, asked_by=caller)
        return ListTokens()

    async def _create_token(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(TokenWanted)
        made = await self._balancer.ask_issuer(CREATE_TOKEN, CreateToken(wanted.ttl_s, wanted.uses, wanted.role))
        body = {"token": made.token, "id": made.id, "expires_at": made.expires_at, "uses": made.uses}
        return HttpResponse.json(body, 201)

    async def _ask_tokens(self) -> list[TokenInfo]:
        return (await self._balancer.ask_issuer(LIST_TOKENS, ListTokens())).tokens

    async def _list_tokens(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json({"tokens": await self._ask_tokens()})

    async def _revoke_token(self, request: HttpRequest) -> HttpResponse:
        await self._balancer.ask_issuer(REVOKE_TOKEN, RevokeToken(request.params["id"]))
        return HttpResponse.json({"revoked": request.params["id"]})

    # Gossip keys.

    def _live(self) -> list[tuple[NodeId, str]]:
        """Members that can be asked; an expelled one may look alive for a while."""
        expelled = self._channel.secrets.revoked
        usable = [view for view in self._membership.all() if self._membership.is_usable(view.id)]
        return [(view.id, view.name) for view in usable if view.id not in expelled]

    def _told(self, survey: KeySurvey) -> HttpResponse:
        """Answer with what the live hold, and name the dead: whoever comes back gets the key with its connection."""
        dead = [view.name for view in self._membership.all() if view.status is Status.DEAD]
        return HttpResponse.json(msgspec.to_builtins(survey) | {"dead": dead})

    async def _list_keys(self, request: HttpRequest) -> HttpResponse:
        return self._told(await self._channel.keys.survey(self._live()))

    async def _rotate_keys(self, request: HttpRequest) -> HttpResponse:
        """Have the issuer make a key, and wait a while until everybody seals with it."""
        made = await self._balancer.ask_issuer(ROTATE_KEYS, RotateKeys())
        log.info("operations.keys_rotated", epoch=made.epochs[0])
        survey: KeySurvey | None = None
        with trio.move_on_after(CONVERGENCE_S):
            survey = await self._channel.keys.converged(self._live)
        return self._told(survey or await self._channel.keys.survey(self._live()))

    # Leaving.

    async def _start_leave(self, request: HttpRequest) -> HttpResponse:
        if not self._leave_wanted.is_set():
            self._leave_error, self._leave_state = None, RING_STATE
            self._leave_wanted.set()
        return HttpResponse.json({"name": self._kernel.name, "state": self._leave_state}, 202)

    async def _show_leave(self, request: HttpRequest) -> HttpResponse:
        body: dict[str, Any] = {"name": self._kernel.name, "state": self._leave_state or "not leaving"}
        if self._leave_state == RING_STATE:
            body["state"] = self._balancer.seat.stage or RING_STATE
        if self._leave_error is not None:
            error = self._leave_error
            body |= {"error": error.message, "code": error.code, "hint": error.hint}
        return HttpResponse.json(body)

    async def _leave(self) -> None:
        """Give up the place on the ring, then the membership, then end the process."""
        try:
            self._leave_state = RING_STATE
            await self._balancer.leave()
            if not self._channel.authority.is_issuer:
                self._channel.authority.drop()
            self._leave_state = "saying goodbye"
            await self._membership.leave()
        except FrysError as error:
            self._leave_error, self._leave_state = error, "failed"
            log.error("operations.leave_failed", code=error.code, error=error.message)
            return
        try:
            await self._kernel.executor.run(self._kernel.disk.write, LEFT_PATH, b"")
        except FrysError as error:
            # It has left all the same; only a mistaken restart would not be noticed.
            fix = "do not start it again: move its data directory away"
            log.error("operations.left_not_noted", code=error.code, error=error.message, fix=fix)
        self._leave_state = "left"
        self._kernel.request_stop("left the cluster")

    # Topology, settings.

    async def _replicas(self, _request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        return HttpResponse.json(self._replication.reports.view())

    async def _topology(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json(await self._balancer.describe())

    async def _config(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json({"settings": self._settings()})

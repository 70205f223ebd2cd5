"""What an operator may ask of a node: tokens, a leave, moves, snapshots, settings. Routes for the command line.

A leave runs in the background, so that its progress
can be shown: the ring first (everything this node holds moves away), then gossip, then the process ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import msgspec
import trio

from balancer.driver import NOTE, BalancerComponent
from balancer.issuer_methods import CHANGE_FACTOR, REMOVE_NODE, IssuerStanding
from balancer.methods import DELETE, JOIN_RING
from balancer.record import TopologyRecord
from balancer.topology_messages import TOPOLOGY_MESSAGES, RecordPush
from frys_node.authority_routes import AuthorityRoutes
from frys_node.base.errors import FrysError, NotReady
from frys_node.base.types import NodeId
from frys_node.channel.departed import DEPART, Depart
from frys_node.channel.driver import Channel
from frys_node.channel.greeting import Parting
from frys_node.insight import InsightRoutes
from frys_node.issuer_calls import issuer_calls
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.lifecycle import ComponentChanged, State
from frys_node.kernel.services.http import HTTP, Http, HttpRequest, HttpResponse
from frys_node.kernel.services.members import MemberChanged, Status
from frys_node.kernel.services.rpc import Method
from frys_node.kernel.services.topology import TopologyChanged
from frys_node.observe.log import get_logger
from frys_node.removal import removes
from frys_node.replication.driver import ReplicationComponent
from frys_node.ring_routes import RingRoutes
from frys_node.saves import SnapshotRoutes
from frys_node.secure.admin import replace_admin_token
from frys_node.secure.errors import Unconfirmed
from frys_node.secure.stored import LEFT_PATH
from frys_node.token_routes import CREATE_TOKEN, REVOKE_TOKEN, TokenRoutes
from frys_node.topology_routes import TopologyRoutes
from frys_node.trust.api_tokens import ApiTokenDesk
from frys_node.trust.authority import AuthorityDriver
from frys_node.trust.departures import DEPARTURES_PATH
from frys_node.trust.expulsion import EXPEL
from frys_node.trust.keys import POLL_S, ROTATE_KEYS, KeySurvey, RotateKeys
from frys_node.trust.rotation import ROTATE_AUTHORITY
from frys_node.trust.rotation_desk import RotationDesk
from frys_node.trust.rotation_driver import RotationDriver
from frys_node.trust.token_uses import TokenUses
from frys_node.trust.web_certificates import ISSUE_WEB
from frys_node.trust_routes import CONVERGENCE_S, TrustRoutes
from membership.driver import MembershipDriver
from snapshots.driver import SnapshotComponent

KEYLESS_PATH = "issuer/keyless"
"""Present where an operator gave up the key of the cluster's authority, so that the dead are removed without it."""

log = get_logger(__name__)

DEPART_S = 5.0
"""How long a node that leaves waits for the issuer to end its admission."""

RENEW_RECORD_S = 30.0
"""Pause between looks at the issuer whether its record is signed under an authority that is trusted."""

ADMIN_TOLD_S = 5.0
"""How long a request waits for everybody to accept the new admin token alone; it goes on spreading after that."""

ADMIN_EVERY_S = 10.0
"""Pause between two replacements of the admin token: any member can ask for one."""

FRONT = "network"
"""The plugin that provides HTTP."""

RING_STATE = "leaving the ring"
"""A leave's first stage; the seat knows more about it."""


ADMITTED_ONLY: tuple[Method[Any, Any], ...] = (
    JOIN_RING,
    REMOVE_NODE,
    CHANGE_FACTOR,
    DELETE,
    CREATE_TOKEN,
    REVOKE_TOKEN,
    EXPEL,
    ROTATE_KEYS,
    ROTATE_AUTHORITY,
    ISSUE_WEB,
)
"""What the issuer does for nodes that it admitted, whatever certificate another one shows."""


def guard_issuer(channel: Channel) -> None:
    """Have the issuer look into its registry before it does what makes a stranger a member, or lasts.

    Who is on the ring counts as admitted for issuers to come, who has a join token can be admitted.
    """
    for method in ADMITTED_ONLY:
        channel.guard(method, channel.authority.check_admitted)


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
        is_trusted: Callable[[NodeId, bytes, bytes], bool],
    ) -> None:
        """`is_trusted` says whether a record is proved by a node's certificate of an authority that is trusted now."""
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
        self._rotation = RotationDriver(
            identity, holder, desk, channel, members=self._live, rotate_keys=channel.keys.rotate_older
        )
        self._desk = ApiTokenDesk(
            channel.secrets.tokens,
            channel,
            kernel.entropy,
            kernel.clock,
            issuer=lambda: channel.issuer,
            term=self._term,
            members=self._live,
            enrolled=self._enrolled,
        )
        self._uses = TokenUses(channel.secrets.tokens, channel, kernel.clock, members=self._live)
        self._tokens = TokenRoutes(balancer, channel, self._desk, self._uses, self._replace_admin)
        balancer.verbs.entrust = self._entrust
        balancer.verbs.is_admitted = channel.authority.is_admitted
        balancer.verbs.standing = self._standing
        balancer.machine.steps.may_remove = self._may_remove
        balancer.verbs.accept_keyless = self._accept_keyless
        self._is_keyless = kernel.disk.read(KEYLESS_PATH) is not None
        self._admin_replaced_s = -inf
        self._is_trusted = is_trusted
        channel.departed.on_parting = self._parting
        self._record_before: TopologyRecord | None = None
        self._removed: set[NodeId] = set()
        """Whom records of this issuer removed in this term, and this life, and who is not shut out yet."""
        self._trust_changed = trio.Event()
        channel.authority.on_trust.append(self._wake_renewal)
        self._leave_wanted = trio.Event()
        self._leave_state = ""
        self._leave_error: FrysError | None = None
        self._is_open = False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve other nodes' requests to the issuer's desk, and wait for a leave."""
        if not self._is_open:
            self._tokens.serve()
            self._desk.serve()
            self._uses.serve()
            self._channel.on_connection(self._desk.connected)
            self._authority.serve()
            self._rotation.serve()
            self._kernel.bus.on(TopologyChanged, self._topology_changed)
            record = self._balancer.machine.record
            self._record_before = record
            if record is not None:
                self._channel.issuer = record.epoch.term.node
            if not self._kernel.disk.size_bytes(DEPARTURES_PATH):
                # Issuers of before that table forgot whose name was freed: who is on the ring is known by that.
                self._adopt_ring()
            self._kernel.bus.on(MemberChanged, self._member_changed)
            self._kernel.bus.on(ComponentChanged, self._component_changed)
            self._front_is_up()
            self._is_open = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._authority.run)
            nursery.start_soon(self._rotation.run)
            nursery.start_soon(self._desk.run)
            nursery.start_soon(self._renew_record)
            task_status.started()
            while True:
                await self._leave_wanted.wait()
                await self._leave()
                self._leave_wanted = trio.Event()

    def _topology_changed(self, event: TopologyChanged) -> None:
        if self._channel.issuer != event.new.term.node:
            self._channel.issuer = event.new.term.node
            self._desk.wake()
            self._adopt_ring()
        self._end_removed()

    def _adopt_ring(self) -> None:
        """This node may have become the issuer, with a copy of the registry that lacks who was admitted since."""
        desk, record = self._channel.desk, self._balancer.machine.record
        if desk is None or record is None:
            return
        found = [self._membership.get(node) for node in record.members()]
        names = {view.id: view.name for view in found if view is not None}
        members = [(node, names.get(node, "")) for node in record.members() if node not in record.removed]
        try:
            adopted = desk.adopt(members)
        except FrysError as error:
            log.error("operations.ring_not_adopted", code=error.code, error=error.message)
        else:
            if adopted:
                log.warning("operations.ring_adopted", peers=adopted, fix=Unconfirmed.FIX)

    def _end_removed(self) -> None:
        """On the issuer: a node that an operator removed is no member any more.

        It is one whom this issuer's own records removed: what another one wrote ends nobody for good by its word.
        """
        record, before = self._balancer.machine.record, self._record_before
        self._record_before = record
        if record is None or record.epoch.term.node != self._channel.self_id:
            self._removed.clear()
            return
        if before is not None and before.epoch.term == record.epoch.term:
            # A removal that was given up is in no later record.
            self._removed = (self._removed | set(record.removed) - set(before.removed)) & set(record.removed)
        else:
            self._removed.clear()
        for node in self._removed - set(record.members()):
            self._shut_out(node)

    def _shut_out(self, node: NodeId) -> None:
        """End a removed node's admission, durably, and have everybody told; who refuses it tells it the record."""
        desk, fix = self._channel.desk, f"frys-node node revoke {node}"
        try:
            if desk is None:
                raise NotReady("nobody believes it without the authority's key, which this node does not hold")
            if desk.was_admitted(node):
                desk.depart(node)
            self._channel.secrets.depart(node)
        except FrysError as error:
            log.error("operations.removal_not_told", peer=node, code=error.code, error=error.message, fix=fix)
        else:
            self._removed.discard(node)
            log.warning("operations.node_shut_out", peer=node)

    def _parting(self, node: NodeId) -> Parting | None:
        """Return the record for a node that it removes."""
        record, signed = self._balancer.machine.record, self._balancer.machine.signed
        if record is None or signed is None or not removes(record, node):
            return None
        return Parting(NOTE, TOPOLOGY_MESSAGES.encode(RecordPush(signed)))

    def _wake_renewal(self) -> None:
        self._trust_changed.set()

    async def _renew_record(self) -> None:
        """On the issuer: write the record anew after a change of the authority.

        Members that were away for a change of the term too take it only under an authority that they trust.
        """
        while True:
            self._trust_changed = trio.Event()
            record, signed = self._balancer.machine.record, self._balancer.machine.signed
            if record is not None and signed is not None and record.epoch.term.node == self._channel.self_id:
                try:
                    if not self._is_trusted(self._channel.self_id, signed.data, signed.proof):
                        await self._balancer.renew(record.epoch)
                except FrysError as error:
                    log.info("operations.record_not_renewed", code=error.code, error=error.message)
            with trio.move_on_after(RENEW_RECORD_S):
                await self._trust_changed.wait()

    def _term(self) -> int:
        record = self._balancer.machine.record
        return 0 if record is None else record.epoch.term.number

    def _enrolled(self) -> set[NodeId]:
        """Members that the record has, without those that were expelled."""
        record = self._balancer.machine.record
        ring = () if record is None else (*record.ring, *record.next_ring)
        return {member.node for member in ring} - set(self._channel.secrets.revoked)

    async def _entrust(self, successor: NodeId) -> None:
        """Give a successor all that the role takes: the API tokens as they are now, and the authority's key.

        Raises:
            Unconfirmed: Only a record says that it is a member. It was told nothing.
        """
        self._channel.authority.check_admitted(successor)
        await self._desk.tell(successor)
        await self._authority.entrust(successor)

    def _may_remove(self) -> bool:
        return self._is_keyless or self._channel.authority.can_admit

    def _accept_keyless(self) -> None:
        """Note, durably, that the authority's key is given up, unless this node has it."""
        if not self._channel.authority.can_admit:
            self._kernel.disk.write(KEYLESS_PATH, b"")
            self._is_keyless = True

    def _standing(self) -> IssuerStanding:
        return IssuerStanding(self._channel.authority.can_admit, self._authority.standby())

    def _member_changed(self, event: MemberChanged) -> None:
        """A node that left, or was forced to, gives its name back."""
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
        InsightRoutes(self._membership, self._replication.reports.purge_wait).register(http)
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
            tokens=self._tokens.join_tokens,
            listeners=self._listeners,
        ).register(http)
        AuthorityRoutes(
            issuer_calls(self._balancer.ask_issuer),
            self._rotation.view,
            self._membership,
            self._channel.renew_certificate,
        ).register(http)
        self._saves.register(http)
        self._tokens.register(http)
        http.route("GET", "/v1/keys", self._list_keys, scope="admin")
        http.route("POST", "/v1/keys/rotate", self._rotate_keys, scope="admin")
        http.route("POST", "/v1/leave", self._start_leave, scope="admin")
        http.route("GET", "/v1/leave", self._show_leave, scope="read")
        http.route("GET", "/v1/topology", self._topology, scope="read")
        http.route("GET", "/v1/replication", self._replicas, scope="read")
        http.route("GET", "/v1/config", self._config, scope="admin")

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
        made = await issuer_calls(self._balancer.ask_issuer)(ROTATE_KEYS, RotateKeys())
        log.info("operations.keys_rotated", epoch=made.epochs[0])
        survey: KeySurvey | None = None
        with trio.move_on_after(CONVERGENCE_S):
            survey = await self._channel.keys.converged(self._live)
        return self._told(survey or await self._channel.keys.survey(self._live()))

    async def _replace_admin(self) -> tuple[int, int]:
        """Replace the admin token, on the issuer, and wait a while until everybody accepts the new one alone."""
        keys, secrets = self._channel.keys, self._channel.secrets
        keys.check_issuer()
        left_s = self._admin_replaced_s + ADMIN_EVERY_S - trio.current_time()
        if left_s > 0:
            raise NotReady("the admin token was just replaced", hint=f"retry in {left_s:.0f} s")
        self._admin_replaced_s = trio.current_time()
        replace_admin_token(self._kernel.disk, self._kernel.entropy, secrets.replace_admin)
        told, members = 0, 1
        with trio.move_on_after(ADMIN_TOLD_S):
            while told < members:
                said = (await keys.survey(self._live())).members
                number = keys.held().admin
                told, members = sum(one.admin >= number for one in said), len(said)
                await trio.sleep(POLL_S)
        return told, members

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
            await self._depart()
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

    async def _depart(self) -> None:
        """Have the issuer end this node's admission; it leaves all the same if the issuer cannot be told."""
        if self._channel.authority.is_issuer:
            return
        try:
            with trio.fail_after(DEPART_S):
                await self._channel.call(self._channel.issuer, DEPART, Depart())
        except (FrysError, trio.TooSlowError) as error:
            fix = f"on another member, if its directory may be copied: frys-node node revoke {self._channel.self_id}"
            log.error("operations.departure_not_told", error=str(error), fix=fix)

    # Topology, settings.

    async def _replicas(self, _request: HttpRequest) -> HttpResponse:
        await trio.lowlevel.checkpoint()
        return HttpResponse.json(self._replication.reports.view())

    async def _topology(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json(await self._balancer.describe())

    async def _config(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json({"settings": self._settings()})

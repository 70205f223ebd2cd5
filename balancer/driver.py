"""The balancer component: keeps the topology record on disk, spreads it, and drives changes at the issuer."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import trio

from balancer import router
from balancer.catalogue_driver import Catalogue
from balancer.intake import Intake
from balancer.issuer_driver import IssuerVerbs
from balancer.measures import measure
from balancer.methods import STEP, Nothing, RingView, StepView
from balancer.movers_driver import MoverRunner
from balancer.placement import Placement
from balancer.proof import RecordProofs
from balancer.record import RECORD, TopologyRecord, check_format, ring_of
from balancer.register import IssuerRegister, Register
from balancer.saved import RecordFile
from balancer.seat_driver import Seat
from balancer.settings import BalancerSettings
from balancer.topology import TopologyMachine
from balancer.topology_effects import (
    Adopted,
    DiskWork,
    Equivocation,
    PersistPromise,
    PersistRecord,
    Propose,
    SendTopology,
    Settled,
    TakeOver,
    TopologyEffect,
)
from balancer.topology_messages import TOPOLOGY_MESSAGES, Promise, RecordPush, SignedRecord, UnisonWord
from balancer.unison_driver import UnisonRunner
from balancer.view import ring_view, status_view
from frys_node.base.errors import (
    FrameTooLarge,
    FrysError,
    IssuerUnreachable,
    MalformedFrame,
    NodeUnreachable,
    NotReady,
    StorageError,
)
from frys_node.base.ports import Clock, Disk, Entropy, Executor
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.bus import Bus
from frys_node.kernel.services.members import Members
from frys_node.kernel.services.rpc import Method, Rep, Req, Rpc
from frys_node.kernel.services.topology import Collection as CollectionInfo
from frys_node.kernel.services.topology import Route, TopologyChanged, UnitMover, UnitSets
from frys_node.observe.metrics import Metrics

NOTE = "topology"
DISK_RETRY_S = 1.0
"""Pause after a write of the record that the disk refused; until it succeeds, this node works under the old one."""
_log = logging.getLogger(__name__)


class BalancerComponent:
    """The `Topology` service of one node."""

    name = "balancer"

    def __init__(
        self,
        *,
        settings: BalancerSettings,
        rpc: Rpc,
        members: Members,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
        executor: Executor,
        bus: Bus,
        metrics: Metrics,
        proofs: RecordProofs,
        register: Register | None = None,
    ) -> None:
        self.node = rpc.self_id
        self._settings = settings
        self._rpc = rpc
        self._members = members
        self._clock = clock
        self._saved = RecordFile(disk)
        self._executor = executor
        self._bus = bus
        self._proofs = proofs
        self._register = register or IssuerRegister(disk)
        self.machine = TopologyMachine(
            self.node,
            entropy.rng("balancer.topology"),
            kinds=settings.kinds,
            config=settings.topology,
            peers=self.peers,
        )
        self._movers = MoverRunner(lambda unit, epoch: self.finished("transfer", unit, epoch))
        self.catalogue = Catalogue(rpc, self)
        self.verbs = IssuerVerbs(rpc, self, members, clock)
        self.on_removed: Callable[[], None] | None = None
        """Called when a record says that an operator removed this node, instead of working under that record."""
        self._listeners: list[tuple[Callable[[Placement], None], Callable[[Epoch], None]]] = []
        self._effects: deque[TopologyEffect] = deque()
        self._is_performing = False
        self._disk_work: deque[DiskWork] = deque()
        self.refusal: StorageError | None = None
        """Why the last change of the catalogue was not made, at the issuer; None if it was."""
        self._published: Epoch | None = None
        self._disk_wake = trio.Event()
        self._timer_wake = trio.Event()
        self._sleeping_until_s = 0.0
        self._changed = trio.Event()
        self._is_open = False
        self.seat = Seat(rpc, self, self.verbs, settings.member(self.node))
        self._junk = metrics.counter("frys_balancer_records_dropped_total", "Records refused unread", ("why",))
        self._intake = Intake(settings.cluster, proofs, self._junk.inc, lambda: clock.unix_ns() / 1e9)
        self._unison = UnisonRunner(self.node, members, self._send, lambda: self.machine.epoch, self._disk_work)
        measure(metrics, self.machine)

    # ------------------------------------------------------------------ the component

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load or found the record, then serve until cancelled. Ready at once: a joiner has no record yet."""
        if not self._is_open:
            await self._load()
            self._rpc.on_note(NOTE, self._on_note)
            self.seat.serve()
            self.catalogue.serve()
            self.verbs.serve()
            # After a crash the record is in memory still, and the methods are served.
            self._is_open = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_disk)
            nursery.start_soon(self._run_timers)
            nursery.start_soon(self.seat.run)
            nursery.start_soon(self._movers.run)
            task_status.started()

    async def _load(self) -> None:
        """Take up where this node stopped.

        Raises:
            CorruptData: A file of the record cannot be read. Nothing was changed.
            UnsupportedVersion: Another version wrote it. Nothing was changed.
        """
        now_s = self._clock.now_s()
        self.machine.load_promise(await self._executor.run(self._saved.load_promise))
        self.machine.load_frozen(await self._executor.run(self._saved.load_frozen))
        saved = await self._executor.run(self._saved.load)
        registered = await self._executor.run(self._register.load)
        if saved is None and registered is None and self._settings.is_founder:
            record = self._settings.first_record(self.node)
            registered = self._sign(record)
            await self._executor.run(self._register.swap, None, registered)
        if saved is not None:
            self.perform(self.machine.load(saved.placement, saved.signed, now_s, saved.settled))
        if registered is not None:
            record = RECORD.decode(registered.data)
            check_format(record)
            if record.epoch.term.node == self.node:
                await self._catch_up(record, registered)

    async def _catch_up(self, record: TopologyRecord, signed: SignedRecord) -> None:
        """The register holds a record that this node wrote and had not adopted when it stopped."""
        if self.machine.epoch is None or self.machine.epoch < record.epoch:
            for effect in self.machine.offer(record, signed, self._clock.now_s()):
                if isinstance(effect, PersistRecord):
                    await self._persist(effect)

    def _sign(self, record: TopologyRecord) -> SignedRecord:
        data = RECORD.encode(record)
        return SignedRecord(data, self._proofs.prove(data))

    def peers(self) -> list[NodeId]:
        """Return the members that look usable, this node included."""
        return [member.id for member in self._members.all() if self._members.is_usable(member.id)]

    # ------------------------------------------------------------------ effects

    def perform(self, effects: Sequence[TopologyEffect]) -> None:
        """Carry out what the machine asks for, in order."""
        self._effects.extend(effects)
        if self._is_performing:
            return
        self._is_performing = True
        try:
            while self._effects:
                self._perform_one(self._effects.popleft())
        finally:
            self._is_performing = False
        if self.machine.next_deadline_s < self._sleeping_until_s:
            self._timer_wake.set()

    def _perform_one(self, effect: TopologyEffect) -> None:
        match effect:
            case SendTopology():
                self._send(effect)
            case PersistRecord() | PersistPromise() | Propose() | TakeOver():
                self._to_disk(effect)
            case Adopted():
                self._adopted()
            case Settled():
                self._to_disk(effect)
                self._movers.settled(effect.epoch)
                for _adopt, settled in self._listeners:
                    settled(effect.epoch)
                self._notify()
            case Equivocation():
                _log.error(
                    "balancer.two_records_with_one_key",
                    extra={"epoch": str(effect.epoch), "issuer": effect.epoch.term.node},
                )
                self._to_disk(effect)

    def _to_disk(self, effect: DiskWork) -> None:
        self._disk_work.append(effect)
        self._disk_wake.set()
        self._unison.awaken()

    def _send(self, effect: SendTopology) -> None:
        try:
            self._rpc.note(effect.to, NOTE, TOPOLOGY_MESSAGES.encode(effect.message))
        except FrameTooLarge as error:
            # Whoever does not get the record stays under the one before, which is safe; this node must not stop for it.
            self._junk.inc("too_large")
            _log.error("balancer.record_too_large", extra={"to": effect.to, "error": error.message, "fix": error.hint})

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _adopted(self) -> None:
        """Put a durable record into force: first whoever refuses requests by it, then everybody else."""
        placement = self.machine.placement
        assert placement is not None
        if self.node in placement.record.removed and self.node not in placement.record.members():
            if self.on_removed is not None:
                self.on_removed()
            self._notify()
            return
        for adopt, _settled in self._listeners:
            adopt(placement)
        self._movers.adopt(placement, self.machine.work)
        old, self._published = self._published, placement.record.epoch
        self._bus.publish(TopologyChanged(old=old, new=placement.record.epoch))
        self._notify()

    async def _run_disk(self) -> None:
        """Make records durable, in order; nothing acts on a record before. What the disk refuses is tried again."""
        while True:
            if not self._disk_work:
                self._disk_wake = trio.Event()
                await self._disk_wake.wait()
            work = self._disk_work[0]
            try:
                await self._write(work)
            except StorageError as error:
                _log.error("balancer.record_not_written", extra={"code": error.code, "error": error.message})
                if isinstance(work, Propose) and self._is_catalogue_change(work.record):
                    # Somebody waits for it and is told; a join or a leave has all the time that the disk needs.
                    self.refusal = error
                    self._disk_work.popleft()
                    self.perform(self.machine.proposed(work.record, None, self._clock.now_s()))
                    self._notify()
                else:
                    await trio.sleep(DISK_RETRY_S)
            else:
                self._disk_work.popleft()

    async def _write(self, work: DiskWork) -> None:
        match work:
            case PersistRecord():
                await self._persist(work)
            case PersistPromise():
                await self._executor.run(self._saved.promise, work.term)
                self.perform(self.machine.promise_kept(work.term))
            case Propose() | TakeOver():
                await self._propose(work)
            case Equivocation():
                await self._executor.run(self._saved.freeze, work.epoch)
            case Settled():
                await self._executor.run(self._saved.settle, work.epoch)

    def _is_catalogue_change(self, record: TopologyRecord) -> bool:
        return self.machine.record is not None and record.collections != self.machine.record.collections

    async def _persist(self, work: PersistRecord) -> None:
        placement = await self._executor.run(self._saved.adopt, work.record, work.signed)
        if self._is_open:
            await self._unison.wait(work.record)
        self.perform(self.machine.persisted(work.record.epoch, placement, self._clock.now_s()))

    async def _propose(self, work: Propose | TakeOver) -> None:
        signed = self._sign(work.record)
        if isinstance(work, Propose):
            is_taken = await self._executor.run(self._register.swap, work.expected, signed)
        else:
            is_taken = await self._executor.run(self._register.take_over, signed)
        if not is_taken:
            _log.warning("balancer.register_moved_on", extra={"wanted": str(work.record.epoch)})
        elif isinstance(work, Propose):
            self._unison.announce(work.record, signed)
        self.perform(self.machine.proposed(work.record, signed if is_taken else None, self._clock.now_s()))

    def _on_note(self, source: NodeId, payload: bytes) -> None:
        try:
            message = TOPOLOGY_MESSAGES.decode(payload)
            if isinstance(message, RecordPush):
                self._take_push(source, message.record)
            elif isinstance(message, Promise):
                self._take_promise(source, message)
            elif not self._intake.permits(source, message):
                return
            elif isinstance(message, UnisonWord):
                self._unison.take(source, message)
            else:
                self._unison.heard(message)
                self.perform(self.machine.receive(source, message, self._clock.now_s()))
        except MalformedFrame:
            self._junk.inc("malformed")

    def _take_push(self, source: NodeId, signed: SignedRecord) -> None:
        """Verify a pushed record and offer it; only the issuer of its term may have written it."""
        if self.machine.signed is not None and signed.data == self.machine.signed.data:
            return
        if self.machine.epoch is not None and RECORD.decode(signed.data).epoch < self.machine.epoch:
            return
        record = self._intake.verified(signed)
        if record is not None:
            self._unison.pushed(source, record)
            self.perform(self.machine.offer(record, signed, self._clock.now_s()))

    def _take_promise(self, source: NodeId, message: Promise) -> None:
        """Count a promise; the record that comes with it is verified like a pushed one."""
        placement: Placement | None = None
        if message.record is not None:
            placement = self._intake.placed(message.record, self.machine.placement)
            if placement is None:
                return
        self.perform(self.machine.take_promise(source, message.term, placement))

    async def _run_timers(self) -> None:
        while True:
            self._timer_wake = trio.Event()
            self._sleeping_until_s = self.machine.next_deadline_s
            with trio.move_on_after(max(0.0, self._sleeping_until_s - self._clock.now_s())):
                await self._timer_wake.wait()
            self.perform(self.machine.verdict(self.verbs.burials.of(self.node), self._clock.now_s()))
            self.perform(self.machine.advance(self._clock.now_s()))

    # ------------------------------------------------------------------ for other components

    def attach(self, adopt: Callable[[Placement], None], settled: Callable[[Epoch], None]) -> None:
        """Call `adopt` at every adoption (at once if a record is in force) and `settled` when that is known."""
        self._listeners.append((adopt, settled))
        if self.machine.placement is not None:
            adopt(self.machine.placement)
            if self.machine.settled == self.machine.epoch and self.machine.epoch is not None:
                settled(self.machine.epoch)

    def finished(self, what: str, unit: UnitId, epoch: Epoch) -> None:
        """A piece of this node's work is done."""
        self.perform(self.machine.finished(what, unit, epoch, self._clock.now_s()))

    def share(self, node: NodeId) -> None:
        """Send the record to a node that works under an older one."""
        self.perform(self.machine.share(node))

    def want(self, node: NodeId) -> None:
        """Ask a node that works under a newer record for it; also right after a connection was made."""
        self.perform(self.machine.compare(node))

    async def renew(self, epoch: Epoch) -> None:
        """Have the issuer write a record after that one, with the same content (replication rule 14)."""
        await self.catalogue.renew(epoch)

    def change_catalogue(self, collections: tuple[CollectionInfo, ...]) -> bool:
        """At the issuer: propose a catalogue; False unless all is stable and settled."""
        effects = self.machine.change_catalogue(collections)
        if effects is None:
            return False
        self.refusal = None
        self.perform(effects)
        return True

    def wake(self) -> None:
        """At the issuer: a change was queued, look whether it can begin, and around whom."""
        self.perform(self.machine.verdict(self.verbs.burials.of(self.node), self._clock.now_s()))
        self.perform(self.machine.wake(self._clock.now_s()))

    async def ask_issuer(self, method: Method[Req, Rep], request: Req) -> Rep:
        """Call the node that changes the record.

        Raises:
            IssuerUnreachable: It does not answer; whether a request in flight was done is unknown.
            FrysError: Whatever it raised.
        """
        issuer = self.epoch.term.node
        try:
            return await self._rpc.call(issuer, method, request)
        except NodeUnreachable as error:
            member = self._members.get(issuer)
            raise IssuerUnreachable(
                f"the issuer {member.name if member is not None else issuer} does not answer",
                hint="new collections, tokens, joins and leaves wait until it is back; everything else goes on",
            ) from error

    async def changed(self) -> None:
        """Wait for the next adoption or settlement."""
        await self._changed.wait()

    async def wait_for(self, epoch: Epoch) -> None:
        """Wait until a record with at least that key is in force here."""
        while self.machine.epoch is None or self.machine.epoch < epoch:
            await self._changed.wait()

    # ------------------------------------------------------------------ the Topology service

    @property
    def placement(self) -> Placement:
        """The sets under the record in force.

        Raises:
            NotReady: This node has no record yet.
        """
        if self.machine.placement is None:
            raise NotReady("this node has no topology record yet", hint="wait until it has joined")
        return self.machine.placement

    @property
    def epoch(self) -> Epoch:
        """Key of the record in force."""
        return self.placement.record.epoch

    @property
    def partitions(self) -> int:
        """Number of workflow partitions and of cache units."""
        return self.placement.record.partitions

    @property
    def weights(self) -> dict[NodeId, float]:
        """Weight of each member of the ring in force; 1.0 is normal."""
        return {member.node: member.weight / 100 for member in self.placement.record.ring}

    def sets(self, unit: UnitId) -> UnitSets:
        """Return the replica sets of a unit; `NotFound` if the record has none such."""
        return self.placement.sets(unit)

    def route(self, unit: UnitId) -> Route:
        """Return where a request for the unit goes."""
        return router.route(self.placement.sets(unit), self.node, self._members.rank)

    def collections(self) -> Sequence[CollectionInfo]:
        """Return the catalogue, sorted by name."""
        return self.placement.record.collections

    def register_mover(self, kind: str, mover: UnitMover) -> None:
        """Declare how units of a kind with one owner move; its units are started from now on."""
        self._movers.register(kind, mover)

    async def create_collection(self, collection: CollectionInfo) -> None:
        """Add to the catalogue through the issuer; see `Topology`."""
        await self.catalogue.create(collection)

    async def delete_collection(self, name: str) -> None:
        """Remove from the catalogue through the issuer; see `Topology`."""
        await self.catalogue.delete(name)

    async def refresh(self) -> None:
        """Catch up with the issuer's record, as far as it answers in time; see `Topology`."""
        await self.catalogue.refresh()

    async def leave(self) -> None:
        """Leave the ring: returns when every unit has moved away and that is settled. The caller's scope bounds it.

        Raises:
            IssuerNeeded: This node is the issuer and nobody can take over. Nothing was changed.
        """
        await self.seat.leave()

    def status(self) -> dict[str, Any]:
        """Return what an operator must know: two records with one key."""
        return status_view(self.machine)

    async def describe(self) -> RingView:
        """Return the topology for people; asks the issuer what the step under way waits for."""
        step: StepView | None = None
        try:
            with trio.move_on_after(1.0):
                step = await self.ask_issuer(STEP, Nothing())
        except FrysError as error:
            _log.debug("balancer.issuer_did_not_answer", extra={"code": error.code})
        shares = await self._executor.run(ring_of(self.placement.record).share)
        return ring_view(self.machine, shares, step)

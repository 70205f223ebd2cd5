"""One node of the replication scenario: the real machines, the real log on a disk that tears, client commands."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import ClassVar, TypeVar

from balancer.record import RECORD
from balancer.spread import RingMember
from balancer.topology import TopologyConfig, TopologyMachine
from balancer.topology_effects import (
    Adopted,
    PersistPromise,
    PersistRecord,
    Propose,
    SendTopology,
    Settled,
    TakeOver,
    TopologyEffect,
)
from balancer.topology_messages import SIGNED_RECORD, TOPOLOGY_MESSAGES, Promise, RecordPush, UnisonWord
from frys_node.base.errors import MalformedFrame
from frys_node.base.types import Consistency, Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Version
from frys_node.replication import effects as fx
from frys_node.replication.bulk_pace import BulkPace
from frys_node.replication.commit import DISK_RETRY_S
from frys_node.replication.coordinator import CoordinatorConfig, CoordinatorMachine
from frys_node.replication.hlc import HybridClock
from frys_node.replication.knobs import BREATH_S
from frys_node.replication.log import Log
from frys_node.replication.messages import MESSAGES, Batch, CoordinatorReply, ReplicationMessage
from frys_node.replication.recovery import Recovery
from frys_node.replication.replica import ReplicaConfig, ReplicaMachine
from frys_node.testing.replication_bulk import BULK_MESSAGES, BulkCopies, BulkMessage
from frys_node.testing.replication_pace import SeedPace
from frys_node.testing.replication_records import ADOPTED_PATH, PROMISED_PATH, TERM, RecordDisk, ToWrite
from frys_node.testing.replication_roles import Command, Knobs, Observer, placement_of
from frys_node.testing.replication_store import ForgetfulStore, WatchedStore
from frys_node.testing.simulator import Packet, SimHost
from frys_node.transport.errors import StorageFull
from frys_node.wire.codec import Codec

SETTLED_PATH = "topology/settled"
DURABLE, MEMORY = "vector", "cache"
_EPOCH: Codec[Epoch] = Codec(Epoch)
SYNCED, RETRY = "synced", "retry"
"""What the disk wakes a node for: a group is durable; a group that had no room is tried again."""

_DATA, _TOPOLOGY, _BULK = b"\x00", b"\x01", b"\x02"
_TOPOLOGY_KINDS = ("join", "leave", "remove", "factor", "hand over", "promote", "give up")


Replica = TypeVar("Replica", bound=ReplicaMachine)


class ReplicationNode:
    """The shell around the machines; subclasses in tests plant errors by overriding the ``make_`` methods."""

    def __init__(self, host: SimHost, knobs: Knobs, observer: Observer) -> None:
        self.host = host
        self.knobs = knobs
        self.observer = observer
        self.name = NodeId(host.name)
        self.clock = self.make_clock()
        self.replica = self.make_replica()
        self.coordinator = self.make_coordinator()
        self.topology = self.make_topology()
        self.topology.taken_bytes = lambda: self.replica.bulks.pulled_bytes
        self.bulks = BulkCopies(
            self.replica,
            self.host.boot,
            send=self._send_bulk,
            perform=self._perform,
            is_usable=self.is_usable,
            on_copied=observer.copied,
        )
        self.log = Log(host.disk)
        self.recovery = Recovery(host.disk, self.log, self.replica)
        self.records = self.make_records(RecordDisk)
        self.pace = self.make_pace(SeedPace)
        self._bulk_pace = BulkPace(self.name, self.pace, lambda: None)
        self._packets: list[Packet] = []
        self._work: deque[fx.Effect | TopologyEffect] = deque()
        self._pending: list[fx.Persist] = []
        self._syncing: list[fx.Persist] = []
        self._commands: dict[int, int] = {}
        self.next_deadline_s = math.inf
        """The nearest timer of the machines, as of the last input."""
        self.refusals = 0
        """Groups of the log that the disk had no room for."""

    # ------------------------------------------------------------------ parts

    def rng(self, use: str) -> random.Random:
        """Return a generator of this boot for one machine."""
        return random.Random(f"{self.host.rng.random()}/{use}")

    def make_replica(self) -> ReplicaMachine:
        """Return the replica."""
        config = ReplicaConfig(
            breath_s=BREATH_S,
            sync_interval_s=self.knobs.sync_interval_s,
            sync_units=2,
            bulk_by_messages=not self.knobs.bulk_by_chunks,
            catches_up=self.knobs.catches_up,
            clock_drift_max_s=self.knobs.clock_drift_max_s,
            gc_min_age_s=self.knobs.gc_min_age_s,
            gc_interval_s=self.knobs.gc_interval_s,
        )
        return self.new_replica(ReplicaMachine, config)

    def new_replica(self, kind: type[Replica], config: ReplicaConfig) -> Replica:
        """Return a replica of that class with this node's clock, generator and boot."""
        return kind(
            self.name,
            self.rng("replica"),
            config,
            self.stamp,
            wall_ms=self.wall_ms,
            boot=self.host.boot,
            is_usable=self.is_usable,
        )

    def _new_store(self, unit: UnitId) -> WatchedStore:
        return WatchedStore(unit, self.observer.freed)

    def _new_memory(self, unit: UnitId) -> WatchedStore:
        room = self.knobs.memory_room
        if room is None:
            return self._new_store(unit)
        rng = random.Random(f"{self.name}/{self.host.boot}/{unit}")
        return ForgetfulStore(unit, self.observer.freed, room=room, rng=rng, evicted=self.observer.evicted)

    def is_usable(self, node: NodeId) -> bool:
        """Return whether membership would say that a node is up."""
        return node not in self.observer.dead()

    def wall_ms(self) -> int:
        """Return this node's wall clock."""
        return max(1, self.host.wall_ms())

    def stamp(self) -> Version:
        """Return a version of now."""
        return self.clock.stamp(self.wall_ms())

    def make_coordinator(self) -> CoordinatorMachine:
        """Return the coordinator."""
        config = CoordinatorConfig(
            hint_after_s=0.3,
            hint_interval_s=0.5,
            keeps_hints=self.knobs.keeps_hints,
            repairs_reads=self.knobs.repairs_reads,
        )
        return CoordinatorMachine(self.name, self.clock, self.rng("coordinator"), config)

    def make_clock(self) -> HybridClock:
        """Return the clock of this boot."""
        return HybridClock(self.name, self.host.boot)

    def make_topology(self) -> TopologyMachine:
        """Return the topology machine."""
        config = TopologyConfig(
            digest_interval_s=1.0, report_interval_s=0.25, reassert_after_s=2.0, steps=self.knobs.steps
        )
        names = self.knobs.names
        kinds = (DURABLE, MEMORY)
        return TopologyMachine(self.name, self.rng("topology"), kinds=kinds, config=config, peers=lambda: names)

    def make_records(self, kind: type[RecordDisk]) -> RecordDisk:
        """Return the way of topology records to the disk."""
        return kind(self.host, self.topology, self.observer, fsync_s=self.knobs.fsync_s, perform=self._perform)

    def make_pace(self, kind: type[SeedPace]) -> SeedPace:
        """Return the rate of moves."""
        return kind(self.knobs.moves_rate_bytes_s, self.observer.held_back)

    # ------------------------------------------------------------------ inputs

    def start(self, now_s: float) -> Sequence[Packet]:
        """Recover from the disk."""
        self.replica.declare(DURABLE, self._new_store, durable=True)
        self.replica.declare(MEMORY, self._new_memory, durable=False)
        self.recovery.read()
        self.recovery.begin()
        for kind in self.replica.kinds:
            self.recovery.load(kind)
        promised = self.host.disk.read(PROMISED_PATH)
        self.topology.load_promise(None if promised is None else TERM.decode(promised))
        adopted = self.host.disk.read(ADOPTED_PATH)
        if adopted is not None:
            signed = SIGNED_RECORD.decode(adopted)
            settled = self.host.disk.read(SETTLED_PATH)
            epoch = None if settled is None else _EPOCH.decode(settled)
            self._perform(self.topology.load(placement_of(signed.data), signed, now_s, epoch), now_s)
        held = self.records.register.load()
        if held is not None:
            self._perform(self.topology.offer(RECORD.decode(held.data), held, now_s), now_s)
        return self._sent()

    def receive(self, payload: bytes, source: str, now_s: float) -> Sequence[Packet]:
        """Take a packet."""
        try:
            if payload[:1] == _DATA:
                message = MESSAGES.decode(payload[1:])
                assert not isinstance(message, Batch)
                self._perform(self._deliver(NodeId(source), message, now_s), now_s)
            elif payload[:1] == _BULK:
                self.bulks.receive(NodeId(source), BULK_MESSAGES.decode(payload[1:]), now_s)
            else:
                self._take_topology(NodeId(source), payload[1:], now_s)
        except MalformedFrame:
            return ()
        return self._sent()

    def _take_topology(self, source: NodeId, body: bytes, now_s: float) -> None:
        message = TOPOLOGY_MESSAGES.decode(body)
        if isinstance(message, RecordPush):
            record = message.record
            self._perform(self.topology.offer(RECORD.decode(record.data), record, now_s), now_s)
        elif isinstance(message, Promise):
            placement = None if message.record is None else placement_of(message.record.data)
            self._perform(self.topology.take_promise(source, message.term, placement), now_s)
        elif not isinstance(message, UnisonWord):
            # Hosts that wait for one another are, to the machines, hosts with slow disks (`balancer.unison`).
            self._perform(self.topology.receive(source, message, now_s), now_s)

    def _deliver(self, source: NodeId, message: ReplicationMessage, now_s: float) -> list[fx.Effect]:
        if isinstance(message, CoordinatorReply):
            return self.coordinator.receive(source, message, now_s)
        self.pace.now_s, placement = now_s, self.replica.placement
        if self._bulk_pace.puts_off(source, message, placement):
            return []
        found = self.replica.receive(source, message, now_s)
        self._bulk_pace.moved(source, message, placement, found)
        return found

    def advance(self, now_s: float) -> Sequence[Packet]:
        """Do what is due."""
        self._perform(self.replica.advance(now_s), now_s)
        self._perform(self.coordinator.advance(now_s), now_s)
        self._perform(self.topology.verdict(self.observer.dead(), now_s), now_s)
        self._perform(self.topology.advance(now_s), now_s)
        self.bulks.advance(now_s)
        return self._sent()

    def wake(self, token: object, now_s: float) -> Sequence[Packet]:
        """Take a finished disk call or a client's command."""
        if isinstance(token, Command):
            self._command(token, now_s)
        elif isinstance(token, PersistRecord | PersistPromise | Propose | TakeOver):
            self.records.written(token, now_s)
        elif token == RETRY:
            # A group that was refused twice in one turn is tried again twice: the second finds the first under way.
            if not self._syncing:
                self._write_group(now_s)
        else:
            self._synced(now_s)
        return self._sent()

    def _sent(self) -> list[Packet]:
        packets, self._packets = self._packets, []
        self._plan()
        return packets

    def _plan(self) -> None:
        self.next_deadline_s = min(
            self.replica.next_deadline_s,
            self.coordinator.next_deadline_s,
            self.topology.next_deadline_s,
            self.bulks.next_deadline_s,
        )

    # ------------------------------------------------------------------ effects

    def _perform(self, effects: Sequence[fx.Effect] | Sequence[TopologyEffect], now_s: float) -> None:
        self.pace.now_s = now_s
        self._work.extend(effects)
        while self._work:
            effect = self._work.popleft()
            handler = self._HANDLERS.get(type(effect))
            if handler is not None:
                handler(self, effect, now_s)

    def _on_send(self, effect: fx.Send, now_s: float) -> None:
        if effect.to == self.name:
            self._work.extend(self._deliver(self.name, effect.message, now_s))
        elif not self._bulk_pace.keeps_back(effect.message, self.replica.placement):
            self._packets.append(Packet(effect.to, _DATA + MESSAGES.encode(effect.message)))

    def _on_send_topology(self, effect: SendTopology, _now_s: float) -> None:
        self._packets.append(Packet(effect.to, _TOPOLOGY + TOPOLOGY_MESSAGES.encode(effect.message)))

    def _send_bulk(self, node: NodeId, message: BulkMessage) -> None:
        self._packets.append(Packet(node, _BULK + BULK_MESSAGES.encode(message)))

    def _on_bulk(self, effect: fx.BulkPull, now_s: float) -> None:
        self.bulks.add(effect, now_s)

    def _on_persist(self, effect: fx.Persist, now_s: float) -> None:
        self._pending.append(effect)
        if not self._syncing and not self.replica.disk_refusal:
            self._write_group(now_s)

    def _write_group(self, now_s: float) -> None:
        self._syncing, self._pending = self._pending, []
        records = [record for persist in self._syncing for record in persist.records]
        refusal = self.log.write(records) if records else None
        if records:
            self.replica.disk_refusal = "" if refusal is None else refusal.code
        if refusal is not None:
            self.refusals += 1
            self._refused(now_s)
            return
        delay_s = self.host.rng.random() * self.knobs.fsync_s
        if self.host.rng.random() < 0.5:
            delay_s /= 20
        self.host.schedule(delay_s, SYNCED)

    def _refused(self, _now_s: float) -> None:
        """Keep a group for which there is no room in its place, and try it again."""
        self._syncing, self._pending = [], self._syncing + self._pending
        self.host.schedule(DISK_RETRY_S, RETRY)

    def _synced(self, now_s: float) -> None:
        self.log.sync()
        done, self._syncing = self._syncing, []
        for persist in done:
            self._perform(self.replica.persisted(persist.token, now_s), now_s)
        if self._pending and not self._syncing:
            self._write_group(now_s)

    def _on_slow_disk(self, effect: ToWrite, _now_s: float) -> None:
        self.records.add(effect)

    def _on_adopted(self, _effect: Adopted, now_s: float) -> None:
        placement, signed = self.topology.placement, self.topology.signed
        assert placement is not None
        assert signed is not None
        self.bulks.adopted()
        found = [*self.replica.adopt(placement, now_s), *self.coordinator.adopt(placement, now_s)]
        # What adoption itself makes the machines do comes before what the topology sends about it.
        self._work.extendleft(reversed(found))
        self.observer.adopted(self, signed)

    def _on_settled(self, effect: Settled, now_s: float) -> None:
        with suppress(StorageFull):  # a node that does not find it asks again
            self.host.disk.write(SETTLED_PATH, _EPOCH.encode(effect.epoch))
        self._work.extend(self.replica.settled(effect.epoch, now_s))

    def _on_share(self, effect: fx.ShareRecord, _now_s: float) -> None:
        self._work.extend(self.topology.share(effect.to))

    def _on_want(self, effect: fx.WantRecord, _now_s: float) -> None:
        self._work.extend(self.topology.compare(effect.source))

    def _on_finished(self, effect: fx.BulkFinished | fx.PassFinished, now_s: float) -> None:
        what = "bulk" if isinstance(effect, fx.BulkFinished) else "pass"
        self._work.extend(self.topology.finished(what, effect.unit, effect.epoch, now_s))

    def _on_done(self, effect: fx.WriteDone | fx.ReadDone | fx.ScanDone | fx.RequestFailed, _now_s: float) -> None:
        number = self._commands.pop(effect.request, None)
        if number is None:
            return
        if isinstance(effect, fx.WriteDone):
            self.observer.written(number, effect.version)
        elif isinstance(effect, fx.ReadDone):
            self.observer.read(number, effect)
        elif isinstance(effect, fx.ScanDone):
            self.observer.scanned(number, effect)
        else:
            self.observer.failed(number)

    def _on_corrupted(self, effect: fx.Corrupted, _now_s: float) -> None:
        self.observer.corrupted(self.name, effect)

    def _on_emptied(self, effect: fx.StartedEmpty, _now_s: float) -> None:
        self.observer.emptied(effect)

    def _on_lost(self, effect: fx.UnitLost, now_s: float) -> None:
        self.observer.lost(self.name, effect)
        if effect.is_for_good:
            # Its operator has no snapshot, and makes do with what is left.
            self._work.extend(self.replica.restored(effect.unit, now_s))

    def _on_need_record(self, _effect: fx.NeedRecord, _now_s: float) -> None:
        self.observer.renew(self.name)

    _HANDLERS: ClassVar[dict[type, Callable[..., None]]] = {
        fx.Send: _on_send,
        fx.Persist: _on_persist,
        fx.ShareRecord: _on_share,
        fx.WantRecord: _on_want,
        fx.BulkPull: _on_bulk,
        fx.BulkFinished: _on_finished,
        fx.PassFinished: _on_finished,
        fx.WriteDone: _on_done,
        fx.ReadDone: _on_done,
        fx.ScanDone: _on_done,
        fx.RequestFailed: _on_done,
        fx.Corrupted: _on_corrupted,
        fx.StartedEmpty: _on_emptied,
        fx.UnitLost: _on_lost,
        fx.NeedRecord: _on_need_record,
        SendTopology: _on_send_topology,
        PersistRecord: _on_slow_disk,
        PersistPromise: _on_slow_disk,
        Propose: _on_slow_disk,
        TakeOver: _on_slow_disk,
        Adopted: _on_adopted,
        Settled: _on_settled,
    }

    # ------------------------------------------------------------------ clients

    def _command(self, command: Command, now_s: float) -> None:
        if command.kind in _TOPOLOGY_KINDS:
            self._change(command, now_s)
            return
        if command.kind == "renew":
            record = self.topology.record
            if record is not None:
                self._perform(self.topology.change_catalogue(record.collections) or [], now_s)
            return
        if self.coordinator.placement is None:
            return
        deadline_s = now_s + command.patience_s
        if command.kind == "write":
            request, effects = self.coordinator.write(
                command.unit,
                [(command.key, command.value)],
                Consistency.QUORUM,
                deadline_s=deadline_s,
                now_s=now_s,
                wall_ms=max(1, self.host.unix_ms(now_s)),
            )
        elif command.kind == "read":
            request, effects = self.coordinator.read(
                command.unit, [command.key], Consistency.QUORUM, deadline_s=deadline_s, now_s=now_s
            )
        else:
            request, effects = self.coordinator.scan(command.unit, deadline_s=deadline_s, now_s=now_s)
        self._commands[request] = command.number
        self._perform(effects, now_s)

    def _change(self, command: Command, now_s: float) -> None:
        """Do what an operator asks of the topology."""
        topology = self.topology
        effects: list[TopologyEffect] = []
        match command.kind:
            case "join":
                topology.steps.request_join(RingMember(node=command.node))
            case "leave":
                topology.steps.request_leave(command.node)
            case "remove":
                topology.steps.request_remove(command.node)
            case "factor":
                topology.steps.request_factor(command.unit, command.factor)
            case "hand over":
                effects += topology.hand_over(command.node) or []
            case "promote":
                effects += topology.promote(now_s)
            case _:
                topology.give_up(now_s)
        self._perform([*effects, *topology.wake(now_s)], now_s)

    def heal(self, now_s: float) -> None:
        """The faults are over: repair with full strength from now on."""
        self.replica.sync.interval_s, self.replica.sync.units = 0.3, 8
        self.replica.sync_soon(now_s)
        self._plan()

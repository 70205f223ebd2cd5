"""Replicas and coordinators on a desk: every message and every sync by hand, for directed tests of the data rules.

Sans-I/O. Messages are delivered in order, by `run`, through the codec, unless their way is cut or they are kept back.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterable

from balancer.placement import Placement, cache_unit
from balancer.record import FORMAT, STABLE, TopologyRecord
from balancer.spread import RingMember
from frys_node.base.types import ClusterId, Consistency, Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Entry, UnitStore
from frys_node.replication import effects as fx
from frys_node.replication.coordinator import CoordinatorConfig, CoordinatorMachine
from frys_node.replication.hlc import HybridClock
from frys_node.replication.knobs import ReplicaConfig
from frys_node.replication.messages import MESSAGES, Batch, CoordinatorReply, LogRecord, ReplicationMessage
from frys_node.replication.replica import ReplicaMachine
from frys_node.testing.data_cluster import DictStore
from frys_node.testing.rpc import BODY_BYTES_MAX

UNIT = cache_unit(0)
START_MS = 1_000_000


def record_of(
    seq: int, ring: Iterable[str], following: Iterable[str] | None = None, phase: str = STABLE, factor: int = 5
) -> Placement:
    """Return the placement of a record with one cache unit, held by every member up to the factor."""
    members = tuple(RingMember(node=NodeId(node)) for node in ring)
    after = members if following is None else tuple(RingMember(node=NodeId(node)) for node in following)
    term = Term(1, NodeId("n1"))
    return Placement(
        TopologyRecord(
            format=FORMAT,
            cluster=ClusterId("c" * 32),
            epoch=Epoch(term, seq),
            phase=phase,
            ring=members,
            next_ring=after,
            parent=Epoch(term, seq - 1),
            partitions=1,
            replication_factor=factor,
            vnodes=4,
        )
    )


class Desk:
    """Nodes ``n1``.. that hold one unit, `UNIT`."""

    def __init__(
        self,
        count: int,
        config: ReplicaConfig | None = None,
        *,
        durable: bool = True,
        coordinating: CoordinatorConfig | None = None,
        store: Callable[[NodeId, UnitId], UnitStore] = lambda _node, _unit: DictStore(),
    ) -> None:
        self.now_s = 0.0
        self.names = [NodeId(f"n{number}") for number in range(1, count + 1)]
        self.wall_ms = dict.fromkeys(self.names, START_MS)
        self.config = config or ReplicaConfig(bulk_by_messages=True, sync_interval_s=3_600.0, catches_up=False)
        self.coordinating = coordinating or CoordinatorConfig(repairs_reads=False, keeps_hints=False)
        self.durable = durable
        self.store = store
        """Makes what a node keeps a unit in."""
        self.replicas: dict[NodeId, ReplicaMachine] = {}
        self.coordinators: dict[NodeId, CoordinatorMachine] = {}
        self.logs: dict[NodeId, list[LogRecord]] = {name: [] for name in self.names}
        self.cut: set[tuple[str, str]] = set()
        """Ways (from, to) on which everything is lost."""
        self.down: set[str] = set()
        """Nodes that membership calls dead."""
        self.kept: list[tuple[NodeId, NodeId, ReplicationMessage]] = []
        self.keeps: Callable[[NodeId, NodeId, ReplicationMessage], bool] = lambda _a, _b, _message: False
        """True for messages that are kept back, until `release`."""
        self.done: dict[int, fx.Effect] = {}
        self.told: list[tuple[NodeId, fx.Effect]] = []
        self._mail: deque[tuple[NodeId, NodeId, ReplicationMessage]] = deque()
        for name in self.names:
            self.boot(name)

    def boot(self, name: str, boot: int = 1) -> ReplicaMachine:
        """Put a new, empty replica and coordinator in the place of a node's."""
        node = NodeId(name)
        clock = HybridClock(node, boot)
        rng = random.Random(name)
        replica = ReplicaMachine(
            node,
            rng,
            self.config,
            wall_ms=lambda: self.wall_ms[node],
            boot=boot,
            is_usable=lambda other: other not in self.down,
        )
        replica.declare("cache", lambda unit: self.store(node, unit), durable=self.durable)
        self.replicas[node] = replica
        self.coordinators[node] = CoordinatorMachine(node, clock, rng, self.coordinating)
        return replica

    def adopt(self, placement: Placement, *names: str) -> None:
        """Have nodes (all of them by default) adopt a record, and let everything settle."""
        for name in names or self.names:
            node = NodeId(name)
            self.take(node, self.replicas[node].adopt(placement, self.now_s))
            self.take(node, self.coordinators[node].adopt(placement, self.now_s))
        self.run()

    def take(self, node: NodeId, effects: Iterable[fx.Effect]) -> None:
        """Carry out what a machine of a node wants."""
        for effect in effects:
            if isinstance(effect, fx.Send):
                self._mail.append((node, effect.to, effect.message))
            elif isinstance(effect, fx.Persist):
                self.logs[node] += effect.records
                self.take(node, self.replicas[node].persisted(effect.token, self.now_s))
            elif isinstance(effect, fx.WriteDone | fx.ReadDone | fx.ScanDone | fx.RequestFailed):
                self.done[effect.request] = effect
            else:
                self.told.append((node, effect))

    def run(self) -> None:
        """Deliver until nothing moves."""
        while self._mail:
            source, target, message = self._mail.popleft()
            if (source, target) in self.cut:
                continue
            if self.keeps(source, target, message):
                self.kept.append((source, target, message))
                continue
            data = MESSAGES.encode(message)
            assert len(data) <= BODY_BYTES_MAX, (type(message), len(data))
            found = MESSAGES.decode(data)
            assert not isinstance(found, Batch)
            if isinstance(found, CoordinatorReply):
                self.take(target, self.coordinators[target].receive(source, found, self.now_s))
            else:
                self.take(target, self.replicas[target].receive(source, found, self.now_s))

    def release(self) -> None:
        """Deliver what was kept back."""
        self._mail.extend(self.kept)
        self.kept = []
        self.keeps = lambda _a, _b, _message: False
        self.run()

    def pass_time(self, seconds: float) -> None:
        """Let time pass in steps of half a second, on every clock."""
        end_s = self.now_s + seconds
        while self.now_s < end_s:
            self.now_s += 0.5
            for node in self.names:
                self.wall_ms[node] += 500
                self.take(node, self.replicas[node].advance(self.now_s))
                self.take(node, self.coordinators[node].advance(self.now_s))
            self.run()

    # ------------------------------------------------------------------ clients

    def write(
        self, name: str, value: bytes | None, key: bytes = b"k", consistency: Consistency = Consistency.QUORUM
    ) -> fx.Effect | None:
        """Write a key through a node; returns the outcome, None while there is none."""
        node = NodeId(name)
        request, effects = self.coordinators[node].write(
            UNIT,
            [(key, value)],
            consistency,
            deadline_s=self.now_s + 5.0,
            now_s=self.now_s,
            wall_ms=self.wall_ms[node],
        )
        self.take(node, effects)
        self.run()
        return self.done.get(request)

    def read(self, name: str, key: bytes = b"k", consistency: Consistency = Consistency.QUORUM) -> bytes | None:
        """Read a key through a node: its value, or None."""
        node = NodeId(name)
        request, effects = self.coordinators[node].read(
            UNIT, [key], consistency, deadline_s=self.now_s + 5.0, now_s=self.now_s
        )
        self.take(node, effects)
        self.run()
        done = self.done[request]
        assert isinstance(done, fx.ReadDone), done
        entry = done.entries[0]
        return None if entry is None else entry.value

    def held(self, name: str, key: bytes = b"k") -> Entry | None:
        """Return what a replica's store holds of a key."""
        return self.replicas[NodeId(name)].table.units[UNIT].store.get([key])[0]

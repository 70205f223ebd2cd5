"""Work of a move in small pieces: what a node gives up, and what it begins to take."""

from __future__ import annotations

import random
from collections.abc import Iterable

from balancer.placement import Placement, cache_unit
from balancer.record import FORMAT, STABLE, TopologyRecord
from balancer.spread import RingMember
from frys_node.base.types import ClusterId, Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication import effects as fx
from frys_node.replication.emptying import PAUSE_S
from frys_node.replication.messages import TreeAsk
from frys_node.replication.pull import Purpose
from frys_node.replication.replica import ReplicaConfig, ReplicaMachine
from frys_node.replication.takeover import STARTS_MAX, Puller, Takeover
from frys_node.replication.unit import HeldUnit, UnitTable
from frys_node.testing.data_cluster import DictStore

N1, N2 = NodeId("n1"), NodeId("n2")


def _key(seq: int) -> Epoch:
    return Epoch(Term(1, N1), seq)


def _on(node: NodeId, seq: int) -> Placement:
    """Return a stable placement of three cache units on one node."""
    ring = (RingMember(node=node),)
    return Placement(
        TopologyRecord(
            format=FORMAT,
            cluster=ClusterId("c" * 32),
            epoch=_key(seq),
            phase=STABLE,
            ring=ring,
            next_ring=ring,
            parent=_key(seq - 1),
            partitions=3,
            replication_factor=1,
            vnodes=4,
        )
    )


def _asked(found: Iterable[fx.Effect]) -> int:
    return sum(isinstance(effect, fx.Send) and isinstance(effect.message, TreeAsk) for effect in found)


def test_a_node_that_gives_up_units_empties_their_stores_one_after_another() -> None:
    """At once none of them is held any more; forgetting what they hold does not hold up the node."""
    stores: list[DictStore] = []

    def open_store(_unit: UnitId) -> DictStore:
        stores.append(DictStore())
        stores[-1].put([Entry(b"k", Version(1, 0, N1, 1), b"v")])
        return stores[-1]

    machine = ReplicaMachine(N1, random.Random(1), ReplicaConfig(bulk_by_messages=True))
    machine.declare("cache", open_store, durable=False)
    machine.adopt(_on(N1, 1), 0.0)
    machine.adopt(_on(N2, 2), 0.0)
    machine.settled(_key(2), 1.0)
    assert machine.table.units == {}
    due_s = 1.0
    for left in (3, 2, 1):
        assert [len(list(store.entries())) for store in stores].count(1) == left
        assert machine.next_deadline_s == due_s
        machine.advance(due_s)
        machine.advance(due_s)
        due_s += PAUSE_S
    assert not any(list(store.entries()) for store in stores)
    assert machine.next_deadline_s > due_s


def test_many_pulls_begin_a_few_at_a_time() -> None:
    """Each looks at a hash tree: all at once would hold up the node; they go on at once in the next turns."""
    table, units = UnitTable(), [cache_unit(number) for number in range(STARTS_MAX + 5)]
    puller = Puller(N1, table, random.Random(1))
    for unit in units:
        table.units[unit] = HeldUnit(unit, DictStore(), durable=False, complete=False, join_key=None)
    begun = [_asked(puller.start(_takeover(unit), 1.0)) for unit in units]
    assert begun == [1] * STARTS_MAX + [0] * 5
    assert puller.next_deadline_s == 1.0
    assert _asked(puller.advance(1.0)) == 5
    assert puller.next_deadline_s > 1.0


def _takeover(unit: UnitId) -> Takeover:
    return Takeover(
        unit, epoch=_key(1), purpose=Purpose.FENCED, sources=(N2,), needed=1, then=lambda _at_s: [], started_s=1.0
    )

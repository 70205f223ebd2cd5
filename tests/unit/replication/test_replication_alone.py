"""Writes without votes: when a node may stamp them, and that the stamps are above whatever it holds."""

from __future__ import annotations

import random

from balancer.record import JOINING, STABLE
from frys_node.kernel.services.replication import Version
from frys_node.replication.alone import LoneStamps
from frys_node.replication.hlc import HybridClock
from frys_node.replication.messages import Write
from frys_node.replication.replica import ReplicaConfig, ReplicaMachine
from frys_node.testing.data_cluster import DictStore
from tests.unit.replication.test_replication_machines import N1, N2, UNIT, key, record


class Node:
    """A replica of cache units in memory and the clock of its node."""

    def __init__(self, *, durable: bool = False) -> None:
        self.replica = ReplicaMachine(
            N1,
            random.Random(1),
            ReplicaConfig(),
            lambda: self.clock.stamp(1_000) if self.clock else Version(0, 0, N1, 1),
        )
        self.replica.declare("cache", lambda _unit: DictStore(), durable=durable)
        self.clock = HybridClock(N1, 1)
        self.stamps = LoneStamps(self.replica, self.clock)


def test_a_node_that_is_the_whole_ring_stamps_above_everything() -> None:
    """Stamps grow, and one that a faster clock has written here is passed (rule 4)."""
    node = Node()
    node.replica.adopt(record(2, STABLE, [N1]), 0.0)
    first, second = node.stamps.stamp("cache", 5_000), node.stamps.stamp("cache", 5_000)
    assert first is not None
    assert second is not None
    assert first < second
    ahead = Version(900_000, 3, N2, 9)
    node.replica.receive(N2, Write(key(2), UNIT, 1, 1, ahead, [(b"k", b"v")]), 0.0)
    third = node.stamps.stamp("cache", 6_000)
    assert third is not None
    assert third > ahead
    fourth = node.stamps.stamp("cache", 6_000)
    assert fourth is not None
    assert fourth > third


def test_a_unit_that_started_empty_is_written_above_its_floor() -> None:
    """What lies below it counts as lost: a write there would be refused by any other way."""
    node = Node()
    node.replica.adopt(record(2, STABLE, [N1]), 0.0)
    node.replica.table.units[UNIT].floor = Version(70_000, 0, N2, 1)
    stamp = node.stamps.stamp("cache", 5_000)
    assert stamp is not None
    assert stamp > Version(70_000, 0, N2, 1)


def test_nobody_stamps_what_others_hold_or_will_hold() -> None:
    """Another member, one that is joining, a log on disk, a unit that is not whole, or no record at all: None."""
    node = Node()
    assert node.stamps.stamp("cache", 5_000) is None
    node.replica.adopt(record(2, STABLE, [N1, N2]), 0.0)
    assert node.stamps.stamp("cache", 5_000) is None
    node.replica.adopt(record(3, STABLE, [N1]), 0.0)
    node.replica.table.units[UNIT].complete = True
    assert node.stamps.stamp("cache", 5_000) is not None
    node.replica.adopt(record(4, JOINING, [N1], [N1, N2]), 0.0)
    assert node.stamps.stamp("cache", 5_000) is None
    logged = Node(durable=True)
    logged.replica.adopt(record(2, STABLE, [N1]), 0.0)
    assert logged.stamps.stamp("cache", 5_000) is None
    part = Node()
    part.replica.adopt(record(2, STABLE, [N1]), 0.0)
    part.replica.table.units[UNIT].complete = False
    assert part.stamps.stamp("cache", 5_000) is None

"""What a change of the ring would move, without making it: copies and bytes by target, and how even it leaves loads.

Sans-I/O. Changes happen one after another, as the issuer makes them: a plan of two joins is two steps, and what the
second moves again counts again. Sizes are what nodes report of the units that they hold; the largest report counts, and
a unit that nobody reports is counted as unknown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import msgspec

from balancer.placement import Placement
from balancer.rebalance import UnitMove
from balancer.record import STABLE, TopologyRecord, weighted
from balancer.spread import RingMember, rounds_of
from frys_node.base.errors import AlreadyExists, NotFound, UsageError
from frys_node.base.types import NodeId, UnitId

COPIES_MAX = 7
"""Largest replication factor."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """One change and what it moves."""

    change: str
    """``add``, ``remove`` or ``replication_factor``."""
    what: str
    """The node, or the number."""
    units: int
    """Units that get a copy somewhere."""
    copies: int
    bytes: int
    unknown: int
    """Copies of units whose size nobody reports; not in `bytes`."""


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What one node holds before and after, and takes on the way."""

    node: NodeId
    units_before: int
    units_after: int
    bytes_before: int
    bytes_after: int
    copies: int
    """Copies that go to it."""
    bytes: int


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A change that was not made."""

    steps: list[Step]
    nodes: list[Load]
    """Those of the ring before and of the ring after, by id."""
    over_quota_before: float
    """Highest number of units held, over what the node's weight and zone make its part of them."""
    over_quota_after: float

    @property
    def copies(self) -> int:
        """Copies of all steps."""
        return sum(step.copies for step in self.steps)

    @property
    def bytes(self) -> int:
        """Bytes of all steps, as far as they are known."""
        return sum(step.bytes for step in self.steps)


def settled(record: TopologyRecord) -> TopologyRecord:
    """Return the record as it will be when the change under way is done."""
    bypassed = record.bypassed if record.phase == STABLE else record.next_bypassed
    return msgspec.structs.replace(record, phase=STABLE, ring=record.next_ring, bypassed=bypassed, next_bypassed=())


def with_member(record: TopologyRecord, member: RingMember) -> TopologyRecord:
    """Return the stable record with one member more.

    Raises:
        AlreadyExists: It is on the ring.
        UsageError: Its weight is out of range.
    """
    if any(held.node == member.node for held in record.ring):
        raise AlreadyExists("that node is on the ring already", hint="`frys-node ring` lists its members")
    if not 1 <= member.weight <= 10_000:
        raise UsageError("a weight is from 0.01 to 100", hint="1 is normal")
    ring = tuple(sorted((*record.ring, member), key=lambda held: held.node))
    return msgspec.structs.replace(record, ring=ring, next_ring=ring, bypassed=())


def without_member(record: TopologyRecord, node: NodeId) -> TopologyRecord:
    """Return the stable record without a member.

    Raises:
        NotFound: It is not on the ring.
        UsageError: It is the last one.
    """
    ring = tuple(member for member in record.ring if member.node != node)
    if ring == record.ring:
        raise NotFound("that node is not on the ring", hint="`frys-node ring` lists its members")
    if not ring:
        raise UsageError("the last node cannot leave its ring")
    return msgspec.structs.replace(record, ring=ring, next_ring=ring, bypassed=())


def with_copies(record: TopologyRecord, copies: int) -> TopologyRecord:
    """Return the stable record with another replication factor, of the cache and of every collection.

    Raises:
        UsageError: The number is out of range.
    """
    if not 1 <= copies <= COPIES_MAX:
        raise UsageError(f"a replication factor is from 1 to {COPIES_MAX}")
    collections = tuple(msgspec.structs.replace(each, replication_factor=copies) for each in record.collections)
    return msgspec.structs.replace(record, replication_factor=copies, collections=collections)


class Planner:
    """Makes one change after another on paper."""

    def __init__(self, record: TopologyRecord, sizes: Mapping[UnitId, int]) -> None:
        self.record = settled(record)
        self._sizes = sizes
        self._first = self._last = Placement(self.record)
        self._steps: list[Step] = []
        self._copies: Counter[NodeId] = Counter()
        self._bytes: Counter[NodeId] = Counter()

    def change(self, record: TopologyRecord, change: str, what: str) -> None:
        """Go on to another stable record and count what that moves."""
        after = Placement(record)
        found = copies_between(self._last, after)
        for move in found:
            self._copies[move.target] += 1
            self._bytes[move.target] += self._sizes.get(move.unit, 0)
        self._steps.append(
            Step(
                change=change,
                what=what,
                units=len({move.unit for move in found}),
                copies=len(found),
                bytes=sum(self._sizes.get(move.unit, 0) for move in found),
                unknown=sum(move.unit not in self._sizes for move in found),
            )
        )
        self.record, self._last = record, after

    def plan(self) -> Plan:
        """Return what was planned."""
        before, after = held_by_node(self._first), held_by_node(self._last)
        nodes = sorted({member.node for member in (*self._first.record.ring, *self.record.ring)})
        loads = [
            Load(
                node=node,
                units_before=len(before.get(node, ())),
                units_after=len(after.get(node, ())),
                bytes_before=self._size(before.get(node, ())),
                bytes_after=self._size(after.get(node, ())),
                copies=self._copies[node],
                bytes=self._bytes[node],
            )
            for node in nodes
        ]
        return Plan(
            steps=self._steps,
            nodes=loads,
            over_quota_before=over_quota(self._first),
            over_quota_after=over_quota(self._last),
        )

    def _size(self, units: Sequence[UnitId]) -> int:
        return sum(self._sizes.get(unit, 0) for unit in units)


def copies_between(before: Placement, after: Placement) -> list[UnitMove]:
    """Return the copies that turn one stable placement into another, in unit order."""
    found: list[UnitMove] = []
    for unit in after.units():
        held = before.sets(unit).current if unit in before else ()
        found += [UnitMove(unit, held, node) for node in after.sets(unit).current if node not in held]
    return found


def held_by_node(placement: Placement) -> dict[NodeId, list[UnitId]]:
    """Return the units of each node's current sets."""
    held: dict[NodeId, list[UnitId]] = {}
    for unit in placement.units():
        for node in placement.sets(unit).current:
            held.setdefault(node, []).append(unit)
    return held


def over_quota(placement: Placement) -> float:
    """Return the highest load over its quota; 1 is even. Workflow partitions, cache units and shards count alike."""
    record = placement.record
    groups = [(record.partitions, record.replication_factor), (record.partitions, 1)]
    groups += [(each.shard_number, each.replication_factor) for each in record.collections]
    quotas: dict[NodeId, float] = {}
    for units, copies in groups:
        for node, quota in rounds_of(weighted(record.ring), units, copies)[-1].quotas.items():
            quotas[node] = quotas.get(node, 0.0) + quota
    held = held_by_node(placement)
    return max((len(held.get(node, ())) / quota for node, quota in quotas.items() if quota), default=1.0)


def sizes_of(reports: Mapping[NodeId, Mapping[UnitId, int]]) -> dict[UnitId, int]:
    """Return each unit's size: the largest that anybody reports, since a copy on its way is smaller."""
    sizes: dict[UnitId, int] = {}
    for report in reports.values():
        for unit, size_bytes in report.items():
            sizes[unit] = max(sizes.get(unit, 0), size_bytes)
    return sizes

"""From a topology record to replica sets: a pure function, computed once per record.

Sans-I/O. Units come in groups that are balanced separately: the cache units, the workflow partitions, and the shards
of each collection. The same record gives the same sets on every node (rule 2). A group depends on the ring, its units
and its replication factor alone, so a record that changes one thing places only the groups that this concerns: the
next ring of a join, or one new collection.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import msgspec

from balancer.bypass import Bypass, Detour
from balancer.record import STABLE, TopologyRecord, next_collections, weighted
from balancer.ring import ring_with
from balancer.spread import RingMember
from frys_node.base.errors import NotFound
from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import workflow_unit
from frys_node.kernel.services.topology import Collection, UnitSets

GROUPS_MAX = 1_024
"""Groups whose sets are kept: those of two rings with 500 collections."""


def cache_unit(index: int) -> UnitId:
    """Return the name of a cache unit."""
    return UnitId(f"cache/{index}")


def vector_unit(collection_id: str, shard: int) -> UnitId:
    """Return the name of a collection's shard."""
    return UnitId(f"vector/{collection_id}/{shard}")


class Placement:
    """The replica sets of every unit under one record."""

    __slots__ = ("_sets", "record")

    def __init__(self, record: TopologyRecord) -> None:
        self.record = record
        current = _without_lost(record, _assign_all(record, record.ring, record.bypassed))
        following = current if record.phase == STABLE else _assign_next(record)
        self._sets = {
            unit: UnitSets(record.epoch, record.phase, nodes, following[unit]) for unit, nodes in current.items()
        }

    def units(self) -> Iterator[UnitId]:
        """Every unit, in a stable order."""
        return iter(self._sets)

    def sets(self, unit: UnitId) -> UnitSets:
        """Return a unit's sets.

        Raises:
            NotFound: The record knows no such unit (a deleted collection, or a number out of range).
        """
        sets = self._sets.get(unit)
        if sets is None:
            raise NotFound(f"no unit '{unit}' in the topology record {self.record.epoch}")
        return sets

    def __contains__(self, unit: UnitId) -> bool:
        return unit in self._sets

    def changed_units(self) -> list[UnitId]:
        """Units whose set is being changed by this record."""
        return [unit for unit, sets in self._sets.items() if set(sets.current) != set(sets.next)]

    def held_by(self, node: NodeId) -> list[UnitId]:
        """Units whose current or next set has the node."""
        return [unit for unit, sets in self._sets.items() if node in sets.current or node in sets.next]


def _assign_next(record: TopologyRecord) -> dict[UnitId, tuple[NodeId, ...]]:
    factor = record.next_replication_factor
    following = msgspec.structs.replace(
        record,
        collections=next_collections(record),
        replication_factor=record.replication_factor if factor is None else factor,
    )
    return _assign_all(following, record.next_ring, record.next_bypassed)


def _assign_all(
    record: TopologyRecord, ring: tuple[RingMember, ...], bypassed: tuple[Bypass, ...]
) -> dict[UnitId, tuple[NodeId, ...]]:
    placed: dict[UnitId, tuple[NodeId, ...]] = {}
    partitions = range(record.partitions)
    groups = [
        ([cache_unit(index) for index in partitions], record.replication_factor),
        ([workflow_unit(index) for index in partitions], 1),
    ]
    groups += [(shards_of(collection), collection.replication_factor) for collection in record.collections]
    walked = weighted(ring)
    detour = Detour(walked, record.vnodes, bypassed)
    for units, count in groups:
        sets = _assigned(walked, record.vnodes, tuple(units), count)
        placed.update(zip(units, detour.placed(units, sets, count), strict=True))
    present = {member.node for member in ring}
    for partition, node in record.pinned:
        if node in present:
            placed[workflow_unit(partition)] = (node,)
    return placed


@lru_cache(maxsize=GROUPS_MAX)
def _assigned(
    members: tuple[RingMember, ...], vnodes: int, units: tuple[UnitId, ...], count: int
) -> tuple[tuple[NodeId, ...], ...]:
    """Place one group; the sets are in the order of the units."""
    return tuple(ring_with(members, vnodes).assign(units, count).values())


def _without_lost(record: TopologyRecord, placed: dict[UnitId, tuple[NodeId, ...]]) -> dict[UnitId, tuple[NodeId, ...]]:
    """Take what an operator gave up from the sets that cannot be fenced with it; all others keep their quorums."""
    for unit, nodes in placed.items() if record.lost else ():
        left = tuple(node for node in nodes if node not in record.lost)
        if len(left) < fence(len(nodes)):
            placed[unit] = left
    return placed


def majority(count: int) -> int:
    """Return the smallest number of `count` members that is more than half: 1, 1, 2, 2, 3, 3 for 0..5."""
    return count // 2 + 1


def fence(count: int) -> int:
    """Return the smallest number of members that meets every majority of `count`: 0, 1, 1, 2, 2, 3 for 0..5."""
    return count - majority(count) + 1


def shards_of(collection: Collection) -> list[UnitId]:
    """Return the units of a collection, by shard number."""
    return [vector_unit(collection.id, shard) for shard in range(collection.shard_number)]

"""What a change asks of one node: which units it copies, takes passes of, seals or starts.

Sans-I/O. A pure function of the record, so that a restarted node finds the same work again. *Replicated* units (vector
shards, cache units) are copied and passed by `frys_node.replication`; *moved* units (workflow partitions, sets of one)
are sealed at the old owner and transferred by a `UnitMover`.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from balancer.placement import Placement
from balancer.record import JOINING, JOINT
from frys_node.base.types import NodeId, UnitId

MOVED_KINDS = ("workflow",)
"""Kinds whose units have one owner and move by a sealed snapshot."""


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """A node's part in the record's change, in unit order."""

    bulk: tuple[UnitId, ...] = ()
    """``joining``: replicated units to copy before the fence."""
    passes: tuple[UnitId, ...] = ()
    """``joint``: replicated units to take a pass of (joiners and stayers)."""
    seals: tuple[UnitId, ...] = ()
    """``joint``: moved units that this node gives up."""
    transfers: tuple[UnitId, ...] = ()
    """``joint``: moved units that this node takes."""
    owned: tuple[UnitId, ...] = ()
    """Moved units of this node under the current sets: started when stable, unsealed after an abort."""


def kind_of(unit: UnitId) -> str:
    """Return the first part of a unit id."""
    return unit.partition("/")[0]


def work_for(placement: Placement, node: NodeId, kinds: Collection[str]) -> Work:
    """Return the node's work; units of kinds that it does not run are nobody's work here."""
    phase = placement.record.phase
    changed = [unit for unit in placement.changed_units() if kind_of(unit) in kinds]
    bulk: list[UnitId] = []
    passes: list[UnitId] = []
    seals: list[UnitId] = []
    transfers: list[UnitId] = []
    for unit in changed:
        sets = placement.sets(unit)
        is_moved = kind_of(unit) in MOVED_KINDS
        joins = node in sets.next and node not in sets.current
        if phase == JOINING and joins and not is_moved:
            bulk.append(unit)
        if phase != JOINT:
            continue
        if is_moved:
            if joins:
                transfers.append(unit)
            elif node in sets.current and node not in sets.next:
                seals.append(unit)
        elif node in sets.next:
            passes.append(unit)
    owned = [
        unit
        for unit in placement.units()
        if kind_of(unit) in MOVED_KINDS and kind_of(unit) in kinds and node in placement.sets(unit).current
    ]
    return Work(
        bulk=tuple(bulk),
        passes=tuple(passes),
        seals=tuple(seals),
        transfers=tuple(transfers),
        owned=tuple(owned),
    )

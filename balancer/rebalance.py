"""What a change of the ring moves: the difference between two placements.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from balancer.placement import Placement
from frys_node.base.types import NodeId, UnitId


class UnitMove(msgspec.Struct, frozen=True):
    """One unit on its way to one node."""

    unit: UnitId
    sources: tuple[NodeId, ...]
    target: NodeId


def moves(placement: Placement) -> Sequence[UnitMove]:
    """Return the copies that the record's change needs, in unit order."""
    found = []
    for unit in placement.changed_units():
        sets = placement.sets(unit)
        found += [
            UnitMove(unit=unit, sources=sets.current, target=node) for node in sets.next if node not in sets.current
        ]
    return found


def moved_fraction(placement: Placement) -> float:
    """Return the share of replicas of the next sets that have to be copied, 0 to 1."""
    total = sum(len(placement.sets(unit).next) for unit in placement.units())
    return len(moves(placement)) / total if total else 0.0

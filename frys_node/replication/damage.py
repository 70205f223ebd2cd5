"""What a node says of units whose log was damaged, and of what it cut: the log, `frys-node status`, and refused reads.

A damaged unit of several replicas is incomplete until it was filled again from the others (rule 14). One whose only
replica is here has nobody to be filled from: reads of it are refused by name, until an operator brings back what there
is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec

from balancer.placement import Placement
from frys_node.base.types import NodeId, UnitId
from frys_node.replication.errors import UnitDamaged
from frys_node.replication.log import Log
from frys_node.replication.regain import is_lone
from frys_node.replication.unit import UnitTable

UNITS_SHOWN_MAX = 20
"""Units named in one line of the log; `frys-node status` has all."""

_log = logging.getLogger(__name__)


class DamagedUnit(msgspec.Struct, frozen=True):
    """One line of `frys-node status`."""

    unit: UnitId
    entries: int
    """Keys that could still be read, tombstones included."""
    others: str
    """Names of the other nodes that hold the unit."""
    fix: str


def tell(log: Log) -> None:
    """Log what a replay cut, and what it could not read."""
    for torn in log.torn:
        _log.warning("replication.torn_end_cut", extra=torn._asdict())
    for hole in log.holes:
        units = "any" if hole.units is None else list(hole.units[:UNITS_SHOWN_MAX])
        count = None if hole.units is None else len(hole.units)
        _log.error(
            "replication.log_damaged",
            extra=hole._asdict() | {"units": units, "unit_count": count, "fix": "see `frys-node status`"},
        )


def fix_of(unit: UnitId, others: Sequence[str]) -> str:
    """Return what an operator is to do about a damaged unit."""
    if others:
        return "nothing: it is filled again from the others; if it does not go away, see that they are up"
    return f"frys-node snapshot restore NAME --unit {unit}"


def damaged_units(
    node: NodeId, table: UnitTable, placement: Placement | None, name_of: Callable[[NodeId], str]
) -> list[DamagedUnit]:
    """Return the damaged units of this node that the record places here."""
    found = []
    for unit, held in sorted(table.units.items()):
        if not held.is_damaged or placement is None or unit not in placement:
            continue
        others = sorted(name_of(other) for other in placement.sets(unit).current if other != node)
        count = sum(1 for _ in held.store.entries())
        found.append(DamagedUnit(unit, count, ", ".join(others), fix_of(unit, others)))
    return found


def refuse_damaged(node: NodeId, table: UnitTable, placement: Placement, unit: UnitId) -> None:
    """Refuse to read a unit whose only replica is damaged.

    Raises:
        UnitDamaged: It is; the message names the command that brings it back.
    """
    held = table.units.get(unit)
    if held is not None and held.is_damaged and is_lone(node, placement.sets(unit)):
        raise UnitDamaged(
            f"the only replica of '{unit}' lost acknowledged records with its log, or part of it",
            hint=f"bring it back from a snapshot: {fix_of(unit, ())}",
        )

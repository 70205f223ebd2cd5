"""Which units are without a quorum now, and which one death would leave without one: lines for `frys-node status`.

Sans-I/O. Who is up is a rumour: it decides nothing here, a request finds out for itself. With two replicas a quorum is
both of them, so that what stops with one death is said before it happens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from balancer.placement import Placement, majority
from balancer.work import MOVED_KINDS, kind_of
from frys_node.base.types import NodeId, UnitId

UNITS_SHOWN_MAX = 5
"""Units named in one line of many."""


def some_of(units: Sequence[UnitId]) -> str:
    """Name a few of many units."""
    shown = ", ".join(units[:UNITS_SHOWN_MAX])
    more = len(units) - UNITS_SHOWN_MAX
    return shown if more <= 0 else f"{shown} and {more} more units"


def quorum_lines(placement: Placement, is_up: Callable[[NodeId], bool], name_of: Callable[[NodeId], str]) -> list[str]:
    """Return a line for each group of replicated units with the same replicas down, then one for units of two."""
    short: dict[tuple[int, tuple[NodeId, ...]], list[UnitId]] = {}
    pairs = 0
    for unit in placement.units():
        if kind_of(unit) in MOVED_KINDS:
            continue  # one owner, no quorum
        members = placement.sets(unit).current
        down = tuple(sorted(node for node in members if not is_up(node)))
        if len(members) - len(down) < majority(len(members)):
            short.setdefault((len(members), down), []).append(unit)
        elif len(members) == 2:
            pairs += 1
    lines = [
        f"{some_of(units)}: {count - len(down)} of {count} replicas up, and a quorum is {majority(count)}: reads and"
        f" writes at quorum fail until enough of {', '.join(map(name_of, down))} are back or removed"
        + ("; at one they go on" if len(down) < count else "")
        for (count, down), units in short.items()
    ]
    if pairs:
        lines.append(
            f"units with two replicas: {pairs}. A quorum of two is two: one death stops reads and writes of them at"
            " quorum, and not those at one; a third node and replication factor 3 end that"
        )
    return lines

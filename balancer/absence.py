"""Who the issuer does without for now, and how the next step is planned around them.

Sans-I/O. A step waits for every member that it gives something to. One that is known to be dead would hold it up for
as long as it is, so the ``joining`` record passes it over wherever it would gain a unit (`bypass`): it keeps the
places that it has, others take what it would have taken, and no barrier of the step needs it. When it is back for some
seconds a further step gives it its places again. That somebody is dead is a rumour and decides what is *tried*; what
becomes of it is in the record, and nothing depends on whether it was true.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Container

import msgspec

from balancer.bypass import bypass_of
from balancer.placement import Placement, fence, majority
from balancer.promotion import count_in, voters
from balancer.record import TopologyRecord, formatted, weighted
from balancer.work import MOVED_KINDS, kind_of
from frys_node.base.types import NodeId, UnitId


class Absence:
    """Who is dead, who says nothing, and who is back."""

    def __init__(self, node: NodeId) -> None:
        self.node = node
        self.dead: dict[NodeId, float] = {}
        """Since when each node is known to be dead."""
        self.silent: dict[NodeId, None] = {}
        """Who did not adopt a record in time, though nobody calls it dead, and was not heard since."""
        self._back_s: dict[NodeId, float] = {}

    def verdict(self, dead: Collection[NodeId], passed_over: Collection[NodeId], now_s: float) -> bool:
        """Take who is known to be dead now, and whom the record passes over; True if somebody died or came back."""
        before = self.dead
        self.dead = {node: before.get(node, now_s) for node in sorted(dead) if node != self.node}
        self._back_s = {node: self._back_s.get(node, now_s) for node in passed_over if node not in self.dead}
        return self.dead.keys() != before.keys()

    def heard(self, node: NodeId) -> None:
        """A node has reported: it lives."""
        self.dead.pop(node, None)
        self.silent.pop(node, None)

    def forget(self) -> None:
        """Another issuer's judgement is over."""
        self.silent.clear()
        self._back_s.clear()

    def back_at_s(self, record: TopologyRecord, patience_s: float) -> float:
        """Return when the first of those that the record passes over has been back for long enough."""
        return min((at_s + patience_s for at_s in self._returned(record).values()), default=math.inf)

    def _returned(self, record: TopologyRecord) -> dict[NodeId, float]:
        passed_over = {bypass.node for bypass in record.bypassed}
        return {node: at_s for node, at_s in self._back_s.items() if node in passed_over and node not in self.silent}

    def absent(self, record: TopologyRecord, now_s: float, patience_s: float) -> list[NodeId]:
        """Return whom the next step gives nothing."""
        back = {node for node, at_s in self._returned(record).items() if now_s >= at_s + patience_s}
        waiting = {bypass.node for bypass in record.bypassed if bypass.node not in back}
        gone = {*self.dead, *self.silent, *waiting}
        return [member.node for member in record.ring if member.node in gone]


def around(joining: TopologyRecord, absent: Container[NodeId]) -> Placement:
    """Return the placement of a ``joining`` record that gives the absent nothing.

    They keep their places, except where a changed unit's next set would have no majority without them and somebody
    else can be had.
    """
    plain = Placement(formatted(msgspec.structs.replace(joining, next_bypassed=())))
    absent_here = [member.node for member in weighted(joining.next_ring) if member.node in absent]
    passed: dict[NodeId, list[UnitId]] = {node: [] for node in absent_here}
    for unit in plain.changed_units():
        sets = plain.sets(unit)
        for node in absent_here:
            if node in sets.next and node not in sets.current:
                passed[node].append(unit)
    found = _passing_over(plain, passed)
    weak = [unit for unit in found.changed_units() if _lacks_majority(found.sets(unit).next, absent_here)]
    if not weak:
        return found
    wider = {
        node: [*units, *(unit for unit in weak if node in found.sets(unit).next)] for node, units in passed.items()
    }
    tried = _passing_over(plain, wider)
    mended = {unit for unit in weak if len(tried.sets(unit).next) == len(found.sets(unit).next)}
    return _passing_over(
        plain,
        {node: [unit for unit in units if unit in mended or unit in passed[node]] for node, units in wider.items()},
    )


def _passing_over(plain: Placement, passed: dict[NodeId, list[UnitId]]) -> Placement:
    if not any(passed.values()):
        return plain
    # Who has nothing to be passed over in is named too, so that nothing comes to it in another one's place.
    bypassed = tuple(bypass_of(node, units) for node, units in sorted(passed.items()))
    return Placement(formatted(msgspec.structs.replace(plain.record, next_bypassed=bypassed)))


def _lacks_majority(nodes: Collection[NodeId], absent: Collection[NodeId]) -> bool:
    return len(nodes) - count_in(nodes, absent) < majority(len(nodes))


def short_units(placement: Placement, units: Collection[UnitId], dead: Container[NodeId]) -> list[UnitId]:
    """Return the units of a step that cannot end: of the old set no fence lives, or of the new one no majority."""
    short = []
    for unit in units:
        sets = placement.sets(unit)
        if kind_of(unit) in MOVED_KINDS:
            continue
        living = len(sets.current) - count_in(sets.current, dead)
        if living < fence(len(sets.current)) or _lacks_majority(sets.next, [n for n in sets.next if n in dead]):
            short.append(unit)
    return short


def ring_is_short(record: TopologyRecord, given_up: Collection[NodeId], dead: Container[NodeId]) -> bool:
    """True if no majority of either ring lives: the step could not end, or what follows it never be settled."""
    for members in (record.ring, record.next_ring):
        ring = voters(members, {*record.lost, *given_up})
        if ring and len(ring) - count_in(ring, dead) < majority(len(ring)):
            return True
    return False

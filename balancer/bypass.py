"""Members that are passed over: where the record says so, another member holds a unit in their place.

Sans-I/O. The issuer names them, for units that they would have to take over while they are dead (`absence`): a step
must not wait for them. It is part of the record, so every node derives the same sets from it (rule 2), and it is
undone by a later step when they are back. Only the units that it names are placed otherwise: all others stay where
the ring puts them, so that passing somebody over and taking that back moves nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

import msgspec

from balancer.ring import ring_with
from balancer.spread import RingMember, rounds_of
from frys_node.base.types import NodeId, UnitId
from frys_node.wire.codec import Codec

BYPASS_BYTES_MAX = 96 << 10
"""What those who are passed over may take of the next sets' part of a record; a step that needs more is not begun. A
record travels in one frame of 1 MiB, has two such parts while a step is under way, and `RECORD_BYTES_MAX` for the rest.
Named is only what a step would have moved to the dead: some units of each, more when a factor grows."""


class Bypass(msgspec.Struct, frozen=True, array_like=True):
    """A member that gets nothing in anybody's place, and the units in which it is passed over itself."""

    node: NodeId
    groups: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """Units by what comes before their number: ``cache``, ``workflow``, or ``vector/`` and a collection's id."""

    def units(self) -> list[UnitId]:
        """Return the units in which it is passed over."""
        return [UnitId(f"{group}/{number}") for group, numbers in self.groups for number in numbers]


_BYPASS: Codec[Bypass] = Codec(Bypass)


def bypass_bytes(bypassed: Iterable[Bypass]) -> int:
    """Return what entries take in a record."""
    return sum(len(_BYPASS.encode(bypass)) for bypass in bypassed)


def bypass_of(node: NodeId, units: Iterable[UnitId]) -> Bypass:
    """Return the entry of a member that is passed over in these units, each once."""
    groups: dict[str, list[int]] = {}
    for unit in units:
        group, _, number = unit.rpartition("/")
        groups.setdefault(group, []).append(int(number))
    return Bypass(node, tuple((group, tuple(sorted(numbers))) for group, numbers in sorted(groups.items())))


def passed_over(bypassed: Iterable[Bypass]) -> dict[UnitId, list[NodeId]]:
    """Return who is passed over in which unit."""
    passed: dict[UnitId, list[NodeId]] = {}
    for bypass in bypassed:
        for unit in bypass.units():
            passed.setdefault(unit, []).append(bypass.node)
    return passed


class Detour:
    """Finds who holds units in the place of those that are passed over; a pure function of ring and record."""

    def __init__(self, members: tuple[RingMember, ...], vnodes: int, bypassed: Sequence[Bypass]) -> None:
        self._members = members
        self._vnodes = vnodes
        self._passed = passed_over(bypassed)
        self._absent = {bypass.node for bypass in bypassed}
        self._present = tuple(member for member in members if member.node not in self._absent)

    def placed(
        self, units: Sequence[UnitId], sets: Sequence[tuple[NodeId, ...]], count: int
    ) -> Sequence[tuple[NodeId, ...]]:
        """Return the sets of one group with others in the place of those passed over; fewer if there are no others."""
        if not any(unit in self._passed for unit in units) or not self._members:
            return sets
        loads = Counter(node for nodes in sets for node in nodes)
        rounds = rounds_of(self._present, len(units), count)
        bounds: Mapping[NodeId, int] = rounds[-1].bounds if rounds else {}
        found = []
        for unit, nodes in zip(units, sets, strict=True):
            passed = self._passed.get(unit, ())
            kept = [node for node in nodes if node not in passed]
            for _ in range(len(nodes) - len(kept)):
                chosen = self._stand_in(unit, kept, loads, bounds)
                if chosen is not None:
                    kept.append(chosen)
                    loads[chosen] += 1
            # A unit belongs to somebody: with nobody to stand in, those passed over keep it.
            found.append(tuple(kept) or nodes)
        return found

    def _stand_in(
        self, unit: UnitId, kept: Collection[NodeId], loads: Mapping[NodeId, int], bounds: Mapping[NodeId, int]
    ) -> NodeId | None:
        """Return the next member clockwise: zones first, then even loads, then racks, as everywhere (`spread`)."""
        holders = [member for member in self._members if member.node in kept]
        zones = Counter(member.domain for member in holders)
        shelves = Counter((member.domain, member.shelf) for member in holders)
        open_to = [
            member
            for member in ring_with(self._members, self._vnodes).walk(unit)
            if member.node not in kept and member.node not in self._absent
        ]
        best = min(
            open_to,
            key=lambda member: (
                zones[member.domain],
                loads[member.node] >= bounds[member.node],
                shelves[member.domain, member.shelf],
            ),
            default=None,
        )
        return None if best is None else best.node

"""How many units each member may hold: quotas from weights and failure domains, never from live load.

Sans-I/O. Replicas of a unit go over the zones first: number `level` of a unit's replicas in a zone is placed only when
every zone that still can has `level` of them. So the replicas of a group are handed out in *rounds*, one per replica,
and how much of each round falls to a zone follows from its weight: a small zone gets one replica of every unit and no
more, and what it cannot take the others share ("water filling"). A member's quota after a round is its weighted part
of its zone's, at most every unit once.

Floats are those of IEEE 754, and are rounded before they are compared, so that every node derives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping
from functools import lru_cache
from typing import TypeVar

import msgspec

from frys_node.base.types import NodeId

LOAD_SLACK = 0.25
"""No member is given more than (1 + slack) times its quota of a group's replicas, while others have room."""

ROUNDS_MAX = 256
"""Kinds of groups (so many units in so many copies on one ring) whose rounds are kept: collections are mostly alike."""

_DIGITS = 6
_Key = TypeVar("_Key", bound=Hashable)


class RingMember(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A node on the ring, and the failure domains that it is in."""

    node: NodeId
    weight: int = 100
    """Relative, 1 to 10,000; 100 is normal."""
    zone: str = ""
    """Replicas of a unit are spread over zones, always. A member without one is a zone of its own."""
    rack: str = ""
    """Within a zone they are spread over racks, as far as the bound of load allows. Without a zone a rack is one."""

    @property
    def domain(self) -> tuple[str, str]:
        """The zone that counts: its own, else its rack, else the member itself."""
        if self.zone:
            return "zone", self.zone
        return ("rack", self.rack) if self.rack else ("node", self.node)

    @property
    def shelf(self) -> tuple[str, str]:
        """The rack that counts within the zone: its own, else the member itself."""
        return ("rack", self.rack) if self.rack else ("node", self.node)


class Round(msgspec.Struct, frozen=True):
    """One replica of every unit."""

    level: int
    """It goes to zones that hold so many replicas of the unit."""
    quotas: Mapping[NodeId, float]
    """Each member's part of the replicas after it, those of the rounds before included."""
    bounds: Mapping[NodeId, int]
    """How many of them it may hold at most."""


@lru_cache(maxsize=ROUNDS_MAX)
def rounds_of(members: tuple[RingMember, ...], units: int, count: int, slack: float = LOAD_SLACK) -> tuple[Round, ...]:
    """Return the rounds that place `count` replicas (as far as there are members) of so many units."""
    zones: dict[tuple[str, str], list[RingMember]] = {}
    for member in members:
        zones.setdefault(member.domain, []).append(member)
    weights = {zone: float(sum(member.weight for member in held)) for zone, held in zones.items()}
    rounds: list[Round] = []
    full: dict[tuple[str, str], float] = dict.fromkeys(zones, 0.0)
    level = used = 0
    for _ in range(min(count, len(members))):
        open_zones = {zone: weights[zone] for zone, held in zones.items() if len(held) > level}
        if used == len(open_zones):
            full = {zone: filled + (units if zone in open_zones else 0) for zone, filled in full.items()}
            level, used = level + 1, 0
            open_zones = {zone: weights[zone] for zone, held in zones.items() if len(held) > level}
        used += 1
        share = water_fill(open_zones, units * used, units)
        quotas: dict[NodeId, float] = {}
        for zone, held in zones.items():
            parts = {member.node: float(member.weight) for member in held}
            quotas |= water_fill(parts, full[zone] + share.get(zone, 0.0), units)
        rounds.append(Round(level, quotas, {node: _bound(quota, slack, units) for node, quota in quotas.items()}))
    return tuple(rounds)


def _bound(quota: float, slack: float, units: int) -> int:
    """Return what a member may hold: its quota and the slack, rounded down, but at least its quota rounded up."""
    loose = math.floor(round((1 + slack) * quota, _DIGITS))
    return min(units, max(math.ceil(round(quota, _DIGITS)), loose))


def water_fill(weights: Mapping[_Key, float], total: float, limit: float) -> dict[_Key, float]:
    """Share `total` by weight, nobody above `limit`; what one cannot take the others share. Weights are positive."""
    filled: dict[_Key, float] = {}
    left = dict(weights)
    while left:
        unit = total / sum(left.values())
        over = [key for key, weight in left.items() if round(unit * weight - limit, _DIGITS) > 0]
        if not over:
            return filled | {key: unit * weight for key, weight in left.items()}
        for key in over:
            filled[key] = limit
            total -= limit
            del left[key]
    return filled

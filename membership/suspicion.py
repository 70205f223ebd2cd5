"""How long a suspicion stands before the member is declared dead.

Sans-I/O. The more members suspect it independently, the sooner; the accused refutes by raising its incarnation.
Source: Dadgar et al., "Lifeguard", arXiv:1707.00788, LHA-Suspicion.
"""

from __future__ import annotations

import math

from frys_node.base.types import NodeId


def suspicion_timeout_s(confirmations: int, expected: int, floor_s: float, ceiling_s: float) -> float:
    """Return how long a suspicion may stand.

    Falls from `ceiling_s` to `floor_s` as log(confirmations + 1) / log(expected + 1).

    Args:
        confirmations: Distinct members that suspect it too, >= 0.
        expected: Confirmations at which the floor is reached; 0 means that nobody else could confirm.
        floor_s: Shortest, in seconds.
        ceiling_s: Longest, in seconds, >= floor_s.
    """
    if confirmations >= expected:
        return floor_s
    share = math.log(confirmations + 1) / math.log(expected + 1)
    return max(floor_s, ceiling_s - (ceiling_s - floor_s) * share)


def suspicion_floor_s(multiplier: float, live_count: int, probe_interval_s: float) -> float:
    """Return the shortest suspicion in a cluster of `live_count` members (this node included)."""
    return multiplier * max(1.0, math.log10(max(1, live_count))) * probe_interval_s


class Suspicion:
    """One running suspicion of one (boot, incarnation)."""

    __slots__ = ("_accusers", "_ceiling_s", "_floor_s", "boot", "incarnation", "since_s")

    def __init__(
        self, boot: int, incarnation: int, accuser: NodeId, since_s: float, *, floor_s: float, ceiling_s: float
    ) -> None:
        self.boot = boot
        self.incarnation = incarnation
        self.since_s = since_s
        self._accusers: dict[NodeId, None] = {accuser: None}
        self._floor_s = floor_s
        self._ceiling_s = ceiling_s

    @property
    def accusers(self) -> tuple[NodeId, ...]:
        """Who suspects, the first one first."""
        return tuple(self._accusers)

    def deadline_s(self, expected: int) -> float:
        """When the member is declared dead unless it refutes.

        `expected` is how many more members could confirm now: when several fail at once, those that are suspect
        themselves are not waited for.
        """
        return self.since_s + suspicion_timeout_s(len(self._accusers) - 1, expected, self._floor_s, self._ceiling_s)

    def confirm(self, accuser: NodeId, expected: int) -> bool:
        """Count one more accuser; True if it is new and was still wanted, so worth passing on."""
        if not accuser or accuser in self._accusers or len(self._accusers) > expected:
            return False
        self._accusers[accuser] = None
        return True

    def shift(self, gap_s: float) -> None:
        """Move the start by a time during which this node itself stood still."""
        self.since_s += gap_s

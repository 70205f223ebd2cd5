"""How far this node trusts its own senses: Lifeguard's local health.

Sans-I/O. A node that is starved itself misses acks that were sent, and accuses the healthy. So whatever hints at
trouble at home raises the score: a failed probe whose helpers did not even say nack, an accusation of this node that it
had to refute, an event loop that comes late. Each good probe lowers it. Probe interval and ack timeout are stretched by
score plus one: a node in trouble asks less often and waits longer.
Source: Dadgar et al., "Lifeguard", arXiv:1707.00788, LHA-Probe.
"""

from __future__ import annotations

SCORE_MAX = 8
"""Lifeguard's S: a probe waits at most nine times as long."""

LAG_S = 0.25
"""An event loop that is later than this is in trouble."""


class Awareness:
    """The local health of one node: 0 is well."""

    __slots__ = ("_is_on", "score")

    def __init__(self, *, is_on: bool = True) -> None:
        self._is_on = is_on
        self.score = 0
        """0 is well, `SCORE_MAX` is as bad as it gets."""

    @property
    def factor(self) -> int:
        """What waits are multiplied by."""
        return self.score + 1

    def worsen(self, by: int = 1) -> None:
        """Take a hint of trouble at home."""
        if self._is_on:
            self.score = min(SCORE_MAX, self.score + by)

    def improve(self) -> None:
        """Take a good probe."""
        self.score = max(0, self.score - 1)

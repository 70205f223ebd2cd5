"""What a member's own answers tell about it: round-trip time now, accrued suspicion (phi) with the watchers.

Sans-I/O. Round trips are smoothed as TCP does it (RFC 6298: gains 1/8 and 1/4). phi needs regular beats that this node
receives itself; random probes are not regular, so phi is None until watchers exist (ADR 0003).
"""

from __future__ import annotations


class Vitals:
    """Smoothed round trip of one member."""

    __slots__ = ("rttvar_s", "srtt_s")

    def __init__(self) -> None:
        self.srtt_s: float | None = None
        self.rttvar_s = 0.0

    @property
    def phi(self) -> float | None:
        """Accrued suspicion of this node's watcher; None while this node does not watch the member."""
        return None

    def observe_rtt(self, rtt_s: float) -> None:
        """Take one round trip in seconds, >= 0."""
        if self.srtt_s is None:
            self.srtt_s, self.rttvar_s = rtt_s, rtt_s / 2
            return
        self.rttvar_s += (abs(self.srtt_s - rtt_s) - self.rttvar_s) / 4
        self.srtt_s += (rtt_s - self.srtt_s) / 8

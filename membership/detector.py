"""What a member's own answers tell about it: its round-trip time, and its beats where this node watches it.

Sans-I/O. Round trips are smoothed as TCP does it (RFC 6298: gains 1/8 and 1/4). phi needs regular beats that this node
receives itself; random probes are not regular (ADR 0003).
"""

from __future__ import annotations

from membership.patience import TRIP_MAX_S
from membership.phi import Beats


class Vitals:
    """Smoothed round trip and beats of one member."""

    __slots__ = ("beats", "is_slow", "rttvar_s", "samples", "srtt_s")

    def __init__(self) -> None:
        self.srtt_s: float | None = None
        self.rttvar_s = 0.0
        self.samples = 0
        """Round trips that both rest on."""
        self.beats: Beats | None = None
        """What this node's watch hears; None while it does not watch the member."""
        self.is_slow = False
        """Phi is over the watch's first threshold."""

    def phi(self, now_s: float) -> float | None:
        """Return phi of the silence until now; None unless this node watches the member and has heard it."""
        beats = self.beats
        return max(0.0, beats.phi(now_s)) if beats is not None and beats.is_proven else None

    def trip_s(self, unknown_s: float) -> float:
        """Return what one round trip takes at most; `unknown_s` while none has been measured."""
        usual_s = unknown_s if self.srtt_s is None else self.srtt_s + 4.0 * self.rttvar_s
        return min(TRIP_MAX_S, usual_s)

    def observe_rtt(self, rtt_s: float) -> None:
        """Take one round trip in seconds, >= 0."""
        self.samples += 1
        if self.srtt_s is None:
            self.srtt_s, self.rttvar_s = rtt_s, rtt_s / 2
            return
        self.rttvar_s += (abs(self.srtt_s - rtt_s) - self.rttvar_s) / 4
        self.srtt_s += (rtt_s - self.srtt_s) / 8

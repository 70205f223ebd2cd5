"""A bound on the rate of transfers.

Sans-I/O. A token bucket without tokens: it remembers when the line is free again.
"""

from __future__ import annotations

BURST_S = 0.25
"""Idle time that may be used up at once."""


class Pace:
    """Spreads bytes over time, for all transfers of a node together."""

    __slots__ = ("_free_s", "rate_bytes_s")

    def __init__(self, rate_bytes_s: float) -> None:
        self.rate_bytes_s = rate_bytes_s
        """0 for no bound; may be changed at any time."""
        self._free_s = 0.0

    def hold(self, until_s: float) -> None:
        """Let nothing more begin before an instant."""
        self._free_s = max(self._free_s, until_s)

    def busy_s(self, now_s: float) -> float:
        """Return for how long what was claimed takes yet."""
        return max(0.0, self._free_s - now_s)

    def reserve(self, size_bytes: int, now_s: float) -> float:
        """Claim room for so many bytes; returns the instant at which they may be asked for."""
        if self.rate_bytes_s <= 0:
            return max(now_s, self._free_s)
        start_s = max(self._free_s, now_s - BURST_S)
        self._free_s = start_s + size_bytes / self.rate_bytes_s
        return max(start_s, now_s)

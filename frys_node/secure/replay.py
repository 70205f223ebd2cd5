"""Sliding window against replays (RFC 4303, 3.4.3, as one big integer).

Sans-I/O.
"""

from __future__ import annotations

from typing import Final

WINDOW_COUNTERS: Final = 1_024

_MASK = (1 << WINDOW_COUNTERS) - 1


class ReplayWindow:
    """Which of the last `WINDOW_COUNTERS` counters were seen. Bit 0 stands for the highest one."""

    __slots__ = ("_seen", "_top")

    def __init__(self) -> None:
        self._top = -1
        self._seen = 0

    def is_new(self, counter: int) -> bool:
        """True if the counter was not seen and is not too old to tell."""
        behind = self._top - counter
        return behind < 0 or (behind < WINDOW_COUNTERS and not self._seen >> behind & 1)

    def add(self, counter: int) -> None:
        """Mark a counter as seen; call it only after the packet verified."""
        ahead = counter - self._top
        if ahead <= 0:
            self._seen |= 1 << -ahead
        else:
            self._seen = (self._seen << ahead | 1) & _MASK if ahead < WINDOW_COUNTERS else 1
            self._top = counter

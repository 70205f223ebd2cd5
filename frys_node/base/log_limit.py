"""Log lines that a flood cannot multiply.

Sans-I/O.
"""

from __future__ import annotations

LOG_EVERY_S = 1.0
"""At most one log line per reason in this time; the next one says how many were left out."""


class LogLimit:
    """Which refusals to log."""

    __slots__ = ("_last_s", "_skipped")

    def __init__(self) -> None:
        self._last_s: dict[str, float] = {}
        self._skipped: dict[str, int] = {}

    def take(self, reason: str, now_s: float) -> int | None:
        """Return how many lines were left out since the last one, or None to leave this one out too."""
        last_s = self._last_s.get(reason)
        if last_s is not None and now_s - last_s < LOG_EVERY_S:
            self._skipped[reason] = self._skipped.get(reason, 0) + 1
            return None
        self._last_s[reason] = now_s
        return self._skipped.pop(reason, 0)

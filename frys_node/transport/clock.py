"""The real clock: trio's monotonic clock, so that a test clock reaches every driver, and the system's wall time."""

from __future__ import annotations

import time

import trio


class SystemClock:
    """`Clock` of a running node; `now_s` must be called inside `trio.run`."""

    __slots__ = ()

    def now_s(self) -> float:
        """Monotonic seconds of trio's clock."""
        return trio.current_time()

    def unix_ns(self) -> int:
        """Wall time in nanoseconds since 1970, UTC."""
        return time.time_ns()

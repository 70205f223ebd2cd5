"""A clock whose wall time a test can step and skew; monotonic time comes from trio's (mock) clock or any function."""

from __future__ import annotations

from collections.abc import Callable

import trio

UNIX_START_NS = 1_750_000_000_000_000_000
"""Where fake wall time begins: a fixed instant in June 2025."""


class FakeClock:
    """`Clock` for tests. Monotonic time never steps; wall time follows it plus what `step` and `drift` say."""

    def __init__(
        self,
        *,
        source: Callable[[], float] = trio.current_time,
        unix_start_ns: int = UNIX_START_NS,
        drift: float = 0.0,
    ) -> None:
        """Args: `drift` is the extra wall seconds per second, e.g. 100e-6."""
        self._source = source
        self._unix_ns = unix_start_ns
        self._drift = drift
        self._origin_s: float | None = None

    def now_s(self) -> float:
        """Monotonic seconds."""
        return self._source()

    def unix_ns(self) -> int:
        """Wall time in nanoseconds since 1970, UTC."""
        now_s = self._source()
        if self._origin_s is None:
            self._origin_s = now_s
        return self._unix_ns + int((now_s - self._origin_s) * (1.0 + self._drift) * 1e9)

    def step(self, seconds: float) -> None:
        """Step the wall clock, as an operator or NTP does; negative goes back."""
        self._unix_ns += int(seconds * 1e9)

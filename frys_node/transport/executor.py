"""Worker threads for what would hold the event loop: fsync, index builds, key generation."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

WORKERS_MAX = 4
"""Default number of threads at once; further work waits in order."""


class ThreadExecutor:
    """`Executor` on trio's threads, bounded by its own limiter. Work is never abandoned: it may hold shared state."""

    __slots__ = ("_limiter",)

    def __init__(self, workers_max: int = WORKERS_MAX) -> None:
        self._limiter = trio.CapacityLimiter(workers_max)

    @property
    def waiting(self) -> int:
        """Calls that wait for a free worker."""
        return self._limiter.statistics().tasks_waiting

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run in a worker thread and return its result; a cancel is delivered after the work is done."""
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=False, limiter=self._limiter)

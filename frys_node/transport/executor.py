"""Worker threads for what would hold the event loop: fsync, index builds, key generation."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import trio

T = TypeVar("T")

WORKERS_MAX = 4
"""Default number of threads at once; further work waits in order."""

SWITCH_S = 0.001
"""How long a worker that computes keeps the interpreter lock from the loop whenever that wakes. Python's default is
five times as long, and a request that crosses nodes wakes their loops half a dozen times."""

ASIDE_NICE = 10
"""How far work that can wait stands back: about a ninth of the share of a thread that competes for the same processor.

At 19 it would have nothing at all on a busy machine (measured: a build of 1.5 s took 59 s beside three busy processes),
and whenever it needs the interpreter lock everybody would wait until it is scheduled (200 ms; 21 ms at 10)."""


def favour_the_loop() -> None:
    """Have workers give up the interpreter lock soon when the node's own thread wants it; for the whole process."""
    sys.setswitchinterval(SWITCH_S)


class ThreadExecutor:
    """`Executor` on trio's threads, bounded by its own limiter. Work is never abandoned: it may hold shared state."""

    __slots__ = ("_aside", "_limiter")

    def __init__(self, workers_max: int = WORKERS_MAX) -> None:
        self._limiter = trio.CapacityLimiter(workers_max)
        self._aside = trio.Lock()

    @property
    def waiting(self) -> int:
        """Calls that wait for a free worker."""
        return self._limiter.statistics().tasks_waiting

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run in a worker thread and return its result; a cancel is delivered after the work is done."""
        return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=False, limiter=self._limiter)

    async def run_aside(self, function: Callable[..., T], *args: object) -> T:
        """Run in a thread of its own that stands back; a cancel is delivered after the work is done."""
        async with self._aside:
            return await _in_own_thread(function, args)


async def _in_own_thread(function: Callable[..., T], args: tuple[object, ...]) -> T:
    """Run in a new thread: one that has stood back never comes forward again, so trio's must not."""
    loop = trio.lowlevel.current_trio_token()
    done = trio.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def work() -> None:
        _stand_back()
        try:
            results.append(function(*args))
        except BaseException as error:  # noqa: BLE001 - it is raised again where the result is waited for
            errors.append(error)
        with suppress(trio.RunFinishedError):
            loop.run_sync_soon(done.set)

    threading.Thread(target=work, name="aside").start()
    with trio.CancelScope(shield=True):
        await done.wait()
    if errors:
        raise errors[0]
    return results[0]


def _stand_back() -> None:
    """Lower the priority of this thread; elsewhere than on Linux it is one of the whole process, and stays."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        nice = os.getpriority(os.PRIO_PROCESS, thread) + ASIDE_NICE
        os.setpriority(os.PRIO_PROCESS, thread, min(nice, 19))

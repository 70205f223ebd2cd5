"""Timers of runs: one heap, one sleeping task. Wall time decides, so a sleep survives a restart of the node."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import trio

from frys_node.plugins.workflow.runs import RunHandle

SLEEP_MAX_S = 30.0
"""Longest sleep: wall time may step."""
SLEEP_MIN_S = 0.001
"""Shortest sleep: the two clocks round differently."""


class Timers:
    """The earliest deadline of each run, and a housekeeping callback."""

    def __init__(
        self, unix_s: Callable[[], float], due: Callable[[RunHandle], None], sweep: Callable[[], float]
    ) -> None:
        self._unix_s = unix_s
        self._due = due
        self._sweep = sweep
        self._heap: list[tuple[float, int, RunHandle]] = []
        self._sequence = 0
        self._wake = trio.Event()

    def poke(self) -> None:
        """Look again: the housekeeping has something to do."""
        self._wake.set()

    def set(self, handle: RunHandle, wake_at_s: float | None) -> None:
        """Set, move or clear the run's timer (Unix seconds); a timer left behind in the heap is ignored."""
        if wake_at_s == handle.wake_at_s:
            return
        handle.wake_at_s = wake_at_s
        if wake_at_s is not None:
            self._sequence += 1
            is_first = not self._heap or wake_at_s < self._heap[0][0]
            heapq.heappush(self._heap, (wake_at_s, self._sequence, handle))
            if is_first:
                self._wake.set()

    async def run(self) -> None:
        """Call `due` for each run whose time has come, and `sweep` after every turn, until cancelled."""
        while True:
            now = self._unix_s()
            while self._heap and self._heap[0][0] <= now:
                at, _, handle = heapq.heappop(self._heap)
                if not handle.is_dropped and handle.wake_at_s == at:
                    handle.wake_at_s = None
                    self._due(handle)
            sweep_s = self._sweep()
            next_s = min(sweep_s, self._heap[0][0] - now if self._heap else math.inf)
            self._wake = trio.Event()
            with trio.move_on_after(max(SLEEP_MIN_S, min(next_s, SLEEP_MAX_S)) if next_s < math.inf else math.inf):
                await self._wake.wait()

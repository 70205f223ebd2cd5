"""Timers as data: a heap of (instant, sequence, timer).

Sans-I/O. A machine owns one queue; stale timers are ignored by their owner instead of being cancelled, and the sequence
number makes ties break the same way in every run.
"""

from __future__ import annotations

import heapq
import math
from typing import Generic, TypeVar

T = TypeVar("T")


class DeadlineQueue(Generic[T]):
    """Deadlines in order of instant, then insertion."""

    __slots__ = ("_heap", "_sequence")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, T]] = []
        self._sequence = 0

    def __len__(self) -> int:
        return len(self._heap)

    def push(self, at_s: float, timer: T) -> None:
        """Add a timer that is due at `at_s`."""
        self._sequence += 1
        heapq.heappush(self._heap, (at_s, self._sequence, timer))

    def pop_due(self, now_s: float) -> T | None:
        """Remove and return the earliest timer if it is due, else None."""
        if self._heap and self._heap[0][0] <= now_s:
            return heapq.heappop(self._heap)[2]
        return None

    @property
    def next_s(self) -> float:
        """The earliest instant, `math.inf` when there is none."""
        return self._heap[0][0] if self._heap else math.inf

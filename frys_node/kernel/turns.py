"""Long work on the event loop in turns: a little of it, then a rest in which requests are served.

What moves units, saves them or compares them runs on the node's thread, as all that touches them does. It must neither
hold the loop for long nor, in many small pieces, have all of it. So it takes turns: each is short, one at a time for
the whole component, and is followed by a rest: as long as the turn was, or seven times that while somebody waits for
answers. Not so for work that has to be done in time: while `is_urgent` says that there is such, rests stay short. The
length is wall time on purpose: on a machine that has too much to do turns take longer, and then so do the rests.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from frys_node.base.ports import Clock

TURN_S = 0.003
"""How long a turn should be. A request that crosses three nodes may meet a few of them."""

REST_RATIO = 1.0
"""Rest for each second of work: half of the node's time is the most that such work has."""

ASKED_REST_RATIO = 7.0
"""The same while requests come: an eighth is the most then. Where nodes share processors, they add up."""

ASKED_S = 0.5
"""How long after a request the next one is expected."""


class Turns:
    """The turns of one component's long work; first come, first served."""

    __slots__ = ("_asked_s", "_begun_s", "_clock", "_free_s", "_is_urgent", "_lock")

    def __init__(self, clock: Clock, is_urgent: Callable[[], bool] = lambda: False) -> None:
        self._clock = clock
        self._is_urgent = is_urgent
        self._lock = trio.Lock()
        self._begun_s = self._free_s = 0.0
        self._asked_s = -math.inf

    def asked(self) -> None:
        """A request came: the work leaves it, and those that follow, more of the node's time."""
        self._asked_s = self._clock.now_s()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for the next turn; within it nothing is awaited."""
        async with self._lock:
            await trio.sleep(max(0.0, self._free_s - self._clock.now_s()))
            self._begun_s = self._clock.now_s()
            try:
                yield
            finally:
                now_s = self._clock.now_s()
                self._free_s = now_s + self.rest_ratio * (now_s - self._begun_s)

    @property
    def rest_ratio(self) -> float:
        """Rest for each second of work, as of now."""
        is_asked = self._clock.now_s() < self._asked_s + ASKED_S
        return ASKED_REST_RATIO if is_asked and not self._is_urgent() else REST_RATIO

    @property
    def is_over(self) -> bool:
        """True if the turn under way has been long enough."""
        return self._clock.now_s() - self._begun_s >= TURN_S

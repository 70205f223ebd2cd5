"""An executor without threads: a mock clock may jump past real ones, and they would end determinism."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")


class InlineExecutor:
    """`Executor` that runs work in place after a virtual delay. Like the real one it never abandons it."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.delay_s = delay_s
        self.calls = 0

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Wait out the delay (shielded), then run the function and return its result."""
        self.calls += 1
        await trio.lowlevel.checkpoint_if_cancelled()
        with trio.CancelScope(shield=True):
            await trio.sleep(self.delay_s)
        return function(*args)

    async def run_aside(self, function: Callable[..., T], *args: object) -> T:
        """Do the same as `run`: in a simulation nobody has a processor."""
        return await self.run(function, *args)

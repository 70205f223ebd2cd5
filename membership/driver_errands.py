"""What runs in the background of the component, as long as the component does.

The kernel restarts a component that has crashed: the same object runs again, in another nursery. Meanwhile connections
end and calls come in all the same, and what they bring about finds nothing to run in.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVarTuple, Unpack

import trio

Ts = TypeVarTuple("Ts")


class Errands:
    """Tasks in the nursery of the component's life that runs now."""

    def __init__(self) -> None:
        self._nursery: trio.Nursery | None = None

    @property
    def is_running(self) -> bool:
        """True while the component runs."""
        return self._nursery is not None

    def start(self, nursery: trio.Nursery) -> None:
        """Run in the nursery from now on, until it ends."""
        self._nursery = nursery
        nursery.start_soon(self._until_the_end, nursery)

    async def _until_the_end(self, nursery: trio.Nursery) -> None:
        try:
            await trio.sleep_forever()
        finally:
            if self._nursery is nursery:
                self._nursery = None

    def begin(self, function: Callable[[Unpack[Ts]], Awaitable[object]], *arguments: *Ts) -> bool:
        """Begin a task; False while the component is down."""
        if self._nursery is None:
            return False
        self._nursery.start_soon(function, *arguments)
        return True

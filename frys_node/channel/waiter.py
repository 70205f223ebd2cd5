"""A caller that waits for the answer to its call."""

from __future__ import annotations

import trio

from frys_node.base.errors import FrysError
from frys_node.channel.messages import Reply


class Waiter:
    """A caller that waits: an event for one task, and cheaper."""

    __slots__ = ("_is_parked", "_task", "answer", "give_up_s")

    def __init__(self, give_up_s: float) -> None:
        self.answer: Reply | FrysError | None = None
        self.give_up_s = give_up_s
        """When the budget is over, on trio's clock."""
        self._task = trio.lowlevel.current_task()
        self._is_parked = False

    async def wait(self) -> None:
        """Wait for the answer."""
        if self.answer is not None:
            await trio.lowlevel.checkpoint()
            return
        self._is_parked = True
        await trio.lowlevel.wait_task_rescheduled(self._abort)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._is_parked = False
        return trio.lowlevel.Abort.SUCCEEDED

    def settle(self, answer: Reply | FrysError) -> None:
        """Hand the answer over."""
        self.answer = answer
        if self._is_parked:
            self._is_parked = False
            trio.lowlevel.reschedule(self._task)

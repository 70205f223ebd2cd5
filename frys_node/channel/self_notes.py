"""Notes of a node to itself: they take the same turn as those from outside, never inside the sender's call."""

from __future__ import annotations

import trio

from frys_node.base.types import NodeId
from frys_node.channel.dispatch import Dispatch

SELF_NOTES_MAX = 65_536
"""Notes that wait; one more is dropped."""


class SelfNotes:
    """The queue, and the task that empties it."""

    def __init__(self, node: NodeId, dispatch: Dispatch) -> None:
        self._node = node
        self._dispatch = dispatch
        self._notes: list[tuple[str, bytes]] = []
        self._has_notes = trio.Event()

    def put(self, name: str, body: bytes) -> bool:
        """Queue a note; False if the queue is full."""
        if len(self._notes) >= SELF_NOTES_MAX:
            return False
        self._notes.append((name, body))
        self._has_notes.set()
        return True

    async def run(self) -> None:
        """Hand notes over until cancelled."""
        while True:
            await self._has_notes.wait()
            self._has_notes = trio.Event()
            notes, self._notes = self._notes, []
            for name, body in notes:
                self._dispatch.note(self._node, name, body)

"""Replies of many clients, sent one after another.

A client that waits for its reply sleeps, and waking it is the dearest thing that a send does. Where many clients wait,
the replies made in one turn of the event loop are sent in a row at its end: the first send wakes the other side, the
rest find it awake.
"""

from __future__ import annotations

from typing import Protocol

import trio

CLIENTS_MIN = 8
"""With fewer clients than this a reply does not wait for the end of the turn."""

DEFERRED_BYTES_MAX = 16_384
"""Longer replies go at once: what they cost is not the waking."""


class Sender(Protocol):
    """Who has a reply to send."""

    def send_now(self, data: bytes) -> None:
        """Send what the kernel takes at once, and see to the rest."""
        ...


class Outbox:
    """The replies of this turn."""

    __slots__ = ("_queue", "_wake")

    def __init__(self) -> None:
        self._queue: list[tuple[Sender, bytes]] = []
        self._wake = trio.Event()

    def put(self, sender: Sender, data: bytes) -> None:
        """Send at the end of the turn."""
        self._queue.append((sender, data))
        if len(self._queue) == 1:
            self._wake.set()

    def flush(self) -> None:
        """Send what is there."""
        queue, self._queue = self._queue, []
        for sender, data in queue:
            sender.send_now(data)

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            self.flush()

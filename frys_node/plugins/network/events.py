"""``/v1/events``: what happens on this node, as server-sent events.

Each reader has a bounded queue: one that falls behind loses the oldest events and is told how many, and never holds
the node up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import trio

from frys_node.base.errors import Overloaded, UsageError
from frys_node.base.words import SHOWN_MAX
from frys_node.kernel.bus import Bus
from frys_node.kernel.lifecycle import ComponentChanged
from frys_node.kernel.plugins import ConfigChanged
from frys_node.kernel.services.gossip import ClusterEvent, StateChanged
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.kernel.services.member_bodies import change_body
from frys_node.kernel.services.members import MemberChanged
from frys_node.kernel.services.topology import TopologyChanged
from frys_node.plugins.network.gossip import change_view, event_view

READERS_MAX = 64
QUEUE_MAX = 256
"""Events that one reader may lag behind."""

HEARTBEAT_S = 10.0
"""A comment is sent this often, so that a reader that is gone is noticed."""

TOPICS: dict[str, type] = {
    "member": MemberChanged,
    "topology": TopologyChanged,
    "component": ComponentChanged,
    "config": ConfigChanged,
    "user": ClusterEvent,
    "state": StateChanged,
}

VIEWS: dict[str, Callable[[Any], Any]] = {"member": change_body, "user": event_view, "state": change_view}
"""How an event is shown, where it is not as it is."""


class EventStream:
    """The handler of ``/v1/events``; ``?types=member,topology`` chooses."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._readers = 0

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Answer with an endless stream."""
        await trio.lowlevel.checkpoint()
        if self._readers >= READERS_MAX:
            raise Overloaded(f"{READERS_MAX} readers follow the events already", hint="retry later")
        wanted = [name for name in request.query.get("types", "").split(",") if name] or list(TOPICS)
        unknown = [name for name in wanted if name not in TOPICS]
        if unknown:
            raise UsageError(
                f"there are no events of type '{unknown[0][:SHOWN_MAX]}'", hint=f"choose of {', '.join(TOPICS)}"
            )
        return HttpResponse(
            content_type="text/event-stream", headers={"Cache-Control": "no-cache"}, stream=self._events(wanted)
        )

    async def _events(self, wanted: list[str]) -> AsyncIterator[bytes]:
        queue = _Queue(self._bus, wanted)
        self._readers += 1
        try:
            yield b": events of this node\n\n"
            while True:
                lines = await queue.take()
                yield lines or b": still here\n\n"
        finally:
            self._readers -= 1
            queue.close()


class _Queue:
    """Events of several topics for one reader, in the order in which they happened."""

    def __init__(self, bus: Bus, wanted: list[str]) -> None:
        self._lines: list[bytes] = []
        self._dropped = 0
        self._wake = trio.Event()
        self._offs = [bus.on(TOPICS[name], _Taker(self, name)) for name in wanted]

    def put(self, name: str, event: Any) -> None:
        """Add an event; the oldest gives way."""
        if len(self._lines) >= QUEUE_MAX:
            del self._lines[0]
            self._dropped += 1
        shown = VIEWS[name](event) if name in VIEWS else event
        self._lines.append(b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(shown)))
        self._wake.set()

    async def take(self) -> bytes:
        """Return everything that waits, or nothing after `HEARTBEAT_S` without an event."""
        if not self._lines:
            self._wake = trio.Event()
            with trio.move_on_after(HEARTBEAT_S):
                await self._wake.wait()
        lines = b"".join(self._lines)
        if self._dropped:
            lines = b'event: dropped\ndata: {"count":%d}\n\n' % self._dropped + lines
        self._lines.clear()
        self._dropped = 0
        return lines

    def close(self) -> None:
        """Stop listening."""
        for off in self._offs:
            off()


class _Taker:
    """A bus handler that knows its topic's name."""

    __slots__ = ("_name", "_queue")

    def __init__(self, queue: _Queue, name: str) -> None:
        self._queue, self._name = queue, name

    def __call__(self, event: Any) -> None:
        self._queue.put(self._name, event)

"""The typed bus: synchronous publish, bounded subscriptions, conflated state topics.

A topic is an event's class. `publish` calls handlers in subscription order with a cached tuple (D11) and never
waits: the gossip driver must not be held up by a slow subscriber. Whoever needs to wait subscribes with a bound
(`subscribe`: overflow drops the oldest and counts) or conflated (`watch`: only the latest value is kept).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import trio

T = TypeVar("T")


class Bus:
    """Publishes events of one node to its components."""

    def __init__(self, on_error: Callable[[type, BaseException], None] | None = None) -> None:
        self._handlers: dict[type, tuple[Callable[[Any], None], ...]] = {}
        self._on_error = on_error

    def publish(self, event: object) -> None:
        """Hand the event to every handler of its class; a handler's exception is reported, not raised."""
        for handler in self._handlers.get(type(event), ()):
            try:
                handler(event)
            except Exception as error:
                if self._on_error is None:
                    raise
                self._on_error(type(event), error)

    def on(self, topic: type[T], handler: Callable[[T], None]) -> Callable[[], None]:
        """Call the handler for each event; returns the function that ends it."""
        self._handlers[topic] = (*self._handlers.get(topic, ()), handler)

        def off() -> None:
            self._handlers[topic] = tuple(h for h in self._handlers.get(topic, ()) if h is not handler)

        return off

    def subscribe(self, topic: type[T], events_max: int = 256) -> Subscription[T]:
        """Queue events for an async reader; the oldest is dropped (and counted) when it falls behind."""
        return Subscription(self, topic, events_max)

    def watch(self, topic: type[T]) -> Subscription[T]:
        """Keep only the latest event for an async reader: for state topics."""
        return Subscription(self, topic, 1)


class Subscription(Generic[T]):
    """A bounded queue of events; iterate it, close it with `close` or ``with``."""

    def __init__(self, bus: Bus, topic: type[T], events_max: int) -> None:
        self._events: deque[T] = deque(maxlen=events_max)
        self._wake = trio.Event()
        self.dropped = 0
        self._off = bus.on(topic, self._take)

    def _take(self, event: T) -> None:
        if len(self._events) == self._events.maxlen:
            self.dropped += 1
        self._events.append(event)
        self._wake.set()

    async def get(self) -> T:
        """Wait for the next event."""
        while not self._events:
            self._wake = trio.Event()
            await self._wake.wait()
        return self._events.popleft()

    def close(self) -> None:
        """Stop receiving."""
        self._off()

    def __aiter__(self) -> Subscription[T]:
        return self

    async def __anext__(self) -> T:
        return await self.get()

    def __enter__(self) -> Subscription[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

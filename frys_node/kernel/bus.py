"""The typed bus: synchronous publish, bounded subscriptions, conflated state topics.

A topic is an event's class. `publish` calls handlers in subscription order with a cached tuple (D11) and never
waits: the gossip driver must not be held up by a slow subscriber. Whoever needs to wait subscribes with a bound
(`subscribe`: overflow drops the oldest and counts) or conflated (`watch`: only the latest value is kept).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable
from typing import Any, Generic, TypeVar

import trio

from frys_node.observe.metrics import Counter, Metrics

T = TypeVar("T")

KEYS_MAX = 16_384
"""Keys that a conflated subscription keeps apart; beyond it the oldest pending key is dropped and counted."""


class Bus:
    """Publishes events of one node to its components."""

    def __init__(
        self,
        on_error: Callable[[type, BaseException], None] | None = None,
        metrics: Metrics | None = None,
    ) -> None:
        self._handlers: dict[type, tuple[Callable[[Any], None], ...]] = {}
        self._on_error = on_error
        self._dropped = (
            None
            if metrics is None
            else metrics.counter(
                "frys_kernel_bus_dropped_total", "Events that a slow subscription lost, by topic", ("topic",)
            )
        )

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
        return Subscription(self, topic, events_max, dropped=self._dropped)

    def watch(self, topic: type[T], key: Callable[[T], Hashable] | None = None) -> Subscription[T]:
        """Keep only the latest event for an async reader, or the latest of each key: for state topics."""
        if key is None:
            return Subscription(self, topic, 1)
        return Subscription(self, topic, KEYS_MAX, key=key, dropped=self._dropped)


class Subscription(Generic[T]):
    """A bounded queue of events for one reader; iterate it, end it with `close` or ``with``."""

    def __init__(
        self,
        bus: Bus,
        topic: type[T],
        events_max: int,
        *,
        key: Callable[[T], Hashable] | None = None,
        dropped: Counter | None = None,
    ) -> None:
        assert events_max > 0
        self._topic = topic
        self._events_max = events_max
        self._events: deque[T] = deque()
        self._latest: dict[Hashable, T] = {}
        self._key = key
        self._counter = dropped
        self._wake = trio.Event()
        self._is_closed = False
        self.dropped = 0
        self._off = bus.on(topic, self._take)

    def _take(self, event: T) -> None:
        if self._key is not None:
            # A newer event of a key takes the place in line of the one it replaces.
            self._latest[self._key(event)] = event
            if len(self._latest) > self._events_max:
                del self._latest[next(iter(self._latest))]
                self._count_drop()
        else:
            if len(self._events) == self._events_max:
                self._events.popleft()
                self._count_drop()
            self._events.append(event)
        self._wake.set()

    def _count_drop(self) -> None:
        self.dropped += 1
        if self._counter is not None:
            self._counter.inc(self._topic.__name__)

    def get_nowait(self) -> T | None:
        """Return the next event, None if there is none yet."""
        if self._latest:
            return self._latest.pop(next(iter(self._latest)))
        return self._events.popleft() if self._events else None

    async def get(self) -> T:
        """Wait for the next event; raises `trio.ClosedResourceError` once closed."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            if self._is_closed:
                raise trio.ClosedResourceError("this subscription is closed")
            event = self.get_nowait()
            if event is not None:
                return event
            self._wake = trio.Event()
            await self._wake.wait()

    def close(self) -> None:
        """Stop receiving; what is queued is dropped and a waiting reader ends."""
        if not self._is_closed:
            self._is_closed = True
            self._off()
            self._wake.set()

    def __aiter__(self) -> Subscription[T]:
        return self

    async def __anext__(self) -> T:
        try:
            return await self.get()
        except trio.ClosedResourceError:
            raise StopAsyncIteration from None

    def __enter__(self) -> Subscription[T]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

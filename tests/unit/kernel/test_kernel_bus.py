"""The bus and config cells: synchronous delivery, bounds, conflation, live replacement."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from frys_node.base.errors import ReloadRefused
from frys_node.kernel.bus import Bus
from frys_node.kernel.cell import diff, refuse_restart
from frys_node.observe.metrics import Counter, Metrics


class Tick(msgspec.Struct, frozen=True):
    """An event."""

    n: int
    key: str = ""


class Tock(msgspec.Struct, frozen=True):
    """Another."""


def test_handlers_run_at_once_in_order_and_only_for_their_topic() -> None:
    """Publish returns after the last handler; an ended subscription hears nothing."""
    bus, seen = Bus(), list[Any]()
    off = bus.on(Tick, lambda event: seen.append(("first", event.n)))
    bus.on(Tick, lambda event: seen.append(("second", event.n)))
    bus.publish(Tick(1))
    bus.publish(Tock())
    off()
    off()
    bus.publish(Tick(2))
    assert seen == [("first", 1), ("second", 1), ("second", 2)]


def test_a_handler_that_raises_is_reported_and_the_others_still_run() -> None:
    """One bad listener cannot hold back the failure detector."""
    reported: list[tuple[type, str]] = []
    bus, seen = Bus(lambda topic, error: reported.append((topic, str(error)))), list[int]()

    def bad(event: Tick) -> None:
        raise ValueError("bad")

    bus.on(Tick, bad)
    bus.on(Tick, lambda event: seen.append(event.n))
    bus.publish(Tick(1))
    assert (seen, reported) == ([1], [(Tick, "bad")])


async def test_a_full_subscription_drops_the_oldest_and_counts() -> None:
    """The newest events survive; the loss is visible on the subscription and as a metric."""
    metrics = Metrics()
    bus = Bus(metrics=metrics)
    with bus.subscribe(Tick, 3) as subscription:
        for n in range(10):
            bus.publish(Tick(n))
        assert [(await subscription.get()).n for _ in range(3)] == [7, 8, 9]
        assert subscription.dropped == 7
    counter = next(iter(metrics))
    assert isinstance(counter, Counter)
    assert counter.values == {("Tick",): 7}
    bus.publish(Tick(99))
    assert subscription.get_nowait() is None


async def test_a_watch_keeps_the_latest_alone_or_the_latest_of_each_key() -> None:
    """A state topic's reader never works through history."""
    bus = Bus()
    with bus.watch(Tick) as latest, bus.watch(Tick, key=lambda event: event.key) as by_key:
        for n, key in enumerate("abab"):
            bus.publish(Tick(n, key))
        assert (await latest.get()).n == 3
        assert [(await by_key.get()).n for _ in range(2)] == [2, 3]
        assert by_key.get_nowait() is None


async def test_a_reader_waits_wakes_and_ends_with_its_subscription() -> None:
    """Iteration sleeps without events and stops when the subscription is closed."""
    bus, seen = Bus(), list[int]()
    subscription = bus.subscribe(Tick)

    async def read() -> None:
        async for event in subscription:
            seen.append(event.n)
        seen.append(-1)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await wait_all_tasks_blocked()
        bus.publish(Tick(1))
        bus.publish(Tick(2))
        await wait_all_tasks_blocked()
        assert seen == [1, 2]
        subscription.close()
    assert seen == [1, 2, -1]
    with pytest.raises(trio.ClosedResourceError):
        await subscription.get()


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    """A nested section."""

    depth: Annotated[int, msgspec.Meta(ge=0, extra={"reload": "live"})] = 1
    width: int = 1


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """A config with a live field, a fixed one and a section."""

    level: Annotated[str, msgspec.Meta(extra={"reload": "live"})] = "info"
    port: int = 1
    inner: Inner = Inner()


def test_a_replacement_is_refused_whole_if_a_field_needs_a_restart() -> None:
    """The refusal names each such field with both values; live fields pass, also in sections."""
    refused = diff(Config(), Config(level="debug", port=2, inner=Inner(width=3)))
    with pytest.raises(ReloadRefused, match=r"port \(1 -> 2\), inner\.width \(1 -> 3\)"):
        refuse_restart(refused)
    changes = diff(Config(), Config(level="debug", inner=Inner(depth=5)))
    assert [(change.path, change.reload) for change in changes] == [("level", "live"), ("inner.depth", "live")]
    refuse_restart(changes)
    assert diff(Config(), Config()) == []

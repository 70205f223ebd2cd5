"""Old snapshots go, chunks that nobody names go with them, and nobody who is at work loses any."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import trio
import trio.testing

from frys_node.base.errors import AlreadyExists, UsageError
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.snapshots import Captured
from frys_node.testing.clock import FakeClock
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.saved import ByteUnits, Fault, MemoryObjects, ProcessDied
from snapshots.errors import LockLost, StoreBusy, StoreRefused, StoreUnfit
from snapshots.library import Library
from snapshots.locks import LEASE_S, WAIT_S


def _state(number: int) -> dict[UnitId, bytes]:
    shared = random.Random(1).randbytes(200_000)
    return {UnitId("t/1"): shared + random.Random(f"of {number}").randbytes(100_000)}


def _library(
    store: MemoryObjects, number: int = 0, *, node: str = "a", process: str = "1", clock: FakeClock | None = None
) -> Library:
    return Library(
        store,
        executor=InlineExecutor(),
        clock=clock or FakeClock(),
        providers={"t": ByteUnits(_state(number))},
        node=NodeId(node),
        process=process,
    )


async def _save_days(store: MemoryObjects, clock: FakeClock, count: int) -> None:
    for number in range(count):
        await _library(store, number, clock=clock).create(f"day-{number}")
        clock.step(86_400.0)


async def test_prune_keeps_the_newest_and_frees_what_only_the_others_had() -> None:
    """Chunks that a kept snapshot names stay, and it is whole."""
    store, clock = MemoryObjects(), FakeClock()
    await _save_days(store, clock, 4)
    library = _library(store, clock=clock)
    report = await library.prune(keep=2)
    assert (report.deleted, report.kept, report.chunks) == (("day-0", "day-1"), 2, 2)
    assert 200_000 < report.size_bytes < 201_000
    assert (await library.verify("day-2")).problems == ()
    assert len(await store.list("_chunks")) == 4
    assert await store.list("_locks") == {}


async def test_with_both_rules_only_what_is_old_and_not_among_the_newest_goes() -> None:
    """--keep protects; --older-than chooses; with neither only leftovers go."""
    store, clock = MemoryObjects(), FakeClock()
    await _save_days(store, clock, 5)
    library = _library(store, clock=clock)
    assert (await library.prune()).deleted == ()
    assert (await library.prune(keep=4, older_than_s=3.5 * 86_400)).deleted == ("day-0",)
    assert (await library.prune(older_than_s=3.5 * 86_400)).deleted == ("day-1",)
    assert (await library.prune(keep=5)).deleted == ()
    assert (await library.prune(older_than_s=30 * 86_400)).deleted == ()
    with pytest.raises(UsageError):
        await library.prune(keep=-1)
    assert (await library.prune(keep=0)).kept == 0
    assert store.held == {}


async def test_nothing_is_collected_while_somebody_saves() -> None:
    """A prune in the middle of a save deletes by name only; the save ends whole, and the next prune collects."""
    store = MemoryObjects()
    await _library(store, 1).create("old")
    reports = []

    class Slow(ByteUnits):
        async def capture(self, unit: UnitId) -> Captured:
            captured = await super().capture(unit)
            reports.append(await _library(store, node="b").prune(keep=0))
            return captured

    library = Library(
        store, executor=InlineExecutor(), clock=FakeClock(), providers={"t": Slow(_state(1))}, node=NodeId("a")
    )
    await library.create("new")
    assert reports[0].deleted == ("old",)
    assert "node a is at work there (save new)" in reports[0].waits_for
    assert (await library.verify("new")).problems == ()
    assert (await library.prune()).chunks == 0


async def test_a_save_waits_for_whoever_collects(autojump_clock: trio.testing.MockClock) -> None:
    """It begins when that is over; one that takes too long is an error that names who."""
    store, clock = MemoryObjects(), FakeClock()
    collector = _library(store, node="b", clock=clock)
    async with trio.open_nursery() as nursery, collector.locks.collecting("prune") as (_, other):
        assert other is None
        nursery.start_soon(_library(store, clock=clock).create, "s")
        await trio.sleep(2.0)
        assert await collector.shelf.names() == []
    assert await collector.shelf.names() == ["s"]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(collector.locks.collecting("prune"))
        started_s = trio.current_time()
        with pytest.raises(StoreBusy, match="node b collects"):
            await _library(store, clock=clock).create("s2")
        assert trio.current_time() - started_s >= WAIT_S
    await _library(store, clock=clock).create("s2")


async def test_locks_of_the_dead_do_not_stand_for_ever() -> None:
    """A lock of this node's earlier process counts for nothing, one of another node for its lease."""
    for node, process in (("a", "1"), ("b", "2")):
        store, clock = MemoryObjects(), FakeClock()
        await _library(store, 1, clock=clock).create("old")
        store.plan(store.calls + 3, Fault.BEFORE)
        with pytest.raises((BaseExceptionGroup, ProcessDied)):
            await _library(store, 2, node="b", process="2", clock=clock).create("new")
        store.reboot()
        assert len(await store.list("_locks")) == 1
        # Another process of node b comes, or another node.
        library = _library(store, node="b" if process == "1" else "a", process="3", clock=clock)
        if node == "b":
            assert (await library.prune()).waits_for != ""
            clock.step(LEASE_S + 1)
        assert (await library.prune()).waits_for == ""
        assert await store.list("_locks") == {}


async def test_a_save_that_stood_still_for_too_long_does_not_become_visible(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Its lock was taken away and its chunks with it; it finds that out and says so."""
    store, clock = MemoryObjects(), FakeClock()

    class Sleeper(ByteUnits):
        async def capture(self, unit: UnitId) -> Captured:
            return _Asleep(self.held[unit])

    class _Asleep:
        def __init__(self, data: bytes) -> None:
            self._data = data

        async def parts(self) -> AsyncIterator[bytes]:
            yield self._data[:100_000]
            await trio.sleep(1.0)
            clock.step(LEASE_S + 1)
            report = await _library(store, node="b", clock=clock).prune()
            assert (report.waits_for, report.chunks) == ("", 1)
            yield self._data[100_000:200_000]

    library = Library(
        store, executor=InlineExecutor(), clock=clock, providers={"t": Sleeper(_state(1))}, node=NodeId("a")
    )
    with pytest.raises(LockLost):
        await library.create("s")
    assert await library.shelf.names() == []


async def test_nothing_is_collected_while_a_snapshot_cannot_be_read() -> None:
    """It may name any chunk; deleting it is what helps, and is told."""
    store = MemoryObjects()
    library = _library(store)
    await library.create("s")
    bundle = next(key for key in store.held if key.startswith("_bundles/"))
    kept = store.held[bundle]
    for key, damage in ((bundle, b"junk"), ("_snapshots/s.json", b"junk")):
        whole, store.held[key] = store.held[key], damage
        report = await library.prune()
        assert report.chunks == 0
        assert "cannot be read" in report.waits_for or "is damaged" in report.waits_for
        store.held[key] = whole
    assert store.held[bundle] == kept
    store.held["_snapshots/s.json"] = b"junk"
    assert (await library.delete("s")).waits_for == ""
    assert store.held == {}


async def test_of_two_that_save_under_one_name_one_wins() -> None:
    """The other is told, both at once too, and the winner's is whole."""
    store = MemoryObjects()
    results: list[str] = []

    async def save(node: str, number: int) -> None:
        try:
            await _library(store, number, node=node).create("s")
            results.append(node)
        except AlreadyExists:
            results.append("told")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(save, "a", 1)
        nursery.start_soon(save, "b", 2)
    assert sorted(results) in (["a", "told"], ["b", "told"])
    assert (await _library(store).verify("s")).problems == ()


async def test_a_store_that_overwrites_is_refused_before_anything_is_saved() -> None:
    """If it ignores conditions, neither names nor locks are worth anything there."""
    store = MemoryObjects()
    store.ignores_conditions = True
    with pytest.raises(StoreUnfit):
        await _library(store).create("s")
    assert store.held == {}


async def test_a_place_that_may_only_be_read_can_be_verified() -> None:
    """Credentials for reading are enough to check and to restore; a save says what is missing."""
    store = MemoryObjects()
    await _library(store).create("s")

    class ReadOnly(MemoryObjects):
        async def create(self, key: str, data: bytes) -> bool:
            await trio.lowlevel.checkpoint()
            raise StoreRefused("refuses to create", hint="ask for more")

    read_only = ReadOnly()
    read_only.held = store.held
    assert (await _library(read_only).verify("s")).problems == ()
    with pytest.raises(StoreRefused):
        await _library(read_only).create("s2")

"""What goes wrong around a run: disks, fences, changed code, forgotten runs, stuck steps."""

# Workflows and steps of tests speak for themselves.
# ruff: noqa: D103

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Sequence

import pytest
import trio
import trio.testing

from frys_node import Retry, current_step, step, workflow
from frys_node.base.errors import FrysError, NotOwner, Overloaded, StorageError
from frys_node.plugins.workflow.errors import Sealed, Stalled
from frys_node.plugins.workflow.journal import StepStopped, decode_entries
from frys_node.storage.memory import MemoryStore
from frys_node.storage.ports import Append, RunQuery
from frys_node.storage.sqlite import SqliteStore
from tests.unit.workflow.workflow_kit import TrioClock, engine_on, finish, output_of, row_of, state_of

RAN: list[str] = []


@pytest.fixture(autouse=True)
def _fresh():
    RAN.clear()


@step
async def work(n):
    RAN.append(f"work {n}")
    return n


@step
async def other(n):
    RAN.append(f"other {n}")
    return n


@step
async def nap(seconds):
    RAN.append("nap")
    await trio.sleep(seconds)
    return "rested"


@workflow(name="two")
async def two(ctx, value):
    await work(1)
    await nap(10)
    return await work(2)


async def test_a_full_disk_refuses_starts_and_delays_the_rest_without_losing_anything(autojump_clock):
    """Outcomes wait for room; no body runs twice; a start is refused at once."""
    store = MemoryStore(TrioClock())
    async with engine_on(store, [two]) as engine:
        await engine.start(0, "r", two, b"\xc0")
        await trio.sleep(1)
        store.fail_with = StorageError("the disk is full")
        await trio.sleep(60)
        with pytest.raises(StorageError, match="full"):
            await engine.start(0, "q", two, b"\xc0")
        assert engine.commits.error is not None
        assert (await row_of(engine, "r")).status == "running"
        store.fail_with = None
        await engine.wait(0, "r")
        assert (await row_of(engine, "r")).status == "completed"
        assert engine.commits.error is None
        assert RAN == ["work 1", "nap", "work 2"]
        await engine.start(0, "q", two, b"\xc0")


async def test_a_start_that_a_full_disk_refused_takes_nothing_else_along(autojump_clock):
    """A request that was queued behind the start is refused with it; the partition and its other runs go on."""
    store = MemoryStore(TrioClock())
    errors: list[str] = []

    async def refused(work: Callable[[], Awaitable[None]]) -> None:
        with pytest.raises(StorageError) as caught:
            await work()
        errors.append(caught.value.message)

    async with engine_on(store, [two]) as engine:
        await engine.start(0, "r", two, b"\xc0")
        store.fail_with = StorageError("the disk is full")
        append, answer = store.append, trio.Event()

        async def slow_to_refuse(appends: Sequence[Append]) -> list[FrysError | None]:
            await answer.wait()
            return await append(appends)

        store.append = slow_to_refuse
        async with trio.open_nursery() as nursery:
            nursery.start_soon(refused, lambda: engine.start(0, "q", two, b"\xc0"))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(refused, lambda: engine.cancel(0, "q", "changed my mind"))
            await trio.testing.wait_all_tasks_blocked()
            answer.set()
        assert errors == ["the disk is full"] * 2
        store.fail_with = None
        await engine.wait(0, "r")
        assert (await row_of(engine, "r")).status == "completed"
        assert (list(engine.partitions), engine.fenced_total) == ([0], 0)
        await engine.start(0, "q", two, b"\xc0")


async def test_a_fenced_node_stops_and_releases_no_effect(autojump_clock):
    """Somebody else took the partition: bodies are stopped, requests are another node's."""
    store = MemoryStore(TrioClock())
    async with engine_on(store, [two]) as engine:
        await engine.start(0, "r", two, b"\xc0")
        await trio.sleep(1)
        await store.acquire([0], "thief")
        await trio.sleep(60)
        with pytest.raises(NotOwner):
            engine.partition(0)
        assert RAN == ["work 1", "nap"]
        assert engine.fenced_total == 1
        assert engine.runs_awake == 0
        assert len(decode_entries((await store.read("r"))[-1].data)) == 1


@workflow(name="two")
async def two_changed(ctx, value):
    await other(1)
    return "changed"


async def test_a_run_that_the_code_no_longer_fits_stalls_and_continues_with_the_right_code(autojump_clock):
    """Stalled with both sides shown; the journal is intact, so the old code carries on."""
    store = MemoryStore(TrioClock())
    async with engine_on(store, [two]) as engine:
        await engine.start(0, "r", two, b"\xc0")
        await trio.sleep(1)
    async with engine_on(store, [two_changed]) as engine:
        await engine.wait(0, "r")
        row = await row_of(engine, "r")
        assert row.status == "stalled"
        assert row.live
        error = state_of(row).error
        assert error.type == "workflow.nondeterministic"
        assert "work" in error.message
        assert "other" in error.message
        with pytest.raises(Stalled):
            await engine.signal(0, "r", name="x", value=b"\xc0", signal="s")
        commits = store.appends_total
    async with engine_on(store, [two_changed]) as engine:
        await trio.sleep(60)
        assert store.appends_total == commits
    async with engine_on(store, [two]) as engine:
        await engine.wait(0, "r")
        assert output_of(await row_of(engine, "r")) == 2
        assert RAN == ["work 1", "nap", "nap", "work 2"]


async def test_a_stalled_run_can_be_cancelled(autojump_clock):
    """Without running its code."""
    store = MemoryStore(TrioClock())
    async with engine_on(store, [two]) as engine:
        await engine.start(0, "r", two, b"\xc0")
        await trio.sleep(1)
    async with engine_on(store, []) as engine:
        await trio.sleep(1)
        row = await row_of(engine, "r")
        assert row.status == "stalled"
        assert "not loaded" in state_of(row).error.message
        await engine.cancel(0, "r", "give up")
        assert (await row_of(engine, "r")).status == "cancelled"
        assert engine.runs_live == 0


@workflow(name="many-sleeps")
async def many_sleeps(ctx, n):
    total = 0
    for index in range(3):
        await trio.sleep(100 + n)
        total += await work(index)
    return total


async def test_forgotten_runs_wake_for_their_timers_and_stay_within_the_cap(autojump_clock):
    """A hundred sleeping runs, of which a handful is awake."""
    async with engine_on(None, [many_sleeps], awake_max=5) as engine:
        for n in range(100):
            await engine.start(0, f"r{n}", many_sleeps, bytes([n]))
        assert engine.runs_awake <= 5
        await trio.sleep(50)
        assert engine.runs_awake == 0
        for n in range(100):
            await engine.wait(0, f"r{n}")
        rows = await engine.store.query(RunQuery())
        assert [output_of(row) for row in rows] == [3] * 100
        assert len(RAN) == 300


async def test_a_body_outlives_the_forgetting_of_its_run(autojump_clock):
    """The run is evicted while its step works; the outcome wakes it; the body ran once."""
    async with engine_on(None, [two], awake_s=1.0) as engine:
        await engine.start(0, "r", two, b"\xc0")
        await trio.sleep(5)
        assert engine.runs_awake == 0
        await engine.wait(0, "r")
        assert RAN == ["work 1", "nap", "work 2"]


@step(timeout=5, retry=Retry(max=2, base=1))
async def hangs(n):
    RAN.append("hangs")
    await trio.sleep_forever()


@workflow(name="hanging")
async def hanging(ctx, value):
    await hangs(1)


async def test_a_step_over_its_time_limit_is_retried_then_fails(autojump_clock):
    """Each attempt has its own limit."""
    async with engine_on(None, [hanging]) as engine:
        row = await finish(engine, hanging, None)
        assert state_of(row).error.type == "TimeoutError"
        assert RAN == ["hangs", "hangs"]


@workflow(name="deadline-on-step")
async def deadline_on_step(ctx, value):
    with trio.move_on_after(3) as scope:
        await nap(1000)
    return scope.cancelled_caught


async def test_a_cancelled_step_is_waited_for_even_over_a_crash(autojump_clock):
    """Live, the body is stopped and journaled as stopped; after a crash there is no body to wait for."""
    async with engine_on(None, [deadline_on_step]) as engine:
        assert output_of(await finish(engine, deadline_on_step, None)) is True
        entries = [entry for chunk in await engine.store.read("r1") for entry in decode_entries(chunk.data)]
        assert sum(isinstance(entry, StepStopped) for entry in entries) == 1

    class StopsBeforeTheStop(MemoryStore):
        """Fails once the deadline was journaled."""

        async def append(self, appends):
            results = await super().append(appends)
            if any(append.expect_seq == 1 for append in appends):
                self.fail_with = StorageError("crashing")
            return results

    store = StopsBeforeTheStop(TrioClock())
    async with engine_on(store, [deadline_on_step]) as engine:
        await engine.start(0, "r", deadline_on_step, b"\xc0")
        await trio.sleep(20)
    store.fail_with = None
    async with engine_on(store, [deadline_on_step]) as engine:
        await engine.wait(0, "r")
        assert output_of(await row_of(engine, "r")) is True


GATE = threading.Event()
INSIDE: list[str] = []


@step
def holds(n):
    INSIDE.append(current_step().idempotency_key)
    GATE.wait(10)
    return n


@workflow(name="threads")
async def threads(ctx, count):
    return await ctx.map(holds, range(count), limit=100)


async def test_plain_steps_run_in_threads_within_their_limit():
    """Ten bodies, four threads; the event loop goes on meanwhile."""
    GATE.clear()
    INSIDE.clear()
    async with engine_on(None, [threads]) as engine:
        await engine.start(0, "t", threads, b"\x0a")
        with trio.fail_after(10):
            while len(INSIDE) < 4:  # noqa: ASYNC110  threads cannot set a trio event
                await trio.sleep(0.001)
            await trio.sleep(0.05)
            assert len(INSIDE) == 4
            GATE.set()
            await engine.wait(0, "t")
        assert output_of(await row_of(engine, "t")) == list(range(10))
        assert sorted(INSIDE) == [f"t/:1/{n}" for n in range(10)]


async def test_sealing_waits_for_what_is_on_its_way_to_the_disk(tmp_path):
    """What was acknowledged before the seal is in the export; nothing comes after."""
    store = await SqliteStore.open(tmp_path / "journal.sqlite", TrioClock())
    async with engine_on(store, [two]) as engine:
        acknowledged: list[str] = []

        async def start(n: int) -> None:
            try:
                await engine.start(0, f"r{n}", two, b"\xc0")
                acknowledged.append(f"r{n}")
            except Sealed:
                RAN.append("refused")

        async with trio.open_nursery() as nursery:
            for n in range(50):
                nursery.start_soon(start, n)
            nursery.start_soon(engine.seal, 0)
            for n in range(50, 100):
                nursery.start_soon(start, n)
        exported = b"".join([piece async for piece in await store.export(0)])
        await trio.sleep(0.05)
        assert b"".join([piece async for piece in await store.export(0)]) == exported
        rows = {row.id for row in await store.query(RunQuery())}
        assert rows == set(acknowledged)
        with pytest.raises(Sealed):
            await engine.start(0, "late", two, b"\xc0")
    await store.aclose()


async def test_too_many_open_runs_are_refused(autojump_clock):
    """`runs_live_max` is a limit, not a wish."""
    async with engine_on(None, [two], runs_live_max=2) as engine:
        await engine.start(0, "a", two, b"\xc0")
        await engine.start(0, "b", two, b"\xc0")
        with pytest.raises(Overloaded):
            await engine.start(0, "c", two, b"\xc0")


async def test_ten_thousand_map_items_and_deep_fan_out(autojump_clock):
    """A large map is one command; its journal replays."""

    @workflow(name="wide")
    async def wide(ctx, count):
        return sum(await ctx.map(work, range(count), limit=500))

    store = MemoryStore(TrioClock())
    async with engine_on(store, [wide]) as engine:
        row = await finish(engine, wide, 2_000)
        assert output_of(row) == sum(range(2_000))
        assert row.seq == 2_002


@step(timeout=0.05)
def overruns(n):
    GATE.wait(10)
    return n


@workflow(name="overrunning")
async def overrunning(ctx, value):
    await overruns(1)


@workflow(name="waits-for-thread")
async def waits_for_thread(ctx, value):
    with trio.move_on_after(0.05):
        return await holds(7)


async def test_a_thread_over_its_limit_is_left_behind_and_a_cancelled_one_is_waited_for():
    """The first fails in time while its thread goes on; the second delivers what it did in spite of the cancel."""
    GATE.clear()
    INSIDE.clear()
    async with engine_on(None, [overrunning, waits_for_thread]) as engine:
        row = await finish(engine, overrunning, None, "over", 10)
        assert state_of(row).error.type == "TimeoutError"
        await engine.start(0, "w", waits_for_thread, b"\xc0")
        await trio.sleep(0.2)
        assert (await row_of(engine, "w")).status == "running"
        GATE.set()
        with trio.fail_after(10):
            await engine.wait(0, "w")
        assert output_of(await row_of(engine, "w")) == 7


async def test_a_stopping_node_does_not_wait_for_threads():
    """A plain step that takes for ever cannot hold up a shutdown."""
    GATE.clear()
    INSIDE.clear()
    with trio.fail_after(5):
        async with engine_on(None, [threads]) as engine:
            await engine.start(0, "t", threads, b"\x01")
            while not INSIDE:  # noqa: ASYNC110  threads cannot set a trio event
                await trio.sleep(0.001)
    GATE.set()

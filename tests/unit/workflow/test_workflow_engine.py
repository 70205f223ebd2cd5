"""The engine in one process: what a run does from start to end."""

# Workflows and steps of tests speak for themselves.
# ruff: noqa: D103

from __future__ import annotations

import trio

from frys_node import Retry, step, workflow
from tests.unit.workflow.workflow_kit import engine_on, finish, output_of, row_of, state_of

CALLS: list[str] = []


@step
async def add(a: int, b: int) -> int:
    CALLS.append(f"add {a} {b}")
    return a + b


@step
def in_thread(value: int) -> int:
    return value * 10


@workflow(name="sum", version="1")
async def total(ctx, value):
    first = await add(value, 1)
    second = await in_thread(first)
    return await add(second, 0)


async def test_a_run_completes_with_its_result():
    """Steps run, threads included, and the result is committed."""
    async with engine_on(None, [total]) as engine:
        row = await finish(engine, total, 4)
        assert output_of(row) == 50
        assert not row.live


@step(retry=Retry(max=3, base=0.1))
async def flaky(key: str) -> int:
    CALLS.append(key)
    if CALLS.count(key) < 3:
        raise RuntimeError("not yet")
    return CALLS.count(key)


@workflow(name="retrying")
async def retrying(ctx, key):
    return await flaky(key)


async def test_a_step_is_retried_with_backoff(autojump_clock):
    """Two failures, then success: three attempts, one outcome."""
    async with engine_on(None, [retrying]) as engine:
        assert output_of(await finish(engine, retrying, "k1")) == 3


@step
async def fails() -> None:
    raise ValueError("broken")


@workflow(name="faulty")
async def faulty(ctx, value):
    await fails()


async def test_a_step_that_gives_up_faults_the_run_with_its_error(autojump_clock):
    """The row names the step's exception and message."""
    async with engine_on(None, [faulty]) as engine:
        row = await finish(engine, faulty, None)
        error = state_of(row).error
        assert row.status == "faulted"
        assert error.type == "ValueError"
        assert "broken" in error.message


@workflow(name="timing")
async def timing(ctx, value):
    begin = trio.current_time()
    await trio.sleep(80_000)
    with trio.move_on_after(5) as scope:
        await ctx.signal("never")
    return [trio.current_time() - begin, scope.cancelled_caught]


async def test_sleeps_and_deadlines_are_durable(autojump_clock):
    """A day passes in virtual time, and the run was forgotten meanwhile."""
    async with engine_on(None, [timing]) as engine:
        elapsed, caught = output_of(await finish(engine, timing, None))
        assert 80_005 <= elapsed < 80_010
        assert caught
        assert engine.runs_awake == 0


@workflow(name="fan")
async def fan(ctx, count):
    results: dict[int, int] = {}

    async def one(index: int) -> None:
        results[index] = await add(index, index)

    async with trio.open_nursery() as nursery:
        for index in range(count):
            nursery.start_soon(one, index)
    mapped = await ctx.map(in_thread, range(count), limit=3)
    return [sorted(results.items()), mapped]


async def test_nurseries_and_map_fan_out():
    """Branches and a map deliver every result."""
    async with engine_on(None, [fan]) as engine:
        pairs, mapped = output_of(await finish(engine, fan, 7))
        assert pairs == [[i, 2 * i] for i in range(7)]
        assert mapped == [10 * i for i in range(7)]


@workflow(name="wait-signal")
async def wait_signal(ctx, value):
    return [await ctx.signal("go"), await ctx.signal("go")]


async def test_signals_arrive_once_each(autojump_clock):
    """A repeated signal id is not delivered again; an early one is kept."""
    async with engine_on(None, [wait_signal]) as engine:
        await engine.start(0, "s", wait_signal, b"\xc0")
        for signal, value in (("a", b"\x01"), ("a", b"\x07"), ("b", b"\x02")):
            await engine.signal(0, "s", name="go", value=value, signal=signal)
        await engine.wait(0, "s")
        assert output_of(await row_of(engine, "s")) == [1, 2]


@step
async def forever() -> None:
    await trio.sleep_forever()


@workflow(name="long")
async def long(ctx, value):
    try:
        await forever()
    finally:
        with trio.CancelScope(shield=True):
            await add(1, 1)


async def test_a_cancelled_run_cleans_up_and_ends_cancelled(autojump_clock):
    """The body is stopped, shielded clean-up runs as durable steps, the status is cancelled."""
    CALLS.clear()
    async with engine_on(None, [long]) as engine:
        await engine.start(0, "c", long, b"\xc0")
        await engine.cancel(0, "c", "enough")
        await engine.wait(0, "c")
        assert (await row_of(engine, "c")).status == "cancelled"
        assert CALLS == ["add 1 1"]

"""Replay: a run is a function of its journal, from every prefix, in any schedule."""

# Workflows and steps of tests speak for themselves.
# ruff: noqa: D103

from __future__ import annotations

import contextlib
import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from frys_node import StepFailed, current_run, step, workflow
from frys_node.plugins.workflow import replay
from frys_node.plugins.workflow.journal import DeadlineFired, Ended, StepDone, encode_entries
from frys_node.plugins.workflow.selfcheck import check_replay
from frys_node.plugins.workflow.values import arguments_crc, encode_value
from tests.unit.workflow.replay_kit import RUN, Driver, replayed

ROOT = Path(__file__).parents[3]


@step
def charge(order):
    return {"receipt": order}


@step
def render(page):
    return page * 2


@step
def breaks(n):
    raise RuntimeError(f"broken {n}")


@step(cancel="abandon")
def slow(n):
    return n


@workflow(name="order")
async def order(ctx, value):
    log = []
    receipt = await charge(value)
    await trio.sleep(365 * 86_400)
    log.append(["pages", await ctx.map(render, range(6), limit=3)])
    out = {}

    async def branch(index):
        out[index] = await render(index)
        if index % 2:
            await trio.sleep(index)
        out[f"{index}b"] = await render(index + 10)

    async with trio.open_nursery() as nursery:
        for index in range(4):
            nursery.start_soon(branch, index)
    log.append(sorted(map(str, out.items())))
    with trio.move_on_after(50) as window:
        log.append(await ctx.signal("approved"))
    log.append(window.cancelled_caught)
    if ctx.patched("2026-12"):
        log.append(ctx.random.randrange(1_000_000))
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks, 1)
            nursery.start_soon(trio.sleep, 1_000_000)
    except* StepFailed as group:
        log.append(sorted(str(error) for error in group.exceptions))
    send, receive = trio.open_memory_channel(0)

    async def produce():
        async with send:
            for index in range(3):
                await send.send(await render(index))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(produce)
        log.append([item async for item in receive])
    return [receipt, log, str(ctx.uuid4()), ctx.now().isoformat()]


SIGNALS = [("approved", "yes")]


@pytest.mark.parametrize("seed", range(12))
def test_a_run_resumes_from_every_prefix_without_repeating_a_committed_body(seed):
    """Cut the journal anywhere: replay agrees, and no body whose outcome is in it runs again."""
    whole = Driver(order, {"id": 7}, seed=seed, signals=SIGNALS)
    ended = whole.finish()
    assert replayed(order, whole.journal).ended == ended
    for length in range(1, len(whole.journal)):
        prefix = whole.journal[:length]
        done = {entry.id for entry in prefix if isinstance(entry, StepDone)}
        resumed = Driver(order, seed=seed + length, signals=SIGNALS, journal=prefix)
        final = resumed.finish()
        assert not done & set(resumed.bodies)
        names = [entry.id for entry in resumed.journal if isinstance(entry, StepDone)]
        assert len(names) == len(set(names))
        assert replayed(order, resumed.journal).ended == final


@pytest.mark.parametrize("every", [1, 2, 3])
def test_a_run_forgotten_and_rebuilt_again_and_again_ends_the_same(every):
    """Evicting after every n-th entry changes nothing, and leaves no branch behind."""
    for seed in range(6):
        calm = Driver(order, 1, seed=seed, signals=SIGNALS).finish()
        rough = Driver(order, 1, seed=seed, signals=SIGNALS)
        turns = 0
        while rough.turn():
            turns += 1
            if turns % every == 0 and rough.host.ended is None:
                rough.forget()
        assert rough.host.ended == calm


@workflow(name="crowd")
async def crowd(ctx, count):
    gate, seen = trio.Event(), []

    async def wait(index):
        await gate.wait()
        seen.append(index)
        seen.append(-(await render(index)))

    async with trio.open_nursery() as nursery:
        for index in range(count):
            nursery.start_soon(wait, index)
        await charge(0)
        gate.set()
    return seen


def test_twenty_waiters_of_one_event_wake_in_creation_order():
    """Trio keeps waiters in a set; the host repairs the order."""
    for seed in range(5):
        seen = Driver(crowd, 20, seed=seed).result()
        assert seen[:20] == list(range(20))


@workflow(name="racing")
async def racing(ctx, value):
    log = []
    with trio.move_on_after(3) as scope:
        log.append(await slow(1))
    log.append(scope.cancelled_caught)
    with trio.move_on_after(2) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(slow, 2)
            nursery.start_soon(slow, 3)
    log.append(scope.cancelled_caught)
    limiter = trio.CapacityLimiter(2)

    async def limited(n):
        async with limiter:
            log.append(await render(n))

    async with trio.open_nursery() as nursery:
        for n in range(5):
            nursery.start_soon(limited, n)
    return log


def test_deadline_races_replay_to_their_own_outcome():
    """Whatever won, the journal says so, and every prefix continues."""
    for seed in range(60):
        run = Driver(racing, None, seed=seed)
        ended = run.finish()
        for length in range(1, len(run.journal) + 1):
            host = replayed(racing, run.journal[:length])
            assert host.failure is None, host.failure
            assert host.evict()
        assert replayed(racing, run.journal).ended == ended


@workflow(name="stopping")
async def stopping(ctx, value):
    log = []
    with trio.move_on_after(2) as scope:
        log.append(await ctx.map(render, range(5), limit=2))
    log.append(scope.cancelled_caught)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(breaks, 1)
            nursery.start_soon(charge, 2)
            nursery.start_soon(ctx.map, render, [1, 2])
    except* StepFailed as group:
        log.append(len(group.exceptions))
    try:
        await ctx.map(breaks, range(3), limit=3)
    except StepFailed as error:
        log.append(str(error))
    with trio.CancelScope() as outer:
        outer.cancel()
        with trio.CancelScope(shield=True):
            log.append(await charge(3))
        await charge(4)
    log.append(outer.cancelled_caught)
    return log


@pytest.mark.parametrize("block", range(4))
def test_cancelled_steps_and_maps_resume_from_every_prefix(block):
    """Stops, successes in spite of stops, failing maps: each journal replays to its own end."""
    for seed in range(block * 25, block * 25 + 25):
        whole = Driver(stopping, None, seed=seed)
        ended = whole.finish()
        assert replayed(stopping, whole.journal).ended == ended
        for length in range(1, len(whole.journal)):
            prefix = whole.journal[:length]
            done = {entry.id for entry in prefix if isinstance(entry, StepDone)}
            resumed = Driver(stopping, seed=seed + length, journal=prefix)
            final = resumed.finish()
            assert not done & set(resumed.bodies)
            assert replayed(stopping, resumed.journal).ended == final


def test_late_outcomes_and_lost_deadlines_are_ignored():
    """An outcome of an abandoned call and the firing of a closed scope change nothing."""
    for seed in range(40):
        run = Driver(racing, None, seed=seed)
        ended = run.finish()
        fired = next((n for n, entry in enumerate(run.journal) if isinstance(entry, DeadlineFired)), None)
        if fired is None:
            continue
        at = run.journal[-1].at
        late = StepDone(at, ":1", "slow", arguments_crc("slow", encode_value([(1,), {}], "")), b"\x01", 1, at)
        closed = DeadlineFired(at, run.journal[fired].id)
        for position in range(fired + 1, len(run.journal)):
            entries = [*run.journal[:position], late, closed, *run.journal[position:]]
            host = replayed(racing, entries)
            assert host.failure is None, host.failure
            assert host.ended.value == ended.value


def changed(**replace):
    """The fan-out workflow with other code."""

    @workflow(name="fan")
    async def fan(ctx, value):
        async def branch(index):
            await replace.get("first", render)(index)
            await replace.get("second", charge)(index + replace.get("offset", 0))

        async with trio.open_nursery() as nursery:
            for index in range(replace.get("count", 5)):
                nursery.start_soon(branch, index)
        return await replace.get("last", charge)(9)

    return fan


@pytest.mark.parametrize(
    "change",
    [{"offset": 1}, {"first": slow}, {"second": render}, {"last": render}, {"count": 4}],
    ids=["argument", "first step", "second step", "last step", "branches"],
)
def test_changed_code_is_refused_with_a_message_that_shows_both_sides(change):
    """Each of many schedules notices the change; the message names journal and code."""
    for seed in range(20):
        run = Driver(changed(), None, seed=seed)
        run.finish()
        host = replayed(changed(**change), run.journal)
        assert host.failure is not None
        assert host.failure.code == "workflow.nondeterministic"
        assert RUN in host.failure.message
        assert "journal" in host.failure.message
        assert host.evict()


def test_a_longer_sleep_or_another_map_limit_is_safe_to_deploy():
    """Durations and limits may change under running runs."""

    def version(seconds, limit):
        @workflow(name="tunable")
        async def tunable(ctx, value):
            await trio.sleep(seconds)
            return await ctx.map(render, range(8), limit=limit)

        return tunable

    for seed in range(30):
        run = Driver(version(10, 4), None, seed=seed)
        ended = run.finish()
        assert replayed(version(99_999, 1), run.journal).ended.value == ended.value


def test_patched_is_false_for_old_journals_and_true_for_new_runs():
    """The mark lands in the journal where the code passed it first."""

    @workflow(name="patchable")
    async def old(ctx, value):
        await render(1)
        return await render(2)

    @workflow(name="patchable")
    async def new(ctx, value):
        await render(1)
        if ctx.patched("more"):
            await charge(5)
        return await render(2)

    before = Driver(old)
    before.finish()
    assert replayed(new, before.journal).failure is None
    fresh = Driver(new)
    fresh.finish()
    assert [type(entry).__name__ for entry in fresh.journal].count("Mark") == 1
    assert replayed(new, fresh.journal).ended == fresh.host.ended


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("await trio.to_thread.run_sync(print)", "threads"),
        ("await trio.open_file('/etc/hostname')", "threads"),
        ("await trio.lowlevel.wait_readable(0)", "a socket or file"),
        ("trio.lowlevel.spawn_system_task(trio.sleep, 1)", "system task"),
    ],
)
def test_what_cannot_be_replayed_stalls_at_the_guilty_line(code, says):
    """Even when the code swallows the exception."""
    names = {"trio": trio}
    exec(f"async def work():\n try:\n  {code}\n except Exception:\n  pass", names)

    @workflow(name="offender")
    async def offender(ctx, value):
        await names["work"]()
        return await render(1)

    host = Driver(offender).host
    assert host.failure is not None
    assert says in host.failure.message
    assert host.evict()


def test_a_dead_end_and_an_endless_loop_stall_at_once():
    """Nothing that could wake the run, or turns without end."""

    @workflow(name="dead-end")
    async def dead_end(ctx, value):
        await trio.Event().wait()

    @workflow(name="endless")
    async def endless(ctx, value):
        while True:
            await trio.lowlevel.checkpoint()

    for made, says in ((dead_end, "never continue"), (endless, "turns")):
        host = Driver(made).host
        assert says in host.failure.message
        assert host.evict()


def test_arguments_that_cannot_be_journaled_are_named():
    """The message says which step and what type."""

    @workflow(name="bad-arguments")
    async def bad(ctx, value):
        await charge(object())

    ended = Driver(bad).finish()
    assert ended.status == "faulted"
    assert "charge()" in ended.message
    assert "object" in ended.message


def test_code_that_refuses_to_end_is_kept_away_from_the_collector():
    """Eviction gives up after its rounds and keeps the host."""
    stubborn = [True]

    @workflow(name="clinging")
    async def clinging(ctx, value):
        while stubborn[0]:
            with contextlib.suppress(BaseException):
                await trio.sleep(100)

    host = Driver(clinging).host
    assert not host.evict()
    assert replay.STUCK.pop() is host
    stubborn.clear()
    stubborn.append(False)
    assert host.evict()


def test_an_evicted_run_runs_its_finally_blocks_without_effects():
    """Durable calls in them are skipped; plain code runs; another run is not disturbed."""
    seen = []

    @workflow(name="tidy")
    async def tidy(ctx, value):
        try:
            await render(1)
        finally:
            seen.append("finally")
            await charge(2)
            seen.append("never")

    run = Driver(tidy)
    assert run.host.evict()
    assert seen == ["finally"]
    gc.collect()
    assert run.host.take_effects() == []


def test_an_async_generator_left_open_is_closed_at_eviction():
    """Its cleanup runs once, without durable calls, and not in another run."""
    seen = []

    @workflow(name="generating")
    async def generating(ctx, value):
        async def numbers():
            try:
                for n in range(5):
                    yield await render(n)
            finally:
                seen.append("closed")
                await charge(1)

        async for n in numbers():
            if n == 2:
                break
        await trio.sleep(10)
        return seen

    run = Driver(generating)
    while run.host.wake_at_s is None:
        run.turn()
    assert run.host.evict()
    gc.collect()
    assert seen == ["closed"]


def test_current_run_and_random_belong_to_the_branch():
    """`current_run` finds ctx; each branch draws its own numbers, equal in every replay."""

    @workflow(name="drawing")
    async def drawing(ctx, value):
        assert current_run() is ctx
        out = {}

        async def draw(index):
            out[index] = ctx.random.random()
            await render(index)

        async with trio.open_nursery() as nursery:
            for index in range(3):
                nursery.start_soon(draw, index)
        return [out[index] for index in range(3)]

    first, second = Driver(drawing, seed=1).result(), Driver(drawing, seed=2).result()
    assert first == second
    assert len(set(first)) == 3


def test_the_self_check_passes_on_this_trio():
    """The plugin would refuse to load otherwise."""
    assert check_replay() == ""


def journal_hex() -> str:
    run = Driver(order, {"b": 1, "a": [1, 2]}, seed=3, signals=SIGNALS)
    run.finish()
    return encode_entries(run.journal).hex()


def test_histories_do_not_depend_on_the_hash_seed():
    """The same schedule in processes with other hash seeds writes the same bytes."""
    code = "from tests.unit.workflow.test_workflow_replay import journal_hex; print(journal_hex())"
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == journal_hex()


def test_a_run_whose_code_now_ends_earlier_is_completed_after_replay():
    """An open call that the new code does not make is dropped; the end is noted."""

    @workflow(name="short")
    async def long_form(ctx, value):
        await render(1)
        return await slow(2)

    @workflow(name="short")
    async def short_form(ctx, value):
        return await render(1)

    run = Driver(long_form)
    run.body(run.open.pop(":1"))
    host = replayed(short_form, run.journal)
    assert host.failure is None
    assert isinstance(host.notes[0], Ended)
    assert run.host.evict()

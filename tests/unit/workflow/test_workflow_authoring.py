"""What `@workflow` and `@step` accept, refuse and do outside a run."""

# Workflows and steps of tests speak for themselves.
# ruff: noqa: ASYNC251, D103, DTZ005

from __future__ import annotations

import datetime as dt
import logging
import os
import random
import time
import uuid

import pytest
import trio

from frys_node import Retry, current_run, current_step, step, workflow
from frys_node.base.errors import UsageError
from frys_node.plugins.workflow.partition import version_order
from frys_node.plugins.workflow.scan import scan_workflow
from tests.unit.workflow.replay_kit import Driver, replayed


def helper():
    return uuid.uuid4()


async def reads_time(ctx, value):
    return time.time()


async def draws(ctx, value):
    return [random.random() for _ in range(3)]


async def opens(ctx, value):
    def inner():
        return open("/dev/null")

    return inner()


async def calls_helper(ctx, value):
    return helper()


async def says_now(ctx, value):
    return dt.datetime.now()


async def reads_environment(ctx, value):
    return os.environ["HOME"]


async def sleeps(ctx, value):
    time.sleep(1)


async def harmless(ctx, value):
    rng = random.Random(1)
    await trio.sleep(rng.random())
    return [dt.timedelta(1), uuid.UUID(int=1), sorted(value), os.path.join("a", "b")]


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (reads_time, "time.time"),
        (draws, "random.random"),
        (opens, "open"),
        (calls_helper, "uuid.uuid4"),
        (says_now, "datetime.datetime.now"),
        (reads_environment, "os.environ"),
        (sleeps, "trio.sleep"),
    ],
)
def test_known_nondeterminism_is_refused_when_the_workflow_is_defined(function, says):
    """With the line and what to use instead; comprehensions, inner and called functions included."""
    with pytest.raises(UsageError, match=says) as caught:
        workflow(name="bad")(function)
    assert "line" in str(caught.value)


def test_harmless_code_is_accepted():
    """The scan has no opinion on seeded generators, paths and plain values."""
    assert scan_workflow(harmless) == []


def test_wrong_definitions_are_refused():
    """Not async, wrong parameters, odd names, odd options."""
    with pytest.raises(UsageError, match="two parameters"):
        workflow(name="w")(lambda ctx, value: None)

    async def lonely(ctx):
        pass

    with pytest.raises(UsageError, match="two parameters"):
        workflow(name="w")(lonely)
    for name in ("", "a/b", "x" * 200, "a\nb"):
        with pytest.raises(UsageError, match="workflow name"):
            workflow(name=name)
    with pytest.raises(UsageError, match="cancel"):
        step(cancel="maybe")
    with pytest.raises(UsageError, match="timeout"):
        step(timeout=0)
    with pytest.raises(ValueError, match="max >= 1"):
        Retry(max=0)


def test_delays_grow_to_their_cap_and_vary():
    """Up to half shorter at random, never above the cap."""
    retry = Retry(max=9, base=0.2, cap=5.0)
    rng = random.Random(1)
    for attempt in range(1, 100):
        ceiling = min(5.0, 0.2 * 2 ** (attempt - 1))
        assert ceiling / 2 <= retry.delay_s(attempt, rng) <= ceiling


def test_versions_are_ordered_by_their_numbers():
    """The newest is chosen when none is named."""
    assert sorted(["10", "9", "1.2", "1.10", "2-beta", "2"], key=version_order) == [
        "1.2",
        "1.10",
        "2",
        "2-beta",
        "9",
        "10",
    ]


@step
async def triple(n: int) -> int:
    return 3 * n


@step
def triple_in_thread(n: int) -> int:
    return 3 * n


async def test_outside_a_workflow_a_step_is_a_plain_call():
    """No journal, no retries; a plain def runs in a thread."""
    assert await triple(2) == 6
    assert await triple_in_thread(3) == 9
    with pytest.raises(UsageError):
        current_step()
    with pytest.raises(UsageError):
        current_run()


def test_the_log_is_silent_in_replay(caplog):
    """Each line is written once, and names the run."""

    @workflow(name="talking")
    async def talking(ctx, value):
        ctx.log.warning("before")
        await triple(1)
        ctx.log.warning("after")

    with caplog.at_level(logging.WARNING, logger="frys.workflow"):
        run = Driver(talking)
        effect = run.open.pop(":1")
        run.body(type("Effect", (), {"id": effect.id, "step": _Sync, "args": (), "kwargs": {}, "crc": effect.crc})())
        assert [record.getMessage() for record in caplog.records] == ["run kit-run: before", "run kit-run: after"]
        replayed(talking, run.journal)
        assert len(caplog.records) == 2


class _Sync:
    """A body for the virtual-time driver."""

    name = "triple"

    @staticmethod
    def function() -> int:
        """Return a value."""
        return 3

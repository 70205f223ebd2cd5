"""The supervisor and the kernel: order, readiness, restarts, budgets, graces, cancellation."""

from __future__ import annotations

from random import Random

import pytest
import trio
from kernel_fixtures import Part, make_kernel, running, toy
from trio.testing import MockClock

from frys_node.base.errors import ConfigError, PluginError
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.lifecycle import (
    TRANSITIONS,
    ComponentChanged,
    InvalidTransition,
    RestartBudget,
    RestartPolicy,
    Signal,
    State,
    advance,
)
from frys_node.kernel.services import ServiceKey
from frys_node.kernel.supervisor import ComponentFailed
from frys_node.observe.log import describe


def test_only_the_edges_of_the_table_exist() -> None:
    """Every other combination of state and signal is refused, and changes nothing."""
    for state in State:
        for signal in Signal:
            if (state, signal) in TRANSITIONS:
                assert advance(state, signal) is TRANSITIONS[state, signal]
            else:
                with pytest.raises(InvalidTransition):
                    advance(state, signal)
    assert not [edge for edge in TRANSITIONS if edge[0] is State.STOPPED]


def test_pauses_double_up_to_the_ceiling_and_the_budget_refills_with_time() -> None:
    """Five crashes in the window get growing pauses, the sixth none; after the window the count starts over."""
    budget = RestartBudget(RestartPolicy(jitter=0.0, pause_max_s=1.0), Random(1))
    assert [budget.crashed(float(i)) for i in range(6)] == [0.2, 0.4, 0.8, 1.0, 1.0, None]
    assert budget.crashed(100.0) == 0.2


def test_jitter_only_shortens_a_pause() -> None:
    """A pause lies between half and all of its nominal length."""
    pauses = [RestartBudget(RestartPolicy(), Random(seed)).crashed(0.0) for seed in range(50)]
    assert all(pause is not None and 0.1 <= pause <= 0.2 for pause in pauses)
    assert len(set(pauses)) > 40


async def test_start_returns_when_ready_and_stop_runs_in_reverse(autojump_clock: MockClock) -> None:
    """The next component starts only after the former is ready; the last one started is drained first."""
    diary: list[str] = []
    async with running() as kernel:
        for name in ("a", "b", "c"):
            await kernel.start(Part(name, diary, start_s=1.0))
    assert diary == [
        *[f"{n} {step}" for n in "abc" for step in ("starts", "ready")],
        *[f"{n} {step}" for n in "cba" for step in ("drains", "drained", "ends")],
    ]


async def test_one_that_overruns_its_grace_is_cut_and_the_rest_still_drain(autojump_clock: MockClock) -> None:
    """A drain of an hour is cut after the component's 5 s; the others drain fully."""
    diary: list[str] = []
    async with running() as kernel:
        await kernel.start(Part("first", diary))
        await kernel.start(Part("slow", diary, drain_s=3600))
        await kernel.start(Part("last", diary))
        began_s = trio.current_time()
    assert trio.current_time() - began_s == 5.0
    assert [line for line in diary if "drained" in line] == ["last drained", "first drained"]
    assert [line for line in diary if "ends" in line] == ["last ends", "slow ends", "first ends"]


async def test_the_whole_stop_keeps_the_total_grace(autojump_clock: MockClock) -> None:
    """Ten components that never finish draining stop within the grace of the node, not ten times their own."""
    async with running(grace_s=12.0) as kernel:
        for i in range(10):
            await kernel.start(Part(f"p{i}", [], drain_s=3600))
        began_s = trio.current_time()
    assert trio.current_time() - began_s == 12.0


async def test_doors_are_closed_before_anything_is_drained(autojump_clock: MockClock) -> None:
    """A stop closes all doors at once; one that fails or never ends holds up neither the others nor the drains."""
    diary: list[str] = []

    async def close() -> None:
        diary.append("closing")
        await trio.sleep(1.0)
        diary.append("closed")

    async def fails() -> None:
        await trio.lowlevel.checkpoint()
        raise RuntimeError("boom")

    async with running() as kernel:
        await kernel.start(Part("a", diary))
        for name in ("one", "two"):
            kernel.control.add_door(name, close)
        kernel.control.add_door("removed", close)
        kernel.control.remove_door("removed")
        kernel.control.add_door("broken", fails)
        kernel.control.add_door("stuck", trio.sleep_forever)
        began_s = trio.current_time()
    assert diary == ["a starts", "a ready", "closing", "closing", "closed", "closed", "a drains", "a drained", "a ends"]
    assert trio.current_time() - began_s == 5.0


async def test_a_crash_is_followed_by_a_pause_and_a_restart(autojump_clock: MockClock) -> None:
    """The component is taken down, counted, and ready again after the pause; the node is unready in between."""
    events: list[tuple[str, str]] = []
    async with running() as kernel:
        kernel.mark_started()
        part = Part("a", [])
        handle = await kernel.start(part)
        kernel.bus.on(ComponentChanged, lambda e: events.append((e.new, e.error)))
        assert kernel.control.is_ready()
        part.explode.set()
        await trio.testing.wait_all_tasks_blocked()
        assert handle.state is State.RESOLVED
        assert not kernel.control.is_ready()
        await trio.sleep(1)
        assert (handle.state, handle.restarts, part.runs) == (State.READY, 1, 2)
        assert kernel.control.is_ready()
    assert events[:3] == [
        ("resolved", "RuntimeError: boom"),
        ("starting", "RuntimeError: boom"),
        ("ready", ""),
    ]


async def test_past_its_budget_a_component_fails_and_the_node_goes_on_unready(autojump_clock: MockClock) -> None:
    """Six crashes in a row fail the component; its neighbour and the node stay up, readiness says why."""
    async with running() as kernel:
        kernel.mark_started()
        neighbour = await kernel.start(Part("good", []))
        bad = Part("bad", [])
        bad.crash_before_ready = 100
        handle = await kernel.start(bad)
        assert handle.state is State.RESOLVED
        await handle.done.wait()
        assert (handle.state, bad.runs, handle.restarts) == (State.FAILED, 6, 5)
        assert neighbour.state is State.READY
        wrong = [check for check in kernel.control.readiness() if not check.ok]
        assert [(check.name, check.detail) for check in wrong] == [("bad", "RuntimeError: boom")]


async def test_an_essential_component_past_its_budget_stops_the_node_in_order(autojump_clock: MockClock) -> None:
    """The block ends with ComponentFailed after the others were drained."""
    diary: list[str] = []
    with pytest.raises(ComponentFailed, match="essential component 'core' failed: RuntimeError: boom"):  # noqa: PT012 (the block is the claim)
        async with running() as kernel:
            await kernel.start(Part("other", diary))
            core = Part("core", [])
            await kernel.start(core, essential=True, policy=RestartPolicy(restarts_max=0))
            core.explode.set()
            await trio.sleep_forever()
    assert diary == ["other starts", "other ready", "other drains", "other drained", "other ends"]


async def test_what_ends_the_node_keeps_the_way_out_that_the_error_named(autojump_clock: MockClock) -> None:
    """The first member of a group counts: that is what the last line of the process shows."""
    with pytest.raises(ComponentFailed) as caught:  # noqa: PT012 (the block is the claim)
        async with running() as kernel:
            core = Part("core", [])
            core.error = ExceptionGroup("g", [PluginError("the disk is gone", hint="mend the disk"), ValueError("x")])
            await kernel.start(core, essential=True, policy=RestartPolicy(restarts_max=0))
            core.explode.set()
            await trio.sleep_forever()
    assert caught.value.hint == "mend the disk"
    assert "the disk is gone" in caught.value.message


async def test_an_essential_component_that_does_not_start_raises_at_once(autojump_clock: MockClock) -> None:
    """No retries hide a broken start of what the node cannot do without."""
    part = Part("core", [])
    part.crash_before_ready = 1
    with pytest.raises(ComponentFailed, match="'core' did not start: RuntimeError: boom"):
        async with running() as kernel:
            await kernel.start(part, essential=True)
    assert part.runs == 1


async def test_a_config_error_at_start_is_raised_not_retried(autojump_clock: MockClock) -> None:
    """A wrong setting does not get better by waiting: the caller sees the error itself."""
    async with running() as kernel:
        part = Part("a", [])
        part.crash_before_ready, part.error = 1, ConfigError("port 80 is not yours")
        with pytest.raises(ConfigError, match="port 80 is not yours"):
            await kernel.start(part)
        assert part.runs == 1


async def test_a_group_of_errors_is_one_crash_whose_members_are_named(autojump_clock: MockClock) -> None:
    """An ExceptionGroup restarts the component like any exception."""
    async with running() as kernel:
        part = Part("a", [])
        part.error = ExceptionGroup("two", [ValueError("x"), ExceptionGroup("in", [OSError("y")])])
        handle = await kernel.start(part)
        part.explode.set()
        await trio.testing.wait_all_tasks_blocked()
        assert handle.error is not None
        assert describe(handle.error) == "ValueError: x; OSError: y"
        await trio.sleep(1)
        assert handle.state is State.READY


async def test_keyboard_interrupt_is_never_swallowed(autojump_clock: MockClock) -> None:
    """What is not an Exception passes through the supervisor and ends the node."""
    with pytest.raises(BaseExceptionGroup) as caught:  # noqa: PT012 (the block is the claim)
        async with running() as kernel:
            part = Part("a", [])
            part.error = KeyboardInterrupt()
            await kernel.start(part)
            part.explode.set()
            await trio.sleep_forever()
    assert caught.value.split(KeyboardInterrupt)[0] is not None


async def test_a_component_that_returns_unasked_is_restarted(autojump_clock: MockClock) -> None:
    """Returning is a crash: a service that is silently gone is worse than one that restarts."""

    class Quits:
        name = "quits"
        runs = 0

        async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
            self.runs += 1
            task_status.started()
            if self.runs > 1:
                await trio.sleep_forever()

    async with running() as kernel:
        quits = Quits()
        handle = await kernel.start(quits)
        await trio.sleep(1)
        assert (quits.runs, handle.restarts, handle.state) == (2, 1, State.READY)


async def test_the_same_name_cannot_run_twice(autojump_clock: MockClock) -> None:
    """The second start is refused and the first keeps running."""
    async with running() as kernel:
        handle = await kernel.start(Part("a", []))
        with pytest.raises(PluginError, match="'a' runs already"):
            await kernel.start(Part("a", []))
        assert handle.state is State.READY


async def test_readiness_is_off_from_the_moment_a_stop_is_requested(autojump_clock: MockClock) -> None:
    """Traffic is turned away before the first component drains."""
    async with running() as kernel:
        kernel.mark_started()
        assert kernel.control.is_ready()
        kernel.control.add_check("joined", lambda: "waiting for a seed")
        assert not kernel.control.is_ready()
        kernel.control.add_check("joined", lambda: None)
        kernel.request_stop("SIGTERM")
        await kernel.wait_stop()
        assert kernel.control.readiness()[0].detail == "stopping: SIGTERM"


async def test_an_error_in_the_block_stops_in_order_and_comes_out_as_itself(autojump_clock: MockClock) -> None:
    """The caller sees its own exception, not a group, and after everything has drained."""
    diary: list[str] = []
    with pytest.raises(ValueError, match="mine"):  # noqa: PT012 (the block is the claim)
        async with running() as kernel:
            await kernel.start(Part("a", diary))
            raise ValueError("mine")
    assert diary[-3:] == ["a drains", "a drained", "a ends"]


async def _boot(kernel: Kernel, diary: list[str]) -> None:
    async with kernel.running():
        await kernel.start(Part("channel", diary, start_s=0.1), essential=True)
        base = toy("base", diary, provides=("store",))
        top = toy("top", diary, requires=("store",))
        await kernel.load_plugins([top, base], {})
        kernel.mark_started()
        await kernel.wait_stop()


@pytest.mark.parametrize("turn", range(1, 40))
async def test_a_start_cancelled_at_any_point_leaves_nothing_behind(turn: int, autojump_clock: MockClock) -> None:
    """G1: cancel at the n-th turn of the boot; each run begun has ended, each init is cleaned up, no service stays."""

    class Countdown(trio.abc.Instrument):
        left = turn

        def before_task_step(self, task: trio.lowlevel.Task) -> None:
            self.left -= 1
            if self.left == 0:
                scope.cancel()

    kernel, diary = make_kernel(), list[str]()
    countdown = Countdown()
    with trio.CancelScope() as scope:
        trio.lowlevel.add_instrument(countdown)
        try:
            await _boot(kernel, diary)
        finally:
            trio.lowlevel.remove_instrument(countdown)
    assert diary.count("channel starts") == diary.count("channel ends")
    for name in ("base", "top"):
        assert diary.count(f"{name} init") == diary.count(f"{name} cleanup")
    assert kernel.services.names() == ["node"]
    assert kernel.services.find(ServiceKey("store")) is None
    assert all(handle.done.is_set() for handle in kernel.control.supervisor.handles)  # type: ignore[union-attr]

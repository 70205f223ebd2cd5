"""What every clock, source of randomness and executor promises."""

from __future__ import annotations

import pytest
import trio

from frys_node.base.ports import Clock, Entropy, Executor


async def test_monotonic_time_follows_trio_and_wall_time_is_plausible(clock: Clock) -> None:
    """Drivers may mix now_s with trio's deadlines."""
    before = trio.current_time()
    now_s = clock.now_s()
    assert before <= now_s <= trio.current_time()
    first = clock.unix_ns()
    assert 1_700_000_000_000_000_000 < first <= clock.unix_ns()


def test_tokens_have_their_size_and_differ(entropy: Entropy) -> None:
    """Two draws are never equal."""
    assert len(entropy.token_bytes(32)) == 32
    assert entropy.token_bytes(16) != entropy.token_bytes(16)
    assert entropy.token_bytes(0) == b""


def test_generators_are_independent_of_one_another(entropy: Entropy) -> None:
    """Different names, and the same name asked twice, give different sequences."""
    draws = [entropy.rng(name).getrandbits(64) for name in ("a", "b", "a")]
    assert len(set(draws)) == 3


async def test_work_returns_its_result_and_raises_its_error(executor: Executor) -> None:
    """An executor is transparent."""
    assert await executor.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await executor.run(divmod, 1, 0)


async def test_cancelled_work_is_finished_not_abandoned(executor: Executor) -> None:
    """A cancel that comes during the work leaves no half-done state behind."""
    done: list[int] = []
    with trio.CancelScope() as scope:

        def work() -> None:
            scope.cancel() if trio.lowlevel.in_trio_run() else trio.from_thread.run_sync(scope.cancel)
            done.append(1)

        await executor.run(work)
    assert done == [1]

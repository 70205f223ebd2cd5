"""Turns of long work: short, one at a time, with a rest behind each."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from frys_node.kernel.turns import ASKED_REST_RATIO, REST_RATIO, TURN_S, Turns
from frys_node.testing.clock import FakeClock


@pytest.mark.parametrize(("asked", "ratio"), [(False, REST_RATIO), (True, ASKED_REST_RATIO)])
async def test_each_turn_is_followed_by_a_rest_for_all_who_share(
    autojump_clock: MockClock, asked: bool, ratio: float
) -> None:
    """Two workers have the loop half of the time together, and an eighth while requests come."""
    turns, begun = Turns(FakeClock()), list[tuple[str, float]]()

    async def work(name: str) -> None:
        for _ in range(2):
            async with turns.turn():
                begun.append((name, round(trio.current_time() - start_s, 6)))
                if asked:
                    turns.asked()
                autojump_clock.jump(0.01)

    start_s = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(work, "a")
        nursery.start_soon(work, "b")
    step_s = round(0.01 * (1 + ratio), 6)
    assert [at_s for _, at_s in begun] == [0.0, step_s, 2 * step_s, 3 * step_s]
    assert [name for name, _ in begun[:2]] in (["a", "b"], ["b", "a"])


async def test_rests_stay_short_while_there_is_haste(autojump_clock: MockClock) -> None:
    """A restarted node has seconds to fill its cache again before it starts empty, however many requests come."""
    haste = True
    turns = Turns(FakeClock(), lambda: haste)
    turns.asked()
    assert turns.rest_ratio == REST_RATIO
    haste = False
    assert turns.rest_ratio == ASKED_REST_RATIO


async def test_a_turn_is_over_by_its_length_and_ends_when_its_work_fails(autojump_clock: MockClock) -> None:
    """Whoever works looks at it now and then; an error gives the turn to the next."""
    turns = Turns(FakeClock())
    async with turns.turn():
        assert not turns.is_over
        autojump_clock.jump(TURN_S)
        assert turns.is_over
    try:
        async with turns.turn():
            raise ValueError
    except ValueError:
        pass
    async with turns.turn():
        assert not turns.is_over

"""Strangers on a member's port, and members far away: how long to wait, and for whom."""

from __future__ import annotations

import pytest
from membership_lab import Lab

from frys_node.kernel.services.members import Condition, Status
from frys_node.testing.faults import FaultProfile
from membership.config import for_profile


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("is_announced", [False, True])
def test_a_stranger_on_the_port_keeps_nobody_alive(seed: int, is_announced: bool) -> None:
    """F17: another process listens where a member did: neither evidence nor life, so it is missed as any other is."""
    lab = Lab(10, seed=seed)
    if is_announced:
        lab.lines.goodbye("n3")
    lab.simulator.crash("n3")
    lab.lines.occupy("n3")
    took_s = lab.wait(lambda: lab.sees("n3", Status.DEAD) == 9, 8.0)
    assert took_s >= 2.0
    assert lab.tally("vouch_kernel") == lab.tally("vouch_port") == lab.tally("veto_helper") == 0
    assert lab.tally("crash_observed") == 0


FAR = for_profile("wan")


def far_lab(delay_s: float, count: int = 6, seed: int = 1) -> Lab:
    """A cluster across an ocean, whose round trips have been measured."""
    lab = Lab(count, seed=seed, config=FAR, profile=FaultProfile(name="far", delay_s=delay_s, jitter_s=0.005))
    lab.run(60.0)
    return lab


@pytest.mark.parametrize("delay_s", [0.14, 0.2, 0.3])
def test_a_stopped_process_far_away_is_stalled(delay_s: float) -> None:
    """Its kernel acknowledges a round trip later, not within what is enough next door; and it is back at once."""
    lab = far_lab(delay_s)
    lab.simulator.pause("n2")
    lab.run(20.0)
    assert lab.conditions("n2") == {Condition.STALLED}
    lab.run(FAR.stall_max_s - 15.0)
    assert lab.told(Status.DEAD, "n2") == []
    assert lab.tally("accused_gone") == 0
    lab.simulator.resume("n2")
    lab.wait(lambda: lab.sees("n2", Status.ALIVE) == 5, 5.0)


def test_a_host_far_away_that_vanishes_is_gone_all_the_same() -> None:
    """The longer wait for its kernel costs less than a second of the suspicion that follows; some hear of it late."""

    def lose(seed: int) -> float:
        lab = far_lab(0.2, seed=seed)
        lab.simulator.partition(["n2"], [name for name in lab.names if name != "n2"])
        took_s = lab.wait(lambda: lab.sees("n2", Status.DEAD) == 5, 40.0)
        assert lab.tally("accused_gone") >= 2
        return took_s

    # One seed says little: the slowest of a dozen takes twice the median.
    took_s = [lose(seed) for seed in range(1, 8)]
    assert sorted(took_s)[3] <= 12.5
    assert max(took_s) <= 21.5


def test_a_process_that_is_killed_far_away_is_dead_within_a_few_seconds() -> None:
    """Lifelines are made across 400 ms too, so the evidence of a crash is as good as anywhere."""
    lab = far_lab(0.2)
    assert lab.kill(["n3"], 6.0) >= FAR.crash_suspicion_s
    assert lab.tally("crash_proven") >= 1

"""Partitions that heal and clusters that were wholly down, in the simulator: how long until all views agree."""

from __future__ import annotations

import random
import statistics

import pytest

from frys_node.testing.membership_cluster import Cluster
from membership.messages import Standing

STEP_S = 0.02


def started(nodes: int, seed: int) -> Cluster:
    """Start a cluster without faults of its own, with the settings of a LAN, and wait until it stands."""
    run = Cluster("heal", nodes, 10.0, seed, "none")
    run.simulator.run_until(12.0 + 3.0 * random.Random(seed).random())
    assert run.disagreement() == ""
    return run


def agreed_after_s(run: Cluster) -> float:
    """Run until all views agree; returns how long that took."""
    simulator = run.simulator
    start_s = simulator.now_s
    while run.disagreement():
        assert simulator.now_s - start_s < 60.0, run.disagreement()
        simulator.run_until(simulator.now_s + STEP_S)
    return simulator.now_s - start_s


@pytest.mark.seeds
@pytest.mark.slow
def test_an_even_partition_heals_within_a_second() -> None:
    """5 of 10 on either side for 40 s, each side calls the other dead: p50 <= 1 s, all <= 5 s after the cut is gone."""
    took = []
    for seed in range(20):
        run = started(10, seed)
        run.simulator.partition(run.names[:5], run.names[5:])
        run.simulator.run_until(run.simulator.now_s + 40.0)
        assert [node.machine.count(Standing.DEAD) for node in run.up()] == [5] * 10
        run.simulator.heal()
        took.append(agreed_after_s(run))
    assert statistics.median(took) <= 1.0
    assert max(took) <= 5.0


def test_a_node_that_was_cut_off_buries_nobody_and_is_back_at_once() -> None:
    """One of ten alone for 40 s: it calls itself isolated, the others bury it, and it is back within five seconds."""
    run = started(10, 3)
    alone = run.up()[0]
    run.simulator.partition(run.names[:1], run.names[1:])
    run.simulator.run_until(run.simulator.now_s + 40.0)
    assert [node.machine.count(Standing.DEAD) for node in run.up()] == [0] + [1] * 9
    assert alone.machine.tallies.events["isolated",] == 1
    run.simulator.heal()
    assert agreed_after_s(run) <= 5.0
    run.simulator.run_until(run.simulator.now_s + 10.0)
    assert alone.machine.tallies.events["rejoined",] == 1


def test_a_cluster_that_was_wholly_down_forms_again_by_itself() -> None:
    """All die one by one, each taking the former ones for dead; started in another order they find one another."""
    run = started(6, 5)
    simulator = run.simulator
    for name in run.names:
        simulator.crash(name)
        simulator.run_until(simulator.now_s + 9.0)
    for name in reversed(run.names):
        simulator.restart(name)
        simulator.run_until(simulator.now_s + 0.5)
    assert agreed_after_s(run) <= 10.0

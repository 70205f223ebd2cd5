"""What judges membership in the simulator has teeth: phi, verdicts, stalls, targets and states that must be reached."""

from __future__ import annotations

import math
from typing import Any

import pytest

from frys_node.testing import membership_checker
from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.membership_lifeguard import VARIANTS, run_scenario
from frys_node.testing.membership_node import MembershipNode
from frys_node.testing.membership_stalls import GO_ON, STALL, StallNode
from frys_node.testing.scenario import Scenario, SimulationFailed, Target, percentile
from membership.config import for_profile


def _cluster(nodes: int = 5, **more: Any) -> Cluster:
    cluster = Cluster("swarm", nodes, 10.0, 1, "none", starts=False, **more)
    cluster.start_acquainted()
    return cluster


def test_an_acquainted_cluster_agrees_from_the_first_instant_and_stays_quiet() -> None:
    """Nobody has anything to pass on, so only probes, beats and their acks travel."""
    cluster = _cluster(8)
    assert cluster.disagreement() == ""
    cluster.run(10.0)
    assert cluster.sent()[0] <= 8 * 10 * (3 + 2 * cluster.config.watchers)
    assert cluster.verdicts.counts == {}


@pytest.mark.parametrize(
    ("readings", "is_good"),
    [
        ([0.1, 0.2, 3.0], True),
        ([0.1, 3.0, 0.2], False),
        ([0.1, float("inf")], False),
        ([0.1, float("nan")], False),
    ],
)
def test_phi_that_falls_in_silence_or_is_not_finite_breaks_m8(
    readings: list[float], is_good: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A planted phi, looked at after every input."""
    monkeypatch.setattr(membership_checker, "PHI_EVERY", 1)
    cluster = _cluster(3)
    cluster.run(5.0)
    silent = cluster.id_of("n2")
    cluster.simulator.crash("n2")
    given = iter(readings)
    last = [0.0]

    def phis(node: MembershipNode) -> dict[Any, float]:
        if node is not cluster.node("n0"):
            return {}
        last[0] = next(given, last[0])
        return {silent: last[0]}

    monkeypatch.setattr(MembershipNode, "phis", phis)
    # No view may change meanwhile, because a change begins phi anew.
    monkeypatch.setattr(cluster.checker, "_check_change", lambda node, change: None)

    def watch() -> None:
        for _ in range(40):
            for name in ("n0", "n1"):
                cluster.node(name).changes.clear()
            cluster.run(0.1)

    if is_good:
        watch()
    else:
        with pytest.raises(SimulationFailed, match="M8"):
            watch()


def test_a_verdict_about_a_running_node_is_false_and_one_about_a_dead_one_is_not() -> None:
    """The simulator knows who runs; a cut node counts as blamed if the scenario says so."""
    cluster = _cluster(5)
    cluster.simulator.crash("n4")
    cluster.run(30.0)
    assert cluster.verdicts.counts["dead"] == 4
    assert cluster.verdicts.counts["false_dead"] == 0
    cluster.verdicts.blamed.add("n3")
    cluster.simulator.partition(["n3"], ["n0", "n1", "n2"])
    cluster.run(60.0)
    counts = cluster.verdicts.counts
    assert counts["false_dead"] > counts["false_dead_healthy"]
    assert counts["false_dead_at_healthy"] == 0


def test_a_stalled_node_sends_nothing_after_its_first_packet_blocked_and_reads_what_came_when_it_goes_on() -> None:
    """Its probe loop stands still, its buffer fills, and everything is settled once it goes on."""
    cluster = _cluster(6, config=for_profile("lan", watchers=0, crash_evidence="off"), shell=StallNode)
    cluster.run(5.0)
    node = cluster.node("n0")
    cluster.simulator.inject("n0", STALL)
    cluster.run(3.0)
    assert isinstance(node, StallNode)
    assert node.is_blocked
    sent = node.packets_sent
    cluster.run(3.0)
    assert node.packets_sent == sent
    cluster.simulator.inject("n0", GO_ON)
    cluster.run(0.1)
    assert not node.is_blocked
    assert node.packets_sent > sent
    cluster.agree(30.0, "the stalled node is not back")


def test_the_lifeguard_table_has_every_variant_and_swim_is_worse_than_lifeguard() -> None:
    """A small cell of the experiment: equal seeds, all columns, and the effect that it is about."""
    result = run_scenario(24, 48.0, 2, "none")
    assert result.violations == []
    for variant in VARIANTS:
        for column in ("FP", "FP-", "own verdicts", "messages", "bytes", "first_s", "all_s"):
            assert result.figures[f"{variant}/{column}"], f"{variant}/{column}"
    # A cell without false verdicts, or with as many, shows nothing.
    assert result.figures["swim/FP"][0] > 0
    assert result.figures["lifeguard/FP"][0] < result.figures["swim/FP"][0]


def test_a_batch_that_never_reached_a_state_says_which_one() -> None:
    """The message names the state, and a small batch is let off."""
    scenario = Scenario(module="x", claim="y", must_reach=("pause", "death"), reach_seeds=10)
    assert scenario.missed(9, {}, {}) == []
    (text,) = scenario.missed(10, {"pause": 1}, {})
    assert text.startswith("10 seeds never reached death: ")
    assert "run more seeds" in text


def test_a_target_holds_a_statistic_or_a_ratio_to_its_limit() -> None:
    """A figure above its limit fails a batch, and so does one without samples; nothing on both sides is no excess."""
    figures = {"a_s": [1.0, 2.0, 9.0], "b_s": [2.0, 2.0, 2.0], "none": [0.0]}
    assert Target("a_s", "p50", 2.0).value(figures) == 2.0
    assert Target("a_s", "max", 8.0).value(figures) == 9.0
    assert Target("a_s", "sum", 2.0, per="b_s").value(figures) == 2.0
    assert Target("none", "sum", 2.0, per="none").value(figures) == 0.0
    assert Target("a_s", "sum", 2.0, per="none").value(figures) == math.inf
    scenario = Scenario(module="x", claim="y", targets=(Target("a_s", "max", 8.0), Target("a_s", "p50", 2.0)))
    assert scenario.missed(1, {}, figures) == ["max of a_s: 9, limit 8, 3 samples: MISSED"]
    assert len(scenario.missed(1, {}, {})) == 2


def test_a_percentile_is_a_sample_by_nearest_rank() -> None:
    """p50 of two is the smaller, p99 of few is the largest."""
    assert percentile([2.0, 1.0], 0.5) == 1.0
    assert percentile(range(1, 101), 0.99) == 99
    assert percentile([3.0], 0.99) == 3.0

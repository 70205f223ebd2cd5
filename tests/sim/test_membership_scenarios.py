"""Each membership scenario in short: its invariants hold, its targets are met and its rare states are reached."""

from __future__ import annotations

import importlib
from typing import NamedTuple

import pytest
from sim_seeds import first_seed

from frys_node.testing.catalogue import PLAN, SCENARIOS
from frys_node.testing.scenario import ScenarioResult, total


class Short(NamedTuple):
    """A batch that fits into the gate."""

    scenario: str
    nodes: int
    seconds: float
    seeds: int
    faults: str = "none"


SHORT = (
    Short("loss", 20, 60.0, 1, "loss20"),
    Short("loss", 12, 60.0, 1, "loss40"),
    Short("links", 10, 30.0, 20),
    Short("restarts", 7, 5.0, 4),
    Short("clocks", 7, 30.0, 2),
    Short("idle", 20, 600.0, 1, "lan"),
    Short("heal", 10, 40.0, 20),
    Short("flapping", 20, 40.0, 3),
    Short("rejects", 10, 5.0, 5),
    Short("hostloss", 20, 10.0, 3),
    Short("leave", 12, 2.0, 20),
    Short("join", 20, 5.0, 5),
    Short("insider", 7, 8.0, 3),
    Short("starved", 40, 45.0, 1),
    Short("scale", 250, 30.0, 1),
)
"""About 60 CPU-seconds."""

MEDIAN_SAMPLES_MIN = 20
"""Below, a median says next to nothing: a quarter of all hosts that vanish are known to be dead later than the median
may be, so in one of fifteen batches of nine so are most. What is lost counts in batches of any size."""


def _run(short: Short, seed: int) -> ScenarioResult:
    module = importlib.import_module(f"frys_node.testing.{SCENARIOS[short.scenario].module}")
    result: ScenarioResult = module.run_scenario(short.nodes, short.seconds, seed, short.faults)
    return result


@pytest.mark.seeds
@pytest.mark.slow
@pytest.mark.parametrize("short", SHORT, ids=lambda short: f"{short.scenario}-{short.faults}")
def test_a_short_batch_keeps_its_claim(short: Short) -> None:
    """No invariant breaks, no enforced figure is missed, and every state that the claim is about was reached."""
    start = first_seed()
    results = [_run(short, seed) for seed in range(start, start + short.seeds)]
    assert [violation for result in results for violation in result.violations] == []
    figures: dict[str, list[float]] = {}
    for result in results:
        for figure, samples in result.figures.items():
            figures.setdefault(figure, []).extend(samples)
    sometimes = total(result.sometimes for result in results)
    few = {figure for figure, samples in figures.items() if len(samples) < MEDIAN_SAMPLES_MIN}
    missed = SCENARIOS[short.scenario].missed(short.seeds, sometimes, figures)
    assert [text for text in missed if not any(text.startswith(f"p50 of {figure}:") for figure in few)] == []


@pytest.mark.parametrize(("nodes", "seconds", "seed"), [(8, 2.0, 781_711), (20, 5.0, 781_525)])
def test_everybody_hears_of_a_leave_that_gossip_alone_kept_from_one(nodes: int, seconds: float, seed: int) -> None:
    """One leave in a thousand missed one member, which called the leaver suspect: now each is told."""
    assert _run(Short("leave", nodes, seconds, 1), seed).violations == []


def test_every_membership_scenario_is_in_the_gate_and_in_the_plan() -> None:
    """A scenario that nobody runs rots."""
    planned = {entry.scenario for entry in PLAN}
    assert planned == set(SCENARIOS) - {"swarm"}
    in_gate = {short.scenario for short in SHORT}
    assert {name for name, scenario in SCENARIOS.items() if scenario.module.startswith("membership_")} == {
        *in_gate,
        "membership",
        "lifeguard",
    }


def test_the_plan_has_five_hundred_seeds_of_seven_to_a_hundred_nodes() -> None:
    """What `make sim` promises."""
    sizes = [(entry.nodes, entry.seeds) for entry in PLAN if entry.scenario == "membership"]
    assert all(nodes is not None and 7 <= nodes <= 100 for nodes, _ in sizes)
    assert sum(seeds for _, seeds in sizes) >= 500


@pytest.mark.parametrize(
    "short", [Short("links", 10, 20.0, 1), Short("starved", 20, 40.0, 1)], ids=lambda s: s.scenario
)
def test_equal_seeds_are_equal_runs(short: Short) -> None:
    """The digest of a scenario depends on its seed alone."""
    assert _run(short, 5).digest == _run(short, 5).digest != _run(short, 6).digest

"""The replication scenario in the gate: a batch of seeds that moves with the commit, old failures, determinism."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from sim_seeds import first_seed

from frys_node.testing.replication_scenario import run_scenario

SEEDS_FILE = Path(__file__).with_name("seeds_replication.txt")
SEEDS = 120
"""Seeds of one gate, about 35 CPU-seconds; `make sim` runs 10,000."""

SECONDS = 20.0
SOMETIMES = (
    "aborted",
    "asked_factor",
    "asked_hand_over",
    "asked_promote",
    "asked_remove",
    "clock_far_off",
    "copied_by_chunks",
    "copy_held_back",
    "dead_passed_over",
    "disk_refused",
    "ended_dark",
    "evicted",
    "log_removed",
    "purge_agreed",
    "refused_by_epoch",
    "refused_clock_drift",
    "refused_too_old",
    "restamped",
    "signed_joining",
    "signed_joint",
    "signed_stable",
    "taken_over",
    "tombstones_freed",
    "unit_lost",
)
FAULTS = (
    "crash",
    "crash_lost_unsynced",
    "crash_torn",
    "directed_cut",
    "disk_full",
    "duplicate",
    "late",
    "loss",
    "outage",
    "partition",
    "partition_one_way",
    "pause",
    "clock_step",
)


@pytest.mark.seeds
def test_a_batch_of_seeds_keeps_every_rule_and_reaches_every_rare_state() -> None:
    """Nothing acknowledged is lost or comes back, no fork, all converge; and the batch did hit what it is there for."""
    sometimes: Counter[str] = Counter()
    faults: Counter[str] = Counter()
    failed: list[str] = []
    for seed in range(first_seed(), first_seed() + SEEDS):
        result = run_scenario(7, SECONDS, seed, "chaos")
        sometimes.update(result.sometimes)
        faults.update(result.faults)
        failed += result.violations
    assert failed == []
    assert [name for name in SOMETIMES if not sometimes[name]] == []
    assert [name for name in FAULTS if not faults[name]] == []


def _old_failures() -> list[tuple[int, float, int, str]]:
    lines = [line.split() for line in SEEDS_FILE.read_text(encoding="utf-8").splitlines()]
    return [(int(f[0]), float(f[1]), int(f[2]), f[3]) for f in lines if f and not f[0].startswith("#")]


@pytest.mark.parametrize(("nodes", "seconds", "seed", "faults"), _old_failures())
def test_seeds_that_failed_once_pass(nodes: int, seconds: float, seed: int, faults: str) -> None:
    """Every seed that ever found a bug is run for ever."""
    assert run_scenario(nodes, seconds, seed, faults).violations == []


def test_one_seed_is_one_run_in_any_process() -> None:
    """The digest does not depend on the hash seed, crowded or not: nothing iterates a set where order matters."""
    code = (
        "from frys_node.testing.replication_scenario import run_scenario;"
        "print(*[run_scenario(7, 15.0, seed, 'chaos').digest for seed in (5, 17)])"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(digests) == 1
    assert digests != {""}


def test_without_faults_everything_is_answered() -> None:
    """On calm wires no request fails for want of a quorum, whatever joins and leaves."""
    for seed in range(5):
        result = run_scenario(6, SECONDS, seed, "none")
        assert result.violations == []
        directed = result.faults.get("directed_cut", 0)
        assert directed or not result.summary.get("failed", 0)

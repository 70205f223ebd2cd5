"""The gossip scenario: once each everywhere, under loss and partitions, and equal in any process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from frys_node.testing.catalogue import SCENARIOS
from frys_node.testing.gossip_scenario import run_scenario
from membership.catchup import CatchUp
from membership.events import Window
from membership.queries import _Pending
from membership.state import NodeState

ROOT = Path(__file__).resolve().parents[2]

MUST_REACH = SCENARIOS["gossip"].must_reach


@pytest.mark.parametrize(("nodes", "seconds", "faults"), [(1, 10.0, "chaos"), (2, 20.0, "none"), (20, 20.0, "none")])
def test_events_and_state_reach_everybody_with_a_fifth_of_the_packets_lost(
    nodes: int, seconds: float, faults: str
) -> None:
    """Every event exactly once at each node, every state as put, every query answered; also across a partition."""
    result = run_scenario(nodes, seconds, 1, faults)
    assert result.violations == []
    assert nodes == 1 or result.faults["loss"] > 0


def test_the_run_depends_on_the_seed_alone() -> None:
    """Two processes with different hash seeds give the same digest."""
    code = (
        "from frys_node.testing.gossip_scenario import run_scenario as run;"
        "r = run(7, 20.0, 7, 'chaos'); print(r.digest, r.events, r.violations)"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        ).stdout
        for hash_seed in ("0", "4242")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].rstrip().endswith("[]")


@pytest.mark.seeds
@pytest.mark.slow
def test_a_batch_holds_every_invariant_and_meets_rare_states() -> None:
    """7 nodes, many seeds and profiles."""
    reached: Counter[str] = Counter()
    for seed in range(12):
        result = run_scenario(7, 30.0, seed, ("chaos", "lossy", "none")[seed % 3])
        assert result.violations == []
        reached.update(result.sometimes)
    assert [state for state in MUST_REACH if not reached[state]] == []


@pytest.mark.seeds
@pytest.mark.slow
def test_a_hundred_nodes_hear_each_event_once_with_a_fifth_of_the_packets_lost() -> None:
    """Where gossip needs several rounds and packets fill up."""
    assert run_scenario(100, 8.0, 1, "none").violations == []


def _violations() -> str:
    """Run seeds until one fails; returns what it says."""
    for seed in range(10):
        result = run_scenario(5, 20.0, seed, "none")
        if result.violations:
            return result.violations[0]
    return ""


def test_the_checker_finds_a_second_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: whatever is heard is news (G1)."""
    monkeypatch.setattr(Window, "take", lambda self, sequence: True)
    assert "twice" in _violations()


def test_the_checker_finds_missing_repair(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: nobody sends another what it lacks (G2, G3)."""
    monkeypatch.setattr(CatchUp, "meet", lambda self, theirs, now_s: None)
    assert "not everybody" in _violations()


def test_the_checker_finds_a_gap_that_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: a delta that leaves out the oldest change it owes claims to be whole (G3)."""
    original = NodeState.delta

    def forgetful(self: NodeState, node: object, since: int) -> object:
        delta = original(self, node, since)  # type: ignore[arg-type]
        return delta.__class__(delta.node, delta.boot, delta.since, delta.floor, delta.version, delta.entries[1:])

    monkeypatch.setattr(NodeState, "delta", forgetful)
    assert "does not read" in _violations()


def test_the_checker_finds_a_question_that_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: nobody is reminded, and packets get lost (G4)."""
    monkeypatch.setattr(_Pending, "to_remind", lambda self: [])
    assert "G4" in _violations()

"""The membership scenario: equal digests in any process, committed seeds, and a rotating batch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import msgspec
import pytest
from sim_seeds import SEED_BASE, first_seed

from frys_node.base.types import NodeId
from frys_node.testing import membership_scenario
from frys_node.testing.catalogue import SCENARIOS
from frys_node.testing.membership_scenario import run_scenario
from membership import machine
from membership.claims import Claims
from membership.hearing import Hearing
from membership.messages import Packet, Standing, Update
from membership.suspicion import Suspicion
from membership.table import Table

ROOT = Path(__file__).resolve().parents[2]
SEEDS_FILE = Path(__file__).with_name("seeds_membership.txt")
PROFILES = ("chaos", "partitions", "crashes", "lossy", "lan", "none")

SMALL_SEEDS = 120
"""Seeds of 7 nodes in the gate, about 50 CPU-seconds."""

LARGE_SEEDS = 2
"""Seeds of 100 nodes in the gate, about 20 CPU-seconds."""


def committed_seeds() -> list[tuple[int, float, int, str]]:
    """Return every seed that once failed."""
    lines = [line.split() for line in SEEDS_FILE.read_text().splitlines() if line and not line.startswith("#")]
    return [(int(nodes), float(seconds), int(seed), faults) for nodes, seconds, seed, faults in lines]


def batch(count: int) -> Iterator[tuple[int, str]]:
    """Yield seeds with their profiles in turn."""
    start = first_seed()
    return ((seed, PROFILES[seed % len(PROFILES)]) for seed in range(start, start + count))


def test_the_batches_of_a_commit_can_be_begun_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One variable for all of them, the gate's; without it the commit says where, and what is no number is refused."""
    gate = (ROOT / ".ci" / "gate.py").read_text()
    assert f'"{SEED_BASE}": os.environ.get("{SEED_BASE}", seed)' in gate
    monkeypatch.setenv(SEED_BASE, "12000345")
    assert first_seed() == 345
    assert next(batch(1))[0] == 345
    monkeypatch.setenv(SEED_BASE, "b8c9363")
    with pytest.raises(ValueError, match="SIM_SEED_BASE=123456"):
        first_seed()
    monkeypatch.delenv(SEED_BASE)
    assert first_seed() == first_seed()


@pytest.mark.seeds
@pytest.mark.parametrize(("nodes", "seconds", "seed", "faults"), committed_seeds())
def test_seed_that_once_failed_passes(nodes: int, seconds: float, seed: int, faults: str) -> None:
    """Each bug that the simulator ever found stays fixed."""
    assert run_scenario(nodes, seconds, seed, faults).violations == []


def test_digest_is_the_same_in_two_processes_with_different_hash_seeds() -> None:
    """100 nodes, 60 s, seed 7: the run depends on the seed alone, not on the process or its hash seed."""
    code = (
        "from frys_node.testing.membership_scenario import run_scenario as run;"
        "r = run(100, 60.0, 7, 'chaos'); print(r.digest, r.events, r.violations)"
    )
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for hash_seed in ("0", "4242")
    ]
    outputs = [process.communicate()[0] for process in runs]
    assert outputs[0] == outputs[1]
    assert outputs[0].rstrip().endswith("[]")


def test_another_seed_is_another_run() -> None:
    """The digest sees what happens."""
    assert run_scenario(3, 20.0, 1, "chaos").digest != run_scenario(3, 20.0, 2, "chaos").digest


@pytest.mark.seeds
@pytest.mark.slow
def test_rotating_batch_of_small_clusters_holds_every_invariant_and_meets_rare_states() -> None:
    """7 nodes under each profile: M1-M9 hold, and the batch reached every state that it must reach."""
    reached: Counter[str] = Counter()
    for seed, faults in batch(SMALL_SEEDS):
        result = run_scenario(7, 60.0, seed, faults)
        assert result.violations == []
        reached.update(result.sometimes)
    assert SCENARIOS["membership"].missed(SMALL_SEEDS, reached, {}) == []


@pytest.mark.seeds
@pytest.mark.slow
def test_rotating_batch_of_large_clusters_holds_every_invariant() -> None:
    """100 nodes: the same, where gossip needs several rounds and packets fill up."""
    for seed, faults in batch(LARGE_SEEDS):
        assert run_scenario(100, 60.0, seed, faults).violations == []


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_smallest_clusters_pass_too(nodes: int) -> None:
    """Nobody to ask for help, nobody to confirm, nobody at all."""
    for seed, faults in islice(batch(1_000), 6):
        assert run_scenario(nodes, 40.0, seed, faults).violations == []


def _violations(faults: str = "partitions") -> str:
    """Run seeds until one fails; returns what it says."""
    for seed in range(40):
        result = run_scenario(5, 60.0, seed, faults)
        if result.violations:
            return result.violations[0]
    return ""


def test_checker_finds_a_missing_refutation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: accusations of oneself are ignored (M3)."""
    monkeypatch.setattr(Hearing, "answer", lambda self, update, now_s: None)
    assert "M3" in _violations()


def test_checker_finds_a_missing_refutation_of_a_brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: accusations of oneself that come without attributes are ignored (M3)."""
    original = machine.unfold

    def unfold(message: Packet, table: Table, own: NodeId) -> tuple[Sequence[Update], bool]:
        others = tuple(brief for brief in message.briefs if brief.node != own)
        return original(msgspec.structs.replace(message, briefs=others), table, own)

    monkeypatch.setattr(machine, "unfold", unfold)
    assert "M3" in _violations("chaos")


def test_checker_finds_a_forged_incarnation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: whoever accuses raises the incarnation of the accused (M4)."""
    original = Claims.merge

    def merge(self: Claims, update: Update, now_s: float, **how: bool) -> object:
        if update.standing is Standing.DEAD and update.node != self.node:
            attributes = update.attributes
            update = Update(update.node, update.boot, update.incarnation + 1, update.standing, attributes)
        return original(self, update, now_s, **how)

    monkeypatch.setattr(Claims, "merge", merge)
    assert "M4" in _violations()


def test_checker_finds_suspicions_that_never_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: nobody is ever declared dead (M1)."""
    monkeypatch.setattr(Suspicion, "deadline_s", lambda self, expected, watchers, patience: 1e12)
    assert "M1" in _violations("none")


def test_checker_finds_false_suspicions(monkeypatch: pytest.MonkeyPatch) -> None:
    """A planted bug: an ack timeout below the round trip accuses healthy members (M2)."""
    profile = membership_scenario.for_profile
    monkeypatch.setattr(
        membership_scenario,
        "for_profile",
        lambda name, **changes: profile(name, **{**changes, "probe_interval_s": 0.001, "ack_timeout_s": 0.0005}),
    )
    assert "M2" in _violations("none")

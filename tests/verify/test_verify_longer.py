"""The sections that only `make verify` runs: smaller here, and they see what is planted."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import fuzz
import pytest
from verify_decoders import HARNESSES, decoders
from verify_flood import floods
from verify_machines import machines

from frys_node.bench import flood
from frys_node.secure.replay import ReplayWindow


def test_a_window_that_forgets_is_found_by_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's error and the steps to it are told; every step before it was counted."""
    window, keys = machines(window_runs=20, key_runs=2)
    assert (window.wrong, keys.wrong) == ([], [])
    assert window.tried > 20
    assert keys.tried > 2
    monkeypatch.setattr(ReplayWindow, "is_new", lambda self, counter: True)
    assert "AssertionError" in machines(window_runs=20, key_runs=1)[0].wrong[0]


def _ran(name: str, folder: Path, inputs: int, _seconds: int, _seed: int) -> fuzz.Row:
    folder.mkdir()
    (folder / "log").write_text("a planted crash\n")
    return fuzz.Row(name, 77 if name == "tokens" else 0, inputs, 1, 2, 0.1)


def test_a_harness_that_ends_badly_is_a_finding() -> None:
    """It is named with the end of its log, and inputs are counted for each of the harnesses, which all exist."""
    tallies = decoders(_ran, inputs=7)
    assert [tally.tried for tally in tallies] == [7] * len(HARNESSES)
    (wrong,) = [text for tally in tallies for text in tally.wrong]
    assert "ended with 77" in wrong
    assert "a planted crash" in wrong
    assert set(HARNESSES) <= set(fuzz.NAMES)


def test_decoders_are_not_skipped_in_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without atheris the section cannot run, which fails a whole run."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ModuleNotFoundError, match="make verify brings it"):
        decoders()


def test_a_peers_calls_are_answered_beside_a_small_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of every kind of junk, joiners too; what its p99 came to is told; a node that does not come up is a finding."""
    (tally,) = floods(80)
    assert (tally.wrong, tally.tried) == ([], 80)
    told = tally.as_dict()["figures"]
    assert isinstance(told, dict)
    assert told["p99_beside_to_before"] == pytest.approx(told["p99_beside_ms"] / told["p99_before_ms"], abs=0.1)
    assert f"p99 is {told['p99_beside_to_before']:.1f} times what it was before" in tally.notes[-1]
    monkeypatch.setattr(flood, "create_cluster", lambda *_arguments, **_named: None)
    (tally,) = floods(80)
    assert "did not all succeed" in tally.wrong[0]

"""The verification in the gate: each section finds nothing that is not explained, and enough was tried."""

from __future__ import annotations

import importlib.util
import os

import pytest
from verify_answers import folder
from verify_sections import GATE_LEAST, LEAST, SECTIONS, shortfalls
from verify_tally import Tally, timed

GATE = [name for name, section in SECTIONS.items() if section.is_in_gate]

_DONE: dict[str, list[Tally]] = {}


def _run(name: str) -> list[Tally]:
    """Run a section once in this process."""
    if name == "answers" and folder() is None and not os.environ.get("CI"):
        pytest.skip("known answers are missing: put them into ../shared/kat, or name their folder in FRYS_KAT_DIR")
    if name == "models" and importlib.util.find_spec("maude") is None and not os.environ.get("CI"):
        pytest.skip("maude is missing: pip install -e '.[verify]'")
    if name not in _DONE:
        _DONE[name] = timed(SECTIONS[name])
    return _DONE[name]


@pytest.mark.parametrize("name", GATE)
def test_nothing_is_accepted_that_is_not_explained(name: str) -> None:
    """Vectors answer as published, mutants and replays are refused, attacks on broken models are found."""
    tallies = _run(name)
    assert {tally.section: tally.wrong for tally in tallies if tally.wrong} == {}
    assert shortfalls(tallies, {}) == []


def test_as_much_is_tried_as_is_promised() -> None:
    """Vectors, mutants, replays, downgrades, provider rounds, states and broken variants, in every gate."""
    tallies = [tally for name in GATE for tally in _run(name)]
    assert shortfalls(tallies, GATE_LEAST) == []
    assert set(GATE_LEAST) == {tally.unit for tally in tallies}


@pytest.mark.parametrize("unit", LEAST)
def test_a_kind_that_was_not_tried_is_missed(unit: str) -> None:
    """Each unit has a minimum of its own, and a section that tried nothing is named whatever it notes."""
    tallies = [Tally(other, other) for other in LEAST]
    for tally in tallies:
        tally.tried = LEAST[tally.unit]
    assert shortfalls(tallies) == []
    lazy = next(tally for tally in tallies if tally.unit == unit)
    lazy.tried -= 1
    assert shortfalls(tallies) == [f"{LEAST[unit] - 1} {unit}, fewer than {LEAST[unit]}"]
    lazy.tried = 0
    lazy.notes.append("it was raining")
    assert f"nothing was tried: {unit}" in shortfalls(tallies, {})


def test_a_list_of_deviations_is_exact() -> None:
    """One that is not listed is a finding, and so is one that is listed and has gone."""
    tally = Tally("x", "vectors")
    tally.settle("vector", {1, 2}, {2, 3}, "why")
    assert tally.explained == {"why": 1}
    assert tally.wrong == [
        "vector 1: deviates, and is not in the list",
        "vector 3: is listed and deviates no more",
    ]

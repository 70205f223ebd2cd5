"""The verification in the gate: each section finds nothing that is not explained, and enough was tried."""

from __future__ import annotations

import importlib.util
import os

import pytest
from verify_answers import folder
from verify_sections import LEAST, SECTIONS, shortfalls
from verify_tally import Tally, timed

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


@pytest.mark.parametrize("name", SECTIONS)
def test_nothing_is_accepted_that_is_not_explained(name: str) -> None:
    """Vectors answer as published, mutants and replays are refused, attacks on broken models are found."""
    tallies = _run(name)
    assert {tally.section: tally.wrong for tally in tallies if tally.wrong} == {}
    assert all(tally.tried or tally.notes for tally in tallies)


def test_as_much_is_tried_as_is_promised() -> None:
    """At least 1,500 vectors, 14,000 mutants and 20,000 replays in every gate."""
    tallies = [tally for name in SECTIONS for tally in _run(name)]
    assert shortfalls(tallies) == []
    assert set(LEAST) >= {tally.unit for tally in tallies if tally.tried}


def test_a_list_of_deviations_is_exact() -> None:
    """One that is not listed is a finding, and so is one that is listed and has gone."""
    tally = Tally("x", "vectors")
    tally.settle("vector", {1, 2}, {2, 3}, "why")
    assert tally.explained == {"why": 1}
    assert tally.wrong == [
        "vector 1: deviates, and is not in the list",
        "vector 3: is listed and deviates no more",
    ]

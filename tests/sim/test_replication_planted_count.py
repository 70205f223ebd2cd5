"""How many errors are planted in the replication scenario is what the documents say."""

from __future__ import annotations

import re
from pathlib import Path

import test_replication_planted as data
import test_replication_planted_floors as floors
import test_replication_planted_recovery as recovery
import test_replication_planted_topology as topology

ROOT = Path(__file__).parents[2]


def test_the_documents_say_how_many_errors_are_planted_under_named_seeds() -> None:
    """Each has a name of its own; the number in docs/simulation.md is theirs."""
    names = [name for module in (data, floors, recovery, topology) for name in module.PLANTED]
    assert len(names) == len(set(names))
    text = " ".join((ROOT / "docs/simulation.md").read_text(encoding="utf-8").split())
    assert re.findall(r"(\d+) of them are planted in", text) == [str(len(names))]

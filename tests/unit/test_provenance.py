"""Which code a scenario's results stand for."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from frys_node.testing import provenance
from frys_node.testing.provenance import code_digest

FILES = {
    "__init__.py": "",
    "scenario.py": "from provenance_sample import machine\n",
    "machine.py": "def run():\n    from provenance_sample.late import go\n",
    "late.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import provenance_sample.types_only\n",
    "types_only.py": "",
    "other.py": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of ours, on the path for one test."""
    root = tmp_path / "provenance_sample"
    root.mkdir()
    for name, text in FILES.items():
        (root / name).write_text(text, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(provenance, "PACKAGES", frozenset({"provenance_sample"}))
    return root


def _digest() -> str:
    for found in (provenance._imports_of, provenance._file_of):
        found.cache_clear()
    for name in [name for name in sys.modules if name.startswith("provenance_sample")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    return code_digest("provenance_sample.scenario")


@pytest.mark.parametrize("name", ["__init__.py", "scenario.py", "machine.py", "late.py"])
def test_a_change_in_what_a_scenario_loads_even_late_gives_another_digest(package: Path, name: str) -> None:
    """Imports are followed through packages, modules and functions."""
    before = _digest()
    (package / name).write_text(FILES[name] + "# changed\n", encoding="utf-8")
    assert _digest() != before


@pytest.mark.parametrize("name", ["types_only.py", "other.py"])
def test_a_change_in_what_a_scenario_never_runs_leaves_its_results_valid(package: Path, name: str) -> None:
    """What is imported for types alone, or not at all, does not count."""
    before = _digest()
    (package / name).write_text("# changed\n", encoding="utf-8")
    assert _digest() == before

"""The page on security names what shows each of its claims, and nothing that is not there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "security.md"
TESTED = re.compile(r"`test_\w+\.py`|`tests/|model `|`make fuzz`|simulation")


def _rows(heading: str) -> list[list[str]]:
    part = PAGE.read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in part.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_each_attacker_has_a_defence_and_a_test() -> None:
    """Three cells, the last of which names tests, models or simulations."""
    rows = _rows("Attackers")
    assert len(rows) > 20
    assert [row for row in rows if len(row) != 3 or not TESTED.search(row[2])] == []


def test_every_test_that_the_page_names_is_there() -> None:
    """By the name of its file, or by its folder."""
    names = set(re.findall(r"`(test_\w+\.py)`", PAGE.read_text()))
    there = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    assert sorted(names - there) == []
    assert [
        folder for folder in re.findall(r"`(tests/[\w/]+)`", PAGE.read_text()) if not (ROOT / folder).is_dir()
    ] == []

"""What a section of the verification tried, what of it was explained beforehand, and what was not."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import NamedTuple

WRONG_SHOWN_MAX = 5
"""Findings of one section that are printed; the rest is counted."""

HEADER = ("SECTION", "UNIT", "TRIED", "EXPLAINED", "WRONG", "CPU s")
WIDTHS = (42, 9, 8, 10, 6, 6)


class Tally:
    """Counts of one section."""

    def __init__(self, section: str, unit: str) -> None:
        self.section = section
        self.unit = unit
        """What is counted: vectors, mutants, packets..."""
        self.tried = 0
        self.explained: dict[str, int] = {}
        """How often something deviated as was written down beforehand, by the reason."""
        self.wrong: list[str] = []
        """What nothing explains; anything here fails the run."""
        self.notes: list[str] = []
        self.figures: dict[str, float] = {}
        """What was measured on the way, for the report: a busy machine would make a bound of it lie."""
        self.cpu_s = 0.0

    def check(self, holds: bool, what: str) -> None:
        """Count one try; name it if it went wrong."""
        self.tried += 1
        if not holds:
            self.wrong.append(what)

    def explain(self, reason: str, count: int = 1) -> None:
        """Count a deviation that is in the section's list."""
        self.explained[reason] = self.explained.get(reason, 0) + count

    def settle(self, what: str, found: Iterable[object], expected: Iterable[object], reason: str) -> None:
        """Compare deviations with their list, which is exact: one that is missing is as wrong as one too many."""
        seen, listed = set(found), set(expected)
        self.explain(reason, len(seen & listed))
        self.wrong += [f"{what} {item}: deviates, and is not in the list" for item in sorted(seen - listed, key=repr)]
        self.wrong += [f"{what} {item}: is listed and deviates no more" for item in sorted(listed - seen, key=repr)]

    def as_dict(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "section": self.section,
            "unit": self.unit,
            "tried": self.tried,
            "explained": self.explained,
            "wrong": self.wrong,
            "notes": self.notes,
            "figures": self.figures,
            "cpu_s": round(self.cpu_s, 3),
        }

    def lines(self) -> list[str]:
        """Return the line of the table, then findings and notes."""
        cells = (self.section, self.unit, self.tried, sum(self.explained.values()), len(self.wrong))
        found = [f"    WRONG {text}" for text in self.wrong[:WRONG_SHOWN_MAX]]
        if len(self.wrong) > WRONG_SHOWN_MAX:
            found.append(f"    ... and {len(self.wrong) - WRONG_SHOWN_MAX} more")
        return [row((*cells, f"{self.cpu_s:.1f}")), *found, *(f"    {note}" for note in self.notes)]


class Section(NamedTuple):
    """A part of the verification by its name."""

    name: str
    run: Callable[[], list[Tally]]
    is_in_gate: bool = True
    """False: only `make verify` runs it, for what it tries is in the gate in another form."""


def row(cells: Iterable[object]) -> str:
    """Return one line of the table: the first two cells to the left, numbers to the right."""
    texts = [str(cell) for cell in cells]
    parts = [text.ljust(width) for text, width in zip(texts[:2], WIDTHS[:2], strict=True)]
    return " ".join(parts + [text.rjust(width) for text, width in zip(texts[2:], WIDTHS[2:], strict=True)]).rstrip()


def _cpu_s() -> float:
    """CPU of this process and of those that it has waited for."""
    taken = os.times()
    return taken.user + taken.system + taken.children_user + taken.children_system


def timed(section: Section) -> list[Tally]:
    """Run a section; its CPU seconds are shared among its tallies by what each tried."""
    begun = _cpu_s()
    tallies = section.run()
    spent = _cpu_s() - begun
    tried = sum(tally.tried for tally in tallies) or 1
    for tally in tallies:
        tally.cpu_s = tally.cpu_s or spent * tally.tried / tried
    return tallies

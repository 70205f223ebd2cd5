"""What the membership benchmark has measured: kept in a file after every round, continued from it, shown as a table."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from frys_node.base.errors import FrysError
from frys_node.bench.membership_rig import OURS, SERF
from frys_node.bench.membership_rounds import Sample, Samples

FORMAT = 1
TAIL_MIN = 100
"""With fewer rounds than this the 99th percentile is the maximum, and is called so."""


class ResultsDiffer(FrysError):
    """The file holds figures of other versions or of another kind. It is left as it is."""

    code = "bench.results_differ"


class Metric(NamedTuple):
    """One figure of a scenario."""

    key: str
    title: str
    unit: str
    p50_max: float | None = None
    """Goal for the median of ours."""
    tail_max: float | None = None
    """Goal for the 99th percentile (or the maximum) of ours."""

    @property
    def goal(self) -> str:
        """The goal in words."""
        if self.p50_max is not None and self.p50_max == self.tail_max:
            return f"<= {self.p50_max:g}" if self.p50_max else "0"
        parts = [
            f"{name} <= {value:g}"
            for name, value in (("p50", self.p50_max), ("p99", self.tail_max))
            if value is not None
        ]
        return ", ".join(parts)


class Round(msgspec.Struct, frozen=True, kw_only=True):
    """One round of one scenario, both sides."""

    samples: dict[str, dict[str, float | None]]
    load: float
    """Load average of one minute at its end."""


class Results(msgspec.Struct, kw_only=True):
    """Everything measured so far."""

    format: int = FORMAT
    machine: dict[str, Any] = {}
    versions: dict[str, str] = {}
    rounds: dict[str, list[Round]] = {}
    failures: dict[str, list[str]] = {}
    """Rounds that did not count, by scenario: why."""
    not_run: dict[str, str] = {}
    """Scenarios without all their rounds: why."""

    def add(self, scenario: str, samples: Samples, load: float) -> None:
        """Take in a round."""
        self.rounds.setdefault(scenario, []).append(Round(samples=samples, load=round(load, 2)))

    def count(self, scenario: str) -> int:
        """Return how many rounds of a scenario there are."""
        return len(self.rounds.get(scenario, []))

    def samples(self, scenario: str, label: str) -> list[Sample]:
        """Return one side's samples of a scenario."""
        return [each.samples[label] for each in self.rounds.get(scenario, []) if label in each.samples]

    def load_span(self, scenario: str) -> tuple[float, float]:
        """Return the lowest and highest load average seen."""
        loads = [each.load for each in self.rounds.get(scenario, [])]
        return min(loads, default=0.0), max(loads, default=0.0)


def read(path: Path, versions: dict[str, str]) -> Results | None:
    """Return what a file holds, or nothing if it is not there.

    Raises:
        ResultsDiffer: It is damaged, or its figures are those of other versions.
    """
    if not path.exists():
        return None
    try:
        results = msgspec.json.decode(path.read_bytes(), type=Results)
    except msgspec.DecodeError as error:
        raise ResultsDiffer(f"{path} holds no results: {error}", hint="name another file with --out") from error
    if results.format != FORMAT or results.versions != versions:
        found = ", ".join(results.versions.values())
        raise ResultsDiffer(
            f"{path} holds figures of {found or 'nothing'}, this is {', '.join(versions.values())}",
            hint="remove it, or name another file with --out",
        )
    return results


def write(path: Path, results: Results) -> None:
    """Replace the file as a whole: a run that is ended in between loses no round."""
    fresh = path.with_name(path.name + ".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1))
    os.replace(fresh, path)


class Spread(NamedTuple):
    """Median, 99th percentile and how many rounds saw the thing happen."""

    p50: float
    tail: float
    seen: int
    rounds: int

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """Summarise; a thing that did not happen in time is later than all others. None without any round."""
        if not values:
            return None
        ordered = sorted(math.inf if value is None else value for value in values)
        count = len(ordered)
        middle = (ordered[(count - 1) // 2] + ordered[count // 2]) / 2
        tail = ordered[min(count, math.ceil(count * 0.99)) - 1]
        return cls(middle, tail, sum(value is not None for value in values), count)

    @property
    def tail_name(self) -> str:
        """What the tail is."""
        return "p99" if self.rounds >= TAIL_MIN else "max"


class Row(NamedTuple):
    """One metric of one scenario, both sides."""

    scenario: str
    metric: Metric
    ours: Spread | None
    serf: Spread | None
    load: tuple[float, float]

    @property
    def ratio(self) -> float | None:
        """Ours over serf's, of the medians."""
        if self.ours is None or self.serf is None or not self.serf.p50:
            return None
        if math.isinf(self.ours.p50) or math.isinf(self.serf.p50):
            return None
        return self.ours.p50 / self.serf.p50

    @property
    def held(self) -> bool | None:
        """True if ours reaches the goal; None without a goal or a figure."""
        if self.ours is None or not self.metric.goal:
            return None
        is_middle = self.metric.p50_max is None or self.ours.p50 <= self.metric.p50_max
        return is_middle and (self.metric.tail_max is None or self.ours.tail <= self.metric.tail_max)

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the table."""
        ratio = "" if self.ratio is None else f"{self.ratio:.2f}"
        held = {True: "yes", False: "NO", None: ""}[self.held]
        ours, serf = _cells(self.ours), _cells(self.serf)
        load = f"{self.load[0]:.1f}-{self.load[1]:.1f}"
        return (self.scenario, self.metric.title, self.metric.unit, *ours, *serf, ratio, self.metric.goal, held, load)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "scenario": self.scenario,
            "metric": self.metric.key,
            "title": self.metric.title,
            "unit": self.metric.unit,
            OURS: _plain(self.ours),
            SERF: _plain(self.serf),
            "ratio": self.ratio,
            "goal": self.metric.goal,
            "held": self.held,
            "load": list(self.load),
        }


HEADER = (
    "SCENARIO",
    "FIGURE",
    "UNIT",
    "OURS p50",
    "max/p99",
    "n",
    "SERF p50",
    "max/p99",
    "n",
    "RATIO",
    "GOAL",
    "HELD",
    "LOAD",
)


def _cells(spread: Spread | None) -> tuple[str, str, str]:
    if spread is None or not spread.seen:
        return "-", "-", "" if spread is None else f"0/{spread.rounds}"
    count = str(spread.rounds) if spread.seen == spread.rounds else f"{spread.seen}/{spread.rounds}"
    return _number(spread.p50), _number(spread.tail), count


def _number(value: float) -> str:
    if math.isinf(value):
        return "never"
    return f"{value:.0f}" if value >= 100 or value == int(value) else f"{value:.2f}"


def _plain(spread: Spread | None) -> dict[str, Any] | None:
    if spread is None:
        return None
    return {
        "p50": None if math.isinf(spread.p50) else spread.p50,
        spread.tail_name: None if math.isinf(spread.tail) else spread.tail,
        "seen": spread.seen,
        "rounds": spread.rounds,
    }


def rows(results: Results, scenario: str, metrics: Sequence[Metric]) -> list[Row]:
    """Return the rows of a scenario, one for each metric."""
    found = []
    for metric in metrics:
        sides = []
        for label in (OURS, SERF):
            values = [sample[metric.key] for sample in results.samples(scenario, label) if metric.key in sample]
            sides.append(Spread.of(values))
        if any(sides):
            found.append(Row(scenario, metric, sides[0], sides[1], results.load_span(scenario)))
    return found


def as_json(results: Results, table: Sequence[Row]) -> str:
    """Return everything but the single rounds, which are in the file."""
    body = {
        "machine": results.machine,
        "versions": results.versions,
        "rows": [row.as_dict() for row in table],
        "failures": results.failures,
        "not_run": results.not_run,
    }
    return json.dumps(body, indent=2)

"""What a simulated scenario returns, and what it raises when an invariant breaks.

Sans-I/O. A scenario is a module of this package with ``run_scenario(nodes: int, seconds: float, seed: int, faults: str)
-> ScenarioResult``, and a line in `frys_node.testing.catalogue` that says what a batch of its seeds must show.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from frys_node.base.errors import FrysError


class Replay(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides a run."""

    scenario: str
    nodes: int
    seconds: float
    seed: int
    faults: str

    def command(self) -> str:
        """The one command that runs it again."""
        return (
            f"frys-node sim --scenario {self.scenario} --nodes {self.nodes} --seconds {self.seconds:g}"
            f" --seed {self.seed} --faults {self.faults}"
        )


class SimulationFailed(FrysError):
    """An invariant broke in a simulated run, or a machine raised. Nothing real was touched."""

    code = "sim.failed"

    def __init__(self, message: str = "", *, replay: Replay, at_s: float = 0.0, tail: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint=f"replay: {replay.command()}")
        self.replay = replay
        self.at_s = at_s
        self.tail = tail

    @property
    def seed(self) -> int:
        """The failing seed."""
        return self.replay.seed

    @property
    def scenario(self) -> str:
        """The failing scenario."""
        return self.replay.scenario

    @property
    def profile(self) -> str:
        """Name of the fault profile."""
        return self.replay.faults

    def replay_command(self) -> str:
        """The one command that runs it again."""
        return self.replay.command()

    def __str__(self) -> str:
        return f"{self.message} (at {self.at_s:.6f} s of seed {self.seed}); replay: {self.replay_command()}"


class ScenarioResult(msgspec.Struct, frozen=True, kw_only=True):
    """What one run did and found. It passed if `violations` is empty."""

    scenario: str
    nodes: int
    seconds: float
    """Simulated seconds."""
    seed: int
    faults_profile: str = ""
    digest: str
    events: int
    faults: dict[str, int]
    """Injected faults by class."""
    sometimes: dict[str, int] = {}
    """How often rare states were reached."""
    violations: list[str] = []
    wall_s: float = 0.0
    """Real seconds; the only field that differs between two runs of one seed."""
    summary: dict[str, Any] = {}
    """What the run says of itself, for people."""
    figures: dict[str, list[float]] = {}
    """Samples of what was measured; a batch joins those of all its seeds and holds them to its targets."""

    @property
    def passed(self) -> bool:
        """True if no invariant broke."""
        return not self.violations


class RunScenario(Protocol):
    """The entry point of a scenario's module."""

    def __call__(self, nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
        """Run one seed; broken invariants come back in `violations`, never as an exception."""
        ...


def percentile(samples: Iterable[float], share: float) -> float:
    """Return the sample below which `share` (0-1) of them lie, by nearest rank; NaN without samples."""
    ordered = sorted(samples)
    if not ordered:
        return math.nan
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


_STATISTICS: dict[str, Callable[[Sequence[float]], float]] = {
    "p50": lambda samples: percentile(samples, 0.50),
    "p99": lambda samples: percentile(samples, 0.99),
    "max": max,
    "mean": lambda samples: sum(samples) / len(samples),
    "sum": sum,
}


class Target(msgspec.Struct, frozen=True):
    """A figure that a batch must reach."""

    figure: str
    """Name in `ScenarioResult.figures`."""
    statistic: str
    """``p50``, ``p99``, ``max``, ``mean`` or ``sum`` over the samples of all seeds."""
    limit: float
    """The statistic must not be above this."""
    per: str = ""
    """Another figure, whose statistic it is divided by."""

    @property
    def name(self) -> str:
        """What is held to the limit."""
        return f"{self.statistic} of {self.figure}" + (f" / {self.per}" if self.per else "")

    def value(self, figures: Mapping[str, Sequence[float]]) -> float:
        """Return the statistic, NaN without samples."""
        statistic, samples = _STATISTICS[self.statistic], figures.get(self.figure, ())
        if not samples:
            return math.nan
        if not self.per:
            return float(statistic(samples))
        own, base = float(statistic(samples)), float(statistic(figures.get(self.per, ()) or (0.0,)))
        if base:
            return own / base
        # Nothing on both sides is no excess; something against nothing is more than any limit.
        return math.inf if own else 0.0

    def verdict(self, figures: Mapping[str, Sequence[float]]) -> str:
        """Return the figure, its limit and whether it holds, in a few words."""
        value = self.value(figures)
        word = "reached" if value <= self.limit else "MISSED"
        if math.isnan(value):
            word = "MISSED: no samples"
        return f"{value:.4g}, limit {self.limit:g}, {len(figures.get(self.figure, ()))} samples: {word}"


class Scenario(msgspec.Struct, frozen=True, kw_only=True):
    """What one scenario is and what a batch of its seeds must show."""

    module: str
    """Below `frys_node.testing`."""
    claim: str
    """What holds if it passes, in one line."""
    nodes: int = 7
    seconds: float = 60.0
    faults: str = "none"
    must_reach: tuple[str, ...] = ()
    """Rare states that a batch of at least `reach_seeds` must have met, or it has proven nothing about them."""
    reach_seeds: int = 20
    targets: tuple[Target, ...] = ()
    sums: tuple[str, ...] = ()
    """Figures whose sum over the batch says how much was judged."""

    def missed(self, seeds: int, sometimes: Mapping[str, int], figures: Mapping[str, Sequence[float]]) -> list[str]:
        """Return why a batch of so many seeds fails as a whole: states not reached, figures missed."""
        found = []
        unmet = [state for state in self.must_reach if not sometimes.get(state)]
        if seeds >= self.reach_seeds and unmet:
            found.append(
                f"{seeds} seeds never reached {', '.join(unmet)}: the batch proves nothing about that; run more seeds"
                " or make the scenario reach it"
            )
        return found + [
            f"{target.name}: {target.verdict(figures)}"
            for target in self.targets
            if not target.value(figures) <= target.limit
        ]


def total(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Return the sum of counters, in order of their names."""
    found: Counter[str] = Counter()
    for count in counts:
        found.update(count)
    return dict(sorted(found.items()))

"""What a simulated scenario returns, and what it raises when an invariant breaks.

Sans-I/O. A scenario is a module ``frys_node.testing.<name>_scenario`` with
``run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult``.
"""

from __future__ import annotations

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
    """The scenario's own figures."""

    @property
    def passed(self) -> bool:
        """True if no invariant broke."""
        return not self.violations


class RunScenario(Protocol):
    """The entry point of a scenario's module."""

    def __call__(self, nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
        """Run one seed; broken invariants come back in `violations`, never as an exception."""
        ...

"""An error planted in the machines: the runs that show it, and how the checker has to complain.

The seed under which each is caught is in `seeds_planted.txt`. A change of the engine moves where an error shows, not
whether it does: `planted_seeds.py` then names another seed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

from frys_node.testing.replication_node import ReplicationNode
from frys_node.testing.replication_plan import Shape
from frys_node.testing.replication_scenario import run_scenario

SEEDS_FILE = Path(__file__).with_name("seeds_planted.txt")
HEADER = "# Under which seed each planted error is caught; written by planted_seeds.py.\n"

INCOMPLETE = "and incomplete"
"""What is said of a member of a set that was made one too early; it has no letter."""

AGAIN = "PYTHONPATH=. .venv/bin/python tests/sim/planted_seeds.py"


class Planted(NamedTuple):
    """An error, and what shows it as what."""

    node: type[ReplicationNode]
    shape: Shape | None
    marks: tuple[str, ...]
    """Letters of the rules that it breaks, or `INCOMPLETE`; another complaint does not count."""
    faults: str = "chaos"
    seconds: float = 30.0
    nodes: int = 7

    def is_caught(self, seed: int) -> bool:
        """True if the checker complains of this error under a seed.

        Raises:
            AssertionError: It complains of the right machines as well: that is a bug, and no planted one.
        """
        if not any(self._is_meant(text) for text in self._run(seed, self.node)):
            return False
        assert self._run(seed, ReplicationNode) == []
        return True

    def _run(self, seed: int, node_class: type[ReplicationNode]) -> list[str]:
        run = run_scenario(self.nodes, self.seconds, seed, self.faults, node_class=node_class, shape=self.shape)
        return run.violations

    def _is_meant(self, text: str) -> bool:
        return text.startswith(self.marks) or (INCOMPLETE in self.marks and INCOMPLETE in text)


@cache
def named_seeds() -> Mapping[str, int]:
    """Return the seed of each error."""
    lines = [line for line in SEEDS_FILE.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    return {name: int(seed) for seed, name in (line.split(" ", 1) for line in lines)}


def assert_caught(name: str, planted: Planted) -> None:
    """Fail unless the error is caught under its own seed."""
    seed = named_seeds().get(name)
    assert seed is not None, f"'{name}' has no seed: `{AGAIN} '{name}'` finds one"
    assert planted.is_caught(seed), f"'{name}' is not caught under seed {seed}: `{AGAIN} '{name}'` finds another"

"""One measured figure beside its peer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

HEADER = ("FIGURE", "UNIT", "OURS", "PEER", "PEER_IS", "RATIO", "BUDGET")


class Figure(NamedTuple):
    """What was measured here, what the peer needed in the same run, and the budget of the design."""

    name: str
    unit: str
    ours: float
    peer_name: str
    peer: float
    budget: str = ""
    samples: Sequence[float] = ()

    @property
    def ratio(self) -> float:
        """Ours over the peer's."""
        return self.ours / self.peer if self.peer else float("inf")

    def as_row(self) -> tuple[Any, ...]:
        """Return the cells of the table."""
        cells = (self.name, self.unit, f"{self.ours:.3g}", f"{self.peer:.3g}", self.peer_name)
        return (*cells, f"{self.ratio:.2f}", self.budget)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": self.ours,
            "peer": self.peer,
            "peer_name": self.peer_name,
            "ratio": self.ratio,
            "budget": self.budget,
            "samples": list(self.samples),
        }

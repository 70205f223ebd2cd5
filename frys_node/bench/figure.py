"""One measured figure beside its peer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

HEADER = ("FIGURE", "UNIT", "OURS", "PEER", "PEER_IS", "RATIO", "BUDGET")

NO_PEER = "none"
"""Stands where the name of a peer would."""


class Figure(NamedTuple):
    """What was measured here, what the peer needed in the same run, and the budget of the design."""

    name: str
    unit: str
    ours: float
    peer_name: str = NO_PEER
    peer: float | None = None
    """None where there is nothing to compare with, or nothing came of the peer."""
    budget: str = ""
    samples: Sequence[float] = ()

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's; None where there is no such number, and `ratio_note` says why."""
        if self.ratio_note:
            return None
        assert self.peer is not None
        return self.ours / self.peer

    @property
    def ratio_note(self) -> str:
        """Why there is no ratio; empty when there is one."""
        if self.peer is None:
            return "no peer"
        if not (math.isfinite(self.ours) and math.isfinite(self.peer)):
            return "not finite"
        return "" if self.peer else "the peer's is 0"

    def as_row(self) -> tuple[Any, ...]:
        """Return the cells of the table."""
        peer = "-" if self.peer is None else f"{self.peer:.3g}"
        ratio = "-" if self.ratio is None else f"{self.ratio:.2f}"
        return (self.name, self.unit, f"{self.ours:.3g}", peer, self.peer_name, ratio, self.budget)

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON form: null for each number that there is not, since JSON has neither infinity nor NaN."""
        return {
            "name": self.name,
            "unit": self.unit,
            "ours": _plain(self.ours),
            "peer": None if self.peer is None else _plain(self.peer),
            "peer_name": self.peer_name,
            "ratio": self.ratio,
            "ratio_note": self.ratio_note,
            "budget": self.budget,
            "samples": [_plain(sample) for sample in self.samples],
        }


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None

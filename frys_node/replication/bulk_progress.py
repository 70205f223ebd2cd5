"""How far the bulk copies are that go by messages: those of units in memory, hundreds of small ones at once.

Sans-I/O. They are told of together, by kind: how many bytes a unit has is known only when it is here, so what is to
come is judged by the units that have come. For the issuer, which gives a step up that gets nowhere, the bytes of all
pulls are counted that a step waits for.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from balancer.work import kind_of
from frys_node.base.types import NodeId, UnitId


class KindProgress(NamedTuple):
    """The copies of one kind under the record in force."""

    kind: str
    units: int
    units_done: int
    bytes_done: int
    source: NodeId
    """The first source of the first copy."""
    started_s: float

    @property
    def bytes_total(self) -> int:
        """About what all units take, by those that are here."""
        return self.bytes_done * self.units // self.units_done if self.units_done else self.bytes_done

    def rate_bytes_s(self, now_s: float) -> float:
        """Bytes a second from the first question on."""
        return self.bytes_done / (now_s - self.started_s) if now_s > self.started_s else 0.0

    def eta_s(self, now_s: float) -> float | None:
        """Seconds until all are here, at the pace of the units so far; None while none is."""
        left = self.units - self.units_done
        return (now_s - self.started_s) * left / self.units_done if self.units_done else None


class BulkProgress:
    """Counts copies from when they are asked for until they are done, for as long as a record is in force."""

    def __init__(self) -> None:
        self._units: dict[UnitId, bool] = {}
        """Whether each is here."""
        self._bytes: dict[str, int] = {}
        self._begun: dict[str, tuple[NodeId, float]] = {}
        self._pulled: dict[tuple[UnitId, NodeId, int], int] = {}
        """The most that one pull of a unit has brought from a source, for each round of questions."""

    def clear(self) -> None:
        """Another record is in force."""
        self._units.clear()
        self._bytes.clear()
        self._begun.clear()
        self._pulled.clear()

    def begin(self, unit: UnitId, sources: Iterable[NodeId], now_s: float) -> None:
        """A copy is wanted; one that is begun anew counts once."""
        self._units[unit] = False
        self._begun.setdefault(kind_of(unit), (next(iter(sources)), now_s))

    def took(self, unit: UnitId, size_bytes: int) -> None:
        """Some of it has come."""
        kind = kind_of(unit)
        self._bytes[kind] = self._bytes.get(kind, 0) + size_bytes

    def pulled(self, unit: UnitId, source: NodeId, rounds: int, size_bytes: int) -> None:
        """A copy or a pass has brought so much until now. What one that is begun anew brings again counts once."""
        pull = unit, source, rounds
        self._pulled[pull] = max(size_bytes, self._pulled.get(pull, 0))

    @property
    def pulled_bytes(self) -> int:
        """What copies and passes have brought under the record in force."""
        return sum(self._pulled.values())

    def done(self, unit: UnitId) -> None:
        """All of it has come."""
        if unit in self._units:
            self._units[unit] = True

    def under_way(self) -> list[KindProgress]:
        """Return the kinds of which something is still to come."""
        found = []
        for kind, (source, started_s) in self._begun.items():
            states = [is_done for unit, is_done in self._units.items() if kind_of(unit) == kind]
            if not all(states):
                size_bytes = self._bytes.get(kind, 0)
                found.append(KindProgress(kind, len(states), sum(states), size_bytes, source, started_s))
        return found

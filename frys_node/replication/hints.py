"""Hints: entries kept for replicas that did not acknowledge, handed over when they answer again.

Sans-I/O. Bounded, volatile, and never part of a quorum (rules 7, 15): they only make convergence quicker. A hint is
dropped when its target leaves the sets of its unit, and the oldest are dropped when the store is full.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence

from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.replication import Entry
from frys_node.replication.version import sent_bytes

HINT_BYTES_MAX = 16 * 1024 * 1024
"""Bytes of hints that a node keeps; beyond it the oldest are dropped and counted."""

REPLAY_MAX = 16
"""Hints handed to one target in one round."""


class Hint:
    """Entries of one unit for one target."""

    __slots__ = ("entries", "request", "size_bytes", "target", "unit")

    def __init__(self, request: int, target: NodeId, unit: UnitId, entries: list[Entry]) -> None:
        self.request = request
        self.target = target
        self.unit = unit
        self.entries = entries
        self.size_bytes = sum(sent_bytes(entry) for entry in entries)


class HintStore:
    """The hints of one node, oldest first."""

    __slots__ = ("_bytes", "_bytes_max", "_hints", "dropped_count")

    def __init__(self, bytes_max: int = HINT_BYTES_MAX) -> None:
        self._hints: OrderedDict[int, Hint] = OrderedDict()
        self._bytes = 0
        self._bytes_max = bytes_max
        self.dropped_count = 0

    def __len__(self) -> int:
        return len(self._hints)

    @property
    def size_bytes(self) -> int:
        """Bytes held."""
        return self._bytes

    def add(self, hint: Hint) -> None:
        """Keep a hint; the oldest give way."""
        self._hints[hint.request] = hint
        self._bytes += hint.size_bytes
        while self._bytes > self._bytes_max and self._hints:
            self._forget(next(iter(self._hints)))
            self.dropped_count += 1

    def acknowledge(self, request: int, source: NodeId) -> None:
        """The target has the entries durably."""
        hint = self._hints.get(request)
        if hint is not None and hint.target == source:
            self._forget(request)

    def _forget(self, request: int) -> None:
        self._bytes -= self._hints.pop(request).size_bytes

    def keep(self, is_target: Callable[[UnitId, NodeId], bool]) -> None:
        """Drop hints whose target has left the unit's sets."""
        for request in [r for r, hint in self._hints.items() if not is_target(hint.unit, hint.target)]:
            self._forget(request)

    def due(self, is_usable: Callable[[NodeId], bool]) -> Sequence[Hint]:
        """Return the oldest hints of each target that looks usable, at most REPLAY_MAX each."""
        counts: dict[NodeId, int] = {}
        due: list[Hint] = []
        for hint in self._hints.values():
            count = counts.get(hint.target, 0)
            if count < REPLAY_MAX and is_usable(hint.target):
                counts[hint.target] = count + 1
                due.append(hint)
        return due

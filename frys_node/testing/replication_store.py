"""The stores of the replication scenario.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.testing.data_cluster import DictStore


class WatchedStore(DictStore):
    """A store whose freed tombstones are told to the checker: what they hid may be missing, not come back."""

    def __init__(self, unit: UnitId, freed: Callable[[UnitId, Entry], None]) -> None:
        super().__init__()
        self._unit = unit
        self._freed = freed

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget entries."""
        for entry in self.get(keys):
            if entry is not None and entry.value is None:
                self._freed(self._unit, entry)
        super().drop(keys)


class ForgetfulStore(WatchedStore):
    """One with room for few entries: any may go, at each replica another one, and leaves a floor, as in the cache."""

    def __init__(
        self,
        unit: UnitId,
        freed: Callable[[UnitId, Entry], None],
        *,
        room: int,
        rng: Random,
        evicted: Callable[[], None],
    ) -> None:
        super().__init__(unit, freed)
        self.evict_floor: Version | None = None
        self._room = room
        self._rng = rng
        self._evicted = evicted

    def get(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return the entries held; what is not held reads as a tombstone at the floor, if there is one."""
        floor, found = self.evict_floor, super().get(keys)
        if floor is None:
            return found
        return [entry or Entry(key, floor, None) for key, entry in zip(keys, found, strict=True)]

    def put(self, entries: Sequence[Entry]) -> None:
        """Apply entries, then evict what there is no room for."""
        super().put(entries)
        while len(self.held) > self._room:
            gone = self.held.pop(self._rng.choice(list(self.held))).version
            # Above it, and nothing that anybody stamps.
            self.raise_evict_floor(Version(gone.hlc_ms, gone.counter, NodeId(f"{gone.node}~"), 0))
            self._evicted()

    def raise_evict_floor(self, floor: Version) -> None:
        """Let nothing come that is below a version and not held."""
        if self.evict_floor is None or floor > self.evict_floor:
            self.evict_floor = floor

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget entries."""
        super().drop([key for key in keys if key in self.held])

    def clear(self) -> None:
        """Forget everything, the floor included."""
        super().clear()
        self.evict_floor = None

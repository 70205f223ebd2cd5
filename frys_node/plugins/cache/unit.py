"""What one node holds of one unit of the cache.

Sans-I/O. `memory` says what keeps it safe, and does the accounts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from frys_node.base.types import UnitId
from frys_node.kernel.services.replication import Changes, Entry, Version
from frys_node.plugins.cache.cache import just_above

if TYPE_CHECKING:
    from frys_node.plugins.cache.memory import CacheMemory

CHANGES_MAX = 1_024
"""Changed keys of a unit that are remembered for its hash tree; of more it is built anew."""


class CacheUnit:
    """What this node holds of one unit (a `UnitStore`)."""

    __slots__ = ("evict_floor", "held", "memory", "unit", "was")

    def __init__(self, unit: UnitId, memory: CacheMemory) -> None:
        self.unit = unit
        self.memory = memory
        """What bounds this unit together with the others of the node."""
        self.evict_floor: Version | None = None
        """Just above the newest version evicted since the unit was empty; what is held below it stays."""
        self.held: dict[bytes, Entry] = {}
        """Entries by key; an expired one is a tombstone only after `expire_due`."""
        self.was: dict[bytes, Entry | None] | None = None
        """What was held under the keys that changed since somebody asked; None: nobody has, or too many changed."""

    def __len__(self) -> int:
        return len(self.held)

    def get(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """The entries held, expired and evicted ones as tombstones, in the order of the keys."""
        self.memory.expire_due()
        found: list[Entry | None] = list(map(self.held.get, keys))
        self.memory.hit([entry.key for entry in found if entry is not None and entry.value is not None])
        floor = self.evict_floor
        if floor is None:
            return found
        return [entry or Entry(key, floor, None) for key, entry in zip(keys, found, strict=True)]

    def put(self, entries: Sequence[Entry]) -> None:
        """Apply entries that are newer than what is held, then evict what no longer fits on the node."""
        for entry in entries:
            self.memory.keep(self, entry)
        self.memory.shrink()

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget entries as if they had never been here; no floor rises."""
        for key in keys:
            entry = self.held.pop(key, None)
            if entry is not None:
                self.memory.forget(entry)
                self.note(key, entry)

    def keys(self) -> Iterable[bytes]:
        """The key of every entry held."""
        return list(self.held)

    def changed(self) -> Changes:
        """What changed since the last call; everything when that was too long ago."""
        self.memory.expire_due()
        was, self.was = self.was, {}
        if was is None:
            return Changes(True, [(None, entry) for entry in self.held.values()])
        return Changes(False, [(before, self.held.get(key)) for key, before in was.items()])

    def note(self, key: bytes, before: Entry | None) -> None:
        """Take down what is held under a key that changes now."""
        was = self.was
        if was is not None and key not in was:
            was[key] = before
            if len(was) > CHANGES_MAX:
                self.was = None

    def entries(self) -> Iterable[Entry]:
        """Every entry held, by key; expired ones as tombstones."""
        self.memory.expire_due()
        return [self.held[key] for key in sorted(self.held)]

    def size_bytes(self) -> int:
        """What the entries take when they travel."""
        return sum(entry.size_bytes for entry in self.held.values())

    def clear(self) -> None:
        """Forget everything, the floor included: what was known of older data is gone with it (rule 12)."""
        for entry in self.held.values():
            self.memory.forget(entry)
        self.held.clear()
        self.evict_floor = self.was = None

    def evict(self, key: bytes) -> Entry:
        """Drop an entry for want of memory and raise the floor above it; its pool has forgotten it already."""
        entry = self.held.pop(key)
        self.note(key, entry)
        self.raise_floor(entry.version)
        return entry

    def raise_floor(self, version: Version) -> None:
        """Let nothing come that is not newer than a version which is not held any more."""
        self.raise_evict_floor(just_above(version))

    def raise_evict_floor(self, floor: Version) -> None:
        """Let nothing come that is below a version and not held."""
        if self.evict_floor is None or floor > self.evict_floor:
            self.evict_floor = floor

    def needs(self, tombstone: Entry) -> bool:
        """False if the floor says what the tombstone does."""
        return self.evict_floor is None or tombstone.version >= self.evict_floor

    def live(self, prefix: bytes) -> Iterator[bytes]:
        """The keys of a namespace that have values, in no order."""
        self.memory.expire_due()
        return (key for key, entry in self.held.items() if entry.value is not None and key.startswith(prefix))

"""What a replica holds of one unit, and how entries are merged into it.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from frys_node.base.types import Epoch, UnitId
from frys_node.kernel.services.replication import Entry, UnitStore, Version
from frys_node.replication import hashtree
from frys_node.replication.effects import Corrupted, Effect, Persist
from frys_node.replication.messages import (
    EVERY_UNIT,
    PAGE_BYTES_MAX,
    CompletedRecord,
    DamagedRecord,
    EntriesRecord,
    LogRecord,
)
from frys_node.replication.version import ZERO


class Merge(NamedTuple):
    """Outcome of a merge: what was new, the highest version now held of any key, and keys with two values."""

    taken: list[Entry]
    highest: Version
    corrupt: list[Entry]


class HeldUnit:
    """A unit's data and what is known of its state."""

    __slots__ = (
        "_tree",
        "complete",
        "durable",
        "floor",
        "is_behind",
        "is_damaged",
        "join_key",
        "store",
        "unit",
        "waits_since_s",
    )

    def __init__(
        self, unit: UnitId, store: UnitStore, *, durable: bool, complete: bool, join_key: Epoch | None
    ) -> None:
        self.unit = unit
        self.store = store
        self.durable = durable
        self.complete = complete
        self.join_key = join_key
        """Key of the ``joining`` record for which the unit was wiped last; None when it was here from its creation."""
        self.is_damaged = False
        """True if the log lost acknowledged records of the unit; it is incomplete until it was filled again."""
        self.is_behind = False
        """True from a restart until the other members have been asked what was missed: reads of one avoid it."""
        self.floor: Version | None = None
        """A unit in memory that could not be refilled knows nothing of what was written below this: such a read is a
        miss, and nothing below it comes back, since a newer write or a delete may be what was lost."""
        self.waits_since_s: float | None = None
        """When a unit in memory began to look for members to refill from, whatever the record."""
        self._tree: bytes | None = None

    def get(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return what is held of the keys; what is not held reads as a tombstone at the floor, if there is one."""
        found = self.store.get(keys)
        floor = self.floor
        if floor is None:
            return found
        return [
            entry if entry is not None and entry.version > floor else Entry(key, floor, None)
            for key, entry in zip(keys, found, strict=True)
        ]

    def raise_floor(self, floor: Version) -> None:
        """Forget everything below a version, and refuse it from now on."""
        if self.floor is not None and floor <= self.floor:
            return
        self.floor = floor
        kept = [entry for entry in self.store.entries() if entry.version > floor]
        self.store.clear()
        self.store.put(kept)
        self._tree = None

    def merge(self, entries: Sequence[Entry]) -> Merge:
        """Keep the entries that are newer than what is held; keys are distinct."""
        taken: list[Entry] = []
        corrupt: list[Entry] = []
        highest = ZERO
        for entry, held in zip(entries, self.get([entry.key for entry in entries]), strict=True):
            version = entry.version
            if held is None or held.version < version:
                taken.append(entry)
            elif held.version > version:
                version = held.version
            elif held.value != entry.value:
                corrupt.append(entry)
            highest = max(highest, version)
        if taken:
            self.store.put(taken)
            self._tree = None
        return Merge(taken, highest, corrupt)

    def wipe(self, join_key: Epoch) -> None:
        """Forget everything: this node joins the unit anew (rule 12)."""
        self.store.clear()
        self._tree = None
        self.floor = None
        self.complete = False
        self.is_damaged = False
        self.join_key = join_key

    def tree(self) -> bytes:
        """Return the leaves of the hash tree of what is held now."""
        if self._tree is None or not self.durable:
            # A memory store evicts and expires by itself, so its tree is never kept.
            self._tree = hashtree.build(self.store.entries())
        return self._tree


def pages(entries: Sequence[Entry]) -> Iterator[list[Entry]]:
    """Cut entries into pages of at most PAGE_BYTES_MAX, one entry at least."""
    page: list[Entry] = []
    size_bytes = 0
    for entry in entries:
        entry_bytes = 96 + len(entry.key) + len(entry.value or b"")
        if page and size_bytes + entry_bytes > PAGE_BYTES_MAX:
            yield page
            page, size_bytes = [], 0
        page.append(entry)
        size_bytes += entry_bytes
    if page:
        yield page


Continuation = Callable[[float], list[Effect]]


class UnitTable:
    """The units of this node, and what waits for the log."""

    __slots__ = ("_token", "_waiting", "is_anything_lost", "newest", "units")

    def __init__(self) -> None:
        self.units: dict[UnitId, HeldUnit] = {}
        self.newest = ZERO
        """No version that was merged into a unit in memory is above this."""
        self.is_anything_lost = False
        """Set by the host if the log may have lost all that it held of a unit: one that seems new may be an old one."""
        self._waiting: dict[int, Continuation] = {}
        self._token = 0

    @property
    def waiting(self) -> int:
        """Continuations that wait for the disk."""
        return len(self._waiting)

    def begin(self, held: HeldUnit, is_member: bool, now_s: float) -> list[Effect]:
        """Hold a unit that the log does not know: a member's durable one is born complete and empty, or it was lost."""
        self.units[held.unit] = held
        held.is_damaged = self.is_anything_lost and is_member and held.durable
        held.complete = is_member and held.durable and not held.is_damaged
        return self.persist(held, (DamagedRecord(held.unit),), lambda _at_s: [], now_s) if held.is_damaged else []

    def tell_lost(self) -> list[Effect]:
        """Each unit that was lost with all its records has been told by `begin`: from now on a new one is new."""
        if not self.is_anything_lost:
            return []
        self.is_anything_lost = False
        return [self._persist((CompletedRecord(EVERY_UNIT),), lambda _at_s: [])]

    def _persist(self, records: tuple[LogRecord, ...], then: Continuation) -> Persist:
        self._token += 1
        self._waiting[self._token] = then
        return Persist(self._token, records)

    def persist(self, held: HeldUnit, records: tuple[LogRecord, ...], then: Continuation, now_s: float) -> list[Effect]:
        """Continue once the records, and all before them, are durable; at once for units that live in memory."""
        if not held.durable:
            return then(now_s)
        return [self._persist(records, then)]

    def persisted(self, token: int, now_s: float) -> list[Effect]:
        """Continue what waited for the token."""
        then = self._waiting.pop(token, None)
        return [] if then is None else then(now_s)

    def take(
        self, held: HeldUnit, entries: Sequence[Entry], then: Callable[[Version, float], list[Effect]], now_s: float
    ) -> list[Effect]:
        """Merge entries and continue, with the highest version held, once they are durable.

        Entries that were held already may still be on their way to the disk, so the continuation waits for the log even
        when nothing is written: an acknowledgement never overtakes the sync of what it stands for.
        """
        merged = held.merge(entries)
        if not held.durable:
            self.newest = max(self.newest, merged.highest)
        records = (EntriesRecord(held.unit, merged.taken),) if merged.taken else ()
        effects = self.persist(held, records, lambda at_s: then(merged.highest, at_s), now_s)
        if merged.corrupt:
            effects = [Corrupted(held.unit, entry.key, entry.version) for entry in merged.corrupt] + effects
        return effects

"""What a replica holds of one unit, and how entries are merged into it.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from frys_node.base.pieces import pieces
from frys_node.base.types import Epoch, UnitId
from frys_node.kernel.services.replication import Dated, Entry, Evicting, UnitStore, Version
from frys_node.replication import hashtree
from frys_node.replication.effects import Corrupted, Effect, Persist
from frys_node.replication.evictions import Listing
from frys_node.replication.hashtree import LiveTree
from frys_node.replication.messages import PAGE_BYTES_MAX, EntriesRecord, LogRecord
from frys_node.replication.version import ZERO, highest, sent_bytes

EARLY_MAX = 4_096
"""Early writes of a unit that are noted beyond twice those that it holds still."""


class Merge(NamedTuple):
    """Outcome of a merge: what was new, the highest version now held of any key, and keys with two values."""

    taken: list[Entry]
    highest: Version
    corrupt: list[Entry]


class HeldUnit:
    """A unit's data and what is known of its state."""

    __slots__ = (
        "_tombstones",
        "_tree",
        "complete",
        "durable",
        "early",
        "early_max",
        "evicting",
        "floor",
        "is_behind",
        "is_damaged",
        "join_key",
        "lost",
        "purge_floor",
        "seq",
        "store",
        "unit",
        "waits_since_s",
        "write_floor",
    )

    def __init__(
        self, unit: UnitId, store: UnitStore, *, durable: bool, complete: bool, join_key: Epoch | None
    ) -> None:
        self.unit = unit
        self.store = store
        self.evicting = store if isinstance(store, Evicting) else None
        """The store, if it is one that evicts; asked once, as looking for a protocol's members takes 15 us."""
        self.durable = durable
        self.complete = complete
        self.join_key = join_key
        """Key of the ``joining`` record for which the unit was wiped last; None when it was here from its creation."""
        self.is_damaged = False
        """True if this node lost acknowledged records of the unit: it is incomplete until it was filled again."""
        self.is_behind = False
        """True from a restart until the other members have been asked what was missed: reads of one avoid it."""
        self.floor: Version | None = None
        """A unit in memory that could not be refilled knows nothing of what was written below this: such a read is a
        miss, and nothing below it comes back, since a newer write or a delete may be what was lost."""
        self.waits_since_s: float | None = None
        """When a unit in memory began to look for members to refill from, whatever the record."""
        self.write_floor: Version | None = None
        """No coordinator's write, hint or read repair below this is taken (rule 17)."""
        self.purge_floor: Version | None = None
        """All members agreed on what lies below, and tombstones there are gone: what is not here is dead (rule 16)."""
        self.lost: Epoch | None = None
        """The record in force when it was found that some of a durable unit was lost (rule 14); None: nothing was."""
        self.early: dict[bytes, Version] = {}
        """What coordinators wrote to a unit in memory before it was complete; see `drop_strays`."""
        self.early_max = EARLY_MAX
        """When `early` is looked through next."""
        self.seq = 0
        """Counts changes; it begins higher at every boot, so that session tokens of earlier ones are kept too."""
        self._tombstones: dict[bytes, Version] = {}
        """Of a durable unit. Stores in memory expire and evict by themselves."""
        self._tree = LiveTree()
        """Of a durable unit always true, of one in memory after `tree`."""

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
        # Not by clearing: the store may have a floor of its own, which must stay.
        self.drop([entry.key for entry in self.store.entries() if entry.version <= floor])

    def clear(self) -> None:
        """Forget every entry."""
        self.store.clear()
        self._tombstones.clear()
        self._tree.clear()

    def put(self, entries: Sequence[Entry]) -> None:
        """Put entries in the place of what is held under their keys."""
        self.seq += 1
        if not self.durable:
            self.store.put(entries)
            return
        keys = [entry.key for entry in entries]
        before = self.store.get(keys)
        self.store.put(entries)
        # As the store has them: it may keep a value in another form than it came in.
        self._tree.change(zip(before, self.store.get(keys), strict=True))
        for entry in entries:
            if entry.value is None:
                self._tombstones[entry.key] = entry.version
            else:
                self._tombstones.pop(entry.key, None)

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget entries as if they had never been here."""
        if self.durable:
            self._tree.change((entry, None) for entry in self.store.get(keys))
        self.store.drop(keys)
        for key in keys:
            self._tombstones.pop(key, None)

    def merge(self, entries: Sequence[Entry]) -> Merge:
        """Keep the entries that are newer than what is held; keys are distinct."""
        taken: list[Entry] = []
        corrupt: list[Entry] = []
        top = ZERO
        for entry, held in zip(entries, self.get([entry.key for entry in entries]), strict=True):
            version = entry.version
            if held is None or held.version < version:
                taken.append(entry)
            elif held.version > version:
                version = held.version
            elif held.value != entry.value:
                corrupt.append(entry)
            top = max(top, version)
        if taken:
            self.put(taken)
        return Merge(taken, top, corrupt)

    def wipe(self, join_key: Epoch) -> None:
        """Forget everything: this node joins the unit anew (rule 12)."""
        self.clear()
        self.floor = self.write_floor = self.purge_floor = self.lost = None
        self.complete = self.is_damaged = False
        self.join_key = join_key
        self.early, self.early_max = {}, EARLY_MAX

    # ------------------------------------------------------------------ floors (rules 16 to 18)

    def is_too_old(self, version: Version) -> bool:
        """True if no coordinator may write under that version any more."""
        return self.write_floor is not None and version < self.write_floor

    def has_all(self, entries: Sequence[Entry]) -> bool:
        """True if each entry is held in that version or a newer one, or is a tombstone that was freed here."""
        floor = self.purge_floor
        return all(
            mine.version >= entry.version
            if mine is not None
            else entry.value is None and floor is not None and entry.version < floor
            for entry, mine in zip(entries, self.get([entry.key for entry in entries]), strict=True)
        )

    def is_sealed_at(self, floor: Version) -> bool:
        """True if writes below that version are refused already."""
        return self.write_floor is not None and self.write_floor >= floor

    def right(self, dropped: Sequence[bytes], put_back: Sequence[Entry]) -> None:
        """Drop keys, and put entries in the place of newer ones: below its purge floor a source is right (rule 18)."""
        if dropped:
            self.drop(dropped)
        if put_back:
            self.put(put_back)

    def alive(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Return the entries less those that are dead: below the purge floor, and not held here.

        Of a unit in memory none is: its members agreed on tombstones only, and a value that one lacks another may have.
        """
        floor = self.purge_floor
        if floor is None or not self.durable or not any(entry.version < floor for entry in entries):
            return entries
        held = self.store.get([entry.key for entry in entries])
        return [entry for entry, mine in zip(entries, held, strict=True) if entry.version >= floor or mine is not None]

    def note_early(self, keys: Sequence[bytes], version: Version) -> None:
        """Take down what a coordinator writes to a unit in memory that is not complete, and forget what is gone again.

        A fill may take minutes, and far more may come meanwhile than the store has room for: what it does not hold any
        more needs no dropping.
        """
        self.early.update(dict.fromkeys(keys, version))
        if len(self.early) > self.early_max:
            noted = list(self.early.items())
            held = self.store.get([key for key, _version in noted])
            self.early = {
                key: at for (key, at), entry in zip(noted, held, strict=True) if entry and entry.version == at
            }
            self.early_max = EARLY_MAX + 2 * len(self.early)

    def strays(self, floor: Version | None, known: Mapping[bytes, Version]) -> list[bytes]:
        """Return what was written here too early to be refused, is below a write floor, and is not known at a source.

        Of a unit in memory. Whoever acknowledged such a write with this node would be among the sources of its pass.
        """
        if floor is None:
            return []
        old = [key for key, version in self.early.items() if version < floor and known.get(key) != version]
        held = self.store.get(old)
        return [key for key, entry in zip(old, held, strict=True) if entry and entry.version == self.early[key]]

    def drop_strays(self, known: Mapping[bytes, Version]) -> None:
        """The unit is complete: drop what nobody else holds, since the tombstone above it may have been freed."""
        strays = self.strays(self.write_floor, known)
        self.early, self.early_max = {}, EARLY_MAX
        if strays:
            self.drop(strays)

    @property
    def evict_floor(self) -> Version | None:
        """Below this the store may have forgotten what it does not hold; None: it forgets nothing by itself."""
        return None if self.evicting is None else self.evicting.evict_floor

    def forget_evicted(self, listings: Iterable[Listing]) -> None:
        """Hold no more what a source has forgotten for want of memory, and take the highest floor of all."""
        listings = [listing for listing in listings if listing.floor is not None]
        if not listings or self.evicting is None:
            return
        self.drop([e.key for e in self.store.entries() if any(listing.covers(e) for listing in listings)])
        floor = None
        for listing in listings:
            floor = highest(floor, listing.floor)
        assert floor is not None
        self.evicting.raise_evict_floor(floor)

    def raise_floors(self, write_floor: Version | None, purge_floor: Version | None) -> int:
        """Raise both floors as far as given and free the tombstones below the purge floor; returns how many."""
        self.write_floor = highest(self.write_floor, write_floor)
        if purge_floor is None or (self.purge_floor is not None and purge_floor <= self.purge_floor):
            return 0
        self.purge_floor = purge_floor
        freed = self.tombstones_below(purge_floor)
        if freed:
            self.drop(freed)
        return len(freed)

    def tombstones_below(self, floor: Version) -> list[bytes]:
        """Return the keys whose tombstones are below a version."""
        if self.durable:
            return [key for key, version in self._tombstones.items() if version < floor]
        return [entry.key for entry in self.store.entries() if entry.value is None and entry.version < floor]

    def digest_below(self, floor: Version, purged: Version | None) -> bytes:
        """Return 16 bytes over the entries below a floor, less the tombstones below the highest purge floor known.

        Of a unit in memory only the tombstones count: which values it still has is each replica's own affair, and
        dropping a tombstone is safe as soon as nobody holds anything older under its key.
        """
        purged = highest(purged, self.purge_floor)
        if self.durable and isinstance(self.store, Dated):
            # Out of the tree that is kept: most of a unit is older, and hashing all of it would hold the loop.
            left_out = set(self.store.since(floor))
            left_out.update(key for key, version in self._tombstones.items() if purged is not None and version < purged)
            return hashtree.root(self._tree.without(self.store.get(list(left_out))))
        return hashtree.root(
            hashtree.build(
                entry
                for entry in self.store.entries()
                if entry.version < floor
                and (entry.value is None or self.durable)
                and (entry.value is not None or purged is None or entry.version >= purged)
            )
        )

    def tree(self) -> bytes:
        """Return the leaves of the hash tree of what is held now."""
        if not self.durable:
            changes = self.store.changed()
            if changes.is_all:
                self._tree.clear()
            self._tree.change(changes.pairs)
        return self._tree.pack()


def pages(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    """Cut entries into pages of at most PAGE_BYTES_MAX, one entry at least."""
    return pieces(entries, sent_bytes, PAGE_BYTES_MAX)


Continuation = Callable[[float], list[Effect]]


class UnitTable:
    """The units of this node, and what waits for the log."""

    __slots__ = ("_token", "_waiting", "newest", "units")

    def __init__(self) -> None:
        self.units: dict[UnitId, HeldUnit] = {}
        self.newest = ZERO
        """No version that was merged into a unit in memory, and no floor of one from other members, is above."""
        self._waiting: dict[int, Continuation] = {}
        self._token = 0

    def note_floor(self, held: HeldUnit) -> None:
        """What is stamped for units in memory without a message must be above their floors too."""
        floor = None if held.durable else highest(held.write_floor, held.evict_floor)
        if floor is not None:
            self.newest = max(self.newest, floor)

    @property
    def waiting(self) -> int:
        """Continuations that wait for the disk."""
        return len(self._waiting)

    def persist(self, held: HeldUnit, records: tuple[LogRecord, ...], then: Continuation, now_s: float) -> list[Effect]:
        """Continue once the records, and all before them, are durable; at once for units that live in memory."""
        return self.log(records, then) if held.durable else then(now_s)

    def log(self, records: tuple[LogRecord, ...], then: Continuation) -> list[Effect]:
        """Continue once the records, of whatever units, are durable."""
        self._token += 1
        self._waiting[self._token] = then
        return [Persist(self._token, records)]

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

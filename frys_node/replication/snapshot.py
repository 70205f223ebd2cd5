"""Replicated units as snapshots: a deterministic dump of the entries, merged newer-wins on the other side."""

from __future__ import annotations

import struct
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Final

import trio

from frys_node.base.errors import CorruptData, MalformedFrame, NotReady, StorageError, error_from_code
from frys_node.base.types import Consistency, UnitId
from frys_node.kernel.services.replication import Entry, Freezable, Replication
from frys_node.kernel.services.snapshots import Captured, Piece, Rerouting, SavedState
from frys_node.kernel.turns import Turns
from frys_node.replication.effects import Effect
from frys_node.replication.errors import UnitDamaged
from frys_node.replication.unit import UnitTable, pages
from frys_node.replication.version import sent_bytes
from frys_node.wire.codec import Codec
from snapshots.capture import closing

_ENTRIES: Final[Codec[list[Entry]]] = Codec(list[Entry])
_LENGTH = struct.Struct(">I")
_PAGE_BYTES_MAX = 2 * 1024 * 1024

CUT_BYTES_MIN: Final = 64 * 1024
CUT_BYTES_MEAN: Final = 192 * 1024
"""How many bytes further a page ends on average, once it has `CUT_BYTES_MIN`."""
CUT_BYTES_MAX: Final = 768 * 1024

SLICE_ENTRIES: Final = 128
"""Entries that are made, or merged, between two looks at whether the turn is over: about 2 ms."""

_NOBODY: Final = b"\x00frys.floor"
"""A key that nobody writes: what a read says of it is what it says of every key that is not held."""


class PageCutter:
    """Cuts sorted entries into pages that end where an entry's own key says so.

    An entry that is added, changed or removed alters its page and at most the next; all others are the same bytes as in
    the snapshot before, and need not be saved again. The larger an entry, the likelier a page ends with it, so that
    pages have the same size on average whatever the entries are.
    """

    __slots__ = ("_is_whole", "_page", "_size_bytes")

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._page: list[Entry] = []
        self._size_bytes = 0
        self._is_whole = False

    def push(self, entry: Entry) -> list[Entry] | None:
        """Take the next entry; returns the page before it if that is whole."""
        entry_bytes = sent_bytes(entry)
        page = None
        if self._is_whole or (self._page and self._size_bytes + entry_bytes > CUT_BYTES_MAX):
            page = self.finish()
        self._page.append(entry)
        self._size_bytes += entry_bytes
        is_long = self._size_bytes >= CUT_BYTES_MIN
        self._is_whole = is_long and zlib.crc32(entry.key) * CUT_BYTES_MEAN < entry_bytes << 32
        return page

    def finish(self) -> list[Entry]:
        """Return the page that is not whole yet, and begin anew; empty if there is none."""
        page = self._page
        self._begin()
        return page


def encode_page(page: Sequence[Entry]) -> bytes:
    """Return a page as it stands in a dump: its length, then its entries."""
    body = _ENTRIES.encode(list(page))
    return _LENGTH.pack(len(body)) + body


def decode_page(unit: UnitId, body: bytes | memoryview) -> list[Entry]:
    """Return the entries of a page without its length; `CorruptData` if it has none."""
    try:
        return _ENTRIES.decode(body)
    except MalformedFrame as error:
        raise CorruptData(f"the snapshot of '{unit}' cannot be read: {error.message}") from error


class PageReader:
    """Takes a dump in pieces of any size; returns the pages that are whole, not decoded yet."""

    __slots__ = ("_buffer", "_unit")

    def __init__(self, unit: UnitId) -> None:
        self._unit = unit
        self._buffer = bytearray()

    def push(self, part: bytes) -> Iterator[bytes]:
        """Add bytes and yield the pages that are whole now.

        Raises:
            CorruptData: The bytes are no dump of entries.
        """
        buffer = self._buffer
        buffer += part
        while len(buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer)
            if length > _PAGE_BYTES_MAX:
                raise CorruptData(f"a page of {length} bytes in the snapshot of '{self._unit}'")
            if len(buffer) < _LENGTH.size + length:
                break
            body = bytes(memoryview(buffer)[_LENGTH.size : _LENGTH.size + length])
            del buffer[: _LENGTH.size + length]
            yield body

    def finish(self) -> None:
        """Raise `CorruptData` if the dump ends in the middle of a page."""
        if self._buffer:
            raise CorruptData(f"the snapshot of '{self._unit}' ends in the middle of a page")


async def _read_bodies(unit: UnitId, parts: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the pages of a dump, not decoded yet, as soon as each is whole; `CorruptData` if it is none."""
    reader = PageReader(unit)
    async for part in parts:
        for body in reader.push(part):
            yield body
    reader.finish()


class CapturedEntries:
    """The entries of a unit as they were, sorted by key, in length-prefixed pages."""

    def __init__(self, entries: Iterable[Entry], turns: Turns, *, is_sorted: bool = False) -> None:
        self._entries = entries if is_sorted else sorted(entries, key=lambda entry: entry.key)
        self._turns = turns

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the pages."""
        entries, cutter = iter(self._entries), PageCutter()
        pages: list[bytes] = []
        is_more = True
        while is_more:
            async with self._turns.turn():
                is_more = self._cut(entries, cutter, pages)
            for page in pages:
                yield page
            pages.clear()

    def _cut(self, entries: Iterator[Entry], cutter: PageCutter, pages: list[bytes]) -> bool:
        """Add whole pages while the turn lasts; False if that was all."""
        while True:
            some = list(islice(entries, SLICE_ENTRIES))
            whole = [cutter.push(entry) for entry in some]
            is_end = len(some) < SLICE_ENTRIES
            if is_end:
                whole.append(cutter.finish())
            pages += [encode_page(page) for page in whole if page]
            if is_end:
                return False
            if self._turns.is_over:
                return True


class _Page:
    """A page on its way to the disk."""

    __slots__ = ("done", "refusal")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.refusal: StorageError | None = None

    def finish(self, _at_s: float) -> list[Effect]:
        """Wake whoever waits: the page is durable."""
        self.done.set()
        return []


class PageMerger:
    """Hands pages of snapshots to the replica, and waits until each is durable."""

    def __init__(
        self, restore: Callable[[UnitId, Sequence[Entry], Callable[[float], list[Effect]]], bool], turns: Turns
    ) -> None:
        self._restore = restore
        self._turns = turns
        self._pages: set[_Page] = set()
        self._refusal: StorageError | None = None

    def disk_changed(self, refusal: StorageError | None) -> None:
        """Take note of why the disk takes no writes, or that it does again."""
        self._refusal = refusal
        for page in self._pages if refusal is not None else ():
            page.refusal = refusal
            page.done.set()

    async def merge(self, unit: UnitId, entries: Sequence[Entry]) -> None:
        """Merge one page; returns when it is durable.

        Raises:
            NotReady: The unit is not held here.
            StorageError: The disk takes no writes; what was merged becomes durable once it does, which is harmless.
        """
        page = _Page()
        page.refusal = self._refusal
        if page.refusal is None:
            self._pages.add(page)
            try:
                await self._take(unit, entries, page)
                await page.done.wait()
            finally:
                self._pages.discard(page)
        if page.refusal is not None:
            raise error_from_code(page.refusal.code, page.refusal.message, page.refusal.hint)

    async def _take(self, unit: UnitId, entries: Sequence[Entry], page: _Page) -> None:
        """Merge some entries at a time. The log keeps their order, so all are durable when the last ones are."""
        for first in range(0, len(entries), SLICE_ENTRIES):
            some = entries[first : first + SLICE_ENTRIES]
            is_last = first + SLICE_ENTRIES >= len(entries)
            async with self._turns.turn():
                is_held = self._restore(unit, some, page.finish if is_last else _nothing_more)
            if not is_held:
                raise NotReady(f"this node does not hold the unit '{unit}' under its record")


def _nothing_more(_at_s: float) -> list[Effect]:
    return []


class ReplicatedSource:
    """`Snapshottable` of one replicated kind."""

    def __init__(
        self,
        kind: str,
        table: UnitTable,
        merge: Callable[[UnitId, Sequence[Entry]], Awaitable[None]],
        restored: Callable[[UnitId], Awaitable[None]],
        turns: Turns,
        writer: Replication | None = None,
    ) -> None:
        self._prefix = f"{kind}/"
        self._table = table
        self._merge = merge
        self._restored = restored
        self._turns = turns
        self._writer = writer
        """Given for kinds in memory: see `revive`."""

    def units(self) -> Sequence[UnitId]:
        """Return the units of the kind that are held here."""
        return [unit for unit in self._table.units if unit.startswith(self._prefix)]

    async def sizes(self) -> Mapping[UnitId, int]:
        """Return what copies of the units take; the node's other work goes on between any two."""
        found: dict[UnitId, int] = {}
        for unit in self.units():
            held = self._table.units.get(unit)
            if held is not None:
                found[unit] = held.store.size_bytes()
            await trio.lowlevel.checkpoint()
        return found

    def is_whole(self, unit: UnitId) -> bool:
        """False while the unit's bulk is on its way here."""
        held = self._table.units.get(unit)
        return held is not None and held.complete

    async def capture(self, unit: UnitId) -> Captured:
        """Fix the entries held now; an incomplete or unknown unit has none.

        Raises:
            UnitDamaged: What is held lacks acknowledged records: it is no copy to keep, nor to give away.
        """
        held = self._table.units.get(unit)
        if held is not None and held.is_damaged:
            raise UnitDamaged(
                f"this node's copy of '{unit}' lost part of what was acknowledged",
                hint="see `frys-node status`; take it from another node that holds it, or choose units with --unit",
            )
        if held is None or not held.complete:
            return CapturedEntries([], self._turns)
        if isinstance(held.store, Freezable):
            return CapturedEntries(held.store.freeze(), self._turns, is_sorted=True)
        return CapturedEntries(list(held.store.entries()), self._turns)

    async def restore(self, unit: UnitId, parts: AsyncIterator[bytes], *, only_empty: bool = False) -> int | None:
        """Merge the pages, each durable before the next is read; `only_empty` is for kinds that replace.

        Returns how many values were new here: not those that stand, being there, newer, or deleted since.

        Raises:
            CorruptData: The bytes are not a dump of entries. What was merged before stays, which is harmless.
        """
        count = 0
        async with closing(_read_bodies(unit, parts)) as found:
            async for body in found:
                async with self._turns.turn():
                    page = decode_page(unit, body)
                    count += self._count_new(unit, page)
                await self._merge(unit, page)
        return count

    def _count_new(self, unit: UnitId, page: Sequence[Entry]) -> int:
        held = self._table.units.get(unit)
        values = [entry for entry in page if entry.value is not None]
        if held is None:
            return len(values)
        stored = held.store.get([entry.key for entry in values])
        return sum(mine is None or mine.version < entry.version for mine, entry in zip(stored, values, strict=True))

    async def regroup(self, states: AsyncIterator[SavedState], routing: Rerouting) -> AsyncIterator[Piece]:
        """Yield the entries page by page, each with the unit that they belong to now."""
        async for state in states:
            async with closing(_read_bodies(state.unit, state.parts)) as found:
                async for body in found:
                    groups: dict[UnitId, list[Entry]] = {}
                    for entry in decode_page(state.unit, body):
                        unit = routing.unit_of(state.unit, entry.key)
                        if unit is not None:
                            groups.setdefault(unit, []).append(entry)
                    for unit, entries in groups.items():
                        for part in pages(entries):
                            yield Piece(unit, encode_page(part), sum(entry.value is not None for entry in part))

    async def restored(self, unit: UnitId) -> None:
        """All of a snapshot is merged: an only replica that was damaged serves again with that.

        Raises:
            StorageError: The disk takes no writes; the unit serves once it does.
        """
        await self._restored(unit)

    async def has_data(self, unit: UnitId) -> bool:
        """Return False: a merge loses nothing."""
        return False

    async def has_keys(self, unit: UnitId, keys: Sequence[bytes]) -> bool:
        """Return True if every key is here, deleted ones included."""
        held = self._table.units.get(unit)
        return held is not None and None not in held.store.get(keys)

    async def revive(self, piece: Piece) -> int | None:
        """Write entries of a kind in memory again, unless something newer is known; None for durable kinds.

        A cache that started empty has a floor: whatever was written before the start is a miss, and a merge of older
        versions is refused, since a delete may be what was lost. Here an operator says that what was saved is good.
        Nothing newer is replaced, deletions that are still known included. A write of the same key by a client in the
        same instant may be overtaken.
        """
        if self._writer is None:
            return None
        # A piece of this source is one page.
        body = memoryview(piece.data)[_LENGTH.size :]
        entries = [entry for entry in decode_page(piece.unit, body) if entry.value is not None]
        if not entries:
            return 0
        keys = [*(entry.key for entry in entries), _NOBODY]
        stamps = await self._writer.versions(piece.unit, keys, Consistency.QUORUM)
        floor = stamps[-1].version if stamps[-1] is not None else None
        wanted = [
            (entry.key, entry.value)
            for entry, stamp in zip(entries, stamps, strict=False)
            if stamp is None
            or stamp.version < entry.version
            or (floor is not None and stamp.is_deleted and stamp.version <= floor)
        ]
        if wanted:
            await self._writer.write(piece.unit, wanted)
        return len(wanted)

"""Replicated units as snapshots: a deterministic dump of the entries, merged newer-wins on the other side."""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Final

import trio

from frys_node.base.errors import CorruptData, MalformedFrame, NotReady, StorageError, error_from_code
from frys_node.base.types import UnitId
from frys_node.kernel.services.replication import Entry
from frys_node.kernel.services.snapshots import Captured
from frys_node.replication.damage import UnitDamaged
from frys_node.replication.effects import Effect
from frys_node.replication.unit import UnitTable, pages
from frys_node.wire.codec import Codec

_ENTRIES: Final[Codec[list[Entry]]] = Codec(list[Entry])
_LENGTH = struct.Struct(">I")
_PAGE_BYTES_MAX = 2 * 1024 * 1024


class CapturedEntries:
    """The entries of a unit as they were, sorted by key, in length-prefixed pages."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._entries = sorted(entries, key=lambda entry: entry.key)

    async def parts(self) -> AsyncIterator[bytes]:
        """Yield the pages."""
        for page in pages(self._entries):
            body = _ENTRIES.encode(page)
            yield _LENGTH.pack(len(body)) + body


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

    def __init__(self, restore: Callable[[UnitId, Sequence[Entry], Callable[[float], list[Effect]]], bool]) -> None:
        self._restore = restore
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
            if not self._restore(unit, entries, page.finish):
                raise NotReady(f"this node does not hold the unit '{unit}' under its record")
            self._pages.add(page)
            try:
                await page.done.wait()
            finally:
                self._pages.discard(page)
        if page.refusal is not None:
            raise error_from_code(page.refusal.code, page.refusal.message, page.refusal.hint)


class ReplicatedSource:
    """`Snapshottable` of one replicated kind."""

    def __init__(
        self,
        kind: str,
        table: UnitTable,
        merge: Callable[[UnitId, Sequence[Entry]], Awaitable[None]],
        restored: Callable[[UnitId], Awaitable[None]],
    ) -> None:
        self._prefix = f"{kind}/"
        self._table = table
        self._merge = merge
        self._restored = restored

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

    async def capture(self, unit: UnitId) -> Captured:
        """Fix the entries held now; an incomplete or unknown unit has none.

        Raises:
            UnitDamaged: What is held lacks acknowledged records: it is no copy to keep, nor to give away.
        """
        held = self._table.units.get(unit)
        if held is not None and held.is_damaged:
            raise UnitDamaged(
                f"this node's copy of '{unit}' lost part of its log to damage on the disk",
                hint="see `frys-node status`; take it from another node that holds it, or choose units with --unit",
            )
        return CapturedEntries([] if held is None or not held.complete else list(held.store.entries()))

    async def restore(self, unit: UnitId, parts: AsyncIterator[bytes]) -> None:
        """Merge the pages, each durable before the next is read.

        Raises:
            CorruptData: The bytes are not a dump of entries. What was merged before stays, which is harmless.
        """
        buffer = bytearray()
        async for part in parts:
            buffer += part
            while len(buffer) >= _LENGTH.size:
                (length,) = _LENGTH.unpack_from(buffer)
                if length > _PAGE_BYTES_MAX:
                    raise CorruptData(f"a page of {length} bytes in the snapshot of '{unit}'")
                if len(buffer) < _LENGTH.size + length:
                    break
                body = bytes(memoryview(buffer)[_LENGTH.size : _LENGTH.size + length])
                del buffer[: _LENGTH.size + length]
                try:
                    await self._merge(unit, _ENTRIES.decode(body))
                except MalformedFrame as error:
                    raise CorruptData(f"the snapshot of '{unit}' cannot be read: {error.message}") from error
        if buffer:
            raise CorruptData(f"the snapshot of '{unit}' ends in the middle of a page")
        await self._restored(unit)

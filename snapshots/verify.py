"""Checking a saved snapshot: everything is read, one list of units after another, and nothing is kept of it.

A snapshot may have come from elsewhere. What it makes this node hold is one bundle, and the names of its chunks.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, NamedTuple

import msgspec

from frys_node.base.types import UnitId
from snapshots.bundle import Bundle, own_chunks, small_of
from snapshots.capture import closing
from snapshots.errors import CorruptManifest, UnknownFormat
from snapshots.index import SavedSnapshot, SavedUnit, copies_of
from snapshots.manifest import ChunkRef
from snapshots.shelf import Contents, Shelf

PROBLEMS_MAX: Final = 1_000
"""Problems that are looked for; a snapshot with more is lost."""


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found; the snapshot is good if `problems` is empty."""

    name: str
    units: int
    chunks: int
    """Distinct ones, each read once; small ones count once for each list of units."""
    size_bytes: int
    problems: tuple[str, ...]
    """At most `PROBLEMS_MAX`."""


class _Lot(NamedTuple):
    """What a bundle, or a manifest of format 1, has to be read for."""

    due: dict[ChunkRef, UnitId]
    """Chunks that were not read before, and a unit that has them."""
    small: dict[bytes, int]
    """Chunks that were in the bundle, with their sizes."""
    problems: list[str]


class _Copies:
    """Copies of units that were not found yet, by root."""

    def __init__(self, index: SavedSnapshot, units: Collection[UnitId] | None) -> None:
        found = copies_of(index, units)
        self.units = len(found)
        self.by_root: dict[str, list[SavedUnit]] = {}
        for copies in found.values():
            for saved in copies:
                self.by_root.setdefault(saved.root, []).append(saved)

    def look(self, bundle: Bundle, seen: set[ChunkRef]) -> _Lot:
        """Find the copies that the bundle has; their chunks are added to those seen."""
        small = small_of(bundle)
        lot = _Lot({}, {}, [])
        for manifest in bundle.manifests:
            copies = self.by_root.pop(manifest.root.hex(), [])
            lot.problems.extend(
                f"{saved.unit}: its manifest is that of '{manifest.unit}'"
                for saved in copies
                if saved.unit != manifest.unit
            )
            if not copies:
                continue
            try:
                own = own_chunks(manifest, small)
            except CorruptManifest as error:
                lot.problems.append(f"{manifest.unit}: {error.message}")
                continue
            fresh = own - seen
            seen |= fresh
            lot.due.update((chunk, manifest.unit) for chunk in dict.fromkeys(manifest.chunks) if chunk in fresh)
            lot.small.update((c.digest, c.size_bytes) for c in manifest.chunks if c.digest in small)
        return lot


class _Verification:
    """One reading of one snapshot."""

    def __init__(self, shelf: Shelf, index: SavedSnapshot) -> None:
        self._shelf = shelf
        self._index = index
        self._contents = Contents(shelf, index)
        self._seen: set[ChunkRef] = set()
        self._chunks = 0
        self._size_bytes = 0
        self._problems: list[str] = []

    async def run(self, units: Collection[UnitId] | None) -> VerifyReport:
        """Read what the units have, all of them if None."""
        run = self._shelf.executor.run
        copies = await run(_Copies, self._index, units)
        try:
            for name in dict.fromkeys(self._index.bundles):
                if self._is_enough:
                    break
                await self._read(await run(copies.look, await self._shelf.bundle(name), self._seen))
        except (CorruptManifest, UnknownFormat) as error:
            return self._report(0, error.message)
        for saved in (saved for found in copies.by_root.values() for saved in found):
            if self._is_enough:
                break
            await self._rest(saved)
        return self._report(copies.units)

    @property
    def _is_enough(self) -> bool:
        return len(self._problems) >= PROBLEMS_MAX

    def _report(self, units: int, *problems: str) -> VerifyReport:
        return VerifyReport(
            name=self._index.name,
            units=units,
            chunks=self._chunks,
            size_bytes=self._size_bytes,
            problems=(*self._problems, *problems)[:PROBLEMS_MAX],
        )

    async def _rest(self, saved: SavedUnit) -> None:
        """Read a copy that no bundle has: format 1 has none, and otherwise it is missing."""
        try:
            manifest = await self._contents.manifest(saved)
        except (CorruptManifest, UnknownFormat) as error:
            self._problems.append(f"{saved.unit}: {error.message}")
            return
        fresh = set(manifest.chunks) - self._seen
        self._seen |= fresh
        due = {chunk: saved.unit for chunk in manifest.chunks if chunk in fresh}
        await self._read(_Lot(due, {}, []))

    async def _read(self, lot: _Lot) -> None:
        """Read the chunks, and count what was there already."""
        self._problems.extend(lot.problems)
        self._chunks += len(lot.small)
        self._size_bytes += sum(lot.small.values())
        async with closing(self._contents.read(list(lot.due))) as found:
            async for chunk, _, damage in found:
                self._chunks += 1
                self._size_bytes += chunk.size_bytes
                if damage is not None:
                    self._problems.append(f"{lot.due[chunk]}: {damage.message}")
                if self._is_enough:
                    return


async def verify(shelf: Shelf, index: SavedSnapshot, units: Collection[UnitId] | None = None) -> VerifyReport:
    """Read everything of a snapshot and report what is missing or wrong. Nothing is changed."""
    return await _Verification(shelf, index).run(units)

"""Saved snapshots: a directory of named ones, each whole or invisible.

Layout of one: ``<name>/chunks/<digest>``, ``<name>/manifests/<root>``, and ``<name>/index.json``, which is written
last and removed first, so that a crash at any instant leaves the old state of the directory or the new one. Restoring
checks everything before it changes anything.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Annotated

import msgspec
import trio

from frys_node.base.errors import AlreadyExists, NotFound, UsageError
from frys_node.base.ports import Clock, Disk, Executor
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.snapshots import Snapshottable
from snapshots.capture import check_unit, closing, provider_of
from snapshots.chunking import Chunker, verify_chunk
from snapshots.errors import CorruptChunk, CorruptManifest, UnknownFormat, WouldReplace
from snapshots.manifest import ChunkRef, Manifest, decode_manifest

INDEX_FORMAT = 1
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


class SavedUnit(msgspec.Struct, frozen=True, kw_only=True):
    """One unit of a saved snapshot. `root` is hex."""

    unit: UnitId
    root: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    size_bytes: int
    chunks: int


class SavedSnapshot(msgspec.Struct, frozen=True, kw_only=True):
    """A saved snapshot: what `create` returns, `list` shows and ``index.json`` holds."""

    name: str
    node: NodeId
    """Who saved it."""
    created_unix_ns: int
    units: tuple[SavedUnit, ...]
    format: int = INDEX_FORMAT

    @property
    def size_bytes(self) -> int:
        """Bytes of all units' states."""
        return sum(unit.size_bytes for unit in self.units)


class VerifyReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `verify` found; the snapshot is good if `problems` is empty."""

    name: str
    units: int
    chunks: int
    size_bytes: int
    problems: tuple[str, ...]


class RestoreReport(msgspec.Struct, frozen=True, kw_only=True):
    """What `restore` did."""

    name: str
    units: int
    """Units restored."""
    size_bytes: int
    elsewhere: tuple[UnitId, ...]
    """Units of the snapshot that other nodes hold now: nothing was done with them."""


class Library:
    """The saved snapshots of one directory."""

    def __init__(
        self,
        disk: Disk,
        *,
        executor: Executor,
        clock: Clock,
        providers: Mapping[str, Snapshottable],
        node: NodeId,
        replacing: Collection[str] = (),
        directory: str = "",
    ) -> None:
        self._disk = disk
        self._executor = executor
        self._clock = clock
        self._providers = providers
        self._node = node
        self._replacing = replacing
        """Kinds whose restore replaces what is there; the others merge, and what is newer stands."""
        self._directory = directory

    async def create(self, name: str, units: Sequence[UnitId] | None = None) -> SavedSnapshot:
        """Save units of this node under a name: the given ones, or all that are held here.

        Raises:
            UsageError: The name is not one.
            AlreadyExists: There is a snapshot of that name. It stands.
            NotFound: A unit is not of a kind known here, or not held here.
            StorageError: The disk refused. No snapshot of that name is visible.
        """
        base = self._path(name)
        if await self._executor.run(self._disk.read, f"{base}/index.json") is not None:
            raise AlreadyExists(f"a snapshot '{name}' exists", hint="choose another name or delete it")
        chosen = self._choose(units)
        # Leftovers of a save that a crash ended; without an index they were never visible.
        await self._executor.run(self._disk.remove, base)
        saved: list[SavedUnit] = []
        written: set[bytes] = set()
        for unit in chosen:
            manifest = await self._save_unit(base, unit, written)
            saved.append(
                SavedUnit(
                    unit=unit,
                    root=manifest.root.hex(),
                    size_bytes=manifest.size_bytes,
                    chunks=len(manifest.chunks),
                )
            )
        index = SavedSnapshot(name=name, node=self._node, created_unix_ns=self._clock.unix_ns(), units=tuple(saved))
        await self._executor.run(self._disk.write, f"{base}/index.json", msgspec.json.encode(index))
        return index

    def _held(self) -> set[UnitId]:
        return {unit for provider in self._providers.values() for unit in provider.units()}

    def _choose(self, units: Sequence[UnitId] | None) -> list[UnitId]:
        held = self._held()
        if units is None:
            return sorted(held)
        for unit in units:
            provider_of(self._providers, unit)
            if unit not in held:
                raise NotFound(f"unit '{unit}' is not held by this node", hint="`frys-node ring` shows who holds it")
        return sorted(set(units))

    async def _save_unit(self, base: str, unit: UnitId, written: set[bytes]) -> Manifest:
        captured = await provider_of(self._providers, unit).capture(unit)
        chunker = Chunker(unit)
        async with closing(captured.parts()) as parts:
            async for part in parts:
                for chunk, data in chunker.push(part):
                    await self._write_chunk(base, chunk, data, written)
        rest, manifest = chunker.finish()
        for chunk, data in rest:
            await self._write_chunk(base, chunk, data, written)
        path = f"{base}/manifests/{manifest.root.hex()}"
        await self._executor.run(self._disk.write, path, manifest.encode())
        return manifest

    async def _write_chunk(self, base: str, chunk: ChunkRef, data: bytes, written: set[bytes]) -> None:
        if chunk.digest not in written:
            written.add(chunk.digest)
            await self._executor.run(self._disk.write, f"{base}/chunks/{chunk.digest.hex()}", data)

    async def list(self) -> Sequence[SavedSnapshot]:
        """Every whole snapshot, by name; damaged indexes are left out (`verify` names what is wrong with them)."""
        found: list[SavedSnapshot] = []
        for name in await self._executor.run(self._disk.list, self._directory):
            if _NAME.fullmatch(name):
                try:
                    found.append(await self.get(name))
                except (NotFound, CorruptManifest, UnknownFormat):
                    continue
        return found

    async def get(self, name: str) -> SavedSnapshot:
        """One snapshot's index.

        Raises:
            NotFound: There is none.
            CorruptManifest: Its index cannot be read.
            UnknownFormat: A newer version wrote it.
        """
        data = await self._executor.run(self._disk.read, f"{self._path(name)}/index.json")
        if data is None:
            raise NotFound(f"there is no snapshot '{name}'", hint="`frys-node snapshot list` shows them")
        try:
            index = msgspec.json.decode(data, type=SavedSnapshot)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise CorruptManifest(f"the index of snapshot '{name}' cannot be read: {error}") from error
        if index.format != INDEX_FORMAT:
            raise UnknownFormat(
                f"snapshot '{name}' has format {index.format}, this version reads {INDEX_FORMAT}",
                hint="use a newer frys-node",
            )
        return index

    async def verify(self, name: str) -> VerifyReport:
        """Read everything of a snapshot and report what is missing or wrong. Nothing is changed."""
        index = await self.get(name)
        problems: list[str] = []
        chunks = 0
        for saved in index.units:
            try:
                manifest = await self._manifest(name, saved)
            except (CorruptManifest, UnknownFormat) as error:
                problems.append(f"{saved.unit}: {error.message}")
                continue
            for chunk in dict.fromkeys(manifest.chunks):
                chunks += 1
                try:
                    await self._chunk(name, chunk)
                except CorruptChunk as error:
                    problems.append(f"{saved.unit}: {error.message}")
        return VerifyReport(
            name=name,
            units=len(index.units),
            chunks=chunks,
            size_bytes=index.size_bytes,
            problems=tuple(problems),
        )

    async def restore(
        self, name: str, units: Sequence[UnitId] | None = None, *, replace: bool = False
    ) -> RestoreReport:
        """Restore the given units, or all that this node holds.

        Raises:
            NotFound: No such snapshot, unit or kind, or a unit that is not held here. Nothing was changed.
            WouldReplace: A unit would lose what happened since, and `replace` does not ask for that. Nothing was
                changed.
            CorruptChunk, CorruptManifest: The snapshot is damaged. Nothing was changed.
            FrysError: What a unit's own `restore` said; units before it, in order, are restored.
        """
        index = await self.get(name)
        wanted = {saved.unit: saved for saved in index.units}
        held = self._held()
        chosen = sorted(held & wanted.keys() if units is None else set(units))
        for unit in chosen:
            if unit not in wanted:
                raise NotFound(f"snapshot '{name}' has no unit '{unit}'")
            provider_of(self._providers, unit)
        foreign = [unit for unit in chosen or sorted(wanted) if unit not in held]
        if foreign:
            raise NotFound(
                f"unit '{foreign[0]}' of snapshot '{name}' is not held by this node",
                hint="restore it on a node that holds it: `frys-node ring owner --unit` names them",
            )
        self._check_replaced(name, chosen, is_wanted=replace)
        manifests = [await self._manifest(name, wanted[unit]) for unit in chosen]
        for manifest in manifests:
            for chunk in dict.fromkeys(manifest.chunks):
                await self._chunk(name, chunk)
        for manifest in manifests:
            async with closing(self._parts(name, manifest)) as parts:
                await provider_of(self._providers, manifest.unit).restore(manifest.unit, parts)
        return RestoreReport(
            name=name,
            units=len(chosen),
            size_bytes=sum(manifest.size_bytes for manifest in manifests),
            elsewhere=tuple(sorted(wanted.keys() - held)) if units is None else (),
        )

    def _check_replaced(self, name: str, chosen: Sequence[UnitId], *, is_wanted: bool) -> None:
        """Refuse to lose what happened since a snapshot, unless that is wanted."""
        replaced = [unit for unit in chosen if unit.split("/", 1)[0] in self._replacing]
        if replaced and not is_wanted:
            raise WouldReplace(
                f"restoring '{name}' replaces {len(replaced)} units such as {replaced[0]}: what happened in them since"
                " is lost",
                hint="choose other units with --unit, or accept that with --replace",
            )

    async def delete(self, name: str) -> None:
        """Remove a snapshot; `NotFound` if there is none. It is invisible first, then its bytes go."""
        await self.get(name)
        base = self._path(name)
        await self._executor.run(self._disk.remove, f"{base}/index.json")
        await self._executor.run(self._disk.remove, base)

    async def _manifest(self, name: str, saved: SavedUnit) -> Manifest:
        data = await self._executor.run(self._disk.read, f"{self._path(name)}/manifests/{saved.root}")
        if data is None:
            raise CorruptManifest(f"the manifest of '{saved.unit}' is missing")
        manifest = decode_manifest(data)
        check_unit(manifest, saved.unit)
        if manifest.root.hex() != saved.root:
            raise CorruptManifest(f"the manifest of '{saved.unit}' is not the one that the index names")
        return manifest

    async def _chunk(self, name: str, chunk: ChunkRef) -> bytes:
        data = await self._executor.run(self._disk.read, f"{self._path(name)}/chunks/{chunk.digest.hex()}")
        if data is None:
            raise CorruptChunk(f"chunk {chunk.digest.hex()[:16]} is missing")
        return verify_chunk(chunk, data)

    async def _parts(self, name: str, manifest: Manifest) -> AsyncIterator[bytes]:
        for chunk in manifest.chunks:
            yield await self._chunk(name, chunk)
            await trio.lowlevel.checkpoint()

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise UsageError(
                f"'{name}' is not a name for a snapshot",
                hint="use lower-case letters, digits, '.', '_' and '-', 63 at most",
            )
        return f"{self._directory}/{name}" if self._directory else name

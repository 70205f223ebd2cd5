"""Reading saved snapshots: what there is, and what is in it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import trio

from frys_node.base.errors import FrysError, NotFound
from frys_node.base.ports import Executor
from snapshots.bundle import Bundle, decode_bundle
from snapshots.capture import check_unit, closing
from snapshots.chunking import verify_chunk
from snapshots.errors import CorruptChunk, CorruptManifest, UnknownFormat
from snapshots.index import (
    BUNDLES,
    CHUNKS,
    INDEX_SUFFIX,
    INDEXES,
    SavedSnapshot,
    SavedUnit,
    check_name,
    decode_index,
    index_key,
    is_name,
)
from snapshots.manifest import ChunkRef, Manifest, decode_manifest, digest_of
from snapshots.objects import Objects

READS_MAX = 8
"""Chunks that are fetched at once, of at most 1 MiB each."""

MEND = "delete the snapshot, or save a new one: a save writes again what is missing"


class Shelf:
    """The saved snapshots of one place."""

    def __init__(self, objects: Objects, executor: Executor) -> None:
        self.objects = objects
        self.executor = executor

    async def names(self) -> list[str]:
        """Names of all snapshots, readable or not, sorted."""
        found = {
            name.removesuffix(INDEX_SUFFIX)
            for name in await self.objects.list(INDEXES)
            if name.endswith(INDEX_SUFFIX) and is_name(name.removesuffix(INDEX_SUFFIX))
        }
        for folder in await self.objects.folders():
            if is_name(folder) and f"index{INDEX_SUFFIX}" in await self.objects.list(folder):
                found.add(folder)
        return sorted(found)

    async def list(self) -> tuple[list[SavedSnapshot], list[str]]:
        """Every readable snapshot, by name, and what is wrong with the others."""
        found: list[SavedSnapshot] = []
        problems: list[str] = []
        for name in await self.names():
            try:
                found.append(await self.get(name))
            except NotFound:
                continue
            except (CorruptManifest, UnknownFormat) as error:
                problems.append(error.message)
        return found, problems

    async def get(self, name: str) -> SavedSnapshot:
        """One snapshot's index.

        Raises:
            NotFound: There is none.
            CorruptManifest: Its index cannot be read.
            UnknownFormat: A newer version wrote it.
        """
        data = await self.objects.get(index_key(name))
        if data is None:
            # Format 1 had a folder for each snapshot.
            data = await self.objects.get(f"{check_name(name)}/index{INDEX_SUFFIX}")
        if data is None:
            raise NotFound(
                f"there is no snapshot '{name}' in {self.objects.place}",
                hint="`frys-node snapshot list` shows them; --store names another place",
            )
        return decode_index(data, name)

    async def open(self, index: SavedSnapshot) -> Contents:
        """Read what a snapshot consists of.

        Raises:
            CorruptManifest, UnknownFormat: A part of that list cannot be read.
        """
        contents = Contents(self, index)
        for name in dict.fromkeys(index.bundles):
            await self.executor.run(contents.add, await self.bundle(name))
        return contents

    async def bundle(self, name: str) -> Bundle:
        """Return a bundle, checked (`CorruptManifest`)."""
        data = await self.objects.get(f"{BUNDLES}/{name}")
        if data is None:
            raise CorruptManifest(f"the list of units {name[:16]} is missing", hint=MEND)
        return await self.executor.run(decode_bundle, data, name)


class Contents:
    """Manifests and chunks of one snapshot."""

    def __init__(self, shelf: Shelf, index: SavedSnapshot) -> None:
        self._shelf = shelf
        self._index = index
        self._roots = frozenset(saved.root for saved in index.units)
        self._manifests: dict[str, Manifest] = {}
        self._small: dict[bytes, bytes] = {}
        self._folder = f"{index.name}/chunks" if index.format == 1 else CHUNKS

    def add(self, bundle: Bundle) -> None:
        """Take a bundle's manifests and small chunks, those that the index names."""
        mine = {manifest.root.hex(): manifest for manifest in bundle.manifests if manifest.root.hex() in self._roots}
        named = {chunk.digest for manifest in mine.values() for chunk in manifest.chunks}
        self._manifests.update(mine)
        self._small.update({digest: data for data in bundle.small if (digest := digest_of(data)) in named})

    async def manifest(self, saved: SavedUnit) -> Manifest:
        """Return the manifest of a copy of a unit, checked (`CorruptManifest`)."""
        manifest = self._manifests.get(saved.root)
        if manifest is None and self._index.format == 1:
            data = await self._shelf.objects.get(f"{self._index.name}/manifests/{saved.root}")
            manifest = decode_manifest(data) if data is not None else None
        if manifest is None:
            raise CorruptManifest(f"the manifest of '{saved.unit}' is missing", hint=MEND)
        check_unit(manifest, saved.unit)
        if manifest.root.hex() != saved.root:
            raise CorruptManifest(f"the manifest of '{saved.unit}' is not the one that the index names", hint=MEND)
        return manifest

    async def chunk(self, chunk: ChunkRef) -> bytes:
        """Return a chunk, checked (`CorruptChunk`)."""
        small = self._small.get(chunk.digest)
        if small is not None:
            return verify_chunk(chunk, small)
        data = await self._shelf.objects.get(f"{self._folder}/{chunk.digest.hex()}")
        if data is None:
            raise CorruptChunk(f"chunk {chunk.digest.hex()[:16]} is missing", hint=MEND)
        return await self._shelf.executor.run(verify_chunk, chunk, data)

    async def parts(self, manifest: Manifest) -> AsyncIterator[bytes]:
        """Yield the chunks of a unit in order, each checked."""
        async with closing(self.read(manifest.chunks)) as found:
            async for _, data, error in found:
                if error is not None:
                    raise error
                yield data

    async def read(self, chunks: Sequence[ChunkRef]) -> AsyncIterator[tuple[ChunkRef, bytes, CorruptChunk | None]]:
        """Yield chunks in order with their bytes, or with what is wrong with them; several are fetched at once."""
        for start in range(0, len(chunks), READS_MAX):
            batch = chunks[start : start + READS_MAX]
            found: dict[int, bytes] = {}
            damaged: dict[int, CorruptChunk] = {}
            failed: list[FrysError] = []
            async with trio.open_nursery() as nursery:
                for number, chunk in enumerate(batch):
                    nursery.start_soon(self._fetch, number, chunk, found, damaged, failed)
            if failed:
                raise failed[0]
            for number, chunk in enumerate(batch):
                yield chunk, found.pop(number, b""), damaged.get(number)

    async def _fetch(
        self,
        number: int,
        chunk: ChunkRef,
        found: dict[int, bytes],
        damaged: dict[int, CorruptChunk],
        failed: list[FrysError],
    ) -> None:
        """Fetch one chunk of a batch; errors are kept, because a nursery wraps what leaves it into a group."""
        try:
            found[number] = await self.chunk(chunk)
        except CorruptChunk as error:
            damaged[number] = error
        except FrysError as error:
            failed.append(error)

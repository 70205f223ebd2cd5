"""A saved snapshot out of a place, whole and sealed, and one back into a place.

What goes out is sealed here, in the node: its plain bytes never leave the process. What comes back was opened by the
command that has the key, which the node never sees; it comes as objects that are checked one by one, invisible until
the index is written, last and only if all of it can be read back.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import trio

from frys_node.base.errors import FrysError, UsageError
from frys_node.base.ports import Executor
from frys_node.secure.sealed import Sealer
from snapshots.archive import (
    FRONT,
    Item,
    Kind,
    archive_bytes,
    can_be,
    check_exportable,
    item_of,
    read_items,
)
from snapshots.bundle import decode_bundle, own_chunks, small_of
from snapshots.capture import closing
from snapshots.errors import CorruptManifest
from snapshots.index import BUNDLES, SavedSnapshot, index_key
from snapshots.library import Library
from snapshots.manifest import ChunkRef
from snapshots.objects import Objects
from snapshots.shelf import MEND, Contents

PUTS_MAX: Final = 6
"""Objects of one request that are written at once."""


class Export:
    """One snapshot, looked through and ready to be streamed."""

    def __init__(self, library: Library, index: SavedSnapshot, executor: Executor) -> None:
        self.index = index
        self.content_bytes = 0
        """How long the content of the file is, before it is sealed."""
        self._library = library
        self._executor = executor
        self._chunks: list[ChunkRef] = []
        self._index_data = b""

    async def look(self) -> None:
        """Find out what belongs to the snapshot.

        Raises:
            CorruptManifest, UnknownFormat, UsageError: It cannot be exported. Nothing was sent.
        """
        check_exportable(self.index)
        name = self.index.name
        data = await self._library.shelf.objects.get(index_key(name))
        if data is None:
            raise CorruptManifest(f"the index of snapshot '{name}' is gone")
        self._index_data = data
        _check_size(Kind.INDEX, data)
        sizes: list[int] = []
        chunks: dict[bytes, ChunkRef] = {}
        for bundle_name in dict.fromkeys(self.index.bundles):
            bundle_data = await self._bundle(bundle_name)
            _check_size(Kind.BUNDLE, bundle_data)
            sizes.append(len(bundle_data))
            chunks.update(await self._executor.run(_chunks_in, bundle_data, bundle_name))
        self._chunks = list(chunks.values())
        self.content_bytes = archive_bytes(len(data), sizes, self._chunks)

    async def _bundle(self, name: str) -> bytes:
        data = await self._library.shelf.objects.get(f"{BUNDLES}/{name}")
        if data is None:
            raise CorruptManifest(f"the list of units {name[:16]} is missing", hint=MEND)
        return data

    async def pieces(self, sealer: Sealer) -> AsyncIterator[bytes]:
        """Yield the sealed file. An error ends it before its end, which whoever opens it sees.

        Sealing runs in a worker. Nothing is collected in the place meanwhile.
        """
        async with self._library.locks.using(f"export {self.index.name}", may_fail=True) as lock:
            async with closing(self._plain()) as plain:
                async for part in plain:
                    if lock is not None:
                        await lock.keep()
                    sealed = await self._executor.run(sealer.push, part)
                    if sealed:
                        yield sealed
            yield await self._executor.run(sealer.finish)

    async def _plain(self) -> AsyncIterator[bytes]:
        index = await self._executor.run(item_of, Kind.INDEX, self._index_data)
        yield FRONT + index.encode()
        for name in dict.fromkeys(self.index.bundles):
            bundle = await self._executor.run(item_of, Kind.BUNDLE, await self._bundle(name))
            if bundle.digest.hex() != name:
                raise CorruptManifest(f"the list of units {name[:16]} is damaged", hint=MEND)
            yield bundle.encode()
        contents = Contents(self._library.shelf, self.index)
        async with closing(contents.read(self._chunks)) as found:
            async for chunk, data, damage in found:
                if damage is not None:
                    raise damage
                yield Item(Kind.CHUNK, chunk.digest, data).encode()


def _check_size(kind: Kind, data: bytes) -> None:
    """Refuse before anything is sent what no import would take."""
    if not can_be(kind, len(data)):
        raise UsageError(
            f"the {kind.name.lower()} of {len(data)} bytes is too long for an export",
            hint="save fewer units in one snapshot (--kind or --unit), and export several",
        )


def _chunks_in(data: bytes, name: str) -> dict[bytes, ChunkRef]:
    """Return the chunks that a bundle names and does not hold."""
    bundle = decode_bundle(data, name)
    small = small_of(bundle)
    own = [own_chunks(manifest, small) for manifest in bundle.manifests]
    # In the order of the manifests, so that what lies together is read together.
    named = (chunk for manifest in bundle.manifests for chunk in manifest.chunks)
    due: set[ChunkRef] = set().union(*own)
    return {chunk.digest: chunk for chunk in named if chunk in due}


async def put_objects(objects: Objects, executor: Executor, body: bytes) -> int:
    """Write objects of an export into a place; returns how many. Nothing names them yet.

    Raises:
        CorruptExport: One is not what its digest names, or they are too many. None was written.
        StorageError: The place refused; those that were written stay, unnamed.
    """
    items = await executor.run(read_items, body)
    if any(item.kind is Kind.INDEX for item in items):
        raise UsageError("the index of an export comes last, and alone")
    failed: list[FrysError] = []
    waiting = iter(items)

    async def work() -> None:
        for item in waiting:
            try:
                # What other snapshots have in common with this one is not written again: a torn write would harm them.
                if not await objects.create(item.key, item.data) and await objects.get(item.key) != item.data:
                    await objects.put(item.key, item.data)
            except FrysError as error:
                # Kept, because a nursery wraps what leaves it into a group.
                failed.append(error)
            if failed:
                return

    async with trio.open_nursery() as nursery:
        # As many tasks as write, not as objects: a request may bring thousands.
        for _ in range(PUTS_MAX):
            nursery.start_soon(work)
    if failed:
        raise failed[0]
    return len(items)

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
from snapshots.archive import FRONT, Item, Kind, archive_bytes, check_exportable, item_of, read_items
from snapshots.bundle import decode_bundle
from snapshots.capture import closing
from snapshots.errors import CorruptManifest
from snapshots.index import BUNDLES, SavedSnapshot, index_key
from snapshots.library import Library
from snapshots.manifest import ChunkRef, digest_of
from snapshots.objects import Objects
from snapshots.shelf import MEND, Contents

OBJECTS_BODY_MAX: Final = 34 << 20
"""Bytes of objects that one request brings: room for one of the largest, or for many of the others."""

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
            CorruptManifest, UnknownFormat: It cannot be exported. Nothing was sent.
        """
        check_exportable(self.index)
        name = self.index.name
        data = await self._library.shelf.objects.get(index_key(name))
        if data is None:
            raise CorruptManifest(f"the index of snapshot '{name}' is gone")
        self._index_data = data
        sizes: list[int] = []
        chunks: dict[bytes, ChunkRef] = {}
        small: set[bytes] = set()
        for bundle_name in dict.fromkeys(self.index.bundles):
            bundle_data = await self._bundle(bundle_name)
            sizes.append(len(bundle_data))
            named, within = await self._executor.run(_chunks_in, bundle_data, bundle_name)
            chunks.update(named)
            small.update(within)
        self._chunks = [chunk for digest, chunk in chunks.items() if digest not in small]
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


def _chunks_in(data: bytes, name: str) -> tuple[dict[bytes, ChunkRef], set[bytes]]:
    """Return the chunks that a bundle names, and the digests of those that it holds."""
    bundle = decode_bundle(data, name)
    named = {chunk.digest: chunk for manifest in bundle.manifests for chunk in manifest.chunks}
    return named, set(map(digest_of, bundle.small))


async def put_objects(objects: Objects, executor: Executor, body: bytes) -> int:
    """Write objects of an export into a place; returns how many. Nothing names them yet.

    Raises:
        CorruptExport: One is not what its digest names. None was written.
        StorageError: The place refused; those that were written stay, unnamed.
    """
    items = await executor.run(read_items, body)
    if any(item.kind is Kind.INDEX for item in items):
        raise UsageError("the index of an export comes last, and alone")
    failed: list[FrysError] = []
    room = trio.Semaphore(PUTS_MAX)

    async def put(key: str, data: bytes) -> None:
        async with room:
            try:
                # What other snapshots have in common with this one is not written again: a torn write would harm them.
                if not await objects.create(key, data) and await objects.get(key) != data:
                    await objects.put(key, data)
            except FrysError as error:
                # Kept, because a nursery wraps what leaves it into a group.
                failed.append(error)

    async with trio.open_nursery() as nursery:
        for item in items:
            nursery.start_soon(put, item.key, item.data)
    if failed:
        raise failed[0]
    return len(items)

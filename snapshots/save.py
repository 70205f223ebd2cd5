"""Writing units into a place: each chunk once, several at a time, those that are there not again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio

from frys_node.base.errors import FrysError
from frys_node.base.ports import Executor
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.snapshots import Snapshottable
from snapshots.bundle import SMALL_BYTES, Bundler, bundle_name
from snapshots.capture import closing
from snapshots.chunking import PartChunker
from snapshots.index import BUNDLES, CHUNKS, SavedUnit
from snapshots.locks import Lock
from snapshots.manifest import FORMAT, PART_BYTES_MAX, ChunkRef, build_manifest, digest_of
from snapshots.objects import Objects

PUTS_MAX: Final = 6
"""Chunks on their way to the place at once, of at most 1 MiB each."""


INLINE_BYTES: Final = 32 * 1024
"""Chunks up to this are hashed on the event loop, in less than 0.1 ms."""


class _Puts:
    """Chunks under way; the first that fails ends the others' start, and is raised when all have ended."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.room = trio.CapacityLimiter(PUTS_MAX)
        self.error: FrysError | None = None

    def check(self) -> None:
        """Raise what a chunk met."""
        if self.error is not None:
            raise self.error


class Saver:
    """Saves units of one node into one place, and counts."""

    def __init__(self, objects: Objects, executor: Executor, node: NodeId, lock: Lock) -> None:
        self.new_bytes = 0
        self.reused_bytes = 0
        self._objects = objects
        self._executor = executor
        self._node = node
        self._lock = lock
        self._there: dict[str, int] = {}
        self._bundles: dict[str, int] = {}
        self._bundler = Bundler()
        self._names: list[str] = []
        self._puts: _Puts | None = None

    async def look(self) -> None:
        """Find out what is there already, and begin anew. The lock keeps it there."""
        self._names.clear()
        self._bundler = Bundler()
        self._there = dict(await self._objects.list(CHUNKS))
        self._bundles = dict(await self._objects.list(BUNDLES))

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[None]:
        """Save units in here; when it ends, everything is written, or the first error is raised."""
        failure: FrysError | None = None
        async with trio.open_nursery() as nursery:
            puts = self._puts = _Puts(nursery)
            try:
                yield
            except FrysError as error:
                # Caught here, because a nursery wraps what leaves it into a group.
                failure = error
        self._puts = None
        if failure is not None:
            raise failure
        puts.check()

    async def save(self, provider: Snapshottable, unit: UnitId) -> SavedUnit:
        """Fix a unit's state and save it.

        Raises:
            FrysError: The place or the unit refused. Chunks that were written stay, and nothing names them.
        """
        puts = self._puts
        assert puts is not None, "units are saved inside `writing`"
        await self._lock.keep()
        captured = await provider.capture(unit)
        refs: list[ChunkRef] = []
        chunker = PartChunker()
        async with closing(captured.parts()) as parts:
            async for part in parts:
                for chunk in chunker.push(part):
                    await self._take(puts, refs, chunk)
        for chunk in chunker.finish():
            await self._take(puts, refs, chunk)
        manifest = build_manifest(unit, refs, PART_BYTES_MAX, FORMAT)
        self._bundler.add(manifest)
        if self._bundler.is_full:
            await self._end_bundle()
        return SavedUnit(
            unit=unit,
            root=manifest.root.hex(),
            size_bytes=manifest.size_bytes,
            chunks=len(refs),
            node=self._node,
        )

    async def finish(self) -> tuple[str, ...]:
        """Write the last bundle; returns the names of all."""
        await self._end_bundle()
        return tuple(self._names)

    async def _end_bundle(self) -> None:
        data = self._bundler.finish()
        if data is None:
            return
        name = bundle_name(data)
        self._names.append(name)
        if self._bundles.get(name) == len(data):
            self.reused_bytes += len(data)
            return
        await self._objects.put(f"{BUNDLES}/{name}", data)
        self._bundles[name] = len(data)
        self.new_bytes += len(data)

    async def _take(self, puts: _Puts, refs: list[ChunkRef], chunk: bytes) -> None:
        """Name a chunk, and have it written unless it is there."""
        puts.check()
        # A large chunk is a millisecond of hashing, a small one less than the way to a thread.
        digest = digest_of(chunk) if len(chunk) <= INLINE_BYTES else await self._executor.run(digest_of, chunk)
        ref = ChunkRef(digest, len(chunk))
        refs.append(ref)
        if len(chunk) <= SMALL_BYTES:
            self._bundler.add_small(ref, chunk)
            return
        name = digest.hex()
        if self._there.get(name) == len(chunk):
            self.reused_bytes += len(chunk)
            return
        self._there[name] = len(chunk)
        self.new_bytes += len(chunk)
        await self._lock.keep()
        await puts.room.acquire_on_behalf_of(name)
        puts.nursery.start_soon(self._put, puts, name, chunk)

    async def _put(self, puts: _Puts, name: str, chunk: bytes) -> None:
        try:
            await self._objects.put(f"{CHUNKS}/{name}", chunk)
        except FrysError as error:
            # It is not there after all: the next unit with this chunk must not rely on it.
            self._there.pop(name, None)
            puts.error = puts.error or error
        finally:
            puts.room.release_on_behalf_of(name)

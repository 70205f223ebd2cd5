"""Chunks by digest while state moves: first in memory, then on disk, bounded, the unused ones pruned first.

A chunk that someone needs is pinned; pins count. What is not pinned is kept for the next try of an interrupted move
until its room is needed. Chunks on disk survive a restart and are checked against their digest whenever they are read,
so that nothing rests on how they were written.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import trio

from frys_node.base.ports import Disk, Executor
from snapshots.chunking import verify_chunk
from snapshots.errors import ChunkStoreFull, CorruptChunk
from snapshots.manifest import DIGEST_BYTES, ChunkRef

DIRECTORY = "snapshots/chunks"


class ChunkStore:
    """Content-addressed chunks within two bounds."""

    def __init__(
        self, disk: Disk, executor: Executor, *, memory_bytes_max: int, disk_bytes_max: int, directory: str = DIRECTORY
    ) -> None:
        self._disk = disk
        self._executor = executor
        self._memory_bytes_max = memory_bytes_max
        self._disk_bytes_max = disk_bytes_max
        self._directory = directory
        self._memory: OrderedDict[bytes, bytes] = OrderedDict()
        self._on_disk: OrderedDict[bytes, int] = OrderedDict()
        self._pins: dict[bytes, int] = {}
        self._idle_since_s: dict[bytes, float] = {}
        self.memory_bytes = 0
        self.disk_bytes = 0

    async def load(self) -> None:
        """Find the chunks that an earlier process left on disk; over the bound the first in order go."""
        self._on_disk.clear()
        self.disk_bytes = 0
        sizes = await self._executor.run(self._scan)
        for digest, size_bytes in sizes:
            if digest not in self._memory:
                self._on_disk[digest] = size_bytes
                self.disk_bytes += size_bytes
        await self._make_room(0)

    def _write(self, path: str, data: bytes) -> None:
        # Two fsyncs for each chunk would be most of a move's time, and a torn chunk is found out when it is read.
        self._disk.write(path, data, durable=False)

    def _scan(self) -> list[tuple[bytes, int]]:
        found: list[tuple[bytes, int]] = []
        for name in self._disk.list(self._directory):
            try:
                digest = bytes.fromhex(name)
            except ValueError:
                continue
            if len(digest) == DIGEST_BYTES:
                found.append((digest, self._disk.size_bytes(self._path(digest))))
        return found

    def has(self, digest: bytes) -> bool:
        """True if the chunk is here (on disk it may still turn out to be corrupt)."""
        return digest in self._memory or digest in self._on_disk

    def pin(self, digests: Iterable[bytes]) -> None:
        """Keep chunks that are here, or that come, until as many `unpin`."""
        for digest in digests:
            self._pins[digest] = self._pins.get(digest, 0) + 1

    def unpin(self, digests: Iterable[bytes]) -> None:
        """Undo one `pin` of each."""
        for digest in digests:
            left = self._pins.get(digest, 0) - 1
            if left > 0:
                self._pins[digest] = left
            else:
                self._pins.pop(digest, None)

    @property
    def pinned(self) -> int:
        """Distinct chunks that someone needs."""
        return len(self._pins)

    async def put(self, chunk: ChunkRef, data: bytes) -> None:
        """Store a chunk whose digest the caller has checked.

        Raises:
            ChunkStoreFull: Both bounds are reached with pinned chunks. The chunk was not kept.
            StorageError: The disk refused. The chunk was not kept.
        """
        if self.has(chunk.digest):
            await trio.lowlevel.checkpoint()
            return
        if self._make_memory_room(len(data)):
            self._memory[chunk.digest] = data
            self.memory_bytes += len(data)
            await trio.lowlevel.checkpoint()
            return
        await self._make_room(len(data))
        # Claimed before the wait, so that several writers together keep the bound.
        self.disk_bytes += len(data)
        try:
            await self._executor.run(self._write, self._path(chunk.digest), data)
        except BaseException:
            self.disk_bytes -= len(data)
            raise
        if chunk.digest in self._on_disk:
            self.disk_bytes -= len(data)
        self._on_disk[chunk.digest] = len(data)

    async def get(self, chunk: ChunkRef) -> bytes:
        """Return a chunk, checked.

        Raises:
            CorruptChunk: It is not here, or what the disk holds is something else; that is then removed.
        """
        data = self._memory.get(chunk.digest)
        if data is not None:
            self._memory.move_to_end(chunk.digest)
            await trio.lowlevel.checkpoint()
            return data
        stored = None
        if chunk.digest in self._on_disk:
            self._on_disk.move_to_end(chunk.digest)
            stored = await self._executor.run(self._disk.read, self._path(chunk.digest))
        if stored is None:
            self._forget_disk(chunk.digest)
            raise CorruptChunk(f"chunk {chunk.digest.hex()[:16]} is not in the store any more")
        try:
            return verify_chunk(chunk, stored)
        except CorruptChunk:
            await self._remove_from_disk(chunk.digest)
            raise

    async def discard(self, digests: Iterable[bytes]) -> None:
        """Remove those of the chunks that nobody has pinned."""
        for digest in digests:
            if digest in self._pins:
                continue
            data = self._memory.pop(digest, None)
            if data is not None:
                self.memory_bytes -= len(data)
            if digest in self._on_disk:
                await self._remove_from_disk(digest)
        await trio.lowlevel.checkpoint()

    async def expire(self, now_s: float, idle_s: float) -> int:
        """Remove chunks that nobody has pinned for so long: leftovers of moves that were never tried again.

        Idle time counts from the first call that finds the chunk unpinned. Returns how many were removed.
        """
        unused = [digest for digest in (*self._memory, *self._on_disk) if digest not in self._pins]
        self._idle_since_s = {digest: self._idle_since_s.get(digest, now_s) for digest in unused}
        old = [digest for digest, since_s in self._idle_since_s.items() if since_s <= now_s - idle_s]
        await self.discard(old)
        return len(old)

    def _make_memory_room(self, size_bytes: int) -> bool:
        """Drop unused chunks from memory, oldest first; False if it would still not fit."""
        if self.memory_bytes + size_bytes > self._memory_bytes_max:
            for digest in [digest for digest in self._memory if digest not in self._pins]:
                self.memory_bytes -= len(self._memory.pop(digest))
                if self.memory_bytes + size_bytes <= self._memory_bytes_max:
                    break
        return self.memory_bytes + size_bytes <= self._memory_bytes_max

    async def _make_room(self, size_bytes: int) -> None:
        """Prune unused chunks from disk, oldest first."""
        if self.disk_bytes + size_bytes > self._disk_bytes_max:
            for digest in [digest for digest in self._on_disk if digest not in self._pins]:
                await self._remove_from_disk(digest)
                if self.disk_bytes + size_bytes <= self._disk_bytes_max:
                    return
        if size_bytes and self.disk_bytes + size_bytes > self._disk_bytes_max:
            raise ChunkStoreFull(
                f"the chunk store holds {self.disk_bytes} bytes that are in use, its bound is {self._disk_bytes_max}",
                hint="raise plugins.snapshots.disk_bytes_max, or move fewer units at once",
            )

    async def _remove_from_disk(self, digest: bytes) -> None:
        self._forget_disk(digest)
        await self._executor.run(self._disk.remove, self._path(digest))

    def _forget_disk(self, digest: bytes) -> None:
        self.disk_bytes -= self._on_disk.pop(digest, 0)

    def _path(self, digest: bytes) -> str:
        return f"{self._directory}/{digest.hex()}"

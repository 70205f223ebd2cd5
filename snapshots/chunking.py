"""Cutting a state into chunks of one size, and checking what comes back.

Sans-I/O. There are two ways. A move cuts at every `CHUNK_BYTES`: its chunks live for one transfer. A saved snapshot
cuts where the source cuts its parts, because the next snapshot shall find the same chunks again: a source of sorted
entries ends its parts at places that depend on the entries there and on nothing else, so that one changed entry
changes one chunk. A rolling hash over the bytes would do the same for any source, at 10 ns a byte in numpy and 500
without.
"""

from __future__ import annotations

from frys_node.base.types import UnitId
from snapshots.errors import CorruptChunk
from snapshots.manifest import CHUNK_BYTES, PART_BYTES_MAX, ChunkRef, Manifest, build_manifest, digest_of

PART_BYTES_MIN = 32 * 1024
"""Parts below this are put together: an object of its own for each would cost more than it saves."""


class Chunker:
    """Takes a state's bytes in pieces of any size; returns whole chunks with their references."""

    __slots__ = ("_buffer", "_chunk_bytes", "_refs", "_unit")

    def __init__(self, unit: UnitId, chunk_bytes: int = CHUNK_BYTES) -> None:
        self._unit = unit
        self._chunk_bytes = chunk_bytes
        self._buffer = bytearray()
        self._refs: list[ChunkRef] = []

    def push(self, data: bytes) -> list[tuple[ChunkRef, bytes]]:
        """Add bytes; returns the chunks that are now whole."""
        self._buffer += data
        size = self._chunk_bytes
        whole = len(self._buffer) - len(self._buffer) % size
        chunks = [self._cut(bytes(self._buffer[start : start + size])) for start in range(0, whole, size)]
        del self._buffer[:whole]
        return chunks

    def finish(self) -> tuple[list[tuple[ChunkRef, bytes]], Manifest]:
        """End the state; returns the last, shorter chunk if there is one, and the manifest."""
        rest = [self._cut(bytes(self._buffer))] if self._buffer else []
        self._buffer.clear()
        return rest, build_manifest(self._unit, self._refs, self._chunk_bytes)

    def _cut(self, data: bytes) -> tuple[ChunkRef, bytes]:
        ref = ChunkRef(digest_of(data), len(data))
        self._refs.append(ref)
        return ref, data


class PartChunker:
    """Makes chunks of a state's parts as they are, except for very small and very large ones."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def push(self, part: bytes) -> list[bytes]:
        """Add a part; returns the chunks that are now whole."""
        if not self._buffer and PART_BYTES_MIN <= len(part) <= PART_BYTES_MAX:
            return [part]
        self._buffer += part
        chunks: list[bytes] = []
        while len(self._buffer) >= PART_BYTES_MIN:
            chunks.append(bytes(self._buffer[:PART_BYTES_MAX]))
            del self._buffer[:PART_BYTES_MAX]
        return chunks

    def finish(self) -> list[bytes]:
        """End the state; returns the last chunk if there is one."""
        rest = [bytes(self._buffer)] if self._buffer else []
        self._buffer.clear()
        return rest


def verify_chunk(ref: ChunkRef, data: bytes) -> bytes:
    """Return the bytes if they are the chunk.

    Raises:
        CorruptChunk: They are not. Drop them and ask again.
    """
    if len(data) != ref.size_bytes or digest_of(data) != ref.digest:
        raise CorruptChunk(f"chunk {ref.digest.hex()[:16]} came with other bytes ({len(data)} of {ref.size_bytes})")
    return data

r"""A whole snapshot as one stream of bytes: what is inside a sealed export.

Sans-I/O. Layout, integers big-endian::

    "frys-export\0" | format u16
    per object: kind u8 (1 index, 2 bundle, 3 chunk) | digest 32 | size u32 | bytes

The objects are those of a place (`library`), byte for byte, each once: first the index, then the bundles that it names,
then the chunks that those name and that have objects of their own. Nothing marks the end, as the seal around it does.
Versioned; a file in ``tests/golden`` must be read forever.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from snapshots.bundle import Bundle, decode_bundle
from snapshots.errors import CorruptExport, CorruptManifest, UnknownFormat
from snapshots.index import BUNDLES, CHUNKS, INDEX_FORMAT, SavedSnapshot, decode_index
from snapshots.manifest import DIGEST_BYTES, ChunkRef, digest_of
from snapshots.objects import OBJECT_BYTES_MAX

FORMAT: Final = 1
_MAGIC: Final = b"frys-export\x00"
FRONT: Final = _MAGIC + struct.pack(">H", FORMAT)

_HEAD = struct.Struct(f">B{DIGEST_BYTES}sI")
HEAD_BYTES: Final = _HEAD.size


class Kind(IntEnum):
    """What an object is."""

    INDEX = 1
    BUNDLE = 2
    CHUNK = 3


class Item(NamedTuple):
    """One object of an export, its bytes checked against the digest that names it."""

    kind: Kind
    digest: bytes
    data: bytes

    @property
    def key(self) -> str:
        """Where a place has it; only bundles and chunks are kept by digest."""
        return f"{BUNDLES if self.kind is Kind.BUNDLE else CHUNKS}/{self.digest.hex()}"

    def encode(self) -> bytes:
        """Return the object's part of the stream."""
        return _HEAD.pack(self.kind, self.digest, len(self.data)) + self.data


def item_of(kind: Kind, data: bytes) -> Item:
    """Name an object by its digest."""
    return Item(kind, digest_of(data), data)


class ArchiveReader:
    """Takes a stream in pieces of any size; returns whole objects. Holds one object at most, of 32 MiB."""

    __slots__ = ("_buffer", "_has_begun")

    def __init__(self, *, has_front: bool = True) -> None:
        self._buffer = bytearray()
        self._has_begun = not has_front

    def push(self, data: bytes) -> list[Item]:
        """Add bytes; returns the objects that are whole now.

        Raises:
            UnknownFormat: A newer version wrote it.
            CorruptExport: It is no export, or an object is not what its digest names. The machine is of no more use.
        """
        self._buffer += data
        items: list[Item] = []
        if not self._has_begun and not self._begin():
            return items
        start = 0
        while len(self._buffer) - start >= HEAD_BYTES:
            number, digest, size = _HEAD.unpack_from(self._buffer, start)
            if number not in tuple(Kind) or size > OBJECT_BYTES_MAX:
                raise CorruptExport(f"the export has an object of kind {number} and {size} bytes, which cannot be")
            end = start + HEAD_BYTES + size
            if len(self._buffer) < end:
                break
            found = bytes(self._buffer[start + HEAD_BYTES : end])
            if digest_of(found) != digest:
                raise CorruptExport(f"object {digest.hex()[:16]} of the export has other bytes than its name says")
            items.append(Item(Kind(number), digest, found))
            start = end
        del self._buffer[:start]
        return items

    def _begin(self) -> bool:
        if len(self._buffer) < len(FRONT):
            return False
        if not self._buffer.startswith(_MAGIC):
            raise CorruptExport("what is sealed here is no snapshot")
        (version,) = struct.unpack_from(">H", self._buffer, len(_MAGIC))
        if version != FORMAT:
            raise UnknownFormat(
                f"an export of format {version}, this version reads {FORMAT}", hint="use a newer frys-node"
            )
        del self._buffer[: len(FRONT)]
        self._has_begun = True
        return True

    def finish(self) -> None:
        """Say that the stream ends here (`CorruptExport` if that is inside an object, or before any)."""
        if self._buffer or not self._has_begun:
            raise CorruptExport("the export ends inside an object")


def read_items(data: bytes) -> list[Item]:
    """Return the objects that the bytes hold, without the front of an export (`CorruptExport`)."""
    reader = ArchiveReader(has_front=False)
    items = reader.push(data)
    reader.finish()
    return items


class Inventory:
    """What an export has to have, and has: exactly what its index and bundles name, in that order."""

    __slots__ = ("_bundles", "_chunks", "_index", "_small", "chunks", "size_bytes")

    def __init__(self) -> None:
        self._index: SavedSnapshot | None = None
        self._bundles: set[str] = set()
        self._chunks: set[bytes] = set()
        self._small: set[bytes] = set()
        self.chunks = 0
        """Chunks that were taken."""
        self.size_bytes = 0
        """Bytes of all objects that were taken."""

    @property
    def index(self) -> SavedSnapshot | None:
        """The index, once it was taken."""
        return self._index

    def take(self, item: Item) -> None:
        """Note an object.

        Raises:
            CorruptExport: It is not one of those that are still to come.
            UnknownFormat: A newer version wrote it.
        """
        self.size_bytes += len(item.data)
        if self._index is None or item.kind is Kind.INDEX:
            if self._index is not None or item.kind is not Kind.INDEX:
                raise CorruptExport("the export does not begin with one index")
            self._index = index_of(item.data)
            self._bundles = set(self._index.bundles)
        elif item.kind is Kind.BUNDLE:
            name = item.digest.hex()
            self._expect(name in self._bundles, item)
            self._bundles.discard(name)
            bundle = _bundle_of(item.data, name)
            self._small.update(map(digest_of, bundle.small))
            self._chunks.update(chunk.digest for manifest in bundle.manifests for chunk in manifest.chunks)
            if not self._bundles:
                self._chunks -= self._small
        else:
            self._expect(not self._bundles and item.digest in self._chunks, item)
            self._chunks.discard(item.digest)
            self.chunks += 1

    @staticmethod
    def _expect(is_expected: bool, item: Item) -> None:
        if not is_expected:
            raise CorruptExport(f"the export has {item.kind.name.lower()} {item.digest.hex()[:16]}, which is not due")

    def finish(self) -> SavedSnapshot:
        """Return the index if everything that it names has come (`CorruptExport`)."""
        missing = len(self._bundles) + len(self._chunks)
        if self._index is None or missing:
            raise CorruptExport(f"the export lacks {missing or 'all'} of its objects")
        return self._index


def _bundle_of(data: bytes, name: str) -> Bundle:
    try:
        return decode_bundle(data, name)
    except CorruptManifest as error:
        raise CorruptExport(error.message) from error


def index_of(data: bytes) -> SavedSnapshot:
    """Return the index of an export, whose name it says itself.

    Raises:
        CorruptExport: The bytes are no index.
        UnknownFormat: It has a format that is not exported.
    """
    try:
        name = msgspec.json.decode(data, type=_Named).name
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptExport(f"the index of the export cannot be read: {error}") from error
    try:
        index = decode_index(data, name)
    except CorruptManifest as error:
        raise CorruptExport(error.message) from error
    check_exportable(index)
    return index


def check_exportable(index: SavedSnapshot) -> None:
    """Refuse a snapshot of format 1, whose chunks have a folder of their own (`UnknownFormat`)."""
    if index.format != INDEX_FORMAT:
        raise UnknownFormat(
            f"snapshot '{index.name}' has format {index.format}, which is not exported",
            hint="restore it, save it again under another name, and export that",
        )


class _Named(msgspec.Struct, frozen=True):
    """Of an index, only the name."""

    name: str


def archive_bytes(index_bytes: int, bundles: Collection[int], chunks: Collection[ChunkRef]) -> int:
    """Return how long the stream of these objects is."""
    count = 1 + len(bundles) + len(chunks)
    content = index_bytes + sum(bundles) + sum(chunk.size_bytes for chunk in chunks)
    return len(FRONT) + HEAD_BYTES * count + content

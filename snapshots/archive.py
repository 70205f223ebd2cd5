r"""A whole snapshot as one stream of bytes: what is inside a sealed export.

Sans-I/O. Layout, integers big-endian::

    "frys-export\0" | format u16
    per object: kind u8 (1 index, 2 bundle, 3 chunk) | digest 32 | size u32 | bytes

The objects are those of a place (`library`), byte for byte, each once: first the index, then the bundles that it names,
then the chunks that those name and that have objects of their own. Nothing marks the end, as the seal around it does.
Whoever knows a recipient can write such a stream: what it makes its reader hold has limits of its own.
Versioned; a file in ``tests/golden`` must be read forever.
"""

from __future__ import annotations

import hashlib
import struct
import sys
from collections.abc import Collection, Iterable, Iterator
from enum import IntEnum
from typing import Final, NamedTuple

import msgspec

from frys_node.base.types import UnitId
from snapshots.bundle import SMALL_BYTES, Bundle, decode_bundle, own_chunks, small_of
from snapshots.errors import CorruptExport, CorruptManifest, UnknownFormat
from snapshots.index import BUNDLES, CHUNKS, INDEX_FORMAT, SavedSnapshot, decode_index
from snapshots.manifest import DIGEST_BYTES, PART_BYTES_MAX, ChunkRef, digest_of
from snapshots.sizes import BUNDLE_BYTES_MAX, INDEX_BYTES_MAX

FORMAT: Final = 1

ITEMS_MAX: Final = 4_096
"""Objects that are taken at once: as many of the smallest chunks as fit a request."""

_MAGIC: Final = b"frys-export\x00"
FRONT: Final = _MAGIC + struct.pack(">H", FORMAT)

_PIECE_BYTES: Final = 64 * 1024
_HEAD = struct.Struct(f">B{DIGEST_BYTES}sI")
HEAD_BYTES: Final = _HEAD.size


class Kind(IntEnum):
    """What an object is."""

    INDEX = 1
    BUNDLE = 2
    CHUNK = 3


_SIZES: Final[dict[int, tuple[int, int]]] = {
    Kind.INDEX: (0, INDEX_BYTES_MAX),
    Kind.BUNDLE: (0, BUNDLE_BYTES_MAX),
    # Smaller ones are in bundles.
    Kind.CHUNK: (SMALL_BYTES + 1, PART_BYTES_MAX),
}
"""The smallest and the largest object of each kind, in bytes."""


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
    """Takes a stream in pieces of any size; returns whole objects. Holds one object at most, of 16 MiB."""

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
            if not can_be(number, size):
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


def can_be(kind: int, size_bytes: int) -> bool:
    """True if exports have objects of that kind and size."""
    smallest, largest = _SIZES.get(kind, (1, 0))
    return smallest <= size_bytes <= largest


def read_items(data: bytes) -> list[Item]:
    """Return the objects that the bytes hold, without the front of an export (`CorruptExport`; `ITEMS_MAX`)."""
    reader = ArchiveReader(has_front=False)
    items: list[Item] = []
    for start in range(0, len(data), _PIECE_BYTES):
        items += reader.push(data[start : start + _PIECE_BYTES])
        if len(items) > ITEMS_MAX:
            raise CorruptExport(f"there are over {ITEMS_MAX} objects in one request")
    reader.finish()
    return items


def bodies(items: Iterable[Item], bytes_max: int) -> Iterator[bytes]:
    """Yield objects in requests that `read_items` takes, of `bytes_max` or one object that is larger."""
    batch: list[bytes] = []
    size = 0
    for item in items:
        data = item.encode()
        if batch and (size + len(data) > bytes_max or len(batch) == ITEMS_MAX):
            yield b"".join(batch)
            batch, size = [], 0
        batch.append(data)
        size += len(data)
    if batch:
        yield b"".join(batch)


class Inventory:
    """What an export has to have, and has: exactly what its index and bundles name, in that order.

    An import that finds these objects in a place finds nothing else to refuse. Memory is bounded by the file: chunks
    that are named are counted against `content_bytes`, the length of the stream, before they have come.
    """

    __slots__ = ("_bundles", "_chunks", "_content_bytes", "_due_bytes", "_index", "_running", "_units", "chunks")

    def __init__(self, content_bytes: int = sys.maxsize) -> None:
        self._content_bytes = content_bytes
        self._index: SavedSnapshot | None = None
        self._bundles: set[str] = set()
        self._units: set[tuple[str, UnitId]] = set()
        self._chunks: dict[bytes, int] = {}
        self._due_bytes = 0
        self._running = hashlib.blake2b(digest_size=DIGEST_BYTES)
        self.chunks = 0
        """Chunks that were taken."""

    @property
    def digest(self) -> bytes:
        """Which objects were taken, in which order."""
        return self._running.digest()

    def take(self, item: Item) -> None:
        """Note an object.

        Raises:
            CorruptExport: It is not one of those that are still to come.
            UnknownFormat: A newer version wrote it.
        """
        self._running.update(_HEAD.pack(item.kind, item.digest, len(item.data)))
        if self._index is None or item.kind is Kind.INDEX:
            if self._index is not None or item.kind is not Kind.INDEX:
                raise CorruptExport("the export does not begin with one index")
            self._index = index_of(item.data)
            self._bundles = set(self._index.bundles)
            self._units = {(saved.root, saved.unit) for saved in self._index.units}
        elif item.kind is Kind.BUNDLE:
            name = item.digest.hex()
            self._expect(name in self._bundles, item)
            self._bundles.discard(name)
            self._take_bundle(_bundle_of(item.data, name))
        else:
            self._expect(not self._bundles and self._chunks.get(item.digest) == len(item.data), item)
            del self._chunks[item.digest]
            self.chunks += 1

    def _take_bundle(self, bundle: Bundle) -> None:
        small = small_of(bundle)
        for manifest in bundle.manifests:
            self._units.discard((manifest.root.hex(), manifest.unit))
            try:
                own = own_chunks(manifest, small)
            except CorruptManifest as error:
                raise CorruptExport(error.message) from error
            for chunk in own:
                if chunk.digest not in self._chunks:
                    self._due_bytes += chunk.size_bytes
                    self._chunks[chunk.digest] = chunk.size_bytes
                elif self._chunks[chunk.digest] != chunk.size_bytes:
                    raise CorruptExport(f"the export names chunk {chunk.digest.hex()[:16]} with two sizes")
            if self._due_bytes > self._content_bytes:
                raise CorruptExport(
                    "the export names more than its file can hold",
                    hint="it was cut off or made wrong: use another copy",
                )

    @staticmethod
    def _expect(is_expected: bool, item: Item) -> None:
        if not is_expected:
            raise CorruptExport(f"the export has {item.kind.name.lower()} {item.digest.hex()[:16]}, which is not due")

    def finish(self) -> SavedSnapshot:
        """Return the index if everything that it names has come (`CorruptExport`)."""
        missing = len(self._bundles) + len(self._chunks)
        if self._index is None or missing:
            raise CorruptExport(f"the export lacks {missing or 'all'} of its objects")
        if self._units:
            _, unit = min(self._units)
            raise CorruptExport(f"the export lacks the state of '{unit}' that its index names")
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

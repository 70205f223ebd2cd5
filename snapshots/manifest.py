"""What a snapshot of a unit consists of: chunks by digest, and one root digest over all of it.

Sans-I/O. A manifest is a function of the unit's state alone (no time, no node), so that equal states have equal
manifests, byte for byte. It is versioned; a file in ``tests/golden`` must decode forever.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import UnitId
from frys_node.wire.codec import Codec
from snapshots.errors import CorruptManifest, UnknownFormat

FIXED: Final = 1
"""Format of moves, and of snapshots saved until November 2026: every chunk but the last has one size."""

FORMAT: Final = 2
"""Format of saved snapshots: chunks are cut where the state's parts end. The layout is that of format 1."""

CHUNK_BYTES: Final = 256 * 1024
"""Size of every chunk but the last in format 1."""

PART_BYTES_MAX: Final = 1 << 20
"""Size of the largest chunk in format 2."""

_CHUNK_BYTES_MAX: Final = {FIXED: CHUNK_BYTES, FORMAT: PART_BYTES_MAX}

DIGEST_BYTES: Final = 32
CHUNKS_MAX: Final = 1 << 18
"""64 GiB in chunks of 256 KiB: the largest unit that one snapshot holds."""

_MAGIC: Final = b"frys-snapshot\x00"
_ROOT_HEAD = struct.Struct(">HIQI")


class ChunkRef(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One chunk: blake2b-256 of its bytes, and their count."""

    digest: bytes
    size_bytes: int


class Manifest(msgspec.Struct, frozen=True, array_like=True):
    """A unit's state as a list of chunks, in order."""

    unit: UnitId
    size_bytes: int
    chunk_bytes: int
    chunks: tuple[ChunkRef, ...]
    root: bytes
    format: int = FIXED

    def encode(self) -> bytes:
        """Return the manifest's bytes: magic, format, body."""
        return _MAGIC + struct.pack(">H", self.format) + _CODEC.encode(self)


_CODEC: Codec[Manifest] = Codec(Manifest)


def digest_of(data: bytes | memoryview) -> bytes:
    """Return the name of a chunk: blake2b-256 of its bytes."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def root_of(unit: UnitId, size_bytes: int, chunk_bytes: int, chunks: Sequence[ChunkRef], version: int = FIXED) -> bytes:
    """Return the digest over everything that a manifest says."""
    root = hashlib.blake2b(digest_size=DIGEST_BYTES, person=b"frys-manifest")
    name = unit.encode()
    root.update(_ROOT_HEAD.pack(version, chunk_bytes, size_bytes, len(name)) + name)
    for chunk in chunks:
        root.update(chunk.digest + chunk.size_bytes.to_bytes(4, "big"))
    return root.digest()


def build_manifest(
    unit: UnitId, chunks: Sequence[ChunkRef], chunk_bytes: int = CHUNK_BYTES, version: int = FIXED
) -> Manifest:
    """Return the manifest of a unit from its chunks in order; `chunk_bytes` is the size of the largest.

    Raises:
        UnknownFormat: There are more chunks than the format holds. Nothing was made.
    """
    if len(chunks) > CHUNKS_MAX:
        raise UnknownFormat(
            f"unit '{unit}' needs {len(chunks)} chunks, over the limit of {CHUNKS_MAX}",
            hint="spread the data over more units (shards)",
        )
    size_bytes = sum(chunk.size_bytes for chunk in chunks)
    root = root_of(unit, size_bytes, chunk_bytes, chunks, version)
    return Manifest(unit, size_bytes, chunk_bytes, tuple(chunks), root, version)


def check_manifest(manifest: Manifest) -> Manifest:
    """Return the manifest if it agrees with itself and with its root.

    Raises:
        UnknownFormat: Another version. Nothing of it is used.
        CorruptManifest: It contradicts itself. Nothing of it is used.
    """
    largest = _CHUNK_BYTES_MAX.get(manifest.format)
    if largest is None:
        raise UnknownFormat(
            f"the snapshot of '{manifest.unit}' has format {manifest.format}, this version reads up to {FORMAT}",
            hint="restore it with a newer frys-node",
        )
    chunks = manifest.chunks
    if not 0 < manifest.chunk_bytes <= largest or len(chunks) > CHUNKS_MAX:
        raise CorruptManifest(f"the manifest of '{manifest.unit}' is outside its limits")
    for index, chunk in enumerate(chunks):
        is_last = index == len(chunks) - 1
        may_be_short = is_last or manifest.format != FIXED
        whole = chunk.size_bytes == manifest.chunk_bytes or (
            may_be_short and 0 < chunk.size_bytes < manifest.chunk_bytes
        )
        if len(chunk.digest) != DIGEST_BYTES or not whole:
            raise CorruptManifest(f"chunk {index} of '{manifest.unit}' has an impossible size or digest")
    if sum(chunk.size_bytes for chunk in chunks) != manifest.size_bytes:
        raise CorruptManifest(f"the chunks of '{manifest.unit}' do not add up to {manifest.size_bytes} bytes")
    root = root_of(manifest.unit, manifest.size_bytes, manifest.chunk_bytes, chunks, manifest.format)
    if root != manifest.root:
        raise CorruptManifest(f"the manifest of '{manifest.unit}' does not match its root digest")
    return manifest


def decode_manifest(data: bytes) -> Manifest:
    """Return the manifest that the bytes hold, checked.

    Raises:
        UnknownFormat: Another version. Nothing of it is used.
        CorruptManifest: Not a manifest, cut short or changed. Nothing of it is used.
    """
    head = len(_MAGIC) + 2
    if not data.startswith(_MAGIC) or len(data) < head:
        raise CorruptManifest("these bytes are not a frys snapshot manifest")
    (version,) = struct.unpack_from(">H", data, len(_MAGIC))
    if version not in _CHUNK_BYTES_MAX:
        raise UnknownFormat(
            f"a snapshot of format {version}, this version reads up to {FORMAT}",
            hint="restore it with a newer frys-node",
        )
    try:
        manifest = check_manifest(_CODEC.decode(memoryview(data)[head:]))
    except MalformedFrame as error:
        raise CorruptManifest(f"a manifest that cannot be read: {error.message}") from error
    if manifest.format != version:
        raise CorruptManifest(f"the manifest of '{manifest.unit}' is of two formats")
    return manifest

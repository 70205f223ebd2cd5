"""The manifests of many units in one object, with the chunks that are too small for objects of their own.

Sans-I/O. A node holds hundreds of units, most of them small or empty: an object for each manifest would cost two
fsyncs, or one request, for a hundred bytes. A bundle is named by its digest, so equal states have one bundle in all
snapshots. Versioned; a directory in ``tests/golden`` must be read forever.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

import msgspec

from frys_node.base.errors import MalformedFrame
from frys_node.wire.codec import Codec
from snapshots.errors import CorruptManifest, UnknownFormat
from snapshots.manifest import ChunkRef, Manifest, check_manifest, digest_of

FORMAT: Final = 1

SMALL_BYTES: Final = 8 * 1024
"""Chunks up to this are in the bundle whose manifests name them, and nowhere else."""

BUNDLE_BYTES: Final = 4 << 20
"""A bundle over this is ended, and another begun. One manifest alone may have 12 MiB."""

_MAGIC: Final = b"frys-bundle\x00"
_REF_BYTES: Final = 42
_UNIT_BYTES: Final = 128


class Bundle(msgspec.Struct, frozen=True, array_like=True):
    """Manifests, and small chunks in the order of their first use."""

    manifests: tuple[Manifest, ...]
    small: tuple[bytes, ...]

    def encode(self) -> bytes:
        """Return the bundle's bytes: magic, format, body."""
        return _MAGIC + struct.pack(">H", FORMAT) + _CODEC.encode(self)


_CODEC: Codec[Bundle] = Codec(Bundle)


class Bundler:
    """Gathers manifests and small chunks until there is enough for a bundle."""

    __slots__ = ("_manifests", "_size_bytes", "_small")

    def __init__(self) -> None:
        self._manifests: list[Manifest] = []
        self._small: dict[bytes, bytes] = {}
        self._size_bytes = 0

    def add_small(self, ref: ChunkRef, data: bytes) -> bool:
        """Take a chunk that is small enough; returns False if it is in this bundle already."""
        if ref.digest in self._small:
            return False
        self._small[ref.digest] = data
        self._size_bytes += len(data)
        return True

    def add(self, manifest: Manifest) -> None:
        """Take a unit's manifest, after its small chunks."""
        self._manifests.append(manifest)
        self._size_bytes += _UNIT_BYTES + _REF_BYTES * len(manifest.chunks)

    @property
    def is_full(self) -> bool:
        """True if it is time for another bundle."""
        return self._size_bytes >= BUNDLE_BYTES

    def finish(self) -> bytes | None:
        """Return the bundle's bytes, None if there is nothing in it, and begin another."""
        if not self._manifests:
            return None
        data = Bundle(tuple(self._manifests), tuple(self._small.values())).encode()
        self._manifests, self._small, self._size_bytes = [], {}, 0
        return data


def bundle_name(data: bytes) -> str:
    """Return the name of a bundle: its digest, in hex."""
    return digest_of(data).hex()


def decode_bundle(data: bytes, name: str) -> Bundle:
    """Return the bundle that the bytes hold, everything in it checked.

    Raises:
        UnknownFormat: A newer version wrote it. Nothing of it is used.
        CorruptManifest: It is not the bundle of that name. Nothing of it is used.
    """
    head = len(_MAGIC) + 2
    if bundle_name(data) != name or not data.startswith(_MAGIC) or len(data) < head:
        raise CorruptManifest(f"the list of units {name[:16]} is damaged")
    (version,) = struct.unpack_from(">H", data, len(_MAGIC))
    if version != FORMAT:
        raise UnknownFormat(
            f"a list of units of format {version}, this version reads {FORMAT}", hint="use a newer frys-node"
        )
    try:
        bundle = _CODEC.decode(memoryview(data)[head:])
    except MalformedFrame as error:
        raise CorruptManifest(f"the list of units {name[:16]} cannot be read: {error.message}") from error
    if not all(0 < len(data) <= SMALL_BYTES for data in bundle.small):
        raise CorruptManifest(f"the list of units {name[:16]} holds a chunk that is not a small one")
    for manifest in bundle.manifests:
        check_manifest(manifest)
    return bundle


def small_of(bundle: Bundle) -> dict[bytes, int]:
    """Return digests and sizes of the chunks that a bundle holds."""
    return {digest_of(data): len(data) for data in bundle.small}


def own_chunks(manifest: Manifest, small: Mapping[bytes, int]) -> set[ChunkRef]:
    """Return the chunks of a bundle's manifest that have objects of their own; `small` is what the bundle holds.

    Raises:
        CorruptManifest: It names a small chunk that its bundle lacks, or one of another size.
    """
    found: set[ChunkRef] = set()
    for chunk in manifest.chunks:
        size = small.get(chunk.digest)
        if size is None and chunk.size_bytes > SMALL_BYTES:
            found.add(chunk)
        elif size != chunk.size_bytes:
            raise CorruptManifest(f"the list of units lacks chunk {chunk.digest.hex()[:16]} of '{manifest.unit}'")
    return found


def chunks_of(bundle: Bundle) -> set[str]:
    """Return the names of the chunks that a bundle names and does not hold."""
    small = small_of(bundle)
    named = {chunk.digest for manifest in bundle.manifests for chunk in manifest.chunks}
    return {digest.hex() for digest in named if digest not in small}

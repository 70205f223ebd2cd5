"""Manifests and chunks: deterministic, versioned, refused when damaged."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.types import UnitId
from snapshots.chunking import Chunker, verify_chunk
from snapshots.errors import CorruptChunk, CorruptManifest, UnknownFormat
from snapshots.manifest import CHUNK_BYTES, ChunkRef, Manifest, build_manifest, check_manifest, decode_manifest

UNIT = UnitId("cache/17")
GOLDEN = Path(__file__).parents[2] / "golden" / "snapshot-manifest-1.bin"


def _cut(data: bytes, pieces: int = 7, chunk_bytes: int = CHUNK_BYTES) -> tuple[list[tuple[ChunkRef, bytes]], Manifest]:
    chunker = Chunker(UNIT, chunk_bytes)
    chunks: list[tuple[ChunkRef, bytes]] = []
    step = max(1, len(data) // pieces)
    for start in range(0, len(data), step):
        chunks += chunker.push(data[start : start + step])
    rest, manifest = chunker.finish()
    return chunks + rest, manifest


def _golden() -> Manifest:
    return _cut(bytes(range(256)) * 2_100)[1]


@given(st.binary(max_size=500), st.integers(1, 20), st.integers(1, 64))
def test_pieces_of_any_size_give_the_same_chunks(data: bytes, pieces: int, chunk_bytes: int) -> None:
    """The manifest depends on the state's bytes alone, and the chunks join to them."""
    chunks, manifest = _cut(data, pieces, chunk_bytes)
    assert manifest == _cut(data, 1, chunk_bytes)[1]
    assert b"".join(part for _, part in chunks) == data
    assert manifest.size_bytes == len(data)
    assert check_manifest(manifest) == manifest
    assert all(verify_chunk(ref, part) == part for ref, part in chunks)


def test_a_manifest_survives_its_bytes() -> None:
    """Encoding is deterministic and decoding gives the value back."""
    manifest = _golden()
    assert manifest.encode() == _golden().encode()
    assert decode_manifest(manifest.encode()) == manifest
    empty = build_manifest(UNIT, ())
    assert decode_manifest(empty.encode()) == empty


def test_the_first_format_decodes_forever() -> None:
    """The golden file of format 1 reads as what it was made from."""
    assert decode_manifest(GOLDEN.read_bytes()) == _golden()
    assert GOLDEN.read_bytes() == _golden().encode()


def test_every_flipped_bit_and_every_cut_is_refused() -> None:
    """Nothing of a damaged manifest is used."""
    data = _golden().encode()
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises((CorruptManifest, UnknownFormat)):
            decode_manifest(bytes(damaged))
    for size in range(len(data)):
        with pytest.raises(CorruptManifest):
            decode_manifest(data[:size])


def test_a_newer_format_says_so() -> None:
    """An old node names the cure instead of guessing."""
    data = bytearray(_golden().encode())
    struct.pack_into(">H", data, 14, 3)
    with pytest.raises(UnknownFormat) as caught:
        decode_manifest(bytes(data))
    assert "newer" in caught.value.hint


def test_a_manifest_that_contradicts_itself_is_refused() -> None:
    """Sizes, order, unit and root all count."""
    manifest = _golden()
    replace = msgspec.structs.replace
    for changed in (
        replace(manifest, unit=UnitId("cache/18")),
        replace(manifest, size_bytes=manifest.size_bytes + 1),
        replace(manifest, chunks=manifest.chunks[::-1]),
        replace(manifest, chunks=manifest.chunks[:-1]),
        replace(manifest, chunk_bytes=0),
        replace(manifest, root=b"\0" * 32),
        replace(manifest, chunks=(ChunkRef(b"short", CHUNK_BYTES), *manifest.chunks[1:])),
    ):
        with pytest.raises(CorruptManifest):
            check_manifest(changed)


def test_a_chunk_with_other_bytes_is_refused() -> None:
    """Length and content."""
    [(ref, data)], _ = _cut(b"content")
    for wrong in (b"", data[:-1], data + b"x", b"Content"):
        with pytest.raises(CorruptChunk):
            verify_chunk(ref, wrong)

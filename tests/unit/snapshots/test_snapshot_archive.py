"""The content of a sealed export: objects out as they went in, nothing missing, surplus, changed or out of order."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frys_node.base.errors import FrysError
from frys_node.base.types import UnitId
from snapshots.archive import (
    FRONT,
    HEAD_BYTES,
    ArchiveReader,
    Inventory,
    Item,
    Kind,
    archive_bytes,
    item_of,
    read_items,
)
from snapshots.bundle import Bundle
from snapshots.errors import CorruptExport, UnknownFormat
from snapshots.manifest import ChunkRef, build_manifest, digest_of
from snapshots.objects import OBJECT_BYTES_MAX

GOLDEN = Path(__file__).resolve().parents[2] / "golden"


def _export() -> list[Item]:
    """The objects of the golden directory's snapshot, in the order of an export."""
    place = GOLDEN / "snapshot-directory-2"
    items = [item_of(Kind.INDEX, (place / "_snapshots" / "before.json").read_bytes())]
    for kind, folder in ((Kind.BUNDLE, "_bundles"), (Kind.CHUNK, "_chunks")):
        items += [item_of(kind, path.read_bytes()) for path in sorted((place / folder).iterdir())]
    return items


ITEMS = _export()


def _read(data: bytes, piece: int) -> list[Item]:
    reader = ArchiveReader()
    items = [item for start in range(0, len(data), piece) for item in reader.push(data[start : start + piece])]
    reader.finish()
    return items


def _taken(items: list[Item]) -> Inventory:
    inventory = Inventory()
    for item in items:
        inventory.take(item)
    inventory.finish()
    return inventory


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 300_000))
def test_objects_come_back_from_pieces_of_any_size(piece: int) -> None:
    """Whole, in order, and exactly as long as foretold; a request's body has them without the front."""
    data = FRONT + b"".join(item.encode() for item in ITEMS)
    assert _read(data, piece) == ITEMS
    assert read_items(data[len(FRONT) :]) == ITEMS
    bundles = [len(item.data) for item in ITEMS if item.kind is Kind.BUNDLE]
    chunks = [ChunkRef(item.digest, len(item.data)) for item in ITEMS if item.kind is Kind.CHUNK]
    assert archive_bytes(len(ITEMS[0].data), bundles, chunks) == len(data)


def test_the_export_of_the_first_format_is_read() -> None:
    """The golden export is byte for byte what is written now, and complete."""
    data = (GOLDEN / "snapshot-export-1.bin").read_bytes()
    assert data == FRONT + b"".join(item.encode() for item in ITEMS)
    inventory = _taken(_read(data, 10_000))
    assert (inventory.finish().name, inventory.chunks) == ("before", len(ITEMS) - 2)


def test_what_is_missing_surplus_repeated_or_out_of_order_is_refused() -> None:
    """Each object left out, each one twice, the index later or twice, a chunk that no unit names, chunks first."""
    index, bundle, *chunks = ITEMS
    stranger = item_of(Kind.CHUNK, b"nobody's")
    wrong = [ITEMS[:at] + ITEMS[at + 1 :] for at in range(len(ITEMS))]
    wrong += [ITEMS[: at + 1] + ITEMS[at:] for at in range(len(ITEMS))]
    wrong += [[*ITEMS, stranger], [bundle, index, *chunks], [index, *chunks, bundle], []]
    wrong += [[index, item_of(Kind.BUNDLE, bundle.data + b"x"), *chunks]]
    for items in wrong:
        with pytest.raises(CorruptExport):
            _taken(items)
    assert _taken(ITEMS).size_bytes == sum(len(item.data) for item in ITEMS)


def test_small_chunks_are_looked_for_in_all_bundles() -> None:
    """A chunk that one bundle holds has no object of its own, also if another bundle names it first."""
    small = b"small"
    ref = ChunkRef(digest_of(small), len(small))
    manifests = [build_manifest(UnitId(f"t/{number}"), [ref], 1 << 20, 2) for number in range(2)]
    bundles = [
        item_of(Kind.BUNDLE, Bundle((manifests[0],), ()).encode()),
        item_of(Kind.BUNDLE, Bundle((manifests[1],), (small,)).encode()),
    ]
    names = ", ".join(f'"{bundle.digest.hex()}"' for bundle in bundles)
    index = f'{{"name":"x","node":"a","created_unix_ns":1,"units":[],"format":2,"bundles":[{names}]}}'
    assert _taken([item_of(Kind.INDEX, index.encode()), *bundles]).chunks == 0


def test_changed_bytes_are_refused_wherever_they_are() -> None:
    """A bit of every head, and bits of the objects: an error of its own, never another object."""
    small = [item_of(Kind.CHUNK, b"some bytes"), item_of(Kind.CHUNK, b"others")]
    data = bytearray(FRONT + b"".join(item.encode() for item in small))

    def take() -> None:
        _taken(_read(bytes(data), 1 << 20))

    for bit in range(8 * len(data)):
        data[bit // 8] ^= 1 << bit % 8
        with pytest.raises((CorruptExport, UnknownFormat)):
            take()
        data[bit // 8] ^= 1 << bit % 8
    assert _read(bytes(data), 1 << 20) == small


def test_cut_streams_and_impossible_sizes_are_refused() -> None:
    """At every byte of a short stream; a size over that of any object is refused before it is waited for."""
    item = item_of(Kind.CHUNK, b"bytes")
    data = FRONT + item.encode() * 2
    whole = {len(FRONT), len(FRONT) + len(item.encode())}
    for size in range(len(data)):
        reader = ArchiveReader()
        reader.push(data[:size])
        if size not in whole:
            with pytest.raises(CorruptExport, match="inside an object"):
                reader.finish()
    huge = struct.pack(">B32sI", 3, bytes(32), OBJECT_BYTES_MAX + 1)
    assert len(huge) == HEAD_BYTES
    with pytest.raises(CorruptExport, match="cannot be"):
        ArchiveReader().push(FRONT + huge)


def test_a_newer_export_and_other_content_are_told_apart() -> None:
    """The format has its own error with the fix; anything else is no export."""
    with pytest.raises(UnknownFormat) as caught:
        ArchiveReader().push(FRONT[:-1] + b"\x02")
    assert "newer frys-node" in caught.value.hint
    with pytest.raises(CorruptExport):
        ArchiveReader().push(random.Random(1).randbytes(100))


@pytest.mark.parametrize(
    "index", [b"", b"{", b"[]", b"\xff", b'{"name":5}', b'{"name":"x"}', b'{"name":"x","format":9}', b"[" * 9_999]
)
def test_an_index_that_is_none_is_refused(index: bytes) -> None:
    """Whatever the sealed bytes hold, reading them is an error with a code."""
    with pytest.raises(FrysError):
        Inventory().take(item_of(Kind.INDEX, index))


def test_a_snapshot_of_format_1_is_not_exported() -> None:
    """Its chunks have a folder of their own; the message says what to do instead."""
    index = (GOLDEN / "snapshot-directory-1" / "before" / "index.json").read_bytes()
    with pytest.raises(UnknownFormat) as caught:
        Inventory().take(item_of(Kind.INDEX, index))
    assert "save it again" in caught.value.hint

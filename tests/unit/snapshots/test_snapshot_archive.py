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
    ITEMS_MAX,
    ArchiveReader,
    Inventory,
    Item,
    Kind,
    archive_bytes,
    bodies,
    item_of,
    read_items,
)
from snapshots.bundle import SMALL_BYTES, Bundle
from snapshots.errors import CorruptExport, UnknownFormat
from snapshots.manifest import PART_BYTES_MAX, ChunkRef, build_manifest, digest_of
from snapshots.sizes import BUNDLE_BYTES_MAX, INDEX_BYTES_MAX

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
    assert _taken(ITEMS).digest != _taken([*ITEMS[:2], *ITEMS[:1:-1]]).digest


def _index(*bundles: Item, units: str = "") -> Item:
    names = ", ".join(f'"{bundle.digest.hex()}"' for bundle in bundles)
    text = f'{{"name":"x","node":"a","created_unix_ns":1,"units":[{units}],"format":2,"bundles":[{names}]}}'
    return item_of(Kind.INDEX, text.encode())


def _bundle(refs: list[ChunkRef], *small: bytes, unit: str = "t/1") -> Item:
    return item_of(Kind.BUNDLE, Bundle((build_manifest(UnitId(unit), refs, 1 << 20, 2),), small).encode())


def _ref(data: bytes, size_bytes: int | None = None) -> ChunkRef:
    return ChunkRef(digest_of(data), len(data) if size_bytes is None else size_bytes)


BIG = b"b" * (SMALL_BYTES + 1)


def test_small_chunks_are_in_the_bundle_that_names_them() -> None:
    """One that it lacks is refused, also if another bundle has it: no reader has to keep what bundles hold."""
    whole, lacking = _bundle([_ref(b"s")], b"s"), _bundle([_ref(b"s")], unit="t/2")
    assert _taken([_index(whole), whole]).chunks == 0
    for bundles in ([lacking], [whole, lacking], [lacking, whole]):
        with pytest.raises(CorruptExport, match="lacks chunk"):
            _taken([_index(*bundles), *bundles])


def test_what_an_import_would_refuse_is_refused_here() -> None:
    """Chunks and small chunks of other lengths than their manifests say, two sizes for one, a unit without a state."""
    chunk = item_of(Kind.CHUNK, BIG)
    good = _bundle([_ref(BIG)])
    _taken([_index(good), good, chunk])
    longer, other = _bundle([_ref(BIG, len(BIG) + 1)]), _bundle([_ref(BIG)], unit="t/2")
    unit = f'{{"unit":"t/9","root":"{bytes(32).hex()}","size_bytes":0,"chunks":0}}'
    for items in (
        [_index(longer), longer, chunk],
        [_index(longer, other), longer, other, chunk],
        [_index(bundle := _bundle([_ref(b"s", 2)], b"s")), bundle],
        [_index(good, units=unit), good, chunk],
    ):
        with pytest.raises(CorruptExport):
            _taken(items)


def test_objects_of_sizes_that_no_save_writes_are_refused() -> None:
    """Small chunks of their own, objects over the largest of their kind, large or empty chunks within a bundle."""
    sizes = [(Kind.CHUNK, size) for size in (0, 1, SMALL_BYTES, PART_BYTES_MAX + 1)]
    for kind, size in (*sizes, (Kind.INDEX, INDEX_BYTES_MAX + 1), (Kind.BUNDLE, BUNDLE_BYTES_MAX + 1)):
        head = struct.pack(">B32sI", kind, bytes(32), size)
        with pytest.raises(CorruptExport, match="cannot be"):
            ArchiveReader().push(FRONT + head)
    assert _read(FRONT + item_of(Kind.CHUNK, BIG).encode(), 1 << 20) == [item_of(Kind.CHUNK, BIG)]
    for small in (BIG, b""):
        bundle = _bundle([_ref(BIG)], small)
        with pytest.raises(CorruptExport, match="not a small one"):
            _taken([_index(bundle), bundle])


def test_a_file_cannot_name_more_than_it_can_hold() -> None:
    """Bundles that name chunks without end are refused at the first too many, not when the file has ended."""
    refs = [_ref(number.to_bytes(4), 1 << 20) for number in range(30)]
    bundle = _bundle(refs)
    Inventory().take(_index(bundle))
    for room, is_refused in ((30 << 20, False), ((30 << 20) - 1, True)):
        inventory = Inventory(room)
        inventory.take(_index(bundle))
        if not is_refused:
            inventory.take(bundle)
            continue
        with pytest.raises(CorruptExport, match="more than its file can hold"):
            inventory.take(bundle)


def test_a_request_has_no_more_objects_than_it_may() -> None:
    """One over the limit, of the cheapest there are, is refused with all of them."""
    one = item_of(Kind.BUNDLE, b"").encode()
    assert len(read_items(one * ITEMS_MAX)) == ITEMS_MAX
    with pytest.raises(CorruptExport, match=f"over {ITEMS_MAX} objects"):
        read_items(one * (ITEMS_MAX + 1))


def test_what_is_sent_is_what_a_request_may_be() -> None:
    """Bodies of many objects, of full ones and of one that is too large alone; all arrive, in their order."""
    tiny = [item_of(Kind.BUNDLE, number.to_bytes(2)) for number in range(ITEMS_MAX + 10)]
    large = [item_of(Kind.BUNDLE, bytes([number]) * 2_000) for number in range(3)]
    sent = list(bodies([*tiny, *large], 1 << 20))
    assert [len(read_items(body)) for body in sent] == [ITEMS_MAX, 13]
    sent = list(bodies([*large, *tiny[:2]], 2_000 + HEAD_BYTES))
    assert [len(read_items(body)) for body in sent] == [1, 1, 1, 2]
    assert [item for body in sent for item in read_items(body)] == [*large, *tiny[:2]]
    assert list(bodies([*large], 100)) == [item.encode() for item in large]


def test_changed_bytes_are_refused_wherever_they_are() -> None:
    """A bit of every head, and bits of the objects: an error of its own, never another object."""
    small = [item_of(Kind.BUNDLE, b"some bytes"), item_of(Kind.BUNDLE, b"others")]
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
    item = item_of(Kind.BUNDLE, b"bytes")
    data = FRONT + item.encode() * 2
    whole = {len(FRONT), len(FRONT) + len(item.encode())}
    for size in range(len(data)):
        reader = ArchiveReader()
        reader.push(data[:size])
        if size not in whole:
            with pytest.raises(CorruptExport, match="inside an object"):
                reader.finish()
    huge = struct.pack(">B32sI", 2, bytes(32), BUNDLE_BYTES_MAX + 1)
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

"""What an index says, what is pruned, where keys go, and how states are cut."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.errors import FrysError
from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import cache_unit_of, partition_of, shard_of
from frys_node.kernel.services.replication import Entry, Version
from frys_node.kernel.services.topology import Collection
from frys_node.replication.snapshot import CUT_BYTES_MAX, PageCutter
from snapshots.bundle import Bundler, bundle_name, decode_bundle
from snapshots.chunking import PART_BYTES_MIN, PartChunker
from snapshots.errors import CorruptManifest, UnknownFormat
from snapshots.index import (
    SavedSnapshot,
    SavedUnit,
    chosen_to_prune,
    copies_of,
    decode_index,
    without_secrets,
)
from snapshots.manifest import FORMAT, PART_BYTES_MAX, ChunkRef, build_manifest, digest_of
from snapshots.routing import Routing, match_collections


def _entries(count: int, seed: int = 1) -> list[Entry]:
    rng = random.Random(seed)
    version = Version(1, 0, NodeId("a"), 1)
    return [Entry(b"key-%08d" % number, version, rng.randbytes(rng.randrange(10, 2_000))) for number in range(count)]


def _pages(entries: list[Entry]) -> list[list[Entry]]:
    cutter = PageCutter()
    pages = [cutter.push(entry) for entry in entries]
    return [page for page in (*pages, cutter.finish()) if page]


def test_one_changed_entry_changes_one_page() -> None:
    """Added, changed or removed, at any place: all pages but one or two are those of before."""
    entries = _entries(4_000)
    before = [tuple(page) for page in _pages(entries)]
    assert len(before) > 10
    assert [entry for page in before for entry in page] == entries
    rng = random.Random(2)
    for _ in range(50):
        changed = list(entries)
        place = rng.randrange(len(changed))
        what = rng.choice(["add", "change", "remove"])
        if what == "remove":
            del changed[place]
        else:
            key = changed[place].key + (b"+" if what == "add" else b"")
            changed[place : place + (what == "change")] = [Entry(key, changed[0].version, b"new")]
            changed.sort(key=lambda entry: entry.key)
        after = [tuple(page) for page in _pages(changed)]
        assert len(set(after) - set(before)) <= 2


def test_pages_have_a_size_whatever_the_entries_are() -> None:
    """Small entries, large ones and mixed ones: no page over its bound, and the mean between the bounds."""
    for size in (10, 1_000, 50_000, 700_000):
        version, count = Version(1, 0, NodeId("a"), 1), 12_000_000 // (size + 104)
        entries = [Entry(b"%08d" % number, version, bytes(size)) for number in range(count)]
        pages = [sum(96 + len(entry.key) + len(entry.value or b"") for entry in page) for page in _pages(entries)]
        assert max(pages) <= CUT_BYTES_MAX
        assert 60_000 < sum(pages) / len(pages) < CUT_BYTES_MAX


@given(st.lists(st.integers(0, 3 * PART_BYTES_MIN), max_size=12), st.booleans())
def test_parts_are_chunks_and_small_ones_are_put_together(sizes: list[int], has_giant: bool) -> None:
    """The chunks join to the state, none is over the bound, and only the last may be small."""
    parts = [bytes([number]) * size for number, size in enumerate(sizes)]
    if has_giant:
        parts.insert(len(parts) // 2, bytes(PART_BYTES_MAX * 2 + 5))
    chunker = PartChunker()
    chunks = [chunk for part in parts for chunk in chunker.push(part)] + chunker.finish()
    assert b"".join(chunks) == b"".join(parts)
    assert all(len(chunk) <= PART_BYTES_MAX for chunk in chunks)
    assert all(len(chunk) >= PART_BYTES_MIN for chunk in chunks[:-1])


def _index(name: str, created_s: int) -> SavedSnapshot:
    return SavedSnapshot(name=name, node=NodeId("a"), created_unix_ns=created_s * 10**9, units=())


@given(st.lists(st.integers(0, 100), max_size=8), st.integers(0, 9) | st.none(), st.integers(0, 120) | st.none())
def test_a_prune_never_takes_what_a_rule_keeps(ages: list[int], keep: int | None, older: int | None) -> None:
    """The newest N stay, what is young stays, and without a rule all stays."""
    indexes = [_index(f"s{number}", 1_000 - age) for number, age in enumerate(ages)]
    chosen = chosen_to_prune(indexes, 1_000 * 10**9, keep=keep, older_than_s=older)
    if keep is None and older is None:
        assert chosen == []
    if keep is not None:
        newest = sorted(indexes, key=lambda index: (index.created_unix_ns, index.name))[len(indexes) - keep :]
        assert not [index for index in chosen if keep and index in newest]
    if older is not None:
        assert all(index.created_unix_ns < (1_000 - older) * 10**9 for index in chosen)
    assert chosen == sorted(chosen, key=lambda index: (index.created_unix_ns, index.name))


def test_equal_copies_are_read_once() -> None:
    """Three nodes with two states of one unit are two copies."""
    saved = [
        SavedUnit(unit=UnitId("cache/1"), root=root * 64, size_bytes=1, chunks=1, node=NodeId(node))
        for root, node in (("a", "n1"), ("b", "n2"), ("a", "n3"))
    ]
    index = msgspec.structs.replace(_index("s", 1), units=tuple(saved))
    assert [one.node for one in copies_of(index)[UnitId("cache/1")]] == ["n1", "n2"]
    assert copies_of(index, ["cache/2"]) == {}


def test_settings_that_look_like_secrets_are_left_out() -> None:
    """By the last word of the key; a file's path is none."""
    keys = ("a.token", "a.api_key", "a.private_keys", "a.s3_credentials_file", "a.tokens_max", "network.bind")
    kept = without_secrets([{"key": key, "value": "v"} for key in keys] + [{"key": "b.secret", "value": ""}])
    assert [key for key, value in kept.items() if value == "(left out)"] == ["a.token", "a.api_key", "a.private_keys"]


@given(st.binary(max_size=200))
def test_junk_is_no_index_and_no_bundle(data: bytes) -> None:
    """Nothing but the errors of a damaged snapshot, whatever the bytes are."""
    with pytest.raises((CorruptManifest, UnknownFormat)):
        decode_index(data, "s")
    with pytest.raises(CorruptManifest):
        decode_bundle(data, bundle_name(data))
    with pytest.raises(CorruptManifest):
        decode_bundle(data, "0" * 64)


def test_every_flipped_bit_of_a_bundle_is_refused() -> None:
    """Its name is its digest."""
    bundler = Bundler()
    ref = ChunkRef(digest_of(b"small"), 5)
    assert bundler.add_small(ref, b"small")
    assert not bundler.add_small(ref, b"small")
    bundler.add(build_manifest(UnitId("t/1"), [ref], PART_BYTES_MAX, FORMAT))
    data = bundler.finish()
    assert data is not None
    assert bundler.finish() is None
    assert decode_bundle(data, bundle_name(data)).small == (b"small",)
    for bit in range(len(data) * 8):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << (bit % 8)
        with pytest.raises(FrysError):
            decode_bundle(bytes(damaged), bundle_name(data))


def _collection(name: str, identity: str, **changes: object) -> Collection:
    settings = {"name": name, "id": identity, "dimension": 4, "distance": "Cosine", "shard_number": 2} | changes
    return Collection(**settings)  # type: ignore[arg-type]


def test_keys_go_where_the_cluster_of_now_has_them() -> None:
    """By the functions that everybody uses, with its numbers of partitions and shards and its collections."""
    routing = Routing(
        saved_partitions=256,
        partitions=16,
        collections={"old": _collection("c", "new", shard_number=8)},
        saved_shards={"old": 2},
    )
    assert not any(routing.is_same(kind) for kind in ("cache", "workflow", "vector"))
    assert routing.is_same("other")
    assert routing.unit_of(UnitId("other/1"), b"k") == "other/1"
    for number in range(50):
        key = b"key-%d" % number
        assert routing.unit_of(UnitId("cache/9"), b"space\x00" + key) == cache_unit_of(key, 16)
        assert routing.unit_of(UnitId("workflow/9"), key) == f"workflow/{partition_of(key.decode(), 16)}"
        assert routing.unit_of(UnitId("vector/old/1"), key) == f"vector/new/{shard_of(key, 8)}"
    assert routing.unit_of(UnitId("vector/gone/1"), b"k") is None
    same = Routing(saved_partitions=16, partitions=16, collections={"c": _collection("c", "c")}, saved_shards={"c": 2})
    assert all(same.is_same(kind) for kind in ("cache", "workflow", "vector"))


def test_collections_are_found_by_id_then_by_name_then_made() -> None:
    """One that does not fit, or that nobody describes, is skipped with the reason."""
    saved = [_collection("here", "1"), _collection("renewed", "2"), _collection("gone", "3"), _collection("other", "4")]
    present = [_collection("here", "1"), _collection("renewed", "9"), _collection("other", "8", dimension=7)]
    units = [UnitId(f"vector/{number}/0") for number in range(1, 6)] + [UnitId("cache/1")]
    found, to_make, missing = match_collections(saved, present, units)
    assert {key: one.id for key, one in found.items()} == {"1": "1", "2": "9"}
    assert [one.name for one in to_make] == ["gone"]
    assert [one.unit for one in missing] == ["vector/4/0", "vector/5/0"]
    assert "has 7 dimensions" in missing[0].reason

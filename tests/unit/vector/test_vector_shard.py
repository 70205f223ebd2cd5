"""Ids, merging, the index and the shard store against plain models."""

from __future__ import annotations

import random
from contextlib import aclosing
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frys_node.base.errors import CorruptData
from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import shard_of
from frys_node.kernel.services.replication import Entry, Version
from frys_node.kernel.turns import Turns
from frys_node.plugins.vector.collection import (
    Distance,
    StoredPoint,
    decode_id,
    encode_id,
    encode_point,
    operation_number,
)
from frys_node.plugins.vector.errors import InvalidPointId
from frys_node.plugins.vector.filters import compile_filter
from frys_node.plugins.vector.index import (
    BUILD_ROWS,
    BuildJob,
    VectorIndex,
    begin,
    extend,
    not_finite,
    prepare,
    scores_of,
)
from frys_node.plugins.vector.messages import Hit, Query
from frys_node.plugins.vector.query import merge_by_id, merge_top_k
from frys_node.plugins.vector.shard import ShardStore
from frys_node.replication import hashtree
from frys_node.replication.snapshot import CapturedEntries
from frys_node.replication.unit import HeldUnit
from frys_node.testing.clock import FakeClock

NODE = NodeId("a" * 32)
UNIT = UnitId("vector/c/0")


def version(number: int) -> Version:
    """A version by its time."""
    return Version(number, 0, NODE, 1)


def vector(*values: float) -> bytes:
    """A stored vector."""
    return np.asarray(values, dtype="<f4").tobytes()


def entry(number: int, at: int, *values: float, payload: bytes = b"") -> Entry:
    """A point of a shard; without values a tombstone."""
    value = encode_point(StoredPoint(vector(*values), payload)) if values else None
    return Entry(encode_id(number), version(at), value)


def new_store(distance: Distance = Distance.DOT) -> ShardStore:
    """An empty shard."""
    return ShardStore(UNIT, lambda: distance)


def found(store: ShardStore, query: Query, distance: Distance = Distance.DOT) -> list[int | str]:
    """Ids that a query finds in a shard, best first."""
    predicate = compile_filter(query.filter) if query.filter else None
    return [decode_id(hit.id) for hit in store.run(query, predicate, distance).hits]


def build(job: BuildJob) -> Any | None:
    """The graph of a job, slice by slice."""
    graph = begin(job)
    for first in range(0, 0 if graph is None else len(job.vectors), BUILD_ROWS):
        extend(job, graph, first)
    return graph


@given(st.one_of(st.integers(0, 2**64 - 1), st.uuids().map(str)))
def test_an_id_survives_its_encoding_and_has_one_shard(point: int | str) -> None:
    """Integers and UUIDs come back as they went in."""
    key = encode_id(point)
    assert decode_id(key) == point
    assert 0 <= shard_of(key, 7) < 7


@given(st.lists(st.integers(0, 2**64 - 1), min_size=2), st.uuids())
def test_ids_are_ordered_as_in_qdrant(numbers: list[int], uuid: object) -> None:
    """Integers by value, all of them before any UUID."""
    keys = [encode_id(number) for number in numbers]
    assert [decode_id(key) for key in sorted(keys)] == sorted(numbers)
    assert max(keys) < encode_id(str(uuid))


def test_the_spellings_of_a_uuid_are_one_id() -> None:
    """Simple, hyphenated, upper case and URN."""
    plain = "936da01f9abd4d9d80c702af85c822a8"
    dashed = "936DA01F-9ABD-4D9D-80C7-02AF85C822A8"
    assert encode_id(plain) == encode_id(dashed) == encode_id(f"urn:uuid:{dashed.lower()}")


@pytest.mark.parametrize("point", [-1, 2**64, True, "", "7", "x" * 36, 1.0, None])
def test_what_is_no_id_is_refused(point: object) -> None:
    """Neither an unsigned 64-bit integer nor a UUID."""
    with pytest.raises(InvalidPointId):
        encode_id(point)


def test_operation_numbers_stay_exact_in_every_client() -> None:
    """Below 2**53 for two centuries, and growing with the version."""
    assert operation_number(version(2**42)) < 2**53
    assert operation_number(Version(5, 1, NODE, 1)) > operation_number(version(5))


def test_merging_keeps_the_newest_version_of_an_id() -> None:
    """A stale replica's better score does not win over the newer version."""
    old, new = Hit(b"a", 9.0, version(1)), Hit(b"a", 1.0, version(2))
    other = Hit(b"b", 5.0, version(1))
    assert merge_top_k([[old, other], [other, new]], 2, is_similarity=True) == [other, new]
    assert merge_by_id([[old, other], [new]], 1) == [new]


@given(st.lists(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 3)), max_size=12), max_size=4), st.integers(1, 9))
def test_merging_by_id_is_a_sorted_union(lists: list[list[tuple[int, int]]], limit: int) -> None:
    """The first ids of the union, each in its newest version."""
    newest: dict[int, int] = {}
    for several in lists:
        for number, at in several:
            newest[number] = max(at, newest.get(number, 0))
    expected = sorted(newest.items())[:limit]
    hits = [[Hit(encode_id(n), 0.0, version(at)) for n, at in sorted(dict(several).items())] for several in lists]
    for several, given_list in zip(lists, hits, strict=True):
        newest_here = {n: max(a for m, a in several if m == n) for n, _ in several}
        given_list[:] = [Hit(encode_id(n), 0.0, version(newest_here[n])) for n in sorted(newest_here)]
    assert [(decode_id(hit.id), hit.version.hlc_ms) for hit in merge_by_id(hits, limit)] == expected


@pytest.mark.parametrize("distance", list(Distance))
def test_scores_agree_with_their_definitions(distance: Distance) -> None:
    """Against numpy in 64 bits."""
    rng = np.random.default_rng(5)
    rows = prepare(rng.normal(size=(40, 8)).tolist(), distance)
    query = prepare(rng.normal(size=(1, 8)).tolist(), distance)[0]
    wide, q = rows.astype(np.float64), query.astype(np.float64)
    expected = {
        Distance.COSINE: wide @ q,
        Distance.DOT: wide @ q,
        Distance.EUCLID: np.sqrt(((wide - q) ** 2).sum(axis=1)),
        Distance.MANHATTAN: np.abs(wide - q).sum(axis=1),
    }[distance]
    assert np.allclose(scores_of(query, rows, distance), expected, atol=1e-5)


def test_values_beyond_32_bits_are_not_finite() -> None:
    """Overflow is found after the conversion, without a warning."""
    rows = prepare([[1.0, 2.0], [1e39, 0.0], [float("nan"), 0.0]], Distance.COSINE)
    assert list(not_finite(rows)) == [1, 2]


@given(st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=60), st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_a_shard_is_a_map_of_points_whatever_its_index_does(
    operations: list[tuple[int, bool]], rng: random.Random
) -> None:
    """Writes, deletes, rewrites and graphs in any order: get, entries, listing and exact search follow a plain dict."""
    store, model = new_store(), dict[int, Entry]()
    for at, (number, is_delete) in enumerate(operations, 1):
        new = entry(number, at) if is_delete else entry(number, at, float(number), rng.random())
        store.put([new])
        model[number] = new
        if rng.random() < 0.3:
            due = store.next_job(4, 0.01)
            if due is not None:
                later = entry(20, 1_000 + at, 20.0, 0.0)
                graph = build(due[1])
                store.put([later])
                model[20] = later
                store.install(due[0], due[1], graph)
    live = sorted(number for number, held in model.items() if held.value is not None)
    assert store.get([encode_id(number) for number in range(13)]) == [model.get(number) for number in range(13)]
    assert list(store.entries()) == [model[number] for number in sorted(model)]
    assert found(store, Query(b"", 100)) == live
    assert len(store) == len(live)
    if live:
        assert found(store, Query(vector(1.0, 0.0), 100, exact=True)) == live[::-1]
        assert sorted(found(store, Query(vector(1.0, 0.0), 100))) == live


def test_what_is_frozen_stays_as_it_was() -> None:
    """Writes, deletes, growth, a rewrite and a wipe afterwards do not show in it; it is read as late as that."""
    store = new_store()
    store.put([entry(n, 1, float(n), 1.0, payload=b'{"n":%d}' % n) for n in range(300)])
    store.put([entry(n, 2) for n in range(0, 300, 2)])
    before = list(store.entries())
    frozen = [store.freeze() for _ in range(3)]
    store.put([entry(n, 3, 0.5, 0.5) for n in range(1, 50)] + [entry(n, 3) for n in range(100, 200)])
    assert list(frozen[0]) == before
    due = store.next_job(64, 0.2)
    assert due is not None
    assert due[1].rows is not None
    assert store.install(*due, build(due[1]))
    store.put([entry(n, 4, 1.0, 1.0) for n in range(1_000, 1_600)])
    assert list(frozen[1]) == before
    store.clear()
    assert list(frozen[2]) == before
    assert list(store.freeze()) == []


async def test_shards_with_equal_points_have_equal_dumps() -> None:
    """S2: the order in which points came, what they were before and rewrites do not show in a saved shard."""
    points = [entry(n, 5, float(n), 1.0, payload=b'{"n":%d}' % n) for n in range(200)]
    points += [entry(n, 5) for n in range(200, 230)]
    direct, late = new_store(), new_store()
    direct.put(points)
    late.put([entry(n, 1, 7.0, 7.0, payload=b"{}") for n in range(230)])
    for one in reversed(points):
        late.put([one])
    due = late.next_job(64, 0.2)
    assert due is not None
    assert late.install(*due, build(due[1]))
    dumps = []
    for store in (direct, late):
        async with aclosing(CapturedEntries(store.freeze(), Turns(FakeClock()), is_sorted=True).parts()) as parts:
            dumps.append([part async for part in parts])
    assert dumps[0] == dumps[1]
    assert len(b"".join(dumps[0])) > 10_000


def test_a_rewrite_drops_dead_rows_and_keeps_what_came_meanwhile() -> None:
    """Points written and deleted while the rewrite was under way are as they should be."""
    store = new_store()
    store.put([entry(n, 1, float(n), 1.0) for n in range(300)])
    store.put([entry(n, 2) for n in range(0, 300, 2)])
    due = store.next_job(64, 0.2)
    assert due is not None
    assert due[1].rows is not None
    store.put([entry(1, 3), entry(3, 3, 1_000.0, 0.0), entry(500, 3, 500.0, 0.0)])
    assert store.install(*due, build(due[1]))
    assert found(store, Query(vector(1.0, 0.0), 3)) == [3, 500, 299]
    assert len(store) == 150
    assert store.sizes()[0] == 150
    assert store._index is not None
    assert store._index.rows < 160


def test_work_on_a_wiped_shard_is_thrown_away() -> None:
    """A joiner that wipes while a graph is built does not get old rows back."""
    store = new_store()
    store.put([entry(n, 1, float(n)) for n in range(100)])
    due = store.next_job(16, 0.2)
    assert due is not None
    store.clear()
    store.put([entry(7, 1, 7.0)])
    assert not store.install(*due, build(due[1]))
    assert found(store, Query(vector(1.0), 5)) == [7]


def test_a_value_of_another_dimension_is_refused_whole() -> None:
    """Nothing of the write is taken, so that the row map cannot tear."""
    store = new_store()
    store.put([entry(1, 1, 1.0, 2.0)])
    with pytest.raises(CorruptData):
        store.put([entry(1, 2, 5.0, 5.0), entry(2, 2, 1.0)])
    with pytest.raises(CorruptData):
        store.put([Entry(encode_id(3), version(2), b"garbage")])
    assert store.get([encode_id(1), encode_id(2)]) == [entry(1, 1, 1.0, 2.0), None]


def test_graphs_find_what_the_exact_scan_finds() -> None:
    """recall@10 of at least 0.95 over several segments and a tail, on clustered data."""
    rng = np.random.default_rng(11)
    centres = rng.normal(size=(20, 32))
    rows = prepare((centres[rng.integers(0, 20, 3_000)] + 0.5 * rng.normal(size=(3_000, 32))).tolist(), Distance.COSINE)
    index = VectorIndex(32)
    for start in range(0, 3_000, 600):
        index.append([row.tobytes() for row in rows[start : start + 600]])
        job = index.next_job(Distance.COSINE, 500, 0.2)
        if job is not None:
            assert index.install(job, build(job))
    assert index.segments
    hits = 0
    for row in range(0, 3_000, 100):
        quick, _ = index.search(rows[row].tobytes(), 10, Distance.COSINE)
        exact, _ = index.search(rows[row].tobytes(), 10, Distance.COSINE, exact=True)
        hits += len(set(quick) & set(exact))
    assert hits / 300 >= 0.95


def test_manhattan_is_always_scanned_exactly() -> None:
    """No graph is ever due for it."""
    store = new_store(Distance.MANHATTAN)
    store.put([entry(n, 1, float(n), 0.0) for n in range(500)])
    assert store.next_job(16, 0.2) is None
    assert found(store, Query(vector(100.2, 0.0), 3), Distance.MANHATTAN) == [100, 101, 99]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=40),
    st.integers(0, 45),
    st.integers(0, 45),
)
@settings(max_examples=60, deadline=None)
def test_a_shard_has_the_digest_below_a_floor_that_its_entries_have(
    writes: list[tuple[int, bool]], floor: int, purged: int
) -> None:
    """Taken out of the tree that is kept, it is what a pass over all that is held gives (rule 16)."""
    held = HeldUnit(UNIT, new_store(), durable=True, complete=True, join_key=None)
    for at, (number, is_delete) in enumerate(writes, 1):
        held.merge([entry(number, at) if is_delete else entry(number, at, float(number), 1.0)])
    counted = [
        one
        for one in held.store.entries()
        if one.version < version(floor) and (one.value is not None or not purged or one.version >= version(purged))
    ]
    found = held.digest_below(version(floor), version(purged) if purged else None)
    assert found == hashtree.root(hashtree.build(counted))

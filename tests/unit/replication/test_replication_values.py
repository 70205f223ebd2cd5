"""The small parts of replication: quorums, clock, versions, hash trees, hints, snapshots of units."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.errors import CorruptData, MalformedFrame
from frys_node.base.types import Consistency, Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.kernel.services.topology import UnitSets
from frys_node.kernel.turns import Turns
from frys_node.replication import hashtree
from frys_node.replication.hints import Hint, HintStore
from frys_node.replication.hlc import HybridClock
from frys_node.replication.messages import MESSAGES, Write
from frys_node.replication.quorum import fence, majority, read_is_met, write_is_met
from frys_node.replication.snapshot import ReplicatedSource
from frys_node.replication.unit import HeldUnit, UnitTable, pages
from frys_node.replication.version import newer
from frys_node.testing.clock import FakeClock
from frys_node.testing.data_cluster import DictStore

N1, N2, N3, N4 = (NodeId(f"n{number}") for number in range(1, 5))
EPOCH = Epoch(Term(1, N1), 7)
UNIT = UnitId("cache/0")

versions = st.builds(Version, st.integers(0, 9), st.integers(0, 3), st.sampled_from([N1, N2]), st.integers(1, 2))
entries = st.builds(
    lambda key, version: Entry(key, version, repr(version).encode()), st.sampled_from([b"a", b"b", b"c"]), versions
)


def sets(phase: str, current: Sequence[NodeId], following: Sequence[NodeId]) -> UnitSets:
    """Return sets under some record."""
    return UnitSets(EPOCH, phase, tuple(current), tuple(following))


@given(st.integers(1, 50))
def test_a_fence_meets_every_majority_and_nothing_smaller_does(count: int) -> None:
    """Fence + majority is one more than the members, so the two always share a member."""
    assert majority(count) + majority(count) > count
    assert fence(count) + majority(count) == count + 1


def test_joint_needs_both_quorums_and_joining_only_the_old_one() -> None:
    """Rule 7, for writes and for reads."""
    old, new = (N1, N2, N3), (N2, N3, N4)
    assert write_is_met(sets("joining", old, new), Consistency.QUORUM, [N1, N2])
    assert not write_is_met(sets("joining", old, new), Consistency.QUORUM, [N1, N4])
    assert not write_is_met(sets("joint", (N1,), (N2,)), Consistency.QUORUM, [N1])
    assert write_is_met(sets("joint", (N1,), (N2,)), Consistency.QUORUM, [N1, N2])
    assert not write_is_met(sets("stable", old, old), Consistency.ALL, [N1, N2])
    assert read_is_met(sets("joint", (N1,), (N2,)), Consistency.QUORUM, [N1], [N1, N2])
    assert not read_is_met(sets("joint", (N1,), (N2,)), Consistency.QUORUM, [N1], [N1])
    assert not read_is_met(sets("stable", old, old), Consistency.QUORUM, [N1], [N1, N2, N3])


@given(st.lists(st.one_of(st.integers(0, 10), versions), max_size=30))
def test_stamps_always_grow_whatever_the_wall_clock_and_others_say(inputs: list[int | Version]) -> None:
    """Every stamp is above all stamps before it and all observed versions."""
    clock, highest = HybridClock(N3, 1), Version(-1, 0, N1, 0)
    for item in inputs:
        if isinstance(item, Version):
            clock.observe(item)
            highest = max(highest, item)
        else:
            stamp = clock.stamp(item)
            assert stamp > highest
            highest = stamp


@given(entries, entries, entries)
def test_newer_is_commutative_associative_and_idempotent(a: Entry, b: Entry, c: Entry) -> None:
    """Merging replicas in any order and any number of times gives one result (entries of one key and version equal)."""
    assert newer(a, a) == a
    assert newer(newer(a, b), c).version == newer(a, newer(b, c)).version  # type: ignore[union-attr, arg-type]
    assert newer(a, b).version == newer(b, a).version  # type: ignore[union-attr]


@given(st.lists(entries, max_size=20), st.randoms(use_true_random=False))
def test_replicas_that_took_the_same_entries_in_any_order_have_equal_trees(found: list[Entry], rng: object) -> None:
    """The hash tree depends on what is held, not on how it came there."""
    one = HeldUnit(UNIT, DictStore(), durable=True, complete=True, join_key=None)
    two = HeldUnit(UNIT, DictStore(), durable=True, complete=True, join_key=None)
    shuffled = list(found)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    for entry in found:
        one.merge([entry])
    for entry in shuffled:
        two.merge([entry])
    assert one.tree() == two.tree()
    assert hashtree.differing(one.tree(), two.tree()) == b""


steps = st.one_of(
    st.tuples(st.just("merge"), st.lists(entries, max_size=3, unique_by=lambda entry: entry.key)),
    st.tuples(st.just("drop"), st.lists(st.sampled_from([b"a", b"b", b"c"]), max_size=2, unique=True)),
    st.tuples(st.just("floor"), versions),
    st.tuples(st.just("wipe"), st.none()),
)


@pytest.mark.parametrize("durable", [True, False])
@given(found=st.lists(steps, max_size=12))
def test_a_tree_that_is_kept_is_the_tree_of_what_is_held(durable: bool, found: list[tuple[str, object]]) -> None:
    """Whatever came, went or was overwritten, and whenever somebody asked."""
    unit = HeldUnit(UNIT, DictStore(), durable=durable, complete=True, join_key=None)
    for what, value in found:
        match what:
            case "merge":
                unit.merge(value)  # type: ignore[arg-type]
            case "drop":
                unit.drop(value)  # type: ignore[arg-type]
            case "floor":
                unit.raise_floor(value)  # type: ignore[arg-type]
            case "wipe":
                unit.wipe(EPOCH)
        assert unit.tree() == hashtree.build(unit.store.entries())


def test_a_differing_leaf_is_named_and_junk_is_refused() -> None:
    """Only the leaf of the changed key differs; a tree of another size is malformed."""
    held = Entry(b"a", Version(1, 0, N1, 1), b"x")
    changed = Entry(b"a", Version(1, 0, N1, 1), b"y")
    assert list(hashtree.differing(hashtree.build([held]), hashtree.build([changed]))) == [hashtree.leaf_of(b"a")]
    with pytest.raises(MalformedFrame):
        hashtree.differing(hashtree.build([]), b"short")


def test_one_version_with_two_values_is_reported_and_the_first_stays() -> None:
    """Rule 3: it is corruption, not an update."""
    held = HeldUnit(UNIT, DictStore(), durable=True, complete=True, join_key=None)
    version = Version(1, 0, N1, 1)
    held.merge([Entry(b"a", version, b"x")])
    merged = held.merge([Entry(b"a", version, b"y")])
    assert [entry.value for entry in merged.corrupt] == [b"y"]
    assert held.store.get([b"a"])[0] == Entry(b"a", version, b"x")


def test_hints_are_bounded_and_leave_with_their_target() -> None:
    """The oldest give way, and a hint for a node outside the sets is dropped."""
    store = HintStore(bytes_max=1_000)
    for number in range(20):
        store.add(Hint(number, N1 if number % 2 else N2, UNIT, [Entry(b"k", Version(number, 0, N1, 1), b"v" * 20)]))
    assert store.size_bytes <= 1_000
    assert store.dropped_count > 0
    store.keep(lambda _unit, node: node == N1)
    assert {hint.target for hint in store.due(lambda _node: True)} == {N1}
    newest = store.due(lambda _node: True)[-1]
    store.acknowledge(newest.request, N2)
    assert newest in store.due(lambda _node: True)
    store.acknowledge(newest.request, N1)
    assert newest not in store.due(lambda _node: True)


@given(st.lists(st.integers(0, 200_000), max_size=8))
def test_pages_keep_order_and_stay_below_the_limit(sizes: list[int]) -> None:
    """Every entry is in one page, in order; a page over the limit has a single entry."""
    found = [Entry(f"k{i}".encode(), Version(1, 0, N1, 1), b"v" * size) for i, size in enumerate(sizes)]
    cut = list(pages(found))
    assert [entry for page in cut for entry in page] == found
    assert all(len(page) == 1 or sum(len(e.value or b"") for e in page) <= 256 * 1024 for page in cut)


@given(st.binary(max_size=200))
def test_junk_is_a_malformed_frame_and_nothing_else(data: bytes) -> None:
    """Whatever bytes come, decoding either gives a message or MalformedFrame."""
    try:
        MESSAGES.decode(data)
    except MalformedFrame:
        return


def test_a_write_travels_unchanged() -> None:
    """The codec keeps tombstones, versions and epochs."""
    write = Write(EPOCH, UNIT, 5, 1, Version(1, 2, N1, 3), [(b"a", b"x"), (b"b", None)])
    assert MESSAGES.decode(MESSAGES.encode(write)) == write


async def test_a_unit_survives_capture_and_restore_and_damage_is_refused() -> None:
    """The dump is the same for equal data in another order, merges newer-wins, and is refused when cut."""
    table, taken, restored = UnitTable(), [], []

    async def merge(unit: UnitId, found: Sequence[Entry]) -> None:
        taken.extend(found)

    async def is_restored(unit: UnitId) -> None:
        restored.append(unit)

    source = ReplicatedSource("cache", table, merge, is_restored, Turns(FakeClock()))
    data = [Entry(f"k{i}".encode(), Version(i, 0, N1, 1), b"v" * 1000 if i % 3 else None) for i in range(900)]
    dumps = []
    for order in (data, data[::-1]):
        held = table.units[UNIT] = HeldUnit(UNIT, DictStore(), durable=True, complete=True, join_key=None)
        held.merge(order)
        captured = await source.capture(UNIT)
        dumps.append(b"".join([part async for part in captured.parts()]))
    assert dumps[0] == dumps[1]
    assert source.units() == [UNIT]

    async def parts(dump: bytes) -> AsyncGenerator[bytes, None]:
        for start in range(0, len(dump), 700):
            yield dump[start : start + 700]

    async with aclosing(parts(dumps[0])) as whole:
        await source.restore(UNIT, whole)
    assert sorted(taken, key=lambda entry: entry.key) == sorted(data, key=lambda entry: entry.key)
    assert restored == []
    await source.restored(UNIT)
    assert restored == [UNIT]
    for damaged in (dumps[0][:-1], b"\xff" * 40):
        async with aclosing(parts(damaged)) as broken:
            with pytest.raises(CorruptData):
                await source.restore(UNIT, broken)

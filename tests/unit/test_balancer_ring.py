"""The ring, placement and routing: invariants R1-R6 of the reliability study."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.bypass import Bypass, bypass_of
from balancer.placement import Placement, cache_unit, vector_unit
from balancer.rebalance import moved_fraction, moves
from balancer.record import FORMAT, FORMAT_BYPASS, JOINING, RECORD, TopologyRecord, check_format, first_record
from balancer.ring import Ring
from balancer.router import route
from balancer.saved import ADOPTED_PATH, RecordFile
from balancer.spread import RingMember, rounds_of, water_fill
from balancer.topology_messages import SIGNED_RECORD, SignedRecord
from frys_node.base.errors import NotFound, UnsupportedVersion
from frys_node.base.types import ClusterId, NodeId
from frys_node.base.units import workflow_unit
from frys_node.kernel.services.members import UNUSABLE, UNWELL, WELL
from frys_node.kernel.services.topology import Collection, Forward, Local, Unavailable
from frys_node.testing.disk import FakeDisk

GOLDEN = Path(__file__).parent.parent / "golden"


def node(number: int) -> NodeId:
    """Return a node id."""
    return NodeId(f"{number:032x}")


KEYS = [f"k/{index}" for index in range(64)]


def record_of(count: int, *, joining: int | None = None, leaving: int | None = None) -> TopologyRecord:
    """Return a record with `count` members, and perhaps one more on its way in or one on its way out."""
    ring = tuple(RingMember(node(index)) for index in range(1, count + 1))
    base = first_record(ClusterId(f"{7:032x}"), RingMember(node(1)))
    extra = () if joining is None else (RingMember(node(joining)),)
    following = (*(member for member in ring if leaving is None or member.node != node(leaving)), *extra)
    return msgspec.structs.replace(
        base,
        ring=ring,
        next_ring=following,
        phase=JOINING if following != ring else base.phase,
        collections=(Collection(name="digits", id="c0ffee", dimension=64, distance="Cosine"),),
    )


members = st.lists(
    st.builds(
        RingMember,
        node=st.integers(1, 10_000).map(node),
        weight=st.integers(50, 400),
        zone=st.sampled_from(["", "a", "b", "c"]),
        rack=st.sampled_from(["", "x", "y"]),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda member: member.node,
)


@given(members=members, count=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_each_key_has_min_r_n_distinct_owners(members: list[RingMember], count: int) -> None:
    """R1: exactly min(r, n) owners, whatever the weights, zones and racks."""
    for nodes in Ring(members, vnodes=32).assign(KEYS, count).values():
        assert len(nodes) == len(set(nodes)) == min(count, len(members))


@given(members=members, count=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_replicas_lie_in_as_many_zones_as_there_are_and_evenly(members: list[RingMember], count: int) -> None:
    """No zone has two replicas more of a key than another that has members left."""
    sizes = Counter(member.domain for member in members)
    zone_of = {member.node: member.domain for member in members}
    for nodes in Ring(members, vnodes=32).assign(KEYS, count).values():
        held = Counter(zone_of[node] for node in nodes)
        assert len(held) == min(count, len(sizes))
        assert max(held.values()) <= 1 + min((held[zone] for zone in sizes if held[zone] < sizes[zone]), default=count)


@given(
    members=st.lists(
        st.builds(RingMember, node=st.integers(1, 10_000).map(node), weight=st.integers(50, 400)),
        min_size=1,
        max_size=12,
        unique_by=lambda member: member.node,
    ),
    count=st.integers(1, 5),
)
@settings(max_examples=60, deadline=None)
def test_no_member_holds_more_than_its_bound(members: list[RingMember], count: int) -> None:
    """R2: without zones the bound of load is kept in every round but for the last members that must take all."""
    placed = Ring(members, vnodes=32).assign(KEYS, count)
    for number, each in enumerate(rounds_of(tuple(members), len(KEYS), count), 1):
        load = Counter(node for nodes in placed.values() for node in nodes[:number])
        over = sum(max(0, load[node] - bound) for node, bound in each.bounds.items())
        assert over <= (0 if number == 1 else len(KEYS) // 8)


@given(members=members, count=st.integers(2, 5))
@settings(max_examples=40, deadline=None)
def test_fewer_copies_are_the_beginning_of_more(members: list[RingMember], count: int) -> None:
    """Another replication factor adds members behind those that hold a key, or takes them from the end."""
    ring = Ring(members, 32)
    fewer = ring.assign(KEYS, count - 1)
    assert {key: nodes[: count - 1] for key, nodes in ring.assign(KEYS, count).items()} == fewer


@given(
    weights=st.dictionaries(st.integers(0, 40), st.integers(1, 10_000).map(float), min_size=1, max_size=12),
    limit=st.integers(1, 300),
    part=st.floats(0, 1),
)
@settings(max_examples=100, deadline=None)
def test_what_is_shared_by_weight_adds_up_and_stays_below_the_limit(
    weights: dict[int, float], limit: int, part: float
) -> None:
    """Water filling hands out everything, gives nobody more than the limit, and the heavier never less."""
    total = part * limit * len(weights)
    filled = water_fill(weights, total, limit)
    assert sum(filled.values()) == pytest.approx(total)
    assert max(filled.values()) <= limit + 1e-6
    by_weight = sorted(weights, key=lambda key: weights[key])
    assert all(filled[a] <= filled[b] + 1e-6 for a, b in pairwise(by_weight))


@given(members=members, count=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_placement_does_not_depend_on_the_order_of_members(members: list[RingMember], count: int) -> None:
    """R4: the same members give the same placement in whatever order they were listed."""
    assert Ring(members, 32).assign(KEYS, count) == Ring(members[::-1], 32).assign(KEYS, count)


def test_placement_is_the_same_in_another_process_with_another_hash_seed() -> None:
    """R4: neither the process nor PYTHONHASHSEED changes who owns what."""
    code = (
        "from balancer.ring import *; r = Ring([RingMember(f'{i:032x}', zone='ab'[i % 2]) for i in range(1, 8)]);"
        "print(r.assign([f'u/{i}' for i in range(50)], 3))"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("0", "1", "4242")
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("count", [1, 2, 3, 5, 9])
def test_a_join_moves_about_one_share_and_almost_only_to_the_joiner(count: int) -> None:
    """R3: the moved fraction stays near 1/(n+1); ripples of the load bound are a small part of it."""
    placement = Placement(record_of(count, joining=99))
    assert moved_fraction(placement) <= 1.6 / (count + 1) + 0.02
    found = moves(placement)
    ripples = [move for move in found if move.target != node(99)]
    assert len(ripples) <= 0.25 * len(found)


@pytest.mark.parametrize("count", [10, 15, 20])
@pytest.mark.parametrize("copies", [1, 3])
def test_loads_stay_below_a_quarter_over_the_mean(count: int, copies: int) -> None:
    """R2: of 256 units no member, and as a first place no member either, has more than 1.25 times the mean."""
    for seed in range(4):
        ring = Ring([RingMember(node(seed << 16 | index)) for index in range(count)])
        placed = ring.assign([cache_unit(index) for index in range(256)], copies)
        first = Counter(nodes[0] for nodes in placed.values())
        every = Counter(each for nodes in placed.values() for each in nodes)
        assert max(first.values()) <= 1.25 * 256 / count
        assert max(every.values()) <= 1.25 * 256 * copies / count


@pytest.mark.parametrize("count", [3, 10])
def test_a_leave_moves_only_what_the_leaver_held_and_little_else(count: int) -> None:
    """R3: on a leave, copies of units that the leaver did not hold are a small part of what moves."""
    placement = Placement(record_of(count, leaving=2))
    found = moves(placement)
    held = set(placement.held_by(node(2)))
    assert moved_fraction(placement) <= 1.5 / count
    assert sum(move.unit not in held for move in found) <= 0.25 * len(found)


def test_a_zone_of_one_node_holds_every_unit_once_and_the_others_share_the_rest() -> None:
    """The spread over zones beats even loads; within what it leaves, loads are even."""
    ring = Ring([RingMember(node(index), zone="small" if index == 1 else "large") for index in range(1, 10)])
    placed = ring.assign(KEYS, 2)
    load = Counter(each for nodes in placed.values() for each in nodes)
    assert load[node(1)] == len(KEYS)
    assert max(load[node(index)] for index in range(2, 10)) <= 1.25 * len(KEYS) / 8


def test_replicas_in_one_zone_lie_in_different_racks() -> None:
    """With fewer zones than copies, those in one zone are in different racks; a rack without a zone is one."""
    members = [RingMember(node(i), zone="ab"[i % 2], rack=f"r{i % 6 // 2}") for i in range(1, 13)]
    place_of = {member.node: (member.domain, member.shelf) for member in members}
    for nodes in Ring(members).assign(KEYS, 4).values():
        assert len({place_of[each] for each in nodes}) == 4
    racks = [RingMember(node(index), rack="xyz"[index % 3]) for index in range(1, 10)]
    rack_of = {member.node: member.rack for member in racks}
    for nodes in Ring(racks).assign(KEYS, 3).values():
        assert {rack_of[each] for each in nodes} == {"x", "y", "z"}


def test_a_rack_of_one_node_does_not_hold_everything() -> None:
    """The spread over racks gives way to the bound of load."""
    members = [RingMember(node(index), rack="lone" if index == 1 else "full", zone="a") for index in range(1, 10)]
    placed = Ring(members).assign(KEYS, 3)
    load = Counter(each for nodes in placed.values() for each in nodes)
    assert load[node(1)] <= 1.25 * 3 * len(KEYS) / 9


@given(members=members, wanted=st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_no_load_is_far_above_its_weight(members: list[RingMember], wanted: int) -> None:
    """R5: with units enough, a member's part is at most a quarter above its weight's part; it may be well below."""
    plain = [RingMember(member.node, member.weight) for member in members]
    keys = [f"{wanted}/{index}" for index in range(400)]
    load = Counter(nodes[0] for nodes in Ring(plain).assign(keys, 1).values())
    weights = sum(member.weight for member in plain)
    for member in plain:
        assert load[member.node] <= max(1, 1.25 * len(keys) * member.weight / weights + 1)


def test_load_follows_weight_in_the_mean_of_many_rings() -> None:
    """Over forty rings of five members each weight has its part of the keys, within a twentieth either way."""
    weights, keys = (50, 100, 150, 200, 300), [f"k/{index}" for index in range(400)]
    load: Counter[int] = Counter()
    for ring in range(40):
        members = [RingMember(node(10 * ring + index), weight=weight) for index, weight in enumerate(weights)]
        placed = Ring(members).assign(keys, 1)
        load.update(int(nodes[0], 16) % 10 for nodes in placed.values())
    for index, weight in enumerate(weights):
        assert load[index] / load.total() == pytest.approx(weight / sum(weights), rel=0.05)


def test_the_owner_of_a_key_is_the_first_of_its_walk_and_sectors_follow_the_shares() -> None:
    """The picture of the circle and the plain owner agree with the walk and with the shares."""
    ring = Ring([RingMember(node(index), weight=100 * index) for index in range(1, 4)])
    assert all(ring.owner(key) == next(ring.walk(key)).node for key in KEYS)
    sectors, share = Counter(ring.sectors(2_000)), ring.share()
    assert all(sectors[each] / 2_000 == pytest.approx(share[each], abs=0.03) for each in share)
    assert Ring([]).sectors(4) == []


def test_share_follows_weight() -> None:
    """R5: a member of double weight owns about double the circle."""
    ring = Ring([RingMember(node(1), 100), RingMember(node(2), 200), RingMember(node(3), 100)], vnodes=512)
    share = ring.share()
    assert sum(share.values()) == pytest.approx(1)
    assert share[node(2)] == pytest.approx(0.5, abs=0.06)


def test_sets_of_a_stable_record_are_equal_and_unknown_units_are_refused() -> None:
    """A stable record has next == current for each of its units, and knows no others."""
    placement = Placement(record_of(3))
    for unit in placement.units():
        sets = placement.sets(unit)
        assert sets.current == sets.next
    assert len(placement.sets(cache_unit(0)).current) == 3
    assert len(placement.sets(workflow_unit(255)).current) == 1
    assert placement.sets(vector_unit("c0ffee", 3))
    with pytest.raises(NotFound):
        placement.sets(vector_unit("gone", 0))


def test_a_pinned_partition_stays_with_its_owner() -> None:
    """A partition pinned by the record waits for its owner's disk, while that is on the ring (D5)."""
    free = Placement(record_of(3)).sets(workflow_unit(17)).current[0]
    other = next(member for member in (node(1), node(2), node(3)) if member != free)
    pinned = msgspec.structs.replace(record_of(3), pinned=((17, other),))
    assert Placement(pinned).sets(workflow_unit(17)).current == (other,)
    gone = msgspec.structs.replace(record_of(3), pinned=((17, node(9)),))
    assert Placement(gone).sets(workflow_unit(17)).current == (free,)


def test_routing_is_local_then_the_first_well_member_then_unavailable() -> None:
    """The router names this node, the first of the best members, or everybody it would have needed."""
    sets = Placement(record_of(5)).sets(cache_unit(3))
    first, second, third = sets.current
    outside = next(node(i) for i in range(1, 6) if node(i) not in sets.current)
    assert route(sets, second, lambda n: UNUSABLE) == Local(sets.epoch)
    assert route(sets, outside, lambda n: UNUSABLE if n == first else WELL) == Forward(second, sets.epoch)
    assert route(sets, outside, lambda n: WELL if n == third else UNWELL) == Forward(third, sets.epoch)
    assert route(sets, outside, lambda n: UNUSABLE if n == first else UNWELL) == Forward(second, sets.epoch)
    assert route(sets, outside, lambda n: UNUSABLE) == Unavailable(sets.epoch, (first, second, third))


@pytest.mark.parametrize("version", [1, 2, 3])
def test_every_record_version_decodes_for_ever(version: int) -> None:
    """What any version wrote decodes to the same value (D14); 1 knew no racks, no losses, 2 passed nobody over."""
    data = (GOLDEN / f"topology-record-{version}.bin").read_bytes()
    record = msgspec.structs.replace(record_of(3, joining=4), format=version)
    if version >= FORMAT:
        record = whole(record)
    if version == FORMAT_BYPASS:
        record = bypassing(record)
        assert RECORD.encode(record) == data
    assert RECORD.decode(data) == record


def whole(record: TopologyRecord) -> TopologyRecord:
    """Return the record with something in every field."""
    return msgspec.structs.replace(
        record,
        ring=tuple(msgspec.structs.replace(member, zone="z", rack="r") for member in record.ring),
        pinned=((5, node(3)),),
        next_replication_factor=5,
        next_factors=(("c0ffee", 1),),
        lost=(node(2),),
        removed=(node(2), node(9)),
        successor=node(1),
    )


def bypassing(record: TopologyRecord) -> TopologyRecord:
    """Return the record with members passed over in the current and in the next sets."""
    return msgspec.structs.replace(
        record,
        bypassed=(bypass_of(node(2), [cache_unit(7), cache_unit(3), vector_unit("c0ffee", 0)]), Bypass(node(3))),
        next_bypassed=(bypass_of(node(2), [workflow_unit(200)]),),
    )


def test_a_record_of_another_format_is_refused_with_both_numbers() -> None:
    """Sets that its writer did not mean are never derived from a record."""
    for known in (2, 3):
        check_format(msgspec.structs.replace(record_of(3), format=known))
    for other in (1, 4):
        with pytest.raises(UnsupportedVersion, match=f"has format {other}, and this version works under 2 and 3"):
            check_format(msgspec.structs.replace(record_of(3), format=other))


def test_a_node_does_not_start_with_a_record_of_another_format() -> None:
    """A data directory of a version that placed otherwise is refused, and stays as it is."""
    disk = FakeDisk()
    old = msgspec.structs.replace(record_of(3), format=1)
    data = SIGNED_RECORD.encode(SignedRecord(RECORD.encode(old), b"proof"))
    disk.write(ADOPTED_PATH, data)
    with pytest.raises(UnsupportedVersion):
        RecordFile(disk).load()
    assert disk.read(ADOPTED_PATH) == data


def test_a_catalogue_change_places_the_new_collection_alone() -> None:
    """What a record did not change is not placed again: the sets of all other units are the same objects."""
    before = Placement(record_of(9))
    more = Collection(name="more", id="ba11", dimension=8, distance="Dot")
    after = Placement(msgspec.structs.replace(before.record, collections=(*before.record.collections, more)))
    assert all(after.sets(unit).current is before.sets(unit).current for unit in before.units())
    assert vector_unit("ba11", 0) in after

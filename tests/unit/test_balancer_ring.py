"""The ring, placement and routing: invariants R1-R6 of the reliability study."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from balancer.placement import Placement, cache_unit, vector_unit
from balancer.rebalance import moved_fraction, moves
from balancer.record import JOINING, RECORD, TopologyRecord, first_record
from balancer.ring import LOAD_SLACK, Ring, RingMember
from balancer.router import route
from frys_node.base.errors import NotFound
from frys_node.base.types import ClusterId, NodeId
from frys_node.base.units import workflow_unit
from frys_node.kernel.services.members import UNUSABLE, UNWELL, WELL
from frys_node.kernel.services.topology import Collection, Forward, Local, Unavailable

GOLDEN = Path(__file__).parent.parent / "golden"


def node(number: int) -> NodeId:
    """Return a node id."""
    return NodeId(f"{number:032x}")


def record_of(count: int, *, joining: int | None = None) -> TopologyRecord:
    """Return a record with `count` members, and perhaps one more on its way in."""
    ring = tuple(RingMember(node(index)) for index in range(1, count + 1))
    base = first_record(ClusterId(f"{7:032x}"), RingMember(node(1)))
    extra = () if joining is None else (RingMember(node(joining)),)
    return msgspec.structs.replace(
        base,
        ring=ring,
        next_ring=ring + extra,
        phase=JOINING if extra else base.phase,
        collections=(Collection(name="digits", id="c0ffee", dimension=64, distance="Cosine"),),
    )


members = st.lists(
    st.builds(
        RingMember,
        node=st.integers(1, 10_000).map(node),
        weight=st.integers(50, 400),
        zone=st.sampled_from(["", "a", "b", "c"]),
    ),
    min_size=1,
    max_size=12,
    unique_by=lambda member: member.node,
)


@given(members=members, count=st.integers(1, 5))
@settings(max_examples=40, deadline=None)
def test_each_key_has_min_r_n_distinct_owners_under_its_bound(members: list[RingMember], count: int) -> None:
    """R1 and R2: exactly min(r, n) owners, and no member above its bounded load when the others have room."""
    ring = Ring(members, vnodes=32)
    keys = [f"k/{index}" for index in range(64)]
    placed = ring.assign(keys, count)
    for nodes in placed.values():
        assert len(nodes) == len(set(nodes)) == min(count, len(members))
    if count == 1:
        weights = sum(member.weight for member in members)
        for member in members:
            held = sum(member.node in nodes for nodes in placed.values())
            assert held <= math.ceil((1 + LOAD_SLACK) * len(keys) * member.weight / weights)


@given(members=members, count=st.integers(1, 4))
@settings(max_examples=25, deadline=None)
def test_placement_does_not_depend_on_the_order_of_members(members: list[RingMember], count: int) -> None:
    """R4: the same members give the same placement in whatever order they were listed."""
    keys = [f"k/{index}" for index in range(32)]
    assert Ring(members, 32).assign(keys, count) == Ring(members[::-1], 32).assign(keys, count)


def test_placement_is_the_same_in_another_process_with_another_hash_seed() -> None:
    """R4: neither the process nor PYTHONHASHSEED changes who owns what."""
    code = (
        "from balancer.ring import *; r = Ring([RingMember(f'{i:032x}') for i in range(1, 8)]);"
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


def test_replicas_are_spread_over_zones_first() -> None:
    """A preference list uses every zone before it uses one twice."""
    ring = Ring([RingMember(node(index), zone="abc"[index % 3]) for index in range(1, 10)])
    zone_of = {member.node: member.zone for member in ring.members}
    for index in range(100):
        assert len({zone_of[n] for n in ring.preference_list(f"k{index}", 3)}) == 3


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


def test_the_first_record_version_decodes_for_ever() -> None:
    """A record written by version 1 of the format decodes to the same value (D14)."""
    path = GOLDEN / "topology-record-1.bin"
    assert RECORD.decode(path.read_bytes()) == record_of(3, joining=4)


def test_a_record_with_every_field_is_read_and_written_unchanged() -> None:
    """Next factors, lost and removed nodes, a successor: what is written today is this golden file, byte for byte."""
    path = GOLDEN / "topology-record-fields.bin"
    record = msgspec.structs.replace(
        record_of(3, joining=4),
        pinned=((5, node(3)),),
        next_replication_factor=5,
        next_factors=(("c0ffee", 1),),
        lost=(node(2),),
        removed=(node(2), node(9)),
        successor=node(1),
    )
    assert RECORD.decode(path.read_bytes()) == record
    assert RECORD.encode(record) == path.read_bytes()

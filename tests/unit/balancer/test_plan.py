"""Plans of ring changes: what they count, and that they count what the change itself would."""

from __future__ import annotations

import msgspec
import pytest

from balancer import plan
from balancer.placement import Placement
from balancer.rebalance import moves
from balancer.record import JOINING, TopologyRecord, first_record
from balancer.spread import RingMember
from frys_node.base.errors import AlreadyExists, NotFound, UsageError
from frys_node.base.types import ClusterId, NodeId
from frys_node.kernel.services.topology import Collection


def record_of(*names: str) -> TopologyRecord:
    """Return a stable record of these nodes with one collection."""
    ring = tuple(RingMember(NodeId(name)) for name in sorted(names))
    return msgspec.structs.replace(
        first_record(ClusterId("c" * 32), ring[0]),
        ring=ring,
        next_ring=ring,
        collections=(Collection(name="points", id="p1", dimension=4, distance="Dot", replication_factor=2),),
    )


NEW = RingMember(NodeId("d"))


def test_a_plan_counts_the_copies_that_the_change_itself_makes() -> None:
    """Copies, units and bytes by target are those of the `joining` record; units that nobody told of are counted."""
    record = record_of("a", "b", "c", "e")
    ring = tuple(sorted((*record.ring, NEW), key=lambda member: member.node))
    found = moves(Placement(msgspec.structs.replace(record, phase=JOINING, next_ring=ring)))
    sizes = {unit: 10 for unit in Placement(record).units() if not unit.startswith("workflow/")}
    planner = plan.Planner(record, sizes)
    planner.change(plan.with_member(record, NEW), "add", "d")
    made = planner.plan()
    known = [move for move in found if move.unit in sizes]
    assert made.steps == [
        plan.Step(
            change="add",
            what="d",
            units=len({move.unit for move in found}),
            copies=len(found),
            bytes=10 * len(known),
            unknown=len(found) - len(known),
        )
    ]
    for load in made.nodes:
        assert load.copies == sum(move.target == load.node for move in found)
        assert load.bytes == 10 * sum(move.target == load.node for move in known)
    new = next(load for load in made.nodes if load.node == "d")
    assert (new.units_before, new.units_after) == (0, new.copies)
    assert 1.0 <= made.over_quota_after <= 1.3


def test_changes_are_planned_one_after_another() -> None:
    """A join and a leave are two steps; the second begins where the first ends."""
    record = record_of("a", "b", "c")
    planner = plan.Planner(record, {})
    planner.change(plan.with_member(planner.record, NEW), "add", "d")
    planner.change(plan.without_member(planner.record, NodeId("a")), "remove", "a")
    made = planner.plan()
    assert [step.change for step in made.steps] == ["add", "remove"]
    assert made.copies == sum(step.copies for step in made.steps) == sum(load.copies for load in made.nodes)
    gone = next(load for load in made.nodes if load.node == "a")
    assert gone.units_after == 0 < gone.units_before


def test_fewer_copies_move_nothing_and_more_copies_only_add() -> None:
    """A smaller replication factor makes no copy; a larger one makes one more of each unit that it concerns."""
    record = record_of("a", "b", "c", "e")
    fewer = plan.Planner(record, {})
    fewer.change(plan.with_copies(record, 1), "replication_factor", "1")
    assert fewer.plan().copies == 0
    more = plan.Planner(record, {})
    more.change(plan.with_copies(record, 4), "replication_factor", "4")
    assert more.plan().copies == 256 + 2 * 4


def test_a_plan_begins_where_the_change_under_way_ends() -> None:
    """Under a `joining` record the next ring counts as there."""
    record = record_of("a", "b")
    joining = msgspec.structs.replace(plan.with_member(record, NEW), ring=record.ring, phase=JOINING)
    assert {member.node for member in plan.Planner(joining, {}).record.ring} == {"a", "b", "d"}


def test_changes_that_cannot_be_made_are_refused() -> None:
    """A node that is there, one that is not, the last one, and numbers out of range."""
    record = record_of("a")
    with pytest.raises(AlreadyExists):
        plan.with_member(record, RingMember(NodeId("a")))
    with pytest.raises(UsageError):
        plan.with_member(record, RingMember(NodeId("b"), weight=0))
    with pytest.raises(NotFound):
        plan.without_member(record, NodeId("b"))
    with pytest.raises(UsageError):
        plan.without_member(record, NodeId("a"))
    for copies in (0, 8):
        with pytest.raises(UsageError):
            plan.with_copies(record, copies)


def test_the_largest_report_of_a_unit_is_its_size() -> None:
    """A copy that is on its way is smaller than what is copied."""
    unit = next(Placement(record_of("a")).units())
    assert plan.sizes_of({NodeId("a"): {unit: 7}, NodeId("b"): {unit: 3}}) == {unit: 7}


def test_a_member_of_no_weight_has_no_quota() -> None:
    """One that only keeps what is pinned to its disk is on the ring, and no plan is measured by it."""
    record = record_of("a", "b", "c")
    idle = (*record.ring, RingMember(NodeId("z"), weight=0))
    made = plan.Planner(msgspec.structs.replace(record, ring=idle, next_ring=idle), {}).plan()
    assert 1.0 <= made.over_quota_before <= 1.5

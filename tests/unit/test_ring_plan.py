"""Plans of ring changes: the steps that the issuer would make of them, and what those move."""

from __future__ import annotations

import msgspec

from balancer.absence import around
from balancer.placement import Placement
from balancer.plan import Plan
from balancer.rebalance import moves
from balancer.record import JOINING, TopologyRecord, after, finished, first_record
from balancer.spread import RingMember
from balancer.steps import StepConfig, Steps
from frys_node.base.types import ClusterId, NodeId
from frys_node.kernel.services.topology import Collection
from frys_node.ring_plan import Wanted, planned, start_of

D, E = RingMember(NodeId("d")), RingMember(NodeId("e"))


def record_of(*names: str) -> TopologyRecord:
    """Return a stable record of these nodes with two collections."""
    ring = tuple(RingMember(NodeId(name)) for name in sorted(names))
    collections = tuple(
        Collection(name=f"c{n}", id=f"p{n}", dimension=4, distance="Dot", shard_number=16, replication_factor=2)
        for n in (1, 2)
    )
    founded = first_record(ClusterId("c" * 32), ring[0], replication_factor=2)
    return msgspec.structs.replace(founded, ring=ring, next_ring=ring, collections=collections)


def joining_of(record: TopologyRecord, *members: RingMember) -> TopologyRecord:
    """Return the issuer's record of members that come in one step."""
    ring = tuple(sorted((*record.ring, *members), key=lambda member: member.node))
    return after(record, phase=JOINING, next_ring=ring)


def test_nodes_that_come_together_are_one_step() -> None:
    """Two joins are counted as the one record that the issuer makes of them, and not one after the other."""
    record = record_of("a", "b", "c")
    made = planned(record, Wanted(joining=[D, E]), sizes={}, dead=(), names={NodeId("d"): "dora"})
    found = moves(Placement(joining_of(record, D, E)))
    assert [(step.change, step.what, step.copies) for step in made.steps] == [("add", "dora, e", len(found))]
    singly = planned(record, Wanted(joining=[D]), sizes={}, dead=(), names={}).copies
    then = finished(joining_of(record, D))
    assert made.copies < singly + planned(then, Wanted(joining=[E]), sizes={}, dead=(), names={}).copies


def test_one_that_comes_and_one_that_goes_are_one_step_and_seventeen_are_two() -> None:
    """A step takes up to 16 nodes; what comes goes before what leaves."""
    record = record_of("a", "b", "c")
    swap = planned(record, Wanted(joining=[D], leaving=[NodeId("a")]), sizes={}, dead=(), names={})
    assert [(step.change, step.what) for step in swap.steps] == [("nodes", "+d, -a")]
    assert next(load for load in swap.nodes if load.node == "a").units_after == 0
    many = [RingMember(NodeId(f"n{number:02}")) for number in range(17)]
    steps = planned(record, Wanted(joining=many), sizes={}, dead=(), names={}).steps
    assert [step.what.count("n") for step in steps] == [16, 1]


def test_a_replication_factor_is_that_of_cache_units_or_of_one_collection() -> None:
    """As `ring set` and `collection update` change it: one more copy of 256 units, or of 16 shards."""
    record = record_of("a", "b", "c")
    cluster = planned(record, Wanted(factor=3), sizes={}, dead=(), names={})
    assert [(step.change, step.what, step.copies) for step in cluster.steps] == [("replication_factor", "3", 256)]
    assert planned(record, Wanted(factor_of="p2", factor=3), sizes={}, dead=(), names={}).copies == 16
    assert planned(record, Wanted(factor_of="p2", factor=1), sizes={}, dead=(), names={}).copies == 0
    both = planned(record, Wanted(joining=[D], factor=3), sizes={}, dead=(), names={})
    assert [step.change for step in both.steps] == ["add", "replication_factor"]


def test_who_is_dead_gets_nothing_and_the_step_goes_around_it() -> None:
    """The copies are those of the issuer's record that passes the dead over; what it passed over before stays so."""
    record = record_of("a", "b", "c", "f")
    plain = planned(record, Wanted(leaving=[NodeId("a")]), sizes={}, dead=(), names={})
    made = planned(record, Wanted(leaving=[NodeId("a")]), sizes={}, dead={NodeId("f")}, names={})

    def taken(plan: Plan) -> int:
        return next(load for load in plan.nodes if load.node == "f").copies

    assert taken(plain) > 0
    assert taken(made) == 0
    ring = tuple(member for member in record.ring if member.node != "a")
    step = around(after(record, phase=JOINING, next_ring=ring), [NodeId("f")])
    assert made.copies == len([move for move in moves(step) if move.target != "f"])
    then = finished(step.record)
    assert then.bypassed
    more = planned(then, Wanted(joining=[D]), sizes={}, dead={NodeId("f")}, names={})
    assert taken(more) == 0
    assert taken(planned(then, Wanted(joining=[D]), sizes={}, dead=(), names={})) > 0  # it is back: its places too


def test_a_dead_node_can_be_removed_on_paper_and_one_that_waits_to_hand_over_is_not_counted() -> None:
    """Every place that it had goes to others, those of which only its disk has the data too: when that is back."""
    record = record_of("a", "b", "c")
    made = planned(record, Wanted(leaving=[NodeId("c")]), sizes={}, dead={NodeId("c")}, names={})
    assert [(step.change, step.what) for step in made.steps] == [("remove", "c")]
    gone = next(load for load in made.nodes if load.node == "c")
    assert (gone.units_after, made.copies) == (0, gone.units_before)
    waiting = tuple(msgspec.structs.replace(m, weight=0) if m.node == "c" else m for m in record.ring)
    start = start_of(msgspec.structs.replace(record, ring=waiting, next_ring=waiting, pinned=((3, NodeId("c")),)))
    then = planned(start, Wanted(joining=[D]), sizes={}, dead={NodeId("c")}, names={})
    assert [load.node for load in then.nodes] == ["a", "b", "d"]


def test_a_plan_begins_where_a_change_of_the_factor_under_way_ends() -> None:
    """The next ring and the next factors count as there."""
    record = record_of("a", "b", "c")
    growing = after(record, phase=JOINING, next_replication_factor=3, next_factors=(("p1", 3),))
    start = start_of(growing)
    assert (start.replication_factor, start.collections[0].replication_factor) == (3, 3)
    assert planned(start, Wanted(factor=3), sizes={}, dead=(), names={}).steps == []


def test_a_step_that_the_issuer_would_not_begin_says_whom_it_waits_for() -> None:
    """With one of three copies dead no second one can leave: the copies are told, and that it waits and why."""
    record = msgspec.structs.replace(record_of("a", "b", "c"), replication_factor=3)
    made = planned(record, Wanted(leaving=[NodeId("b")]), sizes={}, dead={NodeId("c")}, names={})
    steps = Steps(NodeId("a"), StepConfig())
    steps.adopted(Placement(record), record.epoch, 0.0)
    steps.verdict([NodeId("c")], 0.0)
    steps.request_leave(NodeId("b"))
    assert steps.next_record(100.0) is None
    assert [(step.change, step.what) for step in made.steps] == [("remove", "b")]
    assert (made.steps_ready, made.waits_for) == (0, steps.waits_for())
    assert made.waits_for[0].startswith("c: dead, and without it too few members live of ")


def test_what_can_begin_is_planned_before_what_waits() -> None:
    """Of a join and two leaves that leave too few alive the issuer makes the join alone, and the leaves wait."""
    record = record_of("a", "b", "c")
    wanted = Wanted(joining=[D], leaving=[NodeId("a"), NodeId("b")])
    alive = planned(record, wanted, sizes={}, dead=(), names={})
    assert ([step.what for step in alive.steps], alive.steps_ready, alive.waits_for) == (["+d, -a, -b"], 1, [])
    made = planned(record, wanted, sizes={}, dead={NodeId("c")}, names={})
    assert [(step.change, step.what) for step in made.steps] == [("add", "d"), ("remove", "a, b")]
    assert (made.steps_ready, made.waits_for[0].partition(",")[0]) == (1, "c: dead")


def test_a_plan_with_a_dead_issuer_begins_nothing() -> None:
    """Whoever writes the record has to be back, or replaced; the way to that is named."""
    record = record_of("a", "b", "c")
    issuer = record.epoch.term.node
    made = planned(record, Wanted(joining=[D]), sizes={}, dead={issuer}, names={})
    assert (len(made.steps), made.steps_ready) == (1, 0)
    assert made.waits_for == [f"{issuer}: dead, and it writes the record; see: frys-node issuer promote"]


def test_a_removal_that_would_be_refused_says_so() -> None:
    """Of units whose copies are on two dead nodes too few members live: `node remove` wants to be told to lose them."""
    record = record_of("a", "b", "c", "f", "g")
    dead = {NodeId("b"), NodeId("c")}
    made = planned(record, Wanted(leaving=[NodeId("b")]), sizes={}, dead=dead, names={})
    assert [(step.change, step.what) for step in made.steps] == [("remove", "b")]
    assert (made.steps_ready, len(made.waits_for)) == (0, 1)
    assert made.waits_for[0].startswith("b: dead, and too few members live of ")
    assert made.waits_for[0].endswith(" more units; it is removed only with --accept-loss")

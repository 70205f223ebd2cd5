"""Several changes in one step, nodes that die or fall silent meanwhile, removals, weights and replication factors."""

from __future__ import annotations

import math
from collections.abc import Sequence

from balancer.changes import CLUSTER, STEP_NODES_MAX, owned_by
from balancer.placement import Placement, cache_unit, vector_unit
from balancer.record import JOINING, JOINT, STABLE, TopologyRecord
from balancer.spread import RingMember
from balancer.steps import StepConfig, Steps
from balancer.topology_messages import Report
from frys_node.base.types import NodeId
from frys_node.base.units import workflow_unit
from frys_node.kernel.services.topology import Collection
from tests.unit.balancer.topology_rig import N1, N2, N3, N4, N5, done, record, steps_under


def nodes_of(found: TopologyRecord | None) -> list[NodeId]:
    """Return the members of the next ring."""
    assert found is not None
    return [member.node for member in found.next_ring]


def through(steps: Steps, found: TopologyRecord | None, silent: Sequence[NodeId] = ()) -> TopologyRecord:
    """Take a ``joining`` record to stable, with everybody but the silent doing all they should."""
    assert found is not None
    for _ in range(2):
        steps.adopted(Placement(found), None, 0.0)
        for node in found.members():
            if node not in silent:
                steps.take(node, done(found), 0.1)
        found = steps.next_record(4.0)
        assert found is not None
    steps.adopted(Placement(found), None, 4.0)
    for node in found.members():
        if node not in silent:
            steps.take(node, done(found), 4.1)
    return found


def test_twenty_joins_at_once_are_a_few_records() -> None:
    """One step takes in STEP_NODES_MAX newcomers: two steps of three records, not sixty."""
    newcomers = [NodeId(f"m{number:02}") for number in range(20)]
    steps = steps_under(record(1, STABLE, [N1]))
    for node in newcomers:
        assert steps.request_join(RingMember(node=node))
    first = steps.next_record(1.0)
    assert nodes_of(first) == sorted([N1, *newcomers[:STEP_NODES_MAX]])
    stable = through(steps, first)
    assert stable.epoch.seq == 4
    steps.is_settled = steps.settled_is_met()
    stable = through(steps, steps.next_record(5.0))
    assert [member.node for member in stable.ring] == sorted([N1, *newcomers])
    assert stable.epoch.seq == 7


def test_joins_and_leaves_share_a_step_that_keeps_enough_members() -> None:
    """Three members and factor 3: two joiners let two leave in the same step, a third leave waits for its own."""
    steps = steps_under(record(1, STABLE, [N1, N2, N3]))
    for node in (N1, N2, N3):
        steps.request_leave(node)
    for node in (N4, N5):
        steps.request_join(RingMember(node=node))
    first = steps.next_record(1.0)
    assert nodes_of(first) == [N3, N4, N5]
    through(steps, first)
    steps.is_settled = True
    assert nodes_of(steps.next_record(5.0)) == [N4, N5]


def test_leaves_that_shrink_the_ring_below_the_factor_go_one_at_a_time() -> None:
    """Nothing avoids it, so it is allowed, but a step never drops two members below the factor."""
    steps = steps_under(record(1, STABLE, [N1, N2, N3, N4]))
    for node in (N2, N3, N4):
        steps.request_leave(node)
    first = steps.next_record(1.0)
    assert nodes_of(first) == [N1, N3, N4]
    through(steps, first)
    steps.is_settled = True
    assert nodes_of(steps.next_record(5.0)) == [N1, N4]


def test_the_last_member_cannot_leave() -> None:
    """A ring without members holds nothing: the wish is dropped, and nothing spins on it."""
    steps = steps_under(record(1, STABLE, [N1]))
    steps.request_leave(N1)
    assert steps.next_record(1.0) is None
    assert steps.waiting == ()
    assert steps.next_deadline_s() == math.inf


def joining_two(config: StepConfig | None = None) -> tuple[Steps, TopologyRecord]:
    """Return steps with N2 and N3 joining N1 since second 1."""
    steps = steps_under(record(1, STABLE, [N1]), config)
    for node in (N2, N3):
        steps.request_join(RingMember(node=node))
    joining = steps.next_record(1.0)
    assert joining is not None
    steps.adopted(Placement(joining), None, 1.0)
    steps.take(N1, done(joining), 1.1)
    return steps, joining


def test_a_joiner_that_dies_is_left_behind_after_seconds_and_the_others_go_on() -> None:
    """Known dead for `dead_patience_s`: the step is aborted, and begun again at once without it."""
    steps, joining = joining_two()
    steps.take(N3, done(joining), 1.2)
    steps.take(N2, Report(joining.epoch, False, False, 2), 1.2)
    steps.verdict([N2], 2.0)
    assert steps.next_deadline_s() == 5.0
    assert steps.next_record(4.9) is None
    back = steps.next_record(5.0)
    assert back is not None
    assert (back.phase, nodes_of(back)) == (STABLE, [N1])
    steps.adopted(Placement(back), back.epoch, 5.0)
    assert nodes_of(steps.next_record(5.0)) == [N1, N3]


def test_a_joiner_that_never_adopts_is_left_behind_too() -> None:
    """Nobody has declared it dead, and it has said nothing for `adopt_patience_s`."""
    steps, joining = joining_two()
    steps.take(N3, done(joining), 1.2)
    assert steps.next_record(10.9) is None
    back = steps.next_record(11.0)
    assert back is not None
    steps.adopted(Placement(back), back.epoch, 11.0)
    assert nodes_of(steps.next_record(11.0)) == [N1, N3]
    assert steps.waiting == (N3,)


def test_a_step_of_several_joiners_waits_for_each_of_them() -> None:
    """Neither ``joint`` nor ``stable`` is signed while one of them lacks something."""
    for phase in (JOINING, JOINT):
        found = record(5, phase, [N1, N2, N3], [N1, N2, N3, N4, N5], partitions=16)
        steps = steps_under(found)
        for node in (N1, N2, N3, N4):
            steps.take(node, done(found), 0.1)
        steps.take(N5, Report(found.epoch, False, False, 1), 0.1)
        assert steps.next_record(9.0) is None
        steps.take(N5, done(found), 9.1)
        assert steps.next_record(9.2) is not None


def test_a_joiner_that_dies_in_joint_ends_the_step_before_its_patience() -> None:
    """Writes of its units wait for it meanwhile, so it has seconds."""
    steps = steps_under(record(5, JOINT, [N1], [N1, N2]))
    steps.verdict([N2], 1.0)
    assert steps.next_record(3.9) is None
    back = steps.next_record(4.0)
    assert back is not None
    assert (back.phase, nodes_of(back)) == (STABLE, [N1])


def test_a_wrong_verdict_costs_a_try_and_nothing_else() -> None:
    """Whoever is taken off the list of the dead has its patience again; a verdict never changes the record itself."""
    steps, joining = joining_two()
    steps.verdict([N2], 2.0)
    steps.verdict([], 4.0)
    for node in (N2, N3):
        steps.take(node, done(joining), 4.1)
    joint = steps.next_record(4.2)
    assert joint is not None
    assert (joint.phase, nodes_of(joint)) == (JOINT, [N1, N2, N3])


def test_joint_is_not_entered_while_it_could_not_end() -> None:
    """Two of three old members are silent under joining: joint would only make writers wait."""
    found = record(2, JOINING, [N1, N2, N3], [N1, N2, N3, N4], partitions=16)
    steps = steps_under(found)
    for node in (N1, N4):
        steps.take(node, done(found), 0.1)
    assert steps.next_record(9.0) is None
    assert any("too few members" in line for line in steps.waits_for())
    steps.take(N2, done(found), 9.1)
    joint = steps.next_record(9.2)
    assert joint is not None
    assert joint.phase == JOINT


def test_a_step_that_cannot_end_because_old_members_died_gives_up_early() -> None:
    """Two of three are known dead: no fence, whatever the joiner does."""
    found = record(2, JOINING, [N1, N2, N3], [N1, N2, N3, N4], partitions=16)
    steps = steps_under(found)
    steps.verdict([N2, N3], 1.0)
    assert steps.next_record(3.9) is None
    back = steps.next_record(4.0)
    assert back is not None
    assert back.phase == STABLE


def test_aborts_in_a_row_are_further_and_further_apart() -> None:
    """2, 4, 8, 16 and then always 16 s, so that a change which cannot be made does not copy data all day."""
    steps = Steps(N1, StepConfig(joining_patience_s=1.0, retry_pause_s=2.0))
    pauses = []
    for turn in range(6):
        found = record(5 + turn, JOINING, [N1], [N1, N2])
        steps.adopted(Placement(found), None, 0.0)
        steps.take(N1, done(found), 0.0)
        steps.take(N2, Report(found.epoch, False, False, 1), 0.0)
        assert steps.next_record(100.0) is not None
        pauses.append(steps._not_before_s - 100.0)
    assert pauses == [2.0, 4.0, 8.0, 16.0, 16.0, 16.0]


def test_a_dead_node_is_replaced_and_its_partitions_wait_for_its_disk() -> None:
    """Without accepted loss it stays with weight 0: no replica of a replicated unit, and every workflow partition."""
    held = record(1, STABLE, [N1, N2, N3, N4], partitions=16)
    owned = owned_by(Placement(held), N4)
    assert owned
    steps = steps_under(held)
    steps.request_remove(N4)
    stable = through(steps, steps.next_record(1.0), silent=[N4])
    placement = Placement(stable)
    assert [(member.node, member.weight) for member in stable.ring] == [(N1, 100), (N2, 100), (N3, 100), (N4, 0)]
    assert owned_by(placement, N4) == owned
    assert all(N4 not in placement.sets(cache_unit(number)).current for number in range(16))
    assert stable.removed == (N4,)
    steps.is_settled = steps.settled_is_met()
    assert steps.is_settled
    assert steps.next_record(5.0) is None
    assert steps.waiting == ()


def test_a_removed_node_that_returns_hands_over_its_partitions() -> None:
    """Its report under the new record makes the issuer take it off the ring for good."""
    stable = record(4, STABLE, {N1: 100, N2: 100, N4: 0}, pinned=((0, N4),), removed=(N4,))
    steps = steps_under(stable)
    steps.take(N4, done(stable), 1.0)
    assert steps.waiting == (N4,)
    joining = steps.next_record(1.0)
    assert nodes_of(joining) == [N1, N2]
    after = through(steps, joining)
    assert owned_by(Placement(after), N4) == []
    assert after.pinned == ()
    assert after.removed == (N4,)


def test_a_removal_that_would_lose_something_says_of_what() -> None:
    """With one of three dead already, one living member is below the fence of two."""
    steps = steps_under(record(1, STABLE, [N1, N2, N3], partitions=4))
    steps.verdict([N2], 0.0)
    assert steps.loss_of(N3) == [cache_unit(number) for number in range(4)]
    steps.verdict([], 0.0)
    assert steps.loss_of(N3) == []


def test_a_removal_with_accepted_loss_counts_what_is_left_and_gives_the_partitions_up() -> None:
    """Two of three are destroyed: the sets shrink to the survivor, everything moves, nothing waits for the dead."""
    steps = steps_under(record(1, STABLE, [N1, N2, N3], partitions=8))
    for node in (N2, N3):
        steps.request_remove(node, accepts_loss=True)
    joining = steps.next_record(1.0)
    assert joining is not None
    assert (joining.lost, joining.removed, nodes_of(joining)) == ((N2, N3), (N2, N3), [N1])
    placement = Placement(joining)
    assert placement.sets(cache_unit(0)).current == (N1,)
    theirs = [unit for unit in map(workflow_unit, range(8)) if placement.sets(unit).current == ()]
    assert theirs
    assert all(placement.sets(unit).next == (N1,) for unit in theirs)
    stable = through(steps, joining, silent=[N2, N3])
    assert [member.node for member in stable.ring] == [N1]
    assert stable.lost == ()
    assert all(Placement(stable).sets(unit).current == (N1,) for unit in theirs)


def test_what_can_be_fenced_keeps_its_quorum_when_loss_is_accepted() -> None:
    """One of three is given up: replicated units still need two of three, only its partitions are lost."""
    placement = Placement(record(2, JOINING, [N1, N2, N3], [N1, N2], lost=(N3,)))
    assert len(placement.sets(cache_unit(0)).current) == 3
    assert placement.sets(cache_unit(0)).next == tuple(n for n in placement.sets(cache_unit(0)).current if n != N3)


def test_accepted_loss_survives_an_abort_and_is_carried_out_by_the_next_step() -> None:
    """Something may have been acknowledged without the lost: they never count again and leave with the next step."""
    joint = record(3, JOINT, [N1, N2, N3], [N1], lost=(N2, N3), removed=(N2, N3))
    steps = steps_under(joint)
    back = steps.next_record(10.0)
    assert back is not None
    assert (back.phase, back.lost, back.removed) == (STABLE, (N2, N3), (N2, N3))
    assert Placement(back).sets(cache_unit(0)).current == (N1,)
    steps.adopted(Placement(back), back.epoch, 10.0)
    assert nodes_of(steps.next_record(20.0)) == [N1]


def test_accepting_loss_ends_the_wait_for_a_majority_that_is_gone() -> None:
    """The last step was not settled when its members were destroyed."""
    stable = record(4, STABLE, [N1, N2, N3])
    steps = Steps(N1, StepConfig())
    steps.adopted(Placement(stable), None, 0.0)
    steps.take(N1, done(stable), 0.1)
    assert not steps.settled_is_met()
    for node in (N2, N3):
        steps.request_remove(node, accepts_loss=True)
    assert steps.settled_is_met()


def test_a_node_that_is_dead_for_long_is_removed_by_itself_and_may_come_back() -> None:
    """After `auto_remove_after_s`; it is not on the list of those that are refused."""
    steps = steps_under(record(1, STABLE, [N1, N2, N3, N4]), StepConfig(auto_remove_after_s=900.0))
    steps.verdict([N4], 10.0)
    steps.auto_remove(909.0)
    assert steps.waiting == ()
    assert steps.next_deadline_s() == 914.0
    steps.auto_remove(914.0)
    assert steps.waiting == (N4,)
    joining = steps.next_record(914.0)
    assert joining is not None
    assert joining.removed == ()


def test_nobody_is_removed_automatically_at_the_price_of_a_loss() -> None:
    """Two of three dead for a day: the issuer waits, and looks again every few seconds only."""
    steps = steps_under(record(1, STABLE, [N1, N2, N3]), StepConfig(auto_remove_after_s=900.0))
    steps.verdict([N2, N3], 0.0)
    steps.auto_remove(86_400.0)
    assert steps.waiting == ()
    assert steps.next_deadline_s() == 86_405.0


def test_nobody_is_removed_by_itself_while_the_issuer_has_no_key_of_the_authority() -> None:
    """One of the dead may have the only one; with it in hand again the removal is made up for."""
    steps = steps_under(record(1, STABLE, [N1, N2, N3, N4]), StepConfig(auto_remove_after_s=900.0))
    steps.verdict([N4], 10.0)
    steps.may_remove = lambda: False
    steps.auto_remove(2_000.0)
    assert steps.waiting == ()
    assert steps.next_deadline_s() > 2_000.0
    steps.may_remove = lambda: True
    steps.auto_remove(2_006.0)
    assert steps.waiting == (N4,)


def test_another_weight_is_a_step_like_any_other() -> None:
    """A member that asks to join with another weight is weighed anew."""
    steps = steps_under(record(1, STABLE, [N1, N2]))
    steps.request_join(RingMember(node=N2))
    assert steps.next_record(1.0) is None
    steps.request_join(RingMember(node=N2, weight=300))
    joining = steps.next_record(1.0)
    assert joining is not None
    assert [member.weight for member in joining.next_ring] == [100, 300]


def test_another_factor_is_three_records_and_ends_in_the_catalogue() -> None:
    """Of the cluster and of one collection, in one step; sets follow the old factors until it is stable."""
    collection = Collection(name="a", id="x", dimension=2, distance="Dot", shard_number=2, replication_factor=1)
    steps = steps_under(record(1, STABLE, [N1, N2, N3, N4, N5], collections=(collection,)))
    steps.request_factor(CLUSTER, 1)
    steps.request_factor("x", 3)
    steps.request_factor("gone", 3)
    joining = steps.next_record(1.0)
    assert joining is not None
    sets, shard = Placement(joining).sets(cache_unit(0)), Placement(joining).sets(vector_unit("x", 0))
    assert (len(sets.current), len(sets.next)) == (3, 1)
    assert (len(shard.current), len(shard.next)) == (1, 3)
    stable = through(steps, joining)
    assert (stable.replication_factor, stable.collections[0].replication_factor) == (1, 3)
    assert (stable.next_replication_factor, stable.next_factors) == (None, ())
    steps.is_settled = True
    assert steps.next_record(5.0) is None
    assert steps.changes.factors == ()

"""The topology machine, its steps and the register: what must happen before each record, and what must not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from balancer.placement import Placement
from balancer.record import JOINING, JOINT, STABLE, first_record
from balancer.register import REGISTER_PATH, IssuerRegister
from balancer.spread import RingMember
from balancer.steps import StepConfig, Steps
from balancer.topology_effects import (
    Adopted,
    Equivocation,
    PersistRecord,
    Propose,
    SendTopology,
    Settled,
    TopologyEffect,
)
from balancer.topology_messages import RecordDigest, RecordPush, Report
from balancer.view import status_view
from balancer.work import work_for
from frys_node.base.errors import CorruptData
from frys_node.base.units import workflow_unit
from frys_node.kernel.services.topology import Collection
from frys_node.testing.disk import FakeDisk
from tests.unit.balancer.topology_rig import (
    CLUSTER,
    KINDS,
    N1,
    N2,
    N3,
    N4,
    adopt,
    key,
    machine_of,
    record,
    signed,
    steps_under,
)


def test_a_record_acts_only_after_it_is_durable() -> None:
    """Between offer and persisted the old record is in force (rules 6 and 20)."""
    machine = machine_of(N2, record(1, STABLE, [N1, N2]))
    offered = machine.offer(
        record(2, JOINING, [N1, N2], [N1, N2, N3]), signed(record(2, JOINING, [N1, N2], [N1, N2, N3])), 1.0
    )
    assert isinstance(offered[0], PersistRecord)
    assert machine.epoch == key(1)
    found = machine.persisted(key(2), Placement(record(2, JOINING, [N1, N2], [N1, N2, N3])), 1.0)
    assert found[0] == Adopted(key(2))
    assert machine.epoch == key(2)


def test_gaps_are_normal_lower_records_are_refused_and_a_higher_one_overtakes_on_the_way_to_disk() -> None:
    """A node that was away takes any higher record; the slower write of a lower one is ignored."""
    machine = machine_of(N2, record(3, STABLE, [N1, N2]))
    assert machine.offer(record(2, STABLE, [N1]), signed(record(2, STABLE, [N1])), 1.0) == []
    low, high = record(9, STABLE, [N1, N2]), record(12, STABLE, [N1, N2])
    machine.offer(low, signed(low), 1.0)
    machine.offer(high, signed(high), 1.0)
    assert machine.persisted(low.epoch, Placement(low), 1.0) == []
    machine.persisted(high.epoch, Placement(high), 1.0)
    assert machine.epoch == high.epoch


def test_two_records_with_one_key_are_an_alarm_and_freeze_the_term() -> None:
    """Rule 20: equivocation is reported and no later record of that term is taken."""
    machine = machine_of(N2, record(3, STABLE, [N1, N2]))
    other = record(3, STABLE, [N1, N2, N3])
    assert machine.offer(other, signed(other), 1.0) == [Equivocation(key(3))]
    later = record(4, STABLE, [N1, N2])
    assert machine.offer(later, signed(later), 1.0) == []
    assert machine.epoch == key(3)


def test_the_alarm_outlives_a_restart_and_ends_with_a_later_term() -> None:
    """Nothing of the term is taken by the next process either; a promoted issuer's record is, and it is not frozen."""
    held = record(3, STABLE, [N1, N2])
    machine = machine_of(N2)
    machine.load_frozen(key(3))
    machine.load(Placement(held), signed(held), 0.0)
    later = record(4, STABLE, [N1, N2])
    assert machine.offer(later, signed(later), 1.0) == []
    assert status_view(machine)["frozen"] == str(key(3))
    assert status_view(machine)["issuer_of_both"] == N1
    assert "issuer promote" in status_view(machine)["do"]
    promoted = record(5, STABLE, [N1, N2], epoch=key(5, 2, N2))
    adopt(machine, promoted)
    assert machine.frozen is None
    assert set(status_view(machine).values()) == {""}
    machine.steps.is_settled = True
    machine.steps.request_leave(N1)
    assert isinstance(machine.wake(2.0)[-1], Propose)


def test_one_alarm_is_raised_once_however_often_the_record_comes() -> None:
    """Every peer that holds the other record pushes it again and again."""
    machine = machine_of(N2, record(3, STABLE, [N1, N2]))
    other = record(3, STABLE, [N1, N2, N3])
    assert machine.offer(other, signed(other), 1.0) == [Equivocation(key(3))]
    assert machine.offer(other, signed(other), 2.0) == []


def test_whoever_is_behind_gets_the_record_and_whoever_is_ahead_is_asked() -> None:
    """Comparing keys always ends with both under the higher record."""
    machine = machine_of(N2, record(3, STABLE, [N1, N2]))
    behind = machine.receive(N3, RecordDigest(None, None, True), 1.0)
    assert [type(e.message) for e in behind if isinstance(e, SendTopology)] == [RecordPush]
    ahead = machine.receive(N3, RecordDigest(key(5), None), 1.0)
    assert [type(e.message) for e in ahead if isinstance(e, SendTopology)] == [RecordDigest]


def test_a_node_reports_until_it_hears_that_all_is_settled() -> None:
    """Reports say everything each time; settlement ends them and is passed to the host once."""
    machine = machine_of(N2, record(3, STABLE, [N1, N2]))
    found = machine.advance(10.0)
    assert SendTopology(N1, Report(key(3), True, True, 0)) in found
    assert machine.receive(N1, RecordDigest(key(3), key(3)), 10.0) == [Settled(key(3))]
    assert machine.receive(N1, RecordDigest(key(3), key(3)), 10.0) == []
    assert not [e for e in machine.advance(20.0) if isinstance(e, SendTopology) and isinstance(e.message, Report)]


def test_work_finished_under_another_record_does_not_count() -> None:
    """A pass of an aborted transition says nothing about the next one."""
    machine = machine_of(N2)
    adopt(machine, record(3, JOINT, [N1], [N1, N2]))
    assert machine.waiting == 2
    for unit in machine.work.passes:
        machine.finished("pass", unit, key(2), 2.0)
    assert machine.waiting == 2
    found: list[TopologyEffect] = []
    for unit in machine.work.passes:
        found += machine.finished("pass", unit, key(3), 2.0)
    assert found == [SendTopology(N1, Report(key(3), True, True, 0))]


def test_joint_is_entered_only_when_every_joiner_has_its_bulk() -> None:
    """Rule 9; a report on another record does not count."""
    steps = steps_under(record(2, JOINING, [N1], [N1, N2]))
    steps.take(N1, Report(key(2), True, True, 0), 0.1)
    steps.take(N2, Report(key(1), True, True, 0), 0.1)
    steps.take(N2, Report(key(2), False, False, 3), 0.1)
    assert steps.next_record(0.2) is None
    steps.take(N2, Report(key(2), True, True, 0), 0.3)
    following = steps.next_record(0.4)
    assert following is not None
    assert (following.phase, following.epoch, following.parent) == (JOINT, key(3), key(2))


def test_stable_needs_fence_joiners_and_a_majority_of_the_new_set() -> None:
    """Rules 10 and 11: take any of the three away and the step waits."""
    ring, following = [N1, N2, N3], [N1, N2, N3, N4]
    done, adopted = Report(key(3), True, True, 0), Report(key(3), True, False, 1)
    joint = record(3, JOINT, ring, following)
    for reports, is_met in (
        ({N4: done, N1: done}, False),
        ({N4: done, N1: done, N2: adopted}, False),
        ({N1: done, N2: done, N3: done, N4: adopted}, False),
        ({N4: done, N1: done, N2: done, N3: done}, True),
    ):
        steps = steps_under(joint)
        changed = [unit for unit in Placement(joint).changed_units() if unit.startswith("cache")]
        steps._changed = changed
        for node, report in reports.items():
            steps.take(node, report, 0.1)
        if not any(N4 in Placement(joint).sets(unit).next for unit in changed):
            pytest.skip("the newcomer got no unit in this placement")
        assert steps.fence_is_met() is is_met, reports


def test_a_step_without_progress_is_aborted_to_the_old_sets() -> None:
    """From joining and from joint the way back is stable(C) with a higher number."""
    for phase, patience_s in ((JOINING, 600.0), (JOINT, 10.0)):
        steps = steps_under(record(5, phase, [N1], [N1, N2]))
        for node in (N1, N2):
            steps.take(node, Report(key(5), False, False, 1), 0.0)
        assert steps.next_record(patience_s - 1.0) is None
        back = steps.next_record(patience_s)
        assert back is not None
        assert (back.phase, back.epoch) == (STABLE, key(6))
        assert back.ring == back.next_ring == record(5, phase, [N1], [N1, N2]).ring


def test_what_takes_long_is_progress_while_bytes_come() -> None:
    """A large unit takes over ten minutes to copy, or a pass of it over ten seconds: no count of units changes then."""
    for phase, patience_s in ((JOINING, 600.0), (JOINT, 10.0)):
        steps = steps_under(record(5, phase, [N1], [N1, N2]))
        for taken, now_s in ((0, 0.0), (1 << 20, 0.9 * patience_s), (2 << 20, 1.8 * patience_s)):
            steps.take(N2, Report(key(5), phase == JOINT, False, 1, None, taken), now_s)
            assert steps.next_record(now_s + patience_s - 1.0) is None
        assert steps.next_record(2.8 * patience_s) is not None


def test_a_copy_that_comes_again_and_again_is_no_progress() -> None:
    """A newcomer whose disk refuses what came fetches it anew: the step is given up, and others have their turn."""
    steps = steps_under(record(5, JOINING, [N1], [N1, N2]))
    for number in range(599):
        steps.take(N2, Report(key(5), False, False, 1, None, (number % 7) << 20), float(number))
    assert steps.next_record(6.0 + 599.0) is None
    assert steps.next_record(6.0 + 600.0) is not None


def test_a_node_reports_what_has_come_under_a_record_until_it_is_done() -> None:
    """Of copies and of passes. First nothing: the host counts what came under the record before until it hears."""
    machine = machine_of(N2, record(1, STABLE, [N1]))
    machine.taken_bytes = lambda: 5
    for seq, phase, ring, told in ((2, JOINING, [N1], 5), (3, JOINT, [N1], 5), (4, STABLE, [N1, N2], 0)):
        first = _taken(adopt(machine, record(seq, phase, ring, [N1, N2])))
        assert (first, _taken(machine.advance(float(seq)))) == ([0], [told])


def _taken(effects: Sequence[TopologyEffect]) -> list[int]:
    messages = [effect.message for effect in effects if isinstance(effect, SendTopology)]
    return [message.taken_bytes for message in messages if isinstance(message, Report)]


def test_the_next_change_waits_until_the_last_is_settled() -> None:
    """Rule 13: a queued join begins only behind a majority of each changed set."""
    machine = machine_of(N1, record(4, STABLE, [N1, N2]))
    machine.steps.request_join(RingMember(node=N3))
    assert machine.wake(1.0) == []
    found = machine.receive(N2, Report(key(4), True, True, 0), 1.0)
    assert Settled(key(4)) in found
    proposals = [effect for effect in found if isinstance(effect, Propose)]
    assert [proposal.record.phase for proposal in proposals] == [JOINING]
    assert machine.wake(2.0) == []


def test_catalogue_changes_are_steps_of_stable_and_settled_records_only() -> None:
    """Fine print 1: while a move is under way there is no new collection."""
    machine = machine_of(N1, first_record(CLUSTER, RingMember(N1), partitions=2))
    collection = Collection(name="a", id="x", dimension=2, distance="Dot")
    assert machine.settled == key(1)
    proposal = machine.change_catalogue((collection,))
    assert proposal is not None
    assert isinstance(proposal[0], Propose)
    assert machine.change_catalogue(()) is None
    busy = machine_of(N1, record(3, JOINT, [N1], [N1, N2]))
    assert busy.change_catalogue((collection,)) is None


def test_a_silent_owner_of_partitions_keeps_them_instead_of_blocking_a_join() -> None:
    """D5: its partitions are pinned in the joint record, others move."""
    ring, following = [N1, N2], [N1, N2, N3]
    joining = record(2, JOINING, ring, following)
    placement = Placement(joining)
    moved = [unit for unit in placement.changed_units() if unit.startswith("workflow")]
    steps = Steps(N1, StepConfig(pin_patience_s=3.0))
    steps.adopted(placement, None, 0.0)
    steps.take(N1, Report(key(2), True, True, 0), 0.1)
    steps.take(N3, Report(key(2), True, True, 0), 0.1)
    silent = [unit for unit in moved if placement.sets(unit).current == (N2,)]
    if silent:
        assert steps.next_record(1.0) is None
    joint = steps.next_record(3.0)
    assert joint is not None
    assert joint.phase == JOINT
    assert [workflow_unit(partition) for partition, _node in joint.pinned] == silent
    assert not [unit for unit in silent if unit in Placement(joint).changed_units()]


def test_work_is_the_same_on_every_restart() -> None:
    """A node's part is a function of the record: bulk in joining, passes in joint, nothing in stable."""
    for phase, attribute in ((JOINING, "bulk"), (JOINT, "passes")):
        work = work_for(Placement(record(2, phase, [N1], [N1, N2])), N2, KINDS)
        assert len(getattr(work, attribute)) == 2
    assert work_for(Placement(record(2, STABLE, [N1, N2])), N2, KINDS).passes == ()
    moved = work_for(Placement(record(2, JOINT, [N1], [N2])), N1, ("workflow",))
    assert moved.seals == (workflow_unit(0), workflow_unit(1))


def test_the_register_swaps_only_what_is_expected_and_keeps_it_over_a_crash() -> None:
    """Compare-and-swap on disk: a lost race changes nothing."""
    disk = FakeDisk()
    register = IssuerRegister(disk)
    one, two = first_record(CLUSTER, RingMember(N1)), record(2, STABLE, [N1])
    assert register.load() is None
    assert register.swap(None, signed(one))
    assert not register.swap(None, signed(two))
    assert register.swap(one.epoch, signed(two))
    disk.crash()
    assert IssuerRegister(disk).load() == signed(two)
    disk.write(REGISTER_PATH, b"junk")
    with pytest.raises(CorruptData, match=REGISTER_PATH):
        register.load()

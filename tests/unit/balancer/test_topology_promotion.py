"""Another issuer: promises, the survey, hand-over, and issuers that find themselves outbid (rules 20 to 22)."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from balancer.placement import Placement, cache_unit
from balancer.promotion import Promotion
from balancer.record import JOINING, JOINT, STABLE, TopologyRecord
from balancer.register import IssuerRegister
from balancer.saved import PROMISED_PATH, RecordFile
from balancer.spread import RingMember
from balancer.topology import TopologyMachine
from balancer.topology_effects import PersistPromise, PersistRecord, Propose, SendTopology, TakeOver, TopologyEffect
from balancer.topology_messages import Promise, PromiseAsk, PromiseRefused, Report
from frys_node.base.errors import CorruptData
from frys_node.base.types import NodeId, Term
from frys_node.base.units import workflow_unit
from frys_node.testing.disk import FakeDisk
from tests.unit.balancer.topology_rig import N1, N2, N3, N4, N5, adopt, key, machine_of, record, signed

T2 = Term(2, N3)


def survey(found: TopologyRecord, promised: Iterable[NodeId]) -> Promotion:
    """Return a promotion of N3 that has seen a record and some promises."""
    promotion = Promotion(N3, found.epoch.term, 0.0)
    promotion.see(Placement(found))
    for node in promised:
        promotion.take(node, promotion.term)
    return promotion


def promises(effects: Iterable[TopologyEffect]) -> list[SendTopology]:
    """Return the answers to promises among the effects."""
    return [e for e in effects if isinstance(e, SendTopology) and isinstance(e.message, Promise | PromiseRefused)]


def promoted(node: NodeId, held: TopologyRecord, others: Iterable[NodeId]) -> TopologyMachine:
    """Return a machine in the middle of a promotion, with its own promise kept."""
    machine = machine_of(node, held)
    found = machine.promote(1.0)
    assert [e.term for e in found if isinstance(e, PersistPromise)] == [T2]
    asked = [e.to for e in found if isinstance(e, SendTopology) and isinstance(e.message, PromiseAsk)]
    assert asked == list(others)
    assert machine.promise_kept(T2) == []
    return machine


def test_a_promise_is_durable_before_it_is_given_and_holds_from_the_moment_it_is_asked_for() -> None:
    """Between the question and the disk nothing of a lower term is adopted, and the answer says what is held."""
    held = record(3, STABLE, [N1, N2, N3])
    machine = machine_of(N2, held)
    assert machine.receive(N3, PromiseAsk(T2), 1.0) == [PersistPromise(T2)]
    later = record(4, STABLE, [N1, N2])
    refused = machine.offer(later, signed(later), 1.0)
    assert refused == [SendTopology(N1, Report(key(3), False, False, 0, T2))]
    assert machine.promise_kept(T2) == [SendTopology(N3, Promise(T2, signed(held)))]
    assert machine.receive(N3, PromiseAsk(T2), 2.0) == [SendTopology(N3, Promise(T2, signed(held)))]
    assert machine.epoch == key(3)


def test_a_record_on_its_way_to_the_disk_is_in_the_answer() -> None:
    """It was offered before the promise, so it may be in force elsewhere: the survey has to see it."""
    machine = machine_of(N2, record(3, STABLE, [N1, N2, N3]))
    joining = record(4, JOINING, [N1, N2, N3], [N1, N2, N3, N4])
    machine.offer(joining, signed(joining), 1.0)
    machine.receive(N3, PromiseAsk(T2), 1.0)
    machine.persisted(joining.epoch, Placement(joining), 1.1)
    assert machine.promise_kept(T2) == [SendTopology(N3, Promise(T2, signed(joining)))]


def test_a_higher_promise_refuses_a_lower_one_and_the_next_try_goes_above_it() -> None:
    """The refusal carries it (rule 21); promises for the earlier try do not count for the next."""
    machine = machine_of(N2, record(3, STABLE, [N1, N2, N3]))
    machine.receive(N1, PromiseAsk(Term(7, N1)), 1.0)
    machine.promise_kept(Term(7, N1))
    refusal = promises(machine.receive(N3, PromiseAsk(T2), 1.0))
    assert [answer.message for answer in refusal] == [PromiseRefused(T2, Term(7, N1))]
    asker = promoted(N3, record(3, STABLE, [N1, N2, N3]), [N1, N2])
    asker.take_promise(N1, T2, None)
    asker.receive(N2, PromiseRefused(T2, Term(7, N1)), 2.0)
    assert asker.promotion is not None
    assert (asker.promotion.term, asker.promotion.promised) == (Term(8, N3), {})
    again = asker.advance(3.0)
    assert PersistPromise(Term(8, N3)) in again


def test_a_promise_is_remembered_by_a_restarted_node() -> None:
    """Forgetting it could let a replaced issuer finish a step; a damaged file is an error, never no promise."""
    disk = FakeDisk()
    assert RecordFile(disk).load_promise() is None
    RecordFile(disk).promise(T2)
    disk.crash()
    machine = machine_of(N2)
    machine.load_promise(RecordFile(disk).load_promise())
    old = record(4, STABLE, [N1, N2])
    assert machine.offer(old, signed(old), 1.0) == []
    disk.write(PROMISED_PATH, b"junk")
    with pytest.raises(CorruptData, match=PROMISED_PATH):
        RecordFile(disk).load_promise()


def test_a_majority_of_every_units_set_and_of_the_ring_has_to_promise() -> None:
    """Five nodes, sets of three: three promises are a majority of the ring and not of every unit."""
    held = record(3, STABLE, [N1, N2, N3, N4, N5], partitions=16)
    placement = Placement(held)
    few = survey(held, [N3, N4, N5])
    short = [f"cache/{n}" for n in range(16) if len({N1, N2} & set(placement.sets(cache_unit(n)).current)) == 2]
    assert short
    assert few.open_units() == short
    assert any("2 of 5" in line for line in survey(held, [N3, N4]).missing())
    assert survey(held, [N2, N3, N4, N5]).missing() == []


def test_in_joint_the_new_sets_have_to_promise_too_and_in_joining_they_do_not() -> None:
    """A stable record of the new sets may be in force behind a joint one; behind a joining one it cannot be."""
    ring, following = [N1, N2, N3], [N1, N4, N5]
    joint = record(4, JOINT, ring, following, pinned=((0, N1), (1, N1)))
    assert any("members: 1 of 3" in line for line in survey(joint, [N1, N2, N3]).missing())
    assert survey(joint, [N1, N2, N4]).missing() == []
    assert survey(record(4, JOINING, ring, following), [N1, N2]).missing() == []


def test_in_joint_the_new_owner_of_a_partition_has_to_promise() -> None:
    """It alone may serve under a record that nobody else has seen; the old owner has sealed and cannot."""
    joint = record(4, JOINT, [N1, N2, N3], [N1, N2, N3, N4], partitions=64, replication_factor=1)
    placement = Placement(joint)
    moved = [unit for unit in map(workflow_unit, range(64)) if placement.sets(unit).next == (N4,)]
    assert moved
    assert set(moved) <= set(survey(joint, [N1, N2, N3]).open_units())
    assert survey(joint, [N1, N2, N3, N4]).open_units() == []


def test_a_higher_record_in_an_answer_means_to_count_again() -> None:
    """The promises at hand may be none of its majority."""
    machine = promoted(N3, record(3, STABLE, [N1, N2, N3]), [N1, N2])
    higher = record(6, STABLE, [N1, N2, N3, N4, N5], partitions=16)
    assert machine.take_promise(N1, T2, Placement(higher)) == []
    assert machine.promotion is not None
    assert machine.promotion.silent == [N2, N4, N5]
    assert machine.take_promise(N2, T2, Placement(higher)) == []
    found = machine.take_promise(N4, T2, Placement(higher))
    assert found == [] or isinstance(found[0], TakeOver)
    found = found or machine.take_promise(N5, T2, Placement(higher))
    assert isinstance(found[0], TakeOver)
    assert (found[0].record.epoch, found[0].before) == (key(7, 2, N3), higher.epoch)
    assert found[0].record.ring == higher.ring


def test_a_step_under_way_goes_on_under_the_new_term() -> None:
    """A joint record keeps its parent, so joiners keep what they took; all reports are collected anew."""
    joint = record(4, JOINT, [N1, N3], [N1, N2, N3])
    machine = promoted(N3, joint, [N1, N2])
    taken = [*machine.take_promise(N1, T2, Placement(joint)), *machine.take_promise(N2, T2, Placement(joint))]
    assert isinstance(taken[0], TakeOver)
    ours = taken[0].record
    assert (ours.phase, ours.parent, ours.epoch) == (JOINT, key(3), key(5, 2, N3))
    offered = machine.proposed(ours, signed(ours), 2.0)
    assert [type(effect) for effect in offered] == [PersistRecord]
    machine.persisted(ours.epoch, Placement(ours), 2.0)
    assert machine.is_issuer
    assert machine.promotion is None
    assert not machine.steps.fence_is_met()


def test_a_promotion_that_was_overtaken_signs_nothing() -> None:
    """It promised a higher term to somebody else meanwhile; should that lead nowhere, it goes on above it later."""
    held = record(3, STABLE, [N1, N2, N3])
    machine = promoted(N3, held, [N1, N2])
    machine.receive(N2, PromiseAsk(Term(9, N2)), 1.5)
    machine.promise_kept(Term(9, N2))
    assert machine.take_promise(N1, T2, Placement(held)) == []
    assert machine.promotion is not None
    assert 3.5 <= machine.promotion.ask_at_s <= 5.5
    assert PersistPromise(Term(10, N3)) in machine.advance(5.5)


def test_the_successor_takes_over_by_itself_and_the_old_issuer_makes_no_step_any_more() -> None:
    """A hand-over is the issuer's last record; whoever is named surveys like anybody else."""
    issuer = machine_of(N1, record(3, STABLE, [N1, N2, N3]))
    assert issuer.hand_over(N3) is None
    for node in (N2, N3):
        issuer.receive(node, Report(key(3), True, True, 0), 1.0)
    found = issuer.hand_over(N3)
    assert found is not None
    assert isinstance(found[0], Propose)
    last = found[0].record
    assert (last.successor, last.epoch) == (N3, key(4))
    for effect in issuer.proposed(last, signed(last), 1.0):
        assert isinstance(effect, PersistRecord)
    issuer.persisted(last.epoch, Placement(last), 1.0)
    issuer.steps.request_join(RingMember(node=N4))
    assert issuer.wake(2.0) == []
    assert issuer.hand_over(N2) is None
    successor = machine_of(N3, record(3, STABLE, [N1, N2, N3]))
    assert PersistPromise(T2) in adopt(successor, last)
    successor.promise_kept(T2)
    successor.take_promise(N1, T2, Placement(last))
    assert successor.promotion is not None
    assert successor.promotion.outcome().successor is None


def test_an_issuer_that_promised_its_role_away_makes_no_step_until_it_takes_it_back() -> None:
    """The asker may have died: after a while the issuer promotes itself above that promise."""
    issuer = machine_of(N1, record(3, STABLE, [N1, N2, N3]))
    issuer.receive(N3, PromiseAsk(T2), 1.0)
    issuer.promise_kept(T2)
    for node in (N1, N2, N3):
        issuer.receive(node, Report(key(3), True, True, 0), 1.0)
    issuer.steps.request_join(RingMember(node=N4))
    assert issuer.wake(2.0) == []
    found = issuer.advance(21.0)
    assert PersistPromise(Term(3, N1)) in found


def test_an_issuer_whose_records_are_refused_for_another_promise_takes_its_role_anew() -> None:
    """It hears of the promise by a report, and does not answer that by sending its record again and again."""
    issuer = machine_of(N1, record(3, STABLE, [N1, N2, N3]))
    assert issuer.receive(N2, Report(key(2), False, False, 0, T2), 1.0) == []
    assert issuer.receive(N2, Report(key(2), False, False, 0, T2), 5.0) == []
    assert PersistPromise(Term(3, N1)) in issuer.advance(21.0)


def test_a_forced_takeover_gives_up_who_is_silent() -> None:
    """They are taken from the sets that cannot do without them, and never return."""
    held = record(3, STABLE, [N1, N2, N3])
    forced = survey(held, [N3]).forced()
    assert (forced.epoch, forced.phase) == (key(4, 2, N3), STABLE)
    assert (forced.lost, forced.removed) == ((N1, N2), (N1, N2))
    assert Placement(forced).sets(cache_unit(0)).current == (N3,)
    aborted = survey(record(4, JOINT, [N1, N2, N3], [N3, N4]), [N3]).forced()
    assert (aborted.phase, aborted.ring) == (STABLE, aborted.next_ring)
    assert aborted.removed == (N1, N2, N4)


def test_the_register_is_taken_over_only_by_a_higher_term() -> None:
    """A node that was the issuer once holds an old record in its register; a later one of its own term stands."""
    disk = FakeDisk()
    register = IssuerRegister(disk)
    old, new = record(3, STABLE, [N1, N3]), record(9, STABLE, [N1, N3], epoch=key(9, 2, N3))
    assert register.take_over(signed(old))
    assert register.take_over(signed(new))
    assert register.take_over(signed(new))
    assert not register.take_over(signed(record(9, STABLE, [N3], epoch=key(9, 2, N3))))
    assert not register.swap(old.epoch, signed(old))
    disk.crash()
    assert IssuerRegister(disk).load() == signed(new)

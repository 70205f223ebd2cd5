"""Steps with dead members: nobody waits for them, they keep what they have, and they get their places back."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from balancer.absence import around
from balancer.bypass import Bypass, Detour, bypass_bytes, bypass_of
from balancer.placement import Placement, cache_unit, majority
from balancer.record import (
    FORMAT,
    FORMAT_BYPASS,
    JOINING,
    JOINT,
    RECORD,
    STABLE,
    TopologyRecord,
    aborted,
    after,
    finished,
)
from balancer.spread import RingMember
from balancer.steps import LOOK_S, StepConfig, Steps
from balancer.topology_messages import Report
from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import workflow_unit
from tests.unit.balancer.topology_rig import N1, N2, N3, N4, N5, done, record, ring, steps_under

UNITS = 32


def stable(members: Sequence[NodeId], **fields: object) -> TopologyRecord:
    """Return a settled record with enough units that every change moves some of them to everybody."""
    return record(1, STABLE, members, partitions=UNITS, vnodes=32, format=FORMAT, **fields)


def gains(placement: Placement, node: NodeId) -> list[UnitId]:
    """Return the units that a record gives a node."""
    sets = {unit: placement.sets(unit) for unit in placement.units()}
    return [unit for unit, found in sets.items() if node in found.next and node not in found.current]


def end(steps: Steps, found: TopologyRecord | None, dead: Sequence[NodeId], now_s: float) -> TopologyRecord:
    """Take a ``joining`` record to a settled one with everybody but the dead doing all they should."""
    for phase in (JOINING, JOINT, STABLE):
        assert found is not None
        assert found.phase == phase
        steps.adopted(Placement(found), None, now_s)
        for node in found.members():
            if node not in dead:
                steps.take(node, done(found), now_s)
        now_s += 4.0
        if phase != STABLE:
            found = steps.next_record(now_s)
    assert found is not None
    assert steps.settled_is_met()
    steps.is_settled = True
    return found


def test_a_leave_goes_on_while_another_member_is_dead() -> None:
    """The dead member takes nothing of what the leaver held, keeps its places, and no barrier waits for it."""
    held = stable([N1, N2, N3, N4])
    steps = steps_under(held)
    steps.verdict([N4], 0.0)
    steps.request_leave(N3)
    joining = steps.next_record(1.0)
    assert joining is not None
    assert gains(Placement(after(held, phase=JOINING, next_ring=ring([N1, N2, N4]))), N4)
    assert gains(Placement(joining), N4) == []
    assert joining.format == FORMAT_BYPASS
    before, following = Placement(held), Placement(end(steps, joining, [N4], 1.0))
    kept = [unit for unit in before.held_by(N4) if N4 in following.sets(unit).current]
    assert kept == before.held_by(N4)
    for number in range(UNITS):
        assert len(following.sets(cache_unit(number)).current) >= 2
        assert len(following.sets(workflow_unit(number)).current) == 1


def test_a_join_goes_on_while_a_member_is_dead() -> None:
    """What bounded load would have moved to the dead member goes to others."""
    for seed in range(8):
        steps = steps_under(stable([N1, N2, N3, N4]))
        steps.verdict([N4], 0.0)
        newcomer = NodeId(f"m{seed}")
        steps.request_join(RingMember(node=newcomer))
        joining = steps.next_record(1.0)
        assert joining is not None
        assert gains(Placement(joining), N4) == []
        assert newcomer in [member.node for member in end(steps, joining, [N4], 1.0).ring]


def test_one_of_two_dead_of_five_is_removed_at_factor_five() -> None:
    """Three of five are the fence and the majority, so the removal needs neither of the dead."""
    steps = steps_under(stable([N1, N2, N3, N4, N5], replication_factor=5))
    steps.verdict([N4, N5], 0.0)
    steps.request_remove(N4)
    joining = steps.next_record(1.0)
    assert joining is not None
    assert gains(Placement(joining), N5) == []
    after_it = Placement(end(steps, joining, [N4, N5], 1.0))
    assert all(N4 not in after_it.sets(cache_unit(number)).current for number in range(UNITS))


def test_the_old_plan_waits_for_the_dead() -> None:
    """With the dead placed as if they lived, the barriers are not met until the patience of ten minutes is over."""
    held = stable([N1, N2, N3, N4])
    joining = after(held, phase=JOINING, next_ring=ring([N1, N2, N4]))
    steps = Steps(N1, StepConfig())
    steps.adopted(Placement(joining), None, 0.0)
    for node in (N1, N2, N3):
        steps.take(node, done(joining), 0.1)
    assert not steps.bulk_is_met()
    assert steps.next_record(4.0) is None


def test_who_dies_in_the_middle_of_a_step_is_left_out_of_the_next_try() -> None:
    """Known dead for seconds: the step goes back to the old sets, and begins again at once with the leave in it."""
    steps = steps_under(stable([N1, N2, N3, N4]))
    steps.request_leave(N3)
    joining = steps.next_record(1.0)
    assert joining is not None
    assert gains(Placement(joining), N4)
    steps.adopted(Placement(joining), None, 1.0)
    for node in (N1, N2, N3):
        steps.take(node, done(joining), 1.1)
    steps.verdict([N4], 2.0)
    assert any(line.startswith("n4: dead, with ") for line in steps.waits_for())
    assert steps.next_deadline_s() == 5.0
    assert steps.next_record(4.9) is None
    back = steps.next_record(5.0)
    assert back is not None
    assert back.phase == STABLE
    steps.adopted(Placement(back), back.epoch, 5.0)
    again = steps.next_record(5.0)
    assert again is not None
    assert N3 not in [member.node for member in again.next_ring]
    assert gains(Placement(again), N4) == []


def test_a_long_copy_waits_for_a_dead_member_as_long_as_it_has_run() -> None:
    """Beginning anew would throw the work away, so a member that restarts has as much time, up to the patience."""
    steps = steps_under(stable([N1, N2, N3, N4]))
    steps.request_leave(N3)
    joining = steps.next_record(0.0)
    assert joining is not None
    steps.adopted(Placement(joining), None, 0.0)
    for node in (N1, N2, N3, N4):
        steps.take(node, Report(joining.epoch, False, False, 3), 99.0)
    steps.verdict([N4], 100.0)
    assert steps.next_record(199.0) is None
    assert steps.next_record(200.0) is not None


def test_who_says_nothing_is_left_out_though_nobody_calls_it_dead() -> None:
    """A stopped process is not dead for long, and the step does not wait for it any longer than for a newcomer."""
    steps = steps_under(stable([N1, N2, N3, N4]))
    steps.request_leave(N3)
    joining = steps.next_record(0.0)
    assert joining is not None
    steps.adopted(Placement(joining), None, 0.0)
    for node in (N1, N2, N3):
        steps.take(node, done(joining), 0.1)
    back = steps.next_record(10.0)
    assert back is not None
    steps.adopted(Placement(back), back.epoch, 10.0)
    again = steps.next_record(10.0)
    assert again is not None
    assert gains(Placement(again), N4) == []


def test_a_member_that_is_back_gets_its_places_by_a_step_of_its_own() -> None:
    """After `return_patience_s`, not at its first sign of life; then the record passes nobody over."""
    steps = steps_under(stable([N1, N2, N3, N4]))
    steps.verdict([N4], 0.0)
    steps.request_leave(N3)
    found = end(steps, steps.next_record(1.0), [N4], 1.0)
    assert [bypass.node for bypass in found.bypassed] == [N4]
    assert steps.next_record(20.0) is None
    steps.verdict([N3], 30.0)
    assert steps.next_deadline_s() == 40.0
    assert steps.next_record(39.9) is None
    lifted = end(steps, steps.next_record(40.0), [N3], 40.0)
    assert lifted.bypassed == ()
    assert lifted.format == FORMAT
    assert {len(Placement(lifted).sets(cache_unit(number)).current) for number in range(UNITS)} == {3}
    assert steps.next_record(90.0) is None


def test_a_member_that_dies_again_meanwhile_has_to_be_back_anew() -> None:
    """One in a crash loop does not make the cluster copy at each of its starts."""
    steps = steps_under(stable([N1, N2, N3, N4]))
    steps.verdict([N4], 0.0)
    steps.request_leave(N3)
    end(steps, steps.next_record(1.0), [N4], 1.0)
    for turn in range(5):
        steps.verdict([N3], 30.0 + 10.0 * turn)
        steps.verdict([N3, N4], 35.0 + 10.0 * turn)
        assert steps.next_record(39.0 + 10.0 * turn) is None


def test_a_step_that_the_dead_would_keep_from_ending_is_not_begun_and_says_why() -> None:
    """Of three with one dead another cannot leave: two would be left, and a majority of two is two."""
    steps = steps_under(stable([N1, N2, N3]))
    steps.verdict([N3], 0.0)
    steps.request_leave(N2)
    assert steps.next_record(1.0) is None
    assert steps.waits_for()[0].startswith("n3: dead, and without it too few members live of cache/0")
    assert steps.next_deadline_s() == 1.0 + LOOK_S
    steps.request_join(RingMember(node=N4))
    joining = steps.next_record(1.1)
    assert joining is not None
    assert [member.node for member in joining.next_ring] == [N1, N3, N4]


def test_a_step_for_which_the_record_has_no_room_waits_and_the_removal_of_the_dead_goes_first() -> None:
    """`BYPASS_BYTES_MAX` bounds who is passed over, and where; at the limit nothing is begun that would not fit."""
    before = stable([N1, N2, N3, N4])
    joining = around(after(before, phase=JOINING, next_ring=ring([N1, N2, N4])), [N4]).record
    needed = bypass_bytes(joining.next_bypassed)
    assert len(RECORD.encode(joining)) - len(RECORD.encode(after(joining, next_bypassed=()))) == needed
    for bytes_max, is_begun in ((needed, True), (needed - 1, False)):
        steps = steps_under(before, StepConfig(bypass_bytes_max=bytes_max))
        steps.verdict([N4], 0.0)
        steps.request_leave(N3)
        assert (steps.next_record(1.0) is not None) is is_begun
        assert bool(steps.waits_for()) is not is_begun
    (line,) = steps.waits_for()
    assert line.startswith(f"n4: dead, and going around all 1 such nodes takes {needed} bytes of the record, over ")
    assert line.endswith("; remove some, or start them again")
    assert steps.next_deadline_s() == 1.0 + LOOK_S
    assert N3 in steps.waiting
    steps.request_remove(N4)
    removing = steps.next_record(1.0)
    assert removing is not None
    assert {member.node: member.weight for member in removing.next_ring}[N4] == 0
    assert removing.next_bypassed == ()


def test_what_can_be_done_is_done_while_something_else_is_held_up() -> None:
    """The removal of the dead member goes first, though the leave was asked for before, and then the leave can."""
    steps = steps_under(stable([N1, N2, N3]))
    steps.verdict([N3], 0.0)
    steps.request_leave(N2)
    assert steps.next_record(1.0) is None
    steps.request_remove(N3)
    joining = steps.next_record(1.0)
    assert joining is not None
    assert {member.node: member.weight for member in joining.next_ring} == {N1: 100, N2: 100, N3: 0}
    end(steps, joining, [N3], 1.0)
    leaving = steps.next_record(20.0)
    assert leaving is not None
    assert N2 not in [member.node for member in leaving.next_ring]


def test_with_two_copies_a_set_that_moves_has_a_living_majority() -> None:
    """A dead member is passed over also where it would keep its place, if the set could not do without it."""
    steps = steps_under(stable([N1, N2, N3, N4], replication_factor=2))
    steps.verdict([N4], 0.0)
    steps.request_leave(N3)
    joining = steps.next_record(1.0)
    assert joining is not None
    placement = Placement(joining)
    for unit in placement.changed_units():
        following = placement.sets(unit).next
        if unit.startswith("cache/"):
            assert len(following) == 2
            assert sum(node != N4 for node in following) >= majority(2)
    end(steps, joining, [N4], 1.0)


def test_an_abort_and_an_end_leave_one_set_of_exceptions() -> None:
    """A stable record has those of its own sets and none for the next."""
    joining = around(after(stable([N1, N2, N3, N4]), phase=JOINING, next_ring=ring([N1, N2, N4])), [N4]).record
    assert joining.next_bypassed
    back, ended = aborted(joining), finished(joining)
    assert (back.bypassed, back.next_bypassed, back.format) == ((), (), FORMAT)
    assert (ended.bypassed, ended.next_bypassed, ended.format) == (joining.next_bypassed, (), FORMAT_BYPASS)
    assert [Placement(ended).sets(unit).current for unit in Placement(ended).units()] == [
        Placement(joining).sets(unit).next for unit in Placement(joining).units()
    ]


def test_a_unit_belongs_to_somebody_when_everybody_else_is_passed_over_as_well() -> None:
    """With nobody to stand in the set stays as it is: an empty one would be nobody's, and its data lost."""
    members = tuple(RingMember(node=node) for node in (N1, N2))
    unit = UnitId("workflow/0")
    detour = Detour(members, 32, [bypass_of(N1, [unit]), Bypass(N2)])
    assert list(detour.placed([unit], [(N1,)], 1)) == [(N1,)]


def test_a_detour_moves_nothing_but_what_it_names() -> None:
    """Every other unit stays where the ring puts it, whatever that does to loads."""
    units = [cache_unit(number) for number in range(UNITS)]
    members = ring([N1, N2, N3, N4, N5])
    plain = Placement(stable([N1, N2, N3, N4, N5]))
    sets = [plain.sets(unit).current for unit in units]
    named = [unit for unit, nodes in zip(units, sets, strict=True) if N5 in nodes][:4]
    placed = Detour(members, 32, [bypass_of(N5, named), Bypass(N4)]).placed(units, sets, 3)
    for unit, before, found in zip(units, sets, placed, strict=True):
        if unit not in named:
            assert found == before
        else:
            assert N5 not in found
            assert len(found) == 3 or N4 not in before
            assert (N4 in found) == (N4 in before)


@pytest.mark.parametrize("zones", [("a", "a", "b", "b", "c"), ("a", "b", "c", "c", "c")])
def test_a_stand_in_is_of_a_zone_that_holds_the_unit_least(zones: tuple[str, ...]) -> None:
    """Zones come first for those who stand in as for everybody else."""
    members = tuple(RingMember(node=node, zone=zone) for node, zone in zip((N1, N2, N3, N4, N5), zones, strict=True))
    units = [cache_unit(number) for number in range(UNITS)]
    zone_of = {member.node: member.zone for member in members}
    held = record(1, STABLE, [N1], partitions=UNITS, vnodes=32, replication_factor=2)
    plain = Placement(TopologyRecord(**{**{f: getattr(held, f) for f in held.__struct_fields__}, "ring": members}))
    sets = [plain.sets(unit).current for unit in units]
    named = [unit for unit, nodes in zip(units, sets, strict=True) if N2 in nodes]
    assert named
    placed = dict(zip(units, Detour(members, 32, [bypass_of(N2, named)]).placed(units, sets, 2), strict=True))
    for unit in named:
        assert len({zone_of[node] for node in placed[unit]}) == 2

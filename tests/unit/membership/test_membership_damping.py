"""Flap damping: what subscribers hear of a member that comes and goes, and what routing still knows."""

from __future__ import annotations

from membership_hands import B, C, address, claim, hear, machine, run_to, sent, status

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Condition, Status
from membership.damping import CALM_S
from membership.effects import Effect, Emit
from membership.machine import Membership
from membership.messages import Ack, Gossip, Ping, Standing


def public(effects: list[Effect], node: NodeId = B) -> list[Status]:
    """What subscribers hear of a member: its status after each published change of it."""
    changes = [e.event for e in effects if isinstance(e, Emit) and not e.is_damped and e.event.new.id == node]
    return [c.new.status for c in changes if c.old is not None and c.old.status is not c.new.status]


def say(m: Membership, standing: Standing, incarnation: int, now_s: float, boot: int = 5) -> list[Effect]:
    """Let C tell about B, all due work done before."""
    effects = quietly(m, now_s)
    return effects + hear(m, Gossip((claim(B, standing, incarnation, boot=boot),)), C, now_s)


def quietly(m: Membership, until_s: float) -> list[Effect]:
    """Advance while whoever is pinged answers: this is not about probes."""
    effects: list[Effect] = []
    while m.next_deadline_s <= until_s:
        now_s = m.next_deadline_s
        out = m.advance(now_s)
        effects += out
        for where, message in sent(out):
            node = B if where == address(B) else C
            if isinstance(message, Ping):
                effects += hear(m, Ack(message.sequence, node), node, now_s)
    return effects


def flap(m: Membership, cycles: int, off_s: float, on_s: float, *, boots: bool = False) -> tuple[list[Effect], float]:
    """Let B die after `off_s` of silence and return, again and again; returns what happened and when it ended."""
    effects: list[Effect] = []
    now_s = 0.0
    for cycle in range(cycles):
        boot, incarnation = (5 + cycle, 0) if boots else (5, cycle)
        now_s += off_s
        effects += say(m, Standing.DEAD, incarnation, now_s - 3.0, boot=boot)
        boot, incarnation = (6 + cycle, 0) if boots else (5, cycle + 1)
        effects += say(m, Standing.ALIVE, incarnation, now_s, boot=boot)
        now_s += on_s
    return effects, now_s


def test_a_single_death_and_return_are_told_at_once() -> None:
    """Nothing is held back of a member that has been calm."""
    m = machine(B, C)
    assert public(say(m, Standing.DEAD, 0, 5.0)) == [Status.DEAD]
    assert public(say(m, Standing.ALIVE, 1, 6.0)) == [Status.ALIVE]


def test_a_flapping_member_dies_once_in_the_news() -> None:
    """8 s off, 0.5 s on, for 80 s: one observer publishes one death; 4 flappers at 19 observers make 76."""
    m = machine(B, C)
    effects, _ = flap(m, 9, 8.0, 0.5)
    assert public(effects).count(Status.DEAD) == 1
    assert m.tallies.events["damped",] == 1


def test_the_return_from_a_death_that_was_held_back_is_a_turn_all_the_same() -> None:
    """Whoever follows the log would take a member for dead for ever that died twice within half a minute."""
    m = machine(B, C)
    say(m, Standing.DEAD, 0, 5.0)
    say(m, Standing.ALIVE, 1, 6.0)
    changes = [e for e in say(m, Standing.DEAD, 1, 15.0) if isinstance(e, Emit) and e.event.new.id == B]
    assert [(c.event.new.status, c.is_damped, c.is_turn) for c in changes[-1:]] == [(Status.DEAD, True, True)]
    changes = [e for e in say(m, Standing.ALIVE, 2, 16.0) if isinstance(e, Emit) and e.event.new.id == B]
    assert [(c.event.new.status, c.is_turn) for c in changes[-1:]] == [(Status.ALIVE, True)]


def test_the_third_return_in_a_row_ends_the_news() -> None:
    """Before the 30 s of its first death are over: a second death of a flapper was published as they ended."""
    m = machine(B, C)
    effects: list[Effect] = []
    for incarnation, (dead_s, back_s) in enumerate([(5.0, 8.0), (13.0, 17.0), (22.0, 25.0)]):
        effects += say(m, Standing.DEAD, incarnation, dead_s)
        effects += say(m, Standing.ALIVE, incarnation + 1, back_s)
    effects += say(m, Standing.DEAD, 3, 30.0)
    effects += quietly(m, 59.9)
    assert public(effects) == [Status.DEAD, Status.ALIVE]
    assert public(quietly(m, 60.0)) == [Status.DEAD]


def test_a_damped_member_is_degraded_and_used_all_the_same() -> None:
    """The status is the truth: whoever is back is alive and usable at once."""
    m = machine(B, C)
    flap(m, 5, 8.0, 0.5)
    view = m.view(B)
    assert view is not None
    assert (view.status, view.condition) == (Status.ALIVE, Condition.DEGRADED)
    assert m.is_usable(B)
    assert "flaps" in [entry.what for entry in m.story(B)]


def test_restarts_of_a_rolling_upgrade_are_not_damped() -> None:
    """Two restarts within a minute are announced and leave the condition alone."""
    m = machine(B, C)
    effects, _ = flap(m, 2, 31.0, 1.0, boots=True)
    assert public(effects) == [Status.DEAD, Status.ALIVE, Status.DEAD, Status.ALIVE]
    view = m.view(B)
    assert view is not None
    assert view.condition is Condition.OK


def test_a_crash_loop_stays_usable_whenever_it_is_up() -> None:
    """A process that restarts every few seconds is damped in the news only."""
    m = machine(B, C)
    flap(m, 6, 4.0, 2.0, boots=True)
    assert m.is_usable(B)
    assert status(m, B) is Status.ALIVE


def test_a_second_death_within_half_a_minute_is_told_late_or_not_at_all() -> None:
    """If the member is back in time nobody hears of it; if it stays dead the news comes 30 s after the first."""
    m = machine(B, C)
    say(m, Standing.DEAD, 0, 5.0)
    say(m, Standing.ALIVE, 1, 6.0)
    assert public(say(m, Standing.DEAD, 1, 10.0)) == []
    assert status(m, B) is Status.DEAD
    assert not m.is_usable(B)
    assert public(say(m, Standing.ALIVE, 2, 12.0)) == []
    say(m, Standing.DEAD, 2, 20.0)
    assert public(quietly(m, 34.9)) == []
    assert public(quietly(m, 35.0)) == [Status.DEAD]
    assert public(say(m, Standing.ALIVE, 3, 80.0)) == [Status.ALIVE]


def test_a_damped_member_is_released_after_half_a_minute_of_calm() -> None:
    """Alive and unchanged for 30 s: the condition is ok again, and the next change is news at once."""
    m = machine(B, C)
    effects, now_s = flap(m, 5, 8.0, 0.5)
    assert public(effects)[-1] is not Status.DEAD
    effects = quietly(m, now_s + CALM_S)
    view = m.view(B)
    assert view is not None
    assert view.condition is Condition.OK
    assert public(say(m, Standing.DEAD, 5, now_s + 40.0)) == [Status.DEAD]


def test_a_damped_member_that_stays_dead_is_announced_in_the_end() -> None:
    """Subscribers learn the truth once nothing has changed for 30 s."""
    m = machine(B, C)
    _, now_s = flap(m, 5, 8.0, 0.5)
    assert public(say(m, Standing.DEAD, 5, now_s + 1.0)) == []
    assert public(quietly(m, now_s + 30.9)) == []
    assert public(quietly(m, now_s + 31.0)) == [Status.DEAD]


def test_a_leave_is_never_held_back() -> None:
    """A member that says goodbye is gone for everybody at once, flapping or not."""
    m = machine(B, C)
    _, now_s = flap(m, 5, 8.0, 0.5)
    assert public(say(m, Standing.LEFT, 6, now_s)) == [Status.LEFT]
    run_to(m, now_s + 100.0)

"""Paths that fail apart: members that answer by their connection alone, or refuse connections and answer packets."""

from __future__ import annotations

from membership_beats import ALONE, LAN, Timed, condition, live, nudges, silent_from, told, until_nudged, vouches
from membership_hands import BOOT, ME, B, C, D, claim, hear, machine, signed, status
from msgspec.structs import replace

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Condition, Status
from membership.edges import EdgeKind
from membership.effects import Nudge, PushPull
from membership.findings import LifelineUp, Refused, Response
from membership.machine import Membership
from membership.messages import Gossip, Standing


def edges_of(m: Membership, now_s: float) -> list[tuple[NodeId, NodeId, EdgeKind]]:
    """The edges that a machine knows of."""
    return [(seen.edge.a, seen.edge.b, seen.edge.kind) for seen in m.edges(now_s)]


def exchanges(out: Timed) -> list[float]:
    """When a machine asked B for its state."""
    return [at_s for at_s, effect in out if isinstance(effect, PushPull) and effect.node == B]


def test_a_member_that_answers_by_its_connection_is_neither_stalled_nor_accused() -> None:
    """Only its packets are lost: an edge, an exchange of states, and the same question again every two seconds."""
    m = machine(B, C, D, config=ALONE)
    now_s = until_nudged(m, B)
    out: Timed = [(now_s, e) for e in m.found(told(Response.ANSWERED), now_s + 0.1)]
    assert edges_of(m, now_s + 0.1) == [(ME, B, EdgeKind.PACKETS_ALONE)]
    while now_s < 60.0:
        out += live(m, now_s + 2.15, silent_from(B, 10.0))
        ((now_s, _),) = nudges(out[-50:])[-1:]
        out += [(now_s, e) for e in m.found(told(Response.ANSWERED), now_s + 0.1)]
    assert status(m, B) is Status.ALIVE
    assert condition(m) is not Condition.STALLED
    assert 4 <= len(exchanges(out)) <= 6
    assert not vouches([effect for _, effect in out])
    assert len([entry for entry in m.story(B) if entry.what == "answers no packets"]) == 1
    live(m, now_s + 2.0)
    assert edges_of(m, now_s + 2.0) == []
    assert condition(m) is Condition.OK


def test_a_member_whose_packets_are_lost_hears_soon_that_it_is_suspect() -> None:
    """Whoever knows that it answers by its connection tells it there, once in a probe interval while that lasts."""
    m = machine(B, C, D, config=LAN)
    now_s = until_nudged(m, B)
    effects = m.found(told(Response.ANSWERED), now_s + 0.1)
    effects += hear(m, Gossip((claim(B, Standing.SUSPECT, accuser=C),)), C, now_s + 0.2)
    out: Timed = [(now_s + 0.1, effect) for effect in effects]
    out += live(m, now_s + 2.0, silent_from(B, 10.0))
    first_s, second_s, *_ = exchanges(out)
    assert 1.0 <= second_s - first_s <= 1.5
    hear(m, Gossip((claim(B, incarnation=1),)), C, now_s + 2.0)
    assert exchanges(live(m, now_s + 3.0, silent_from(B, 10.0))) == []


def test_a_suspect_that_never_answered_this_watcher_is_nudged_too() -> None:
    """Watchers that have all restarted have no beats to compute phi from: they ask before it is buried."""
    m = machine(B, C, D, config=ALONE)
    assert nudges(live(m, 6.0, silent_from(B, 0.0))) == []
    effects = hear(m, Gossip((claim(B, Standing.SUSPECT, accuser=C),)), C, 6.0)
    assert [e for e in effects if isinstance(e, Nudge)] == [Nudge(B, BOOT)]
    m.found(told(Response.UNKNOWN, 0.0), 7.0)
    assert ("accused_silent",) not in m.tallies.events
    ((again_s, _),) = nudges(live(m, 9.5, silent_from(B, 0.0)))
    effects = m.found(told(Response.ANSWERED, 0.0), again_s + 0.1)
    assert [e.node for e in effects if isinstance(e, PushPull)] == [B]


def test_a_port_that_goes_on_refusing_a_living_member_is_an_edge() -> None:
    """Refused before and after a beat that was answered; one refusal alone may be a process that has just died."""
    m = machine(B, C, D, config=ALONE)
    live(m, 10.0)
    m.found(Refused(B), 10.0)
    m.found(Refused(B), 10.1)
    live(m, 12.0, silent_from(B, 10.0))
    m.found(Refused(B), 12.0)
    assert edges_of(m, 12.0) == []
    live(m, 15.0)
    m.found(Refused(B), 15.0)
    assert edges_of(m, 15.0) == [(ME, B, EdgeKind.CONNECTIONS)]
    m.found(LifelineUp(B, BOOT), 16.0)
    assert edges_of(m, 16.0) == []
    m.found(Refused(B), 17.0)
    assert edges_of(m, 17.0) == []


def test_an_open_port_at_an_address_that_another_member_has_says_nothing() -> None:
    """A machine that was set up anew listens where the lost one did: the lost one is not stalled for it."""
    m = machine(B, C, D, config=ALONE)
    now_s = until_nudged(m, B)
    heir = claim(NodeId(f"{ME}x"))
    hear(m, Gossip((signed(replace(heir, attributes=claim(B).attributes)),)), C, now_s)
    m.found(told(Response.ACKNOWLEDGED), now_s + 0.1)
    assert status(m, B) is Status.SUSPECT
    assert m.tallies.events[("accused_silent",)] == 1

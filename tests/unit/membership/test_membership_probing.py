"""Probes by hand: how long an ack is waited for, what a failure says about whom, and who is told why."""

from __future__ import annotations

import pytest
from membership_hands import (
    BOOT,
    ME,
    B,
    C,
    D,
    E,
    address,
    claim,
    dead,
    hear,
    live,
    machine,
    nobody,
    run_to,
    sent,
    status,
    well,
)

from frys_node.base.types import Address
from frys_node.kernel.services.members import Condition, Status
from membership.awareness import SCORE_MAX, Awareness
from membership.config import MembershipConfig, for_profile
from membership.effects import Emit
from membership.findings import PortState, Tried
from membership.isolation import Isolation
from membership.machine import Membership
from membership.messages import Gossip, Nack, NackReason, Ping, PingReq, Standing


def probes_of(m: Membership, until_s: float, latency_s: float) -> float:
    """Let B answer with a latency, then fall silent; returns how long the machine then waits for it."""
    live(m, until_s, well, latency_s)
    out = live(m, until_s + 3.0, dead(B))
    ping_s = next(at_s for at_s, node, p in out if node == B and isinstance(p, Ping))
    return next(at_s for at_s, _, p in out if isinstance(p, PingReq) and at_s >= ping_s) - ping_s


@pytest.mark.parametrize(
    ("profile", "latency_s", "lowest_s", "highest_s"),
    [
        ("lan", 0.001, 0.05, 0.05),
        ("lan", 0.1, 0.1, 0.3),
        ("lan", 0.45, 0.45, 0.5),
        ("local", 0.001, 0.02, 0.02),
    ],
)
def test_the_wait_for_an_ack_follows_the_round_trips(
    profile: str, latency_s: float, lowest_s: float, highest_s: float
) -> None:
    """Srtt + 4 * rttvar, never below the profile's floor nor above `ack_timeout_s`."""
    m = machine(B, C, config=for_profile(profile))
    assert lowest_s - 1e-9 <= probes_of(m, 20.0, latency_s) <= highest_s + 1e-9


def test_a_member_not_yet_measured_is_waited_for_as_the_slowest_of_the_fleet() -> None:
    """Before anything is measured the wait is `ack_timeout_s`; later the 99th percentile of all members stands in."""
    m = machine(B, C, D)
    out = live(m, 2.0, nobody)
    ping_s = next(at_s for at_s, _, p in out if isinstance(p, Ping))
    asked_s = next(at_s for at_s, _, p in out if isinstance(p, PingReq))
    assert asked_s - ping_s == pytest.approx(0.5)
    m = machine(B, C, D)
    live(m, 20.0, well, 0.12)
    hear(m, Gossip((claim(E),)), B, 20.0)
    out = live(m, 26.0, dead(E), 0.12)
    ping_s = next(at_s for at_s, node, p in out if node == E and isinstance(p, Ping))
    asked_s = next(at_s for at_s, _, p in out if isinstance(p, PingReq))
    assert asked_s - ping_s == pytest.approx(0.12)


def test_a_failed_probe_whose_helpers_are_silent_too_is_a_hint_at_oneself() -> None:
    """Missing nacks raise the score, answered probes lower it; a dead member with honest helpers leaves it alone."""
    m = machine(B, C, D)
    live(m, 5.0, dead(B))
    assert status(m, B) is Status.SUSPECT
    assert m.health_score == 0
    live(m, 8.0, nobody)
    assert m.health_score >= 1
    live(m, 60.0, dead(B))
    assert m.health_score == 0


def test_the_score_is_bounded_and_stretches_interval_and_wait() -> None:
    """At score s a probe takes s + 1 intervals; at most nine."""
    health = Awareness()
    for _ in range(20):
        health.worsen()
    assert (health.score, health.factor) == (SCORE_MAX, 9)
    for _ in range(20):
        health.improve()
    assert health.factor == 1
    m = machine(B, C)
    live(m, 3.0, well)
    for incarnation in (3, 6, 9):
        hear(m, Gossip((claim(ME, Standing.SUSPECT, incarnation, accuser=C),)), now_s=3.0)
    # The probe that ran then was answered, so that the next one starts at a score of two.
    out = live(m, 20.0, nobody)
    first_s, second_s = [at_s for at_s, _, p in out if isinstance(p, Ping)][:2]
    asked_s = next(at_s for at_s, _, p in out if isinstance(p, PingReq))
    assert second_s - first_s == pytest.approx(3.0)
    assert asked_s - first_s == pytest.approx(3 * 0.05)


def test_without_lha_probe_nothing_is_stretched() -> None:
    """The switch of the Lifeguard experiment: the score stays 0."""
    m = machine(B, C, D, config=for_profile("lan", lha_probe=False))
    m.advance(m.next_deadline_s + 9.0)
    live(m, 20.0, nobody)
    assert m.health_score == 0


def test_a_late_event_loop_and_a_refutation_are_hints_at_oneself() -> None:
    """Each lag over 250 ms and each refutation counts one; a small delay does not."""
    m = machine(B, C)
    m.advance(m.next_deadline_s + 0.2)
    assert m.health_score == 0
    m.advance(m.next_deadline_s + 0.26)
    assert m.health_score == 1
    hear(m, Gossip((claim(ME, Standing.SUSPECT, 3, accuser=C),)), now_s=m.next_deadline_s)
    assert m.health_score == 2
    late_s = m.next_deadline_s + 0.3
    for _ in range(3):
        # Packets that have waited are read before the time is looked at, and count as one lag together.
        hear(m, Gossip(()), now_s=late_s)
    m.advance(late_s)
    assert m.health_score == 3


def test_nacks_confirm_a_suspicion_unless_the_helper_had_no_way_out() -> None:
    """TIMEOUT and REFUSED are that helper's own accusation; UNREACHABLE says nothing about the member."""
    for reason, expected in ((NackReason.TIMEOUT, 2), (NackReason.REFUSED, 2), (NackReason.UNREACHABLE, 0)):
        m = machine(B, C, D)
        live(m, 4.5, dead(B, reason=reason))
        assert status(m, B) is Status.SUSPECT
        assert m.tallies.events.get(("confirmation",), 0) == expected


def test_a_refused_send_goes_on_to_the_helpers_at_once() -> None:
    """This node's own network says no: nothing is waited for, and it counts as trouble at home."""
    m = machine(B, C)
    pinged: list[Address] = []
    while not pinged:
        now_s = m.next_deadline_s
        pinged = [where for where, p in sent(m.advance(now_s)) if isinstance(p, Ping)]
    asked = [p for p in sent(m.send_refused(pinged[0], now_s)) if isinstance(p[1], PingReq)]
    assert len(asked) == 1
    assert m.health_score == 1
    assert sent(m.send_refused(pinged[0], now_s)) == []


def test_a_helper_whose_send_is_refused_says_so() -> None:
    """The asker hears UNREACHABLE at once instead of a timeout later."""
    m = machine(B, C)
    hear(m, PingReq(77, C, *address(C)), B, 0.1)
    replies = sent(m.send_refused(address(C), 0.1))
    assert [(where, p.reason) for where, p in replies if isinstance(p, Nack)] == [(address(B), NackReason.UNREACHABLE)]


def test_a_helper_that_may_be_dead_itself_is_no_sign_of_trouble_here() -> None:
    """Two members die at once: each is a helper that says nothing about the other, and the survivor is well."""
    m = machine(B, C, D)
    live(m, 3.0, well)
    live(m, 30.0, dead(B, C))
    assert m.health_score <= 1


def test_a_helper_that_was_refused_a_connection_lately_says_so() -> None:
    """REFUSED is a stronger word than TIMEOUT: somebody's kernel said that nobody listens there."""
    m = machine(B, C)
    m.found(Tried(C, BOOT, PortState.REFUSED), 0.05)
    hear(m, PingReq(77, C, *address(C)), B, 0.1)
    replies = [p for where, p in sent(run_to(m, 1.0)) if isinstance(p, Nack)]
    assert [(p.sequence, p.reason) for p in replies] == [(77, NackReason.REFUSED)]


def test_helpers_are_not_chosen_among_suspects() -> None:
    """A member that is likely dead itself cannot say nack, and its silence would look like trouble at home."""
    m = machine(B, C, D, E, config=for_profile("lan", helpers=1))
    hear(m, Gossip((claim(C, Standing.SUSPECT, accuser=D), claim(D, Standing.SUSPECT, accuser=E))))
    out = live(m, 4.0, dead(B, C, D))
    helpers = {node for _, node, p in out if isinstance(p, PingReq) and p.target == B}
    assert helpers == {E}


def test_a_node_that_hears_nothing_is_isolated_and_buries_nobody() -> None:
    """Four nodes: three mute probes of three members, and this node reports ISOLATED instead of three deaths."""
    m = machine(B, C, D)
    live(m, 200.0, nobody)
    own = m.view(ME)
    assert own is not None
    assert own.condition is Condition.ISOLATED
    assert [status(m, node) for node in (B, C, D)].count(Status.DEAD) == 0
    live(m, 215.0, well)
    assert [e.what for e in m.story(ME)][-4:] == ["isolated", "isolated", "rejoined", "ok"]
    own = m.view(ME)
    assert own is not None
    assert own.condition is Condition.OK


def test_isolation_and_its_end_are_published() -> None:
    """Whoever watches the node hears of it once each way."""
    m = machine(B, C, D)
    conditions = []
    answer = nobody
    while m.next_deadline_s < 40.0:
        now_s = m.next_deadline_s
        if now_s > 20.0:
            answer = well
        effects = m.advance(now_s)
        for where, message in sent(effects):
            reply = answer(next(n for n in (B, C, D) if address(n) == where), message)
            if reply is not None:
                effects += hear(m, reply, next(n for n in (B, C, D) if address(n) == where), now_s)
        conditions += [
            (e.event.old.condition, e.event.new.condition)
            for e in effects
            if isinstance(e, Emit) and e.event.new.id == ME and e.event.old is not None
        ]
    assert conditions == [(Condition.OK, Condition.ISOLATED), (Condition.ISOLATED, Condition.OK)]


@pytest.mark.parametrize("count", [1, 2])
def test_small_clusters_still_find_a_killed_peer(count: int) -> None:
    """With two nodes there is no helper to miss, with three the only helper may be dead too: silence means death."""
    m = machine(*(B, C)[:count])
    live(m, 60.0, nobody)
    assert status(m, B) is Status.DEAD
    m = machine(B, C)
    live(m, 12.0, dead(B))
    assert status(m, B) is Status.DEAD
    assert status(m, C) is Status.ALIVE


def test_one_dead_member_never_isolates() -> None:
    """Its helpers answer, and it is a single target."""
    isolation = Isolation()
    for _ in range(50):
        isolation.observe(B, is_mute=True, node_count=4)
        isolation.observe(C, is_mute=False, node_count=4)
    assert not isolation.is_isolated


def test_three_answers_in_a_row_end_an_isolation() -> None:
    """One answer may be luck while most is lost."""
    isolation = Isolation()
    for node in (B, C, D):
        isolation.observe(node, is_mute=True, node_count=10)
    assert isolation.is_isolated
    assert not isolation.observe(B, is_mute=False, node_count=10)
    assert not isolation.observe(C, is_mute=False, node_count=10)
    assert isolation.is_isolated
    assert isolation.observe(D, is_mute=False, node_count=10)
    assert not isolation.is_isolated


def test_after_a_pause_nothing_is_accused_for_one_shortest_suspicion() -> None:
    """What lies unread proves nothing: failed probes are withheld and running suspicions cannot end for 4 s."""
    m = machine(B, C, D)
    live(m, 3.0, well)
    hear(m, Gossip((claim(C, Standing.SUSPECT, accuser=B),)), B, 3.0)
    hear(m, Gossip((claim(C, Standing.SUSPECT, accuser=D),)), D, 3.0)
    m.advance(30.0)
    live(m, 33.9, nobody)
    assert m.tallies.events["accusation_withheld",] >= 1
    assert status(m, C) is Status.SUSPECT
    assert status(m, B) is Status.ALIVE
    live(m, 60.0, dead(C))
    assert status(m, C) is Status.DEAD


def test_a_short_delay_is_no_pause() -> None:
    """Half a second late is still this side of a pause; more is beyond."""
    for late_s, pauses in ((0.45, 0), (0.55, 1)):
        m = machine(B, C)
        live(m, 2.0, well)
        m.advance(m.next_deadline_s + late_s)
        assert m.tallies.events.get(("pause",), 0) == pauses


def test_a_suspicion_that_a_confirmation_ends_in_the_past_is_no_pause() -> None:
    """A late third accuser makes it overdue by seconds: the member is dead at once, and this node has not slept."""
    m = machine(B, C, D, E)
    live(m, 3.0, well)
    hear(m, Gossip((claim(C, Standing.SUSPECT, accuser=B),)), B, 3.0)
    live(m, 11.9, well)
    for accuser in (D, E, ME):
        hear(m, Gossip((claim(C, Standing.SUSPECT, accuser=accuser),)), B, 12.0)
    live(m, 12.5, dead(C))
    assert status(m, C) is Status.DEAD
    assert ("pause",) not in m.tallies.events


def test_a_cluster_profile_sets_how_long_is_waited() -> None:
    """The floors and the pace of gossip of each profile, as measured by the study."""
    found = {name: for_profile(name) for name in ("lan", "wan", "local")}
    assert {n: c.ack_timeout_min_s for n, c in found.items()} == {"lan": 0.05, "wan": 0.3, "local": 0.02}
    assert {n: c.gossip_interval_s for n, c in found.items()} == {"lan": 0.1, "wan": 0.3, "local": 0.05}
    assert {n: c.gossip_fanout for n, c in found.items()} == {"lan": 3, "wan": 4, "local": 3}
    assert {n: c.watch_interval_s for n, c in found.items()} == {"lan": 1.0, "wan": 2.0, "local": 0.5}
    assert {n: c.watch_pause_s for n, c in found.items()} == {"lan": 0.5, "wan": 3.0, "local": 0.5}
    assert {n: c.watch_deviation_min_s for n, c in found.items()} == {"lan": 0.1, "wan": 0.2, "local": 0.05}
    assert {n: c.crash_suspicion_s for n, c in found.items()} == {"lan": 0.5, "wan": 2.0, "local": 0.3}
    assert {n: c.stall_max_s for n, c in found.items()} == {"lan": 30.0, "wan": 60.0, "local": 30.0}
    assert found["lan"] == MembershipConfig()

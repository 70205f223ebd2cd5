"""Crash evidence by hand: what counts, who must agree, and what takes it back.

F-numbers are those of the study of false deaths; whole clusters are in ``tests/sim/test_membership_crash.py``.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from membership_hands import BOOT, ME, address, claim, hear, machine, run_to, said, sent, signed, status

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Status
from membership.config import MembershipConfig, for_profile
from membership.effects import Effect, Nudge, Reconnect, TryPort
from membership.evidence import PATIENCE_S
from membership.findings import LifelineDown, LifelineEnd, LifelineUp, Nudged, PortState, Response, Tried
from membership.machine import Membership
from membership.member import make_attributes
from membership.messages import Beat, Evidence, Gossip, Ping, Standing, Sync, Update
from membership.rumours import RUMOURS
from membership.testimony import CrashReport, Vouch, VouchKind

LAN = for_profile("lan", probe_interval_s=600.0, watch_interval_s=600.0, lha_probe=False)
"""Without the probe loop and beats, which nobody answers here, and with time skipped, which is no lag."""

A, B, C, D, E, F, G, H = (NodeId(f"{letter:a>32}") for letter in "12345678")
OTHERS = (A, B, C, D, E, F, G, H)
"""After ME in the circle: ME watches H, G and F; H is watched by ME, A and B, helped by C, D and E."""


def cluster(config: MembershipConfig = LAN, *, nodes: Iterable[NodeId] = OTHERS) -> Membership:
    """A machine that has told its first news, with lifelines to the three before it."""
    m = machine(*nodes, config=config)
    run_to(m, 5.0)
    for node in list(nodes)[-3:]:
        m.found(LifelineUp(node, BOOT), 5.0)
    return m


def lose(m: Membership, node: NodeId = H, now_s: float = 6.0, state: PortState = PortState.REFUSED) -> list[Effect]:
    """The lifeline to a node ends unannounced, and a new dial comes to something."""
    effects = m.found(LifelineDown(node, BOOT, LifelineEnd.LOST), now_s)
    assert [e for e in effects if isinstance(e, Reconnect)] == [Reconnect(node, BOOT, address(node))]
    return m.found(Tried(node, BOOT, state), now_s + 0.002)


def report(
    observer: NodeId, node: NodeId = H, *, boot: int = BOOT, incarnation: int = 0, is_lifeline_lost: bool = True
) -> Gossip:
    """Another observer's report."""
    return Gossip((), (said(CrashReport(node, boot, incarnation, observer, is_lifeline_lost)),))


def words(effects: Iterable[Effect]) -> list[tuple[Address, CrashReport | Vouch]]:
    """The testimony that was sent, and to whom."""
    rumours = [(where, RUMOURS.decode(d)) for where, p in sent(effects) if isinstance(p, Gossip) for d in p.rumours]
    return [(where, rumour) for where, rumour in rumours if isinstance(rumour, CrashReport | Vouch)]


def acknowledged(voucher: NodeId, number: int = 1) -> Gossip:
    """A watcher's word that H's kernel acknowledges."""
    return Gossip((), (said(Vouch(H, BOOT, 0, voucher, VouchKind.KERNEL_ACK, number)),))


def dies_at(m: Membership, node: NodeId = H, limit_s: float = 60.0) -> float:
    """When the machine declares a node dead."""
    while status(m, node) is not Status.DEAD:
        assert m.next_deadline_s < limit_s, "it never does"
        now_s = m.next_deadline_s
        m.advance(now_s)
    return now_s


def test_a_lost_lifeline_and_a_refused_dial_are_reported_three_times() -> None:
    """Straight to the other watchers and the helpers at once, after 60 and after 120 ms; a suspicion at once."""
    m = cluster()
    effects = lose(m)
    assert status(m, H) is Status.SUSPECT
    effects += run_to(m, 6.2)
    told = [where for where, rumour in words(effects) if isinstance(rumour, CrashReport) and rumour.node == H]
    direct = [address(node) for node in (A, B, C, D, E)]
    assert all(told.count(where) >= 3 for where in direct)
    assert {where for where, packet in sent(effects) if isinstance(packet, Gossip)} >= set(direct)


def test_one_observer_is_not_enough_and_two_are() -> None:
    """Half a second from the second observer's report on, instead of the four seconds of silence."""
    m = cluster()
    lose(m)
    run_to(m, 8.0)
    assert status(m, H) is Status.SUSPECT
    hear(m, report(A), A, 8.0)
    assert dies_at(m) == pytest.approx(8.5)
    assert [(e.what, e.who) for e in m.story(H) if e.what == "refused"] == [("refused", ME), ("refused", A)]


def test_a_second_report_of_the_same_observer_counts_once() -> None:
    """Distinct observers; one's own report that comes back is none."""
    m = cluster()
    lose(m)
    for observer in (ME, ME):
        hear(m, report(observer), A, 6.1)
    run_to(m, 8.0)
    assert status(m, H) is Status.SUSPECT
    m = cluster()
    for _ in range(3):
        hear(m, report(A), A, 6.0)
    run_to(m, 8.0)
    assert status(m, H) is Status.ALIVE


def test_a_member_far_away_needs_two_reports_as_well() -> None:
    """Whoever neither watches nor helps decides by what it is told; refusals alone, without a lifeline, are nothing."""
    m = cluster()
    hear(m, report(D, C), D, 6.0)
    hear(m, report(E, C), E, 6.01)
    assert dies_at(m, C) == pytest.approx(6.51)
    m = cluster()
    hear(m, report(D, C, is_lifeline_lost=False), D, 6.0)
    hear(m, report(E, C, is_lifeline_lost=False), E, 6.01)
    run_to(m, 8.0)
    assert status(m, C) is Status.ALIVE


@pytest.mark.parametrize("state", [PortState.SILENT, PortState.OTHER, PortState.ACCEPTED, PortState.GREETED])
def test_only_a_refused_dial_counts(state: PortState) -> None:
    """F9, F12, F17: timeouts, full backlogs, resets after accept and strangers on the port prove nothing."""
    m = cluster()
    effects = lose(m, state=state)
    assert words(effects) == []
    assert status(m, H) is Status.ALIVE


def test_a_goodbye_and_a_connection_to_somebody_else_are_no_evidence() -> None:
    """An announced end, and the loss of a connection to a node that this one does not watch."""
    m = cluster()
    m.found(LifelineUp(A, BOOT), 5.0)
    for down in (LifelineDown(H, BOOT, LifelineEnd.GOODBYE), LifelineDown(A, BOOT, LifelineEnd.LOST)):
        assert [e for e in m.found(down, 6.0) if isinstance(e, Reconnect)] == []


def test_a_newer_boot_voids_what_was_found_against_the_old_one() -> None:
    """F3: a dial that meets the next life: REPLACED, and neither life is called dead."""
    m = cluster()
    hear(m, report(A), A, 6.0)
    m.found(LifelineDown(H, BOOT, LifelineEnd.LOST), 6.0)
    m.found(LifelineUp(H, BOOT + 1), 6.01)
    m.found(Tried(H, BOOT, PortState.OPEN), 6.01)
    hear(m, Gossip((claim(H, boot=BOOT + 1),)), B, 6.02)
    hear(m, report(B), B, 6.03)
    run_to(m, 9.0)
    assert status(m, H) is Status.ALIVE
    assert m.tallies.events[("crash_replaced",)] == 1


def test_evidence_about_a_life_not_heard_of_waits_for_its_own_word() -> None:
    """F13, E1: two observers speak of a boot that is not known here: only the member says that it had begun."""
    m = cluster()
    hear(m, report(A, boot=BOOT + 3), A, 6.0)
    hear(m, report(B, boot=BOOT + 3), B, 6.0)
    run_to(m, 7.9)
    assert status(m, H) is Status.ALIVE
    hear(m, Gossip((claim(H, boot=BOOT + 3),)), A, 7.95)
    assert dies_at(m) == pytest.approx(8.5, abs=0.11)
    view = m.view(H)
    assert view is not None
    assert view.boot == BOOT + 3
    hear(m, Gossip((claim(H, incarnation=9),)), A, 9.0)
    assert status(m, H) is Status.DEAD


def test_only_a_higher_incarnation_refutes() -> None:
    """F13: late gossip that still says alive at the accused incarnation changes nothing; the next one does."""
    m = cluster()
    lose(m)
    hear(m, report(A), A, 6.0)
    hear(m, Gossip((claim(H),)), B, 6.1)
    assert status(m, H) is Status.SUSPECT
    hear(m, Gossip((claim(H, incarnation=1),)), B, 6.2)
    assert status(m, H) is Status.ALIVE
    hear(m, report(B), B, 6.3)
    run_to(m, 9.0)
    assert status(m, H) is Status.ALIVE


def test_no_new_evidence_without_a_new_lifeline() -> None:
    """F14: dials that go on being refused after a refutation are no news; a lifeline made and lost again is."""
    m = cluster()
    lose(m)
    hear(m, Gossip((claim(H, incarnation=1),)), B, 6.1)
    m.found(LifelineDown(H, BOOT, LifelineEnd.LOST), 30.0)
    m.found(Tried(H, BOOT, PortState.REFUSED), 30.0)
    run_to(m, 40.0)
    m.found(LifelineUp(H, BOOT), 41.0)
    before = m.tallies.events[("crash_observed",)]
    lose(m, now_s=42.0)
    assert m.tallies.events[("crash_observed",)] == before + 1


def test_a_packet_of_that_very_boot_is_a_veto() -> None:
    """E6: authenticated and newer than the evidence; told to the others, and good for 5 s against more of it."""
    m = cluster()
    lose(m)
    hear(m, report(A), A, 6.0)
    effects = hear(m, Beat(4), H, 6.1)
    told = {rumour for _, rumour in words(effects) if isinstance(rumour, Vouch)}
    assert {(v.node, v.boot, v.voucher, v.kind) for v in told} == {(H, BOOT, ME, VouchKind.DATAGRAM)}
    hear(m, report(B), B, 6.2)
    run_to(m, 9.0)
    assert status(m, H) is Status.SUSPECT


def test_a_packet_of_another_boot_is_none() -> None:
    """What an older process sent is no sign of the accused one."""
    m = cluster()
    lose(m)
    hear(m, report(A), A, 6.0)
    hear(m, Beat(4), H, 6.1, boot=BOOT - 1)
    assert dies_at(m) == pytest.approx(6.5)


@pytest.mark.parametrize("kind", list(VouchKind))
def test_another_members_word_is_a_veto_too(kind: VouchKind) -> None:
    """E6: whatever a voucher has seen, the short suspicion is off."""
    m = cluster()
    lose(m)
    hear(m, report(A), A, 6.0)
    hear(m, Gossip((), (said(Vouch(H, BOOT, 0, C, kind, 1)),)), C, 6.2)
    run_to(m, 9.0)
    assert status(m, H) is Status.SUSPECT


def test_a_veto_may_come_before_the_evidence() -> None:
    """Gossip keeps no order: an objection heard first is held against what it answers."""
    m = cluster()
    hear(m, Gossip((), (said(Vouch(H, BOOT, 0, C, VouchKind.HELPER, 1)),)), C, 6.0)
    hear(m, report(A), A, 6.1)
    hear(m, report(B), B, 6.1)
    run_to(m, 8.0)
    assert status(m, H) is Status.ALIVE


def test_a_stall_seen_earlier_is_no_objection_to_a_later_crash() -> None:
    """A stopped process that is killed: its kernel's word of a moment ago was true then."""
    m = cluster()
    hear(m, acknowledged(C), C, 8.9)
    hear(m, report(A), A, 9.0)
    effects = hear(m, report(B), B, 9.0)
    assert [e for e in effects if isinstance(e, Nudge)] == []
    assert dies_at(m) == pytest.approx(9.5)
    m = cluster()
    hear(m, acknowledged(A), A, 5.9)
    lose(m)
    hear(m, report(A), A, 6.1)
    assert dies_at(m) == pytest.approx(6.6)


def test_a_kernels_word_that_comes_late_counts_until_its_voucher_reports() -> None:
    """Gossip may bring it after the crash: nobody can tell, so it counts; its voucher's own report says that it does.

    A voucher that has reported before has said all that it knows: its older word is not even passed on.
    """
    m = cluster()
    hear(m, report(A), A, 9.0)
    hear(m, acknowledged(B), B, 9.05)
    hear(m, report(C, is_lifeline_lost=False), C, 9.1)
    run_to(m, 9.9)
    assert status(m, H) is not Status.DEAD
    hear(m, report(B), B, 10.0)
    assert dies_at(m) == pytest.approx(10.5)
    m = cluster()
    hear(m, report(A), A, 9.0)
    hear(m, report(B), B, 9.0)
    hear(m, acknowledged(B), B, 9.1)
    assert [rumour for _, rumour in words(run_to(m, 9.45)) if isinstance(rumour, Vouch)] == []
    assert dies_at(m) == pytest.approx(9.5)


def test_a_stalled_member_is_spared_by_the_watcher_that_still_has_its_lifeline() -> None:
    """Two are refused by a filter; the third one's word after that is a veto, as often as it is given."""
    m = cluster()
    hear(m, report(A), A, 9.0)
    hear(m, report(B), B, 9.0)
    for number in range(5):
        hear(m, acknowledged(C, number), C, 9.2 + 2.0 * number)
        run_to(m, 11.1 + 2.0 * number)
        assert status(m, H) is Status.SUSPECT


def test_an_observer_that_sees_life_takes_its_report_back() -> None:
    """It has a connection again: what it reported counts no more after the veto, what it reports anew does."""
    m = cluster()
    hear(m, report(A), A, 6.0)
    hear(m, Gossip((), (said(Vouch(H, BOOT, 0, A, VouchKind.HELPER, 1)),)), A, 6.1)
    hear(m, report(B), B, 11.2)
    run_to(m, 13.0)
    assert status(m, H) is not Status.DEAD
    hear(m, report(A), A, 13.0)
    assert dies_at(m) == pytest.approx(13.5)


def test_a_watcher_nudges_its_lifeline_when_another_one_reports() -> None:
    """E5: still open and acknowledged is a veto; not acknowledged is nothing; a reset is one's own evidence."""
    m = cluster()
    assert [e for e in hear(m, report(A), A, 6.0) if isinstance(e, Nudge)] == [Nudge(H, BOOT)]
    effects = m.found(Nudged(H, BOOT, Response.ACKNOWLEDGED), 6.1)
    assert {v.kind for _, v in words(effects) if isinstance(v, Vouch)} == {VouchKind.LIFELINE}
    m = cluster()
    hear(m, report(A), A, 6.0)
    m.found(Nudged(H, BOOT, Response.SILENT), 6.3)
    assert status(m, H) is Status.ALIVE
    lose(m, now_s=6.3)
    assert dies_at(m) == pytest.approx(6.802)


def test_a_helper_looks_for_itself_once() -> None:
    """E4: ME helps E, whose watchers are F, G and H; refused it is an observer, accepted it objects."""
    m = cluster()
    look = TryPort(E, BOOT, address(E), PATIENCE_S)
    assert [e for e in hear(m, report(F, E), F, 6.0) if isinstance(e, TryPort)] == [look]
    assert [e for e in hear(m, report(G, E), G, 6.0) if isinstance(e, TryPort)] == []
    effects = m.found(Tried(E, BOOT, PortState.REFUSED), 6.1)
    assert (E, False) in {(r.node, r.is_lifeline_lost) for _, r in words(effects) if isinstance(r, CrashReport)}
    m = cluster()
    hear(m, report(F, E), F, 6.0)
    hear(m, report(G, E), G, 6.0)
    m.found(Tried(E, BOOT, PortState.OPEN), 6.1)
    run_to(m, 8.0)
    assert status(m, E) is Status.SUSPECT


def test_a_watcher_without_a_lifeline_looks_like_a_helper() -> None:
    """Killed before its lifelines were back: whoever should hold one tries the port instead."""
    m = machine(*OTHERS, config=LAN)
    run_to(m, 5.0)
    look = TryPort(H, BOOT, address(H), PATIENCE_S)
    assert [e for e in hear(m, report(A), A, 6.0) if isinstance(e, TryPort)] == [look]


def test_a_watcher_pings_the_accused_with_the_accusation() -> None:
    """E7: at 0, 50, 150 and 300 ms, so that it can refute in time even if gossip is slow."""
    m = cluster()
    effects = [(6.002, e) for e in lose(m)]
    while m.next_deadline_s <= 6.4:
        now_s = m.next_deadline_s
        effects += [(now_s, e) for e in m.advance(now_s)]
    pings = [(at_s, p) for at_s, e in effects for where, p in sent([e]) if where == address(H) and isinstance(p, Ping)]
    assert [round(at_s - 6.002, 3) for at_s, _ in pings] == [0.0, 0.05, 0.15, 0.3]
    assert all(update.standing is Standing.SUSPECT for _, ping in pings for update in ping.updates if update.node == H)
    assert all(any(update.node == H for update in ping.updates) for _, ping in pings)


def test_the_accused_refutes_a_report_that_reaches_it() -> None:
    """A node that hears of its own crash stands above that claim from then on."""
    m = cluster()
    hear(m, report(A, ME), A, 6.0)
    view = m.view(ME)
    assert view is not None
    assert view.incarnation == 1
    hear(m, report(B, ME, boot=BOOT - 1), B, 6.0)
    hear(m, report(B, ME), B, 6.0)
    view = m.view(ME)
    assert view is not None
    assert view.incarnation == 1


def test_more_crashes_than_a_quarter_are_judged_as_silence() -> None:
    """E8: of nine, the third subject within 5 s puts all three back to an ordinary suspicion."""
    m = cluster()
    for victim, observers in ((D, (E, F)), (C, (G, H)), (B, (A, E))):
        for observer in observers:
            hear(m, report(observer, victim), observer, 6.0)
    run_to(m, 8.0)
    assert all(status(m, node) is not Status.DEAD for node in (B, C, D))
    assert m.tallies.events[("crash_mass",)] >= 1


def test_an_observer_that_lost_most_of_its_subjects_needs_a_third() -> None:
    """E8, F16: ME loses H and G within a second; one more observer of H is not enough, two are."""
    m = cluster()
    lose(m, G, 6.0)
    lose(m, H, 6.5)
    hear(m, report(A), A, 6.6)
    run_to(m, 8.0)
    assert status(m, H) is Status.SUSPECT
    hear(m, report(B), B, 8.0)
    assert dies_at(m) == pytest.approx(8.5)


def test_a_crash_is_taken_back_when_its_observer_loses_another_subject() -> None:
    """E8 looks back too: H was proven by ME and A before ME lost G as well, or before it is told that A lost C."""
    m = cluster()
    lose(m, H, 6.0)
    hear(m, report(A), A, 6.05)
    lose(m, G, 6.3)
    run_to(m, 9.0)
    assert status(m, H) is Status.SUSPECT
    assert m.tallies.events[("crash_doubted",)] == 1
    hear(m, report(B), B, 9.0)
    assert dies_at(m) == pytest.approx(9.5)
    m = cluster()
    lose(m, H, 6.0)
    hear(m, report(A), A, 6.05)
    hear(m, report(A, C), A, 6.3)
    run_to(m, 9.0)
    assert status(m, H) is Status.SUSPECT


def test_losses_far_apart_do_not_taint() -> None:
    """More than a second between them: two crashes, each with two observers."""
    m = cluster()
    lose(m, G, 6.0)
    lose(m, H, 7.5)
    hear(m, report(A), A, 7.6)
    assert dies_at(m) == pytest.approx(8.1)


def test_two_observers_on_one_machine_are_one_where_there_are_others() -> None:
    """E4, F16: a filter on one machine refuses both of its nodes; where all share one machine, that is all there is."""

    def at(host: str, *nodes: NodeId) -> Sync:
        there = Address(host, 7_000)
        return Sync(tuple(signed(Update(n, BOOT, 0, Standing.ALIVE, make_attributes(n[-1], there))) for n in nodes))

    m = machine(config=LAN)
    m.merge_sync(at("10.0.0.77", A, B), A, 0.0)
    m.merge_sync(at("10.0.0.88", C, D, E, F, G, H), A, 0.0)
    run_to(m, 5.0)
    for observer in (A, B):
        hear(m, report(observer), observer, 6.0)
    run_to(m, 8.0)
    assert status(m, H) is not Status.DEAD
    hear(m, report(C, is_lifeline_lost=False), C, 8.0)
    assert dies_at(m) == pytest.approx(8.5)
    m = machine(config=LAN)
    m.merge_sync(at("10.0.0.0", *OTHERS), A, 0.0)
    run_to(m, 5.0)
    for observer in (A, B):
        hear(m, report(observer), observer, 6.0)
    assert dies_at(m) == pytest.approx(6.5)


def test_two_nodes_need_one_observer() -> None:
    """Fine print 12: as many as are left, the accused not counted."""
    m = machine(H, config=LAN)
    run_to(m, 5.0)
    m.found(LifelineUp(H, BOOT), 5.0)
    lose(m)
    assert dies_at(m) == pytest.approx(6.502)


def test_switches() -> None:
    """`suspect-only` raises a suspicion of silence, `off` does not even dial."""
    m = cluster(for_profile("lan", probe_interval_s=600.0, watch_interval_s=600.0, crash_evidence="suspect-only"))
    lose(m)
    hear(m, report(A), A, 6.0)
    run_to(m, 8.0)
    assert status(m, H) is Status.SUSPECT
    m = cluster(for_profile("lan", probe_interval_s=600.0, watch_interval_s=600.0, crash_evidence="off"))
    effects = m.found(LifelineDown(H, BOOT, LifelineEnd.LOST), 6.0)
    assert [e for e in effects if isinstance(e, Reconnect)] == []
    hear(m, report(A), A, 6.0)
    hear(m, report(B), B, 6.0)
    run_to(m, 8.0)
    assert status(m, H) is Status.ALIVE


def test_reports_are_passed_on_once() -> None:
    """News goes on by gossip; what is known, vetoed or about nobody does not."""
    m = cluster()
    hear(m, report(D, C), D, 6.0)
    told = [r for _, r in words(run_to(m, 8.0)) if isinstance(r, CrashReport)]
    assert {(r.node, r.observer) for r in told} == {(C, D)}
    hear(m, report(D, C), E, 8.0)
    hear(m, report(NodeId("nobody"), C), E, 8.0)
    hear(m, report(D, NodeId("nobody")), E, 8.0)
    assert words(run_to(m, 9.0)) == []


def test_the_story_names_observer_evidence_and_time() -> None:
    """`why` can say who found what and when."""
    m = cluster()
    lose(m)
    hear(m, report(A), A, 6.3)
    dies_at(m)
    entries = m.story(H)
    refused = [(e.now_s, e.who, e.evidence, e.detail) for e in entries if e.what == "refused"]
    assert refused == [
        (6.002, ME, Evidence.CRASH, "lifeline lost, then refused"),
        (6.3, A, Evidence.CRASH, "lifeline lost, then refused"),
    ]

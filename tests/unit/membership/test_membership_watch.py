"""The watch by hand: beats, repetitions, phi's deadlines, nudges and what follows from them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest
from membership_beats import (
    ALONE,
    LAN,
    RTT_S,
    Timed,
    beats,
    condition,
    live,
    nudges,
    silent_from,
    told,
    until_nudged,
    vouches,
)
from membership_hands import BOOT, ME, B, C, D, address, claim, hear, machine, said, sent, spoken, status
from msgspec.structs import replace

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import UNUSABLE, UNWELL, WELL, Condition, MemberChanged, Status
from membership.config import for_profile
from membership.effects import Emit, KeepLifelines, Nudge, PhiSeen, SendPacket
from membership.findings import LifelineDown, LifelineEnd, LifelineUp, Nudged, PortState, Response, Tried
from membership.messages import PACKETS, Beat, BeatAck, Gossip, Standing
from membership.rumours import RUMOURS
from membership.testimony import CrashReport, Vouch, VouchKind
from membership.watch import ANSWER_S


def test_a_beat_is_as_small_as_can_be() -> None:
    """Up to 2^16 beats it has eight bytes at most; the seal names the sender, and nothing rides along unasked."""
    assert len(PACKETS.encode(Beat(65_535))) <= 8
    assert len(PACKETS.encode(BeatAck(65_535))) <= 8


def test_beats_and_testimony_are_written_as_the_golden_ones() -> None:
    """The bytes of each version are read for ever; what is written today are those of the third."""
    node, other = NodeId("b" * 32), NodeId("c" * 32)
    packets = {"beat": Beat(70_000), "beat_ack": BeatAck(70_000)}
    rumours = {
        "vouch": Vouch(node, 7, 2, other, VouchKind.LIFELINE, 9),
        "crash_report": CrashReport(node, 7, 2, other, True),
    }
    for version in (1, 2, 3):
        lines = (Path(__file__).parents[2] / "golden" / f"membership-guard-{version}.hex").read_text().splitlines()
        golden = dict(line.split() for line in lines if not line.startswith("#"))
        assert {name: PACKETS.decode(bytes.fromhex(golden[name])) for name in packets} == packets
        read = {name: RUMOURS.decode(bytes.fromhex(golden[name])) for name in rumours}
        assert {name: replace(rumour, word=b"") for name, rumour in read.items()} == rumours
        assert read == rumours or version == 3
    rumours = {name: spoken(rumour) for name, rumour in rumours.items()}
    written = {name: PACKETS.encode(packet).hex() for name, packet in packets.items()}
    assert written | {name: RUMOURS.encode(rumour).hex() for name, rumour in rumours.items()} == golden


def test_whoever_is_asked_answers_with_the_same_number() -> None:
    """A beat is acked to where it came from, by a node that watches nobody as well."""
    m = machine(B)
    live(m, 5.0)
    assert sent(hear(m, Beat(77), now_s=5.0)) == [(address(B), BeatAck(77))]


def test_a_node_watches_the_three_before_it_and_keeps_lifelines_to_them() -> None:
    """With four others it watches three; when one of them dies, the next one takes its place."""
    nodes = [NodeId(f"{letter:a>32}") for letter in "1234"]
    m = machine(*nodes, config=LAN)
    kept = [e for e in m.join([], 0.0) if isinstance(e, KeepLifelines)]
    assert kept == []
    out = live(m, 4.0)
    watched = [node for node in nodes if beats(out, node)]
    assert watched == nodes[1:]
    effects = hear(m, Gossip((claim(nodes[3], Standing.DEAD),)), B, 4.0)
    assert [e.nodes for e in effects if isinstance(e, KeepLifelines)] == [(nodes[2], nodes[1], nodes[0])]


def test_a_beat_goes_out_once_per_interval_when_it_is_answered() -> None:
    """Nothing is repeated, and phi of a member that answers is next to nothing."""
    m = machine(B, C, D, config=LAN)
    out = live(m, 30.0)
    times = beats(out, B)
    assert [b - a for a, b in pairwise(times)] == pytest.approx([1.0] * (len(times) - 1))
    view = m.view(B, 30.0)
    assert view is not None
    assert view.phi is not None
    assert view.phi < 0.01
    assert any(isinstance(effect, PhiSeen) for _, effect in out)


def test_a_beat_without_an_answer_is_repeated_three_times() -> None:
    """Once known to be near, a member is asked again after 0.1 s each; the next round begins as usual."""
    m = machine(B, C, D, config=LAN)
    live(m, 9.5)
    out = live(m, 12.4, silent_from(B, 9.5))
    times = beats(out, B)
    steps = [round(b - a, 3) for a, b in pairwise(times)][:7]
    assert steps == [0.1, 0.1, 0.1, 0.7, 0.1, 0.1, 0.1]


def test_a_lost_answer_costs_no_sample() -> None:
    """The answer to a repetition ends the round, a tenth of a second late."""
    m = machine(B, C, D, config=ALONE)
    live(m, 20.0)
    lost: list[float] = []

    def answers(node: NodeId, now_s: float) -> bool:
        is_first = node == B and (not lost or now_s - lost[-1] > 0.5)
        if is_first:
            lost.append(now_s)
        return not is_first

    live(m, 40.0, answers)
    view = m.view(B, 40.0)
    assert view is not None
    assert view.status is Status.ALIVE
    assert m.tallies.events[("beat_repeated",)] >= 15
    assert ("slow",) not in m.tallies.events


def test_silence_makes_a_member_slow_and_then_has_it_nudged() -> None:
    """Phi 5 after 1.93 s and phi 8 after 2.06 s of silence, as computed; at 5 routing prefers others."""
    m = machine(B, C, D, config=LAN)
    live(m, 60.0)
    last_s = max(beats(live(m, 60.9), B), default=0.0) + RTT_S
    out = live(m, last_s + 1.92, silent_from(B, last_s))
    assert m.rank(B) == WELL
    out = live(m, last_s + 2.0, silent_from(B, last_s))
    view = m.view(B, last_s + 2.0)
    assert view is not None
    assert (view.condition, view.status, m.rank(B)) == (Condition.SLOW, Status.ALIVE, UNWELL)
    assert nudges(out) == []
    (changed,) = [e.event for _, e in out if isinstance(e, Emit)]
    assert changed.old is not None
    assert (changed.old.condition, changed.new.condition) == (Condition.OK, Condition.SLOW)
    ((nudged_s, nudge),) = nudges(live(m, last_s + 2.2, silent_from(B, last_s)))
    assert nudge == Nudge(B, BOOT, ANSWER_S)
    assert nudged_s - last_s == pytest.approx(2.06, abs=0.01)
    assert status(m, B) is Status.ALIVE


def test_an_acknowledged_nudge_makes_it_stalled_and_is_repeated() -> None:
    """Its kernel answers: this node vouches for it, again every 2 s, and nobody is accused."""
    m = machine(B, C, D, config=LAN)
    now_s = until_nudged(m, B)
    m.found(told(Response.ACKNOWLEDGED), now_s + 0.1)
    view = m.view(B)
    assert view is not None
    assert view.condition is Condition.STALLED
    assert m.rank(B) == UNWELL
    out = live(m, now_s + 2.2, silent_from(B, 10.0))
    words = vouches([effect for _, effect in out])
    assert {(v.node, v.boot, v.voucher, v.kind) for v in words} == {(B, BOOT, ME, VouchKind.KERNEL_ACK)}
    ((again_s, again),) = nudges(out)
    assert again_s - now_s == pytest.approx(2.1, abs=0.01)
    # By now a probe has failed too: whoever is suspect is not waited for.
    assert again == Nudge(B, BOOT, patience_s=0.0)
    m.found(told(Response.ACKNOWLEDGED, 0.0), again_s + 0.1)
    later = vouches([effect for _, effect in live(m, again_s + 1.0, silent_from(B, 10.0))])
    assert max(v.sequence for v in later) > max(v.sequence for v in words)


def test_a_nudge_without_acknowledgement_is_an_accusation() -> None:
    """GONE: suspect at once, with this node as the accuser; the first answer after it makes it fine again."""
    m = machine(B, C, D, config=ALONE)
    now_s = until_nudged(m, B)
    effects = m.found(told(Response.SILENT), now_s + 0.3)
    assert status(m, B) is Status.SUSPECT
    assert m.tallies.events[("accused_gone",)] == 1
    assert [e.event.new.status for e in effects if isinstance(e, Emit)] == [Status.SUSPECT]
    assert [entry.what for entry in m.story(B)][-2:] == ["silent", "suspected"]
    ((again_s, _),) = nudges(live(m, now_s + 3.0, silent_from(B, 10.0)))
    assert again_s - now_s == pytest.approx(2.3, abs=0.01)
    m.found(told(Response.SILENT), again_s + 0.3)
    assert m.tallies.events[("accused_gone",)] == 1


def test_a_nudge_that_nobody_reports_on_or_that_nobody_could_make_is_a_silence() -> None:
    """Without a connection to ask on there is no telling a stopped process from a lost host: never GONE."""
    for reports in (False, True):
        m = machine(B, C, D, config=ALONE)
        now_s = until_nudged(m, B)
        if reports:
            live(m, now_s + 1.2, silent_from(B, 10.0))
            m.found(told(Response.UNKNOWN), now_s + 1.2)
        live(m, now_s + 2.6, silent_from(B, 10.0))
        assert status(m, B) is Status.SUSPECT
        assert ("accused_gone",) not in m.tallies.events
        assert m.tallies.events[("accused_silent",)] == 1


def test_a_nudge_that_others_reports_asked_for_is_not_the_watchs() -> None:
    """The kernel's word came at once, and the process had no time to answer: no stall follows from it."""
    m = machine(B, C, D, config=ALONE)
    now_s = until_nudged(m, B)
    m.found(Nudged(B, BOOT, Response.ACKNOWLEDGED), now_s + 0.1)
    assert condition(m) is Condition.SLOW


def test_an_answer_meanwhile_makes_the_nudge_moot() -> None:
    """The beat came back before the nudge was judged."""
    m = machine(B, C, D, config=ALONE)
    now_s = until_nudged(m, B)
    live(m, now_s + 1.45)
    m.found(told(Response.SILENT), now_s + 1.45)
    assert status(m, B) is Status.ALIVE


def test_without_crash_evidence_phi_accuses_of_silence_alone() -> None:
    """Behind a proxy that acknowledges in the member's name a nudge would prove nothing."""
    m = machine(B, C, D, config=for_profile("lan", crash_evidence="off"))
    live(m, 10.0)
    out = live(m, 12.5, silent_from(B, 10.0))
    assert nudges(out) == []
    assert m.tallies.events[("accused_silent",)] == 1


def test_a_member_never_heard_is_left_to_the_probes() -> None:
    """No beat was ever answered: there is no interval to measure its silence by."""
    m = machine(B, C, D, config=ALONE)
    out = live(m, 10.0, silent_from(B, 0.0))
    assert nudges(out) == []
    view = m.view(B, 10.0)
    assert view is not None
    assert view.phi is None


def test_answers_of_another_boot_or_round_do_not_count() -> None:
    """An old process's ack, an ack from the future and a repeated ack move nothing."""
    m = machine(B, C, D, config=LAN)
    live(m, 10.0)
    out = live(m, 10.99, silent_from(B, 10.0))
    at_s, sequence = next(
        (at_s, p.sequence)
        for at_s, effect in out
        for where, p in sent([effect])
        if isinstance(p, Beat) and where == address(B)
    )
    before = m.view(B, 11.5)
    hear(m, BeatAck(sequence), B, at_s + 0.01, boot=BOOT - 1)
    hear(m, BeatAck(sequence + 400), B, at_s + 0.01)
    hear(m, BeatAck(sequence - 8), B, at_s + 0.01)
    hear(m, BeatAck(sequence), C, at_s + 0.01)
    assert m.view(B, 11.5) == before
    hear(m, BeatAck(sequence), B, 11.0)
    after = m.view(B, 11.5)
    assert after is not None
    assert before is not None
    assert (after.phi or 0.0) < (before.phi or 0.0)


def test_a_restarted_member_is_watched_anew() -> None:
    """The silence of its former life says nothing about the new one."""
    m = machine(B, C, D, config=LAN)
    live(m, 10.0)
    live(m, 11.9, silent_from(B, 10.0))
    fresh = claim(B, boot=BOOT + 1)
    hear(m, Gossip((fresh,)), C, 11.9)
    out = live(m, 13.5, silent_from(B, 10.0))
    assert nudges(out) == []
    view = m.view(B, 13.5)
    assert view is not None
    assert view.phi is None


def test_a_pause_of_this_node_is_no_silence_of_others() -> None:
    """Having stood still for 10 s it nudges nobody and calls nobody slow."""
    m = machine(B, C, D, config=LAN)
    live(m, 10.0)
    effects = m.advance(20.0)
    out = live(m, 25.0)
    assert not [e for e in effects if isinstance(e, Nudge)]
    assert nudges(out) == []
    assert ("slow",) not in m.tallies.events
    assert all(status(m, node) is Status.ALIVE for node in (B, C, D))


def test_a_vouch_is_passed_on_once_and_its_repetition_again() -> None:
    """An echo is told from a repetition by its number; without that a stall would go round for ever."""
    m = machine(B, C, D, config=LAN)
    live(m, 5.0)
    word = spoken(Vouch(C, BOOT, 0, B, VouchKind.KERNEL_ACK, 9))
    for _ in range(3):
        hear(m, Gossip((), (RUMOURS.encode(word),)), B, 5.0)
    assert m.tallies.events[("vouched_kernel_ack",)] == 1
    words = vouches([effect for _, effect in live(m, 8.0)])
    assert set(words) == {word}
    hear(m, Gossip((), (said(word),)), D, 8.0)
    assert vouches([effect for _, effect in live(m, 9.0)]) == []


def test_a_node_that_hears_of_its_own_stall_is_over_it() -> None:
    """Whoever can hear that it stands still does not; the word is passed on all the same."""
    m = machine(B, C, D, config=LAN)
    live(m, 5.0)
    word = spoken(Vouch(ME, BOOT, 0, B, VouchKind.KERNEL_ACK, 9))
    hear(m, Gossip((), (RUMOURS.encode(word),)), B, 5.0)
    assert condition(m, ME) is Condition.OK
    assert set(vouches([effect for _, effect in live(m, 8.0)])) == {word}


def test_a_node_that_leaves_watches_nobody() -> None:
    """Its lifelines are let go, and it beats no more."""
    m = machine(B, C, D, config=LAN)
    live(m, 5.0)
    effects = m.leave(5.0)
    assert [e.nodes for e in effects if isinstance(e, KeepLifelines)] == [()]
    assert beats(live(m, 8.0), B) == []


def test_rank_follows_standing() -> None:
    """Whoever is suspect comes after the well, whoever is dead, gone or unknown not at all; oneself is always well."""
    m = machine(B, C, D, config=LAN)
    hear(m, Gossip((claim(B, Standing.SUSPECT, accuser=C), claim(D, Standing.DEAD))), C)
    assert [m.rank(node) for node in (ME, C, B, D, NodeId("nobody"))] == [WELL, WELL, UNWELL, UNUSABLE, UNUSABLE]


def test_changes_of_condition_are_published() -> None:
    """A bus event tells of the stall and of its end."""
    m = machine(B, C, D, config=LAN)
    now_s = until_nudged(m, B)
    effects = m.found(told(Response.ACKNOWLEDGED), now_s + 0.1)
    events: list[MemberChanged] = [e.event for e in effects if isinstance(e, Emit)]
    assert [event.new.condition for event in events] == [Condition.STALLED]
    out = live(m, now_s + 9.0)
    conditions = [e.event.new.condition for _, e in out if isinstance(e, Emit)]
    assert conditions[-1] is Condition.OK


def test_a_member_that_has_answered_is_sent_short_headers_until_it_falls_silent() -> None:
    """The first beat introduces this node, the next ones are short, and a beat that is repeated is long again."""
    m = machine(B, C, D, config=ALONE)
    out = live(m, 4.0, silent_from(B, 2.5))
    shorts: list[bool] = []
    for _, effect in out:
        for where, packet in sent([effect]):
            if where == address(B) and isinstance(packet, Beat) and isinstance(effect, SendPacket):
                shorts.append(effect.is_short)
    assert shorts[0] is False
    assert shorts[1:3] == [True, True]
    first_unanswered = shorts.index(False, 1)
    assert not any(shorts[first_unanswered:])


def test_an_answer_has_the_header_of_what_it_answers() -> None:
    """Whoever used the short header takes it that this node knows it, and knows this node."""
    m = machine(B)
    for is_short in (False, True):
        effects = m.receive(PACKETS.encode(Beat(4)), B, address(B), 1.0, source_boot=BOOT, is_short=is_short)
        (answer,) = [effect for effect in effects if isinstance(effect, SendPacket)]
        assert answer.is_short is is_short


def test_a_silence_of_all_is_its_own_fault_before_anybody_is_accused() -> None:
    """A node whose cable is pulled is isolated when the first phi crosses, and buries none of those that it watches."""
    m = machine(B, C, D, NodeId(f"{'4':a>32}"), config=ALONE)
    live(m, 10.0)
    out = live(m, 60.0, lambda _node, now_s: now_s < 10.0)
    (nudged_s, _), *_ = nudges(out)
    assert m.tallies.events[("isolated",)] == 1
    assert nudged_s < 12.2
    assert {status(m, node) for node in (B, C, D)} == {Status.ALIVE}


def test_an_accusation_withheld_after_a_pause_is_made_when_the_quiet_time_is_over() -> None:
    """The silence is the same, and is nudged anew: nobody else need have noticed it."""
    m = machine(B, C, D, config=LAN)
    live(m, 10.0)
    m.advance(11.6)
    out = live(m, 13.0, silent_from(B, 10.0))
    ((nudged_s, _),) = nudges(out)
    m.found(Nudged(B, BOOT, Response.SILENT, 1.0), nudged_s + 0.3)
    assert status(m, B) is Status.ALIVE
    assert ("accused_gone",) not in m.tallies.events
    quiet_until_s = m._claims.quiet_until_s
    ((again_s, nudge),) = nudges(live(m, quiet_until_s + 0.2, silent_from(B, 10.0)))
    assert (again_s, nudge.node) == (quiet_until_s, B)
    m.found(Nudged(B, BOOT, Response.SILENT, 1.0), again_s + 0.3)
    assert status(m, B) is Status.SUSPECT
    assert m.tallies.events[("accused_gone",)] == 1
    live(m, again_s + 10.0, silent_from(B, 10.0))
    assert m.tallies.events[("accused_gone",)] == 1


def test_a_crash_found_while_quiet_is_told_when_the_quiet_time_is_over() -> None:
    """Of two nodes the survivor has just stood still itself when the other is killed: nobody else could tell."""
    m = machine(B, config=LAN)
    m.found(LifelineUp(B, BOOT), 0.0)
    live(m, 10.0)
    m.advance(11.6)
    live(m, 13.0)
    m.found(LifelineDown(B, BOOT, LifelineEnd.LOST), 13.0)
    m.found(Tried(B, BOOT, PortState.REFUSED), 13.0)
    assert status(m, B) is Status.ALIVE
    quiet_until_s = m._claims.quiet_until_s
    live(m, quiet_until_s, silent_from(B, 13.0))
    assert status(m, B) is Status.SUSPECT
    live(m, quiet_until_s + 0.5 * m._claims.health.factor, silent_from(B, 13.0))
    assert status(m, B) is Status.DEAD


def test_an_accusation_withheld_in_isolation_is_tried_again_quietly() -> None:
    """Every two seconds after the last answer to a nudge, told once; with the others' packets it is made."""
    m = machine(B, C, D, NodeId(f"{'4':a>32}"), config=ALONE)
    live(m, 10.0)
    out: Timed = []
    for step in range(100, 200):
        new = live(m, step / 10, lambda _node, _now_s: False)
        for at_s, nudge in nudges(new):
            m.found(Nudged(nudge.node, BOOT, Response.SILENT, nudge.patience_s), at_s)
        out += new
    times = [at_s for at_s, nudge in nudges(out) if nudge.node == D]
    assert [round(b - a, 2) for a, b in pairwise(times)] == [2.0] * (len(times) - 1)
    assert len(times) >= 4
    assert [entry.what for entry in m.story(D)].count("silent") == 1
    assert {status(m, node) for node in (B, C, D)} == {Status.ALIVE}
    for step in range(3):
        m._claims.observe_probe(B, is_mute=False, now_s=20.0 + step)
    now_s = 23.0
    while status(m, D) is Status.ALIVE:
        for at_s, nudge in nudges(live(m, now_s, silent_from(D, 0.0))):
            m.found(Nudged(nudge.node, BOOT, Response.SILENT, nudge.patience_s), at_s)
        now_s += 0.1
        assert now_s < 26.0


def test_a_silence_of_one_is_not_taken_for_isolation() -> None:
    """Whoever still hears one of the others accuses the rest: here three of four are gone."""
    m = machine(B, C, D, NodeId(f"{'4':a>32}"), config=ALONE)
    live(m, 10.0)
    live(m, 16.0, lambda node, now_s: now_s < 10.0 or node == D)
    assert ("isolated",) not in m.tallies.events
    assert status(m, C) is not Status.ALIVE


def test_the_port_of_a_process_that_announced_its_end_does_not_speak_for_it() -> None:
    """Its next life has the port already and does not serve yet: an ordinary restart, and nobody stands still."""
    m = machine(B, C, D, config=ALONE)
    live(m, 9.9)
    m.found(LifelineDown(B, BOOT, LifelineEnd.STOPPED), 9.9)
    now_s = until_nudged(m, B)
    live(m, now_s + 1.0, silent_from(B, 10.0))
    m.found(told(Response.ACKNOWLEDGED), now_s + 1.0)
    assert (status(m, B), condition(m)) == (Status.SUSPECT, Condition.SLOW)
    assert ("vouch_kernel",) not in m.tallies.events


@pytest.mark.parametrize(
    ("profile", "late_s", "is_pause"), [("lan", 0.6, True), ("wan", 0.9, False), ("wan", 1.1, True)]
)
def test_a_pause_is_measured_by_the_beats(profile: str, late_s: float, is_pause: bool) -> None:
    """Half a beat, not half a probe: across an ocean these are five seconds apart, and a pause of two hides in them."""
    m = machine(B, C, D, config=for_profile(profile))
    live(m, 20.0)
    before = m.tallies.events.get(("pause",), 0)
    m.advance(m.next_deadline_s + late_s)
    assert m.tallies.events.get(("pause",), 0) - before == is_pause

"""Suspicions by their evidence, vouchers, and the story that explains both."""

from __future__ import annotations

import math
import random

import msgspec
import pytest
from membership_hands import accused, signed

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Condition, Status
from frys_node.testing.voices import FakeVoices
from membership.claims import Claims
from membership.config import MembershipConfig, for_profile
from membership.member import make_attributes
from membership.messages import Evidence, Standing, Update
from membership.story import ENTRIES_MAX, Entry, Story
from membership.testimony import VouchKind

ME, B, C, D, E, F = (NodeId(f"{letter:a>32}") for letter in "012345")
ALIVE_B = (5, 0)


def claim(node: NodeId, standing: Standing = Standing.ALIVE, incarnation: int = 0, **rest: object) -> Update:
    """Make a claim about a test node."""
    attributes = make_attributes(node[-1], Address(f"10.0.0.{node[-1]}", 7946))
    return signed(Update(node, 5, incarnation, standing, attributes, **rest))  # type: ignore[arg-type]


def accuse(
    claims: Claims,
    node: NodeId,
    accusers: tuple[NodeId, ...],
    now_s: float,
    evidence: Evidence = Evidence.SILENCE,
) -> bool:
    """Have members accuse one that has not refuted anything yet."""
    return claims.accuse(node, ALIVE_B, accused(node, *accusers, evidence=evidence), now_s, evidence)


def make(*others: NodeId, config: MembershipConfig | None = None) -> Claims:
    """Make the claims of a node that knows others alive."""
    claims = Claims(
        node=ME,
        boot=5,
        attributes=claim(ME).attributes,
        config=config or for_profile("lan"),
        rng=random.Random(1),
        now_s=0.0,
        unix_offset_ns=0,
        voices=FakeVoices(ME),
    )
    for node in others:
        claims.hearing.take(claim(node), E, 0.0)
    return claims


def condition(claims: Claims, node: NodeId, now_s: float) -> Condition:
    """The condition of a member as seen at a time."""
    claims.now_s = now_s
    member = claims.table.get(node)
    assert member is not None
    return claims.view(member.update, member).condition


def test_silence_of_all_is_waited_for_four_intervals() -> None:
    """With every accuser that can be expected the suspicion has its floor: 4 s for four members on a LAN."""
    claims = make(B, C, D)
    accuse(claims, B, (ME,), 10.0)
    assert claims.suspicions.ends_s(B) == 34.0
    accuse(claims, B, (ME, C, D), 10.5)
    assert claims.suspicion_deadline_s == 14.0


def test_one_accuser_alone_buries_nobody() -> None:
    """Its time is up and nobody agrees: the member is suspect still, and dead with the second voice."""
    claims = make(B, C, D)
    accuse(claims, B, (ME,), 10.0)
    assert claims.suspicion_deadline_s == math.inf
    claims.end_suspicions(60.0)
    assert claims.table.counts[Standing.DEAD] == 0
    accuse(claims, B, (C,), 60.0)
    claims.end_suspicions(60.0)
    dead = claims.table.get(B)
    assert dead is not None
    assert (dead.standing, dead.update.accuser) == (Standing.DEAD, ME)
    assert dead.update.accusations == ()


def test_the_last_one_left_buries_alone() -> None:
    """Two accusers are as many as there are: whoever sees all others fall needs nobody's word."""
    claims = make(B, C)
    accuse(claims, B, (ME,), 10.0)
    accuse(claims, C, (ME,), 11.0)
    claims.end_suspicions(60.0)
    assert claims.table.counts[Standing.DEAD] == 2


def test_a_member_whose_kernel_is_silent_too_is_waited_for_less() -> None:
    """GONE has a floor of 2.5 beats once all three watchers say it, and wants its confirmations too."""
    claims = make(B, C, D, E, F)
    accuse(claims, B, (C,), 10.0, Evidence.GONE)
    assert claims.suspicions.ends_s(B) == 34.0
    accuse(claims, B, (D, E), 10.5, Evidence.GONE)
    assert 14.0 < claims.suspicion_deadline_s < 34.0
    accuse(claims, B, (F,), 11.0)
    assert claims.suspicion_deadline_s == 12.5


def test_one_watcher_alone_does_not_shorten_a_suspicion() -> None:
    """A bad path to one watcher, and a probe with its helpers: accusers enough, and the floor is that of silence."""
    claims = make(B, C, D, E)
    accuse(claims, B, (C,), 10.0, Evidence.GONE)
    accuse(claims, B, (ME, D, E), 10.0)
    assert claims.suspicion_deadline_s == 14.0
    accuse(claims, B, (D,), 10.5, Evidence.GONE)
    assert claims.suspicion_deadline_s == 14.0
    accuse(claims, B, (E,), 11.0, Evidence.GONE)
    assert claims.suspicion_deadline_s == 12.5


@pytest.mark.parametrize("others", [(B,), (B, C)])
def test_in_a_small_cluster_all_watchers_are_few(others: tuple[NodeId, ...]) -> None:
    """Of two nodes one watches, of three two: whoever is left has to agree, and nobody else is waited for."""
    claims = make(*others)
    for watcher in (ME, *others[1:]):
        assert claims.suspicion_deadline_s > 12.5
        accuse(claims, B, (watcher,), 10.0, Evidence.GONE)
    assert claims.suspicion_deadline_s == 12.5


def test_a_watcher_that_has_died_is_not_waited_for() -> None:
    """The live ones are asked; whoever takes the place of the dead one is one of them."""
    claims = make(B, C, D, E)
    accuse(claims, B, (D, E, ME), 10.0, Evidence.GONE)
    assert claims.suspicion_deadline_s > 12.5
    claims.hearing.take(claim(C, Standing.DEAD), E, 11.0)
    assert claims.suspicion_deadline_s == 12.5


def test_a_crash_needs_two_observers() -> None:
    """One observer of a crash raises a suspicion; the second starts the clock of half a second."""
    claims = make(B, C, D)
    accuse(claims, B, (C,), 10.0, Evidence.CRASH)
    assert claims.suspicion_deadline_s > 20.0
    accuse(claims, B, (C,), 10.2, Evidence.CRASH)
    assert claims.suspicion_deadline_s > 20.0
    accuse(claims, B, (D,), 11.0, Evidence.CRASH)
    assert claims.suspicion_deadline_s == 11.5


def test_a_crash_seen_by_the_only_one_left_is_enough() -> None:
    """In a cluster of two there is no second observer."""
    claims = make(B)
    accuse(claims, B, (ME,), 10.0, Evidence.CRASH)
    assert claims.suspicion_deadline_s == 10.5


def test_a_crash_is_waited_for_longer_by_a_node_in_trouble() -> None:
    """The short clock is stretched by local health: a starved node hears refutations late."""
    claims = make(B, C)
    claims.health.worsen(2)
    accuse(claims, B, (ME, C), 10.0, Evidence.CRASH)
    assert claims.suspicion_deadline_s == 11.5


def test_hearsay_of_a_crash_starts_no_short_clock() -> None:
    """Updates pass through many hands: only reports of the observers themselves count as seen."""
    claims = make(B, C, D)
    for accuser in (C, D):
        claims.hearing.take(claim(B, Standing.SUSPECT, accuser=accuser, evidence=Evidence.CRASH), E, 10.0)
    assert claims.suspicion_deadline_s > 11.0


@pytest.mark.parametrize("is_first", [False, True])
def test_its_own_voice_comes_back_to_a_node_as_silence_at_most(is_first: bool) -> None:
    """A nack makes it an accuser; evidence that it never had is none because others say so."""
    claims = make(B, C, D)
    if not is_first:
        claims.hearing.take(claim(B, Standing.SUSPECT, accuser=C), E, 10.0)
    for evidence in (Evidence.CRASH, Evidence.GONE):
        claims.hearing.take(claim(B, Standing.SUSPECT, accuser=ME, evidence=evidence), E, 10.1)
    suspicion = claims.suspicions.get(B)
    assert suspicion is not None
    assert dict(suspicion.votes)[ME] is Evidence.SILENCE
    member = claims.table.get(B)
    assert member is not None
    assert all(entry.evidence is Evidence.SILENCE for entry in member.story if entry.who == ME)
    accuse(claims, B, (ME,), 10.2, Evidence.GONE)
    assert dict(suspicion.votes)[ME] is Evidence.GONE


def test_a_crash_that_is_told_is_passed_on_as_it_was_told() -> None:
    """It counts as gone here; who hears of it must be able to see that nobody claimed a nudge went unanswered."""
    claims = make(B, C, D)
    claims.hearing.take(claim(B, Standing.SUSPECT, accuser=C), E, 10.0)
    claims.hearing.take(claim(B, Standing.SUSPECT, accuser=D, evidence=Evidence.CRASH), E, 10.1)
    (told,) = [update for update in claims.queue.take(1_000, 4, 9) if update.node == B]
    assert (told.accuser, told.evidence) == (D, Evidence.CRASH)
    suspicion = claims.suspicions.get(B)
    assert suspicion is not None
    assert dict(suspicion.votes)[D] is Evidence.GONE


def test_crash_evidence_comes_on_top_of_a_silent_suspicion() -> None:
    """A running suspicion, its accusers complete, is shortened by two observers, never lengthened."""
    claims = make(B, C, D)
    accuse(claims, B, (ME, C, D), 10.0)
    accuse(claims, B, (ME, C), 10.1, Evidence.CRASH)
    assert claims.suspicion_deadline_s == 10.6
    late = make(B, C, D)
    accuse(late, B, (ME, C, D), 10.0)
    accuse(late, B, (ME, C), 13.9, Evidence.CRASH)
    assert late.suspicion_deadline_s == 14.0


def test_a_voucher_puts_a_crash_back_to_silence() -> None:
    """Evidence before the veto and for five seconds after it is void; the suspicion of silence goes on."""
    claims = make(B, C, D)
    accuse(claims, B, (ME, C), 10.0, Evidence.CRASH)
    claims.vouch(B, ALIVE_B, D, VouchKind.DATAGRAM, 10.2)
    silent_s = claims.suspicion_deadline_s
    assert 14.0 < silent_s < 34.0
    accuse(claims, B, (ME, C), 15.1, Evidence.CRASH)
    assert claims.suspicion_deadline_s == silent_s
    accuse(claims, B, (ME, C), 15.3, Evidence.CRASH)
    assert claims.suspicion_deadline_s == 15.8


def test_a_voucher_may_come_first() -> None:
    """Packets overtake each other: a veto heard before the accusation holds too."""
    claims = make(B, C, D)
    claims.vouch(B, ALIVE_B, D, VouchKind.HELPER, 9.9)
    accuse(claims, B, (ME, C), 10.0, Evidence.CRASH)
    assert claims.suspicion_deadline_s > 14.0


def test_a_voucher_for_another_boot_changes_nothing() -> None:
    """Who vouches for a former life says nothing about this one."""
    claims = make(B, C, D)
    accuse(claims, B, (ME, C), 10.0, Evidence.CRASH)
    claims.vouch(B, (4, 0), D, VouchKind.KERNEL_ACK, 10.1)
    claims.vouch(B, (6, 0), D, VouchKind.KERNEL_ACK, 10.1)
    assert claims.suspicion_deadline_s == 10.5
    assert condition(claims, B, 10.2) is Condition.OK


def test_a_member_whose_kernel_answers_is_stalled_and_not_dead_until_its_own_limit() -> None:
    """Death is held off while a voucher is younger than five seconds, and no longer than `stall_max_s`."""
    claims = make(B, C)
    accuse(claims, B, (ME, C), 10.0)
    assert claims.suspicion_deadline_s == 14.0
    for now_s in range(11, 60, 2):
        claims.vouch(B, ALIVE_B, C, VouchKind.KERNEL_ACK, float(now_s))
        assert condition(claims, B, now_s + 4.9) is Condition.STALLED
        assert condition(claims, B, now_s + 5.0) is Condition.OK
    assert claims.suspicion_deadline_s == 40.0
    claims.end_suspicions(40.0)
    member = claims.table.get(B)
    assert member is not None
    assert claims.view(member.update, member).status is Status.DEAD


def test_a_stalled_member_dies_when_its_kernel_falls_silent() -> None:
    """The last voucher counts for five seconds."""
    claims = make(B, C)
    accuse(claims, B, (ME, C), 10.0)
    claims.vouch(B, ALIVE_B, C, VouchKind.KERNEL_ACK, 13.0)
    assert claims.suspicion_deadline_s == 18.0


def test_a_stalled_member_that_crashes_is_not_held() -> None:
    """Its kernel's word before the crash holds off a death by silence; one that is newer than the evidence voids it."""
    claims = make(B, C, D)
    claims.vouch(B, ALIVE_B, C, VouchKind.KERNEL_ACK, 9.0)
    accuse(claims, B, (ME, C), 10.0, Evidence.CRASH)
    assert claims.suspicion_deadline_s == 10.5
    claims.vouch(B, ALIVE_B, D, VouchKind.KERNEL_ACK, 10.2)
    assert claims.suspicion_deadline_s >= 15.2
    accuse(claims, B, (ME, D), 10.4, Evidence.CRASH)
    assert claims.suspicion_deadline_s == 10.9


def test_a_node_that_stood_still_lets_the_other_observers_of_a_crash_speak() -> None:
    """Its own voice is withheld, and it says so; what its probe's helpers heard is withheld with it."""
    claims = make(B, C, D, E)
    claims.catch_up(1.0, 10.0)
    assert not accuse(claims, B, (ME, C, D), 10.1, Evidence.CRASH)
    suspicion = claims.suspicions.get(B)
    assert suspicion is not None
    assert suspicion.accusers == (C, D)
    assert suspicion.is_crash
    assert not accuse(claims, C, (ME, D), 10.1)
    assert claims.suspicions.get(C) is None
    assert accuse(claims, B, (ME,), claims.quiet_until_s, Evidence.CRASH)
    assert suspicion.accusers == (C, D, ME)


def test_a_pause_of_this_node_ages_no_voucher() -> None:
    """What was said just before it stood still was said just before it went on, for all that it can know."""
    claims = make(B, C, D)
    claims.vouch(B, ALIVE_B, D, VouchKind.HELPER, 9.0)
    claims.catch_up(20.0, 30.0)
    accuse(claims, B, (C, D), 30.0, Evidence.CRASH)
    assert claims.suspicion_deadline_s > 34.0


def test_a_node_in_trouble_waits_longer_for_a_refutation() -> None:
    """It loses packets, so that it hears of fewer refutations; a node that is well declares the death in time."""
    claims = make(B, C, D)
    accuse(claims, B, (ME, C, D), 10.0)
    assert claims.suspicion_deadline_s == 14.0
    claims.health.worsen(1)
    assert claims.suspicion_deadline_s == 18.0
    claims.health.worsen(7)
    assert claims.suspicion_deadline_s == 22.0


def test_a_node_in_trouble_waits_no_longer_if_it_is_alone() -> None:
    """Of two nodes the survivor's probes all fail, which is its trouble, and nobody declares the death for it."""
    claims = make(B)
    accuse(claims, B, (ME,), 10.0)
    claims.health.worsen(8)
    assert claims.suspicion_deadline_s == 14.0


def test_suspects_are_not_waited_for_as_watchers() -> None:
    """Two neighbours lost at once: each is gone to those of its watchers that are not suspect themselves."""
    claims = make(B, C, D)
    for node in (B, C):
        accuse(claims, node, (ME, D), 10.0, Evidence.GONE)
    assert claims.suspicion_deadline_s == 12.5


def test_only_members_have_a_voice() -> None:
    """Invented accusers neither shorten a suspicion nor are remembered or passed on."""
    claims = make(B, C, D)
    accuse(claims, B, (ME,), 10.0)
    for number in range(100):
        stranger = NodeId(f"{number:x>32}")
        claims.hearing.take(
            signed(msgspec.structs.replace(claim(B, Standing.SUSPECT), accuser=stranger, evidence=Evidence.GONE)),
            E,
            10.0,
        )
    suspicion = claims.suspicions.get(B)
    assert suspicion is not None
    assert suspicion.accusers == (ME,)


def test_suspects_are_asked_in_turn_and_not_while_they_are_known_to_stand_still() -> None:
    """Who has waited longest comes first, and before it who was asked less; a stopped one has enough to read later."""
    claims = make(B, C, D)
    accuse(claims, B, (ME, D), 10.0)
    accuse(claims, C, (ME, D), 10.5)
    assert claims.suspicions.ask(11.2) == [B]
    assert claims.suspicions.ask(12.0) == [C, B]
    claims.vouch(B, ALIVE_B, D, VouchKind.KERNEL_ACK, 12.0)
    assert claims.suspicions.ask(13.0) == [C]


def test_a_refutation_ends_the_stall() -> None:
    """Whoever answers for itself needs no voucher."""
    claims = make(B, C)
    accuse(claims, B, (ME, C), 10.0)
    claims.vouch(B, ALIVE_B, C, VouchKind.KERNEL_ACK, 11.0)
    claims.hearing.take(claim(B, incarnation=1), E, 12.0)
    assert condition(claims, B, 12.0) is Condition.OK
    assert claims.suspicion_deadline_s == float("inf")


def test_without_lha_suspicion_every_suspicion_is_short() -> None:
    """The switch of the Lifeguard experiment: SWIM's fixed timeout."""
    claims = make(B, C, D, config=for_profile("lan", lha_suspicion=False))
    accuse(claims, B, (ME, C), 10.0)
    assert claims.suspicion_deadline_s == 14.0


def test_without_the_buddy_system_a_suspect_is_not_told_first() -> None:
    """The dead are told all the same: that is how partitions heal."""
    claims = make(B, C, config=for_profile("lan", buddy=False))
    accuse(claims, B, (ME,), 10.0)
    assert claims.about(B) == ()
    assert make(B, C).about(B) == ()
    claims.hearing.take(claim(C, Standing.DEAD), E, 10.0)
    assert [update.node for update in claims.about(C)] == [C]


def test_the_story_names_accusers_evidence_and_times() -> None:
    """Each change of state leaves a turn behind, with who and why."""
    claims = make(B, C, D)
    accuse(claims, B, (ME, C), 10.0)
    claims.vouch(B, ALIVE_B, D, VouchKind.KERNEL_ACK, 11.0)
    claims.hearing.take(claim(B, incarnation=1), E, 12.0)
    member = claims.table.get(B)
    assert member is not None
    assert [(e.now_s, e.what, e.who, e.evidence) for e in member.story] == [
        (0.0, "met", "", None),
        (10.0, "suspected", ME, Evidence.SILENCE),
        (10.0, "confirmed", C, Evidence.SILENCE),
        (11.0, "vouched", D, None),
        (12.0, "refuted", "", None),
    ]


def test_a_story_is_bounded_and_does_not_repeat_itself() -> None:
    """The latest turns stay; the same turn again only moves its time."""
    story = Story()
    for now_s in range(100):
        story.add(Entry(float(now_s), "vouched", B))
    assert story.entries() == (Entry(99.0, "vouched", B),)
    for now_s in range(100):
        story.add(Entry(float(now_s), f"turn {now_s}"))
    assert len(story.entries()) == ENTRIES_MAX
    assert story.entries()[-1].what == "turn 99"


@pytest.mark.parametrize("profile", ["lan", "wan", "local"])
def test_a_crash_is_always_the_shortest_suspicion(profile: str) -> None:
    """CRASH < GONE <= SILENCE in every profile, and never so short that a refutation comes too late."""
    claims = make(B, C, config=for_profile(profile))
    deadlines = []
    for evidence in (Evidence.CRASH, Evidence.GONE, Evidence.SILENCE):
        claims = make(B, C, config=for_profile(profile))
        accuse(claims, B, (ME, C), 0.0, evidence)
        deadlines.append(claims.suspicion_deadline_s)
    assert 0.3 <= deadlines[0] < deadlines[1] <= deadlines[2]

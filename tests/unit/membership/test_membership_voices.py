"""Signed claims: what a member without others' voices can and cannot make a node believe, with real signatures."""

from __future__ import annotations

import random

import pytest
from membership_hands import BOOT, ME, B, C, D, E, address, hear, live, run_to, said, sent, status, well
from msgspec.structs import replace

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Status
from frys_node.testing.membership_insider import run_scenario
from frys_node.testing.voices import Ed25519Voices, FakeVoices
from membership.config import for_profile
from membership.effects import AskVoices, Tallies
from membership.held import ASK_S, CLAIMS_MAX, HELD_S, VOICES_MAX, Held
from membership.machine import Membership
from membership.member import make_attributes
from membership.messages import (
    INCARNATION_MAX,
    NOBODY,
    Accusation,
    Attributes,
    Evidence,
    Gossip,
    Nack,
    Ping,
    Standing,
    Sync,
    Update,
)
from membership.rumours import RUMOURS, Introduction, Rumours, StateDelta, StateEntry, UserEvent
from membership.state import States
from membership.testimony import CrashReport
from membership.voices import Signing, accusations_in

LIFE = (BOOT, 0)
CONFIG = for_profile("lan", watchers=0)


def by(node: NodeId) -> Signing:
    """The voice of a test node, with a real key."""
    return Signing(node, Ed25519Voices(node))


def alive(node: NodeId, incarnation: int = 0, *, at: NodeId | None = None, signer: NodeId | None = None) -> Update:
    """What a node says of itself, or another one in its name."""
    attributes = make_attributes(node[-1], address(at or node))
    return by(signer or node).claimed(Update(node, BOOT, incarnation, Standing.ALIVE, attributes))


def accused(node: NodeId, *accusers: Accusation, standing: Standing = Standing.SUSPECT) -> Update:
    """A claim that a node is suspect or dead, with these accusers."""
    first, rest = accusers[0], accusers[1:]
    found = replace(alive(node), standing=standing, accuser=first.accuser, evidence=first.evidence, word=first.word)
    return replace(found, accusations=rest)


def accuses(accuser: NodeId, node: NodeId, evidence: Evidence = Evidence.SILENCE) -> Accusation:
    """What a node really accuses another one of."""
    return by(accuser).accusation((node, *LIFE), evidence)


def buries(accuser: NodeId, node: NodeId) -> Accusation:
    """What a node says of another one when its own suspicion has run out."""
    return by(accuser).verdict((node, *LIFE), Evidence.SILENCE)


def own_attributes(m: Membership) -> Attributes:
    """What a machine says of itself."""
    return m._claims.own.attributes


def machine(*others: NodeId) -> Membership:
    """A node that has met others."""
    made = Membership(
        node=ME,
        boot=BOOT,
        attributes=make_attributes("0", address(ME)),
        config=CONFIG,
        rng=random.Random(1),
        now_s=0.0,
        voices=Ed25519Voices(ME),
    )
    made.learn_voices([by(node).own_statement for node in others], 0.0)
    made.merge_sync(Sync(tuple(map(alive, others))), others[0], 0.0)
    return made


def test_nobody_moves_a_member_but_itself() -> None:
    """Another address under another one's signature is forged; under its own it counts."""
    m = machine(B, C)
    hear(m, Gossip((alive(C, 1, at=E, signer=B),)))
    assert m.tallies.dropped == {("forged",): 1}
    view = m.view(C)
    assert view is not None
    assert view.address == address(C)
    hear(m, Gossip((alive(C, 1, at=E),)))
    view = m.view(C)
    assert view is not None
    assert view.address == address(E)


@pytest.mark.parametrize(
    ("second", "becomes"),
    [
        (None, Status.SUSPECT),
        (buries(B, C), Status.SUSPECT),
        (replace(buries(B, C), accuser=D), Status.SUSPECT),
        (by(D).verdict((C, BOOT, 1), Evidence.SILENCE), Status.SUSPECT),
        (accuses(D, C), Status.SUSPECT),
        (buries(E, C), Status.SUSPECT),
        (buries(D, C), Status.DEAD),
    ],
    ids=["alone", "twice the same", "in another's name", "of another incarnation", "doubted", "no member", "two"],
)
def test_a_death_needs_two_who_signed_it(second: Accusation | None, becomes: Status) -> None:
    """One member's verdict is a suspicion, whoever it says the second one was; so is one with another's doubt."""
    m = machine(B, C, D)
    m.learn_voices([by(E).own_statement], 0.0)
    accusers = (buries(B, C),) if second is None else (buries(B, C), second)
    hear(m, Gossip((accused(C, *accusers, standing=Standing.DEAD),)))
    assert status(m, C) is becomes


def test_verdicts_add_up_and_are_passed_on() -> None:
    """Each of two that have buried a member tells its own; whoever has heard one tells it on with the suspicion."""
    m = machine(B, C, D)
    hear(m, Gossip((accused(C, buries(D, C), standing=Standing.DEAD),)), D)
    assert status(m, C) is Status.SUSPECT
    told = [u for _, packet in sent(run_to(m, 1.0)) for u in packet.updates if u.node == C]
    assert any(one.is_verdict for update in told for one in accusations_in(update))
    hear(m, Gossip((accused(C, buries(B, C), standing=Standing.DEAD),)), B)
    assert status(m, C) is Status.DEAD
    (held,) = [update for update in m.sync(NOBODY, 1.0).updates if update.node == C]
    assert {one.accuser for one in accusations_in(held) if one.is_verdict} == {B, D}


def test_a_liar_that_accuses_everybody_and_leaves_is_not_alone_with_this_node() -> None:
    """Only whom this node itself finds silent counts as gone: the liar's word is not enough by its other words."""
    m = machine(B, C, D)
    leave = by(B).claimed(replace(alive(B, 1), standing=Standing.LEFT))
    lies = [accused(node, accuses(B, node)) for node in (C, D)]
    lies += [accused(node, buries(B, node), standing=Standing.DEAD) for node in (C, D)]
    for sync in (Sync(tuple(lies)), Sync((leave,)), Sync(tuple(lies))):
        m.merge_sync(sync, B, 1.0)
    live(m, 60.0, well)
    assert status(m, C) is not Status.DEAD
    assert status(m, D) is not Status.DEAD


def test_a_dead_member_that_comes_back_cannot_be_kept_dead() -> None:
    """Its new word proves that it lives, whoever says in the same breath that it is dead again."""
    m = machine(B, C, D)
    hear(m, Gossip((accused(C, buries(B, C), buries(D, C), standing=Standing.DEAD),)))
    hear(m, Gossip((replace(alive(C, 1), standing=Standing.DEAD),)), B, 1.0)
    assert status(m, C) is Status.ALIVE


def test_whoever_is_said_to_have_left_before_it_was_known_is_asked() -> None:
    """A newcomer takes it for dead, from now: dead members are tried again, those that left are not."""
    m = machine(B, D)
    m.learn_voices([by(C).own_statement], 0.0)
    gone = replace(alive(C), standing=Standing.LEFT, accuser=B, word=by(B).release((C, *LIFE)), age_s=3_000)
    m.merge_sync(Sync((gone,)), B, 0.5)
    assert status(m, C) is Status.DEAD
    assert not m.is_lost(C, 10.0)
    assert any(where == address(C) and isinstance(packet, Ping) for where, packet in sent(run_to(m, 10.0)))


def test_a_death_that_nobody_signed_is_no_news_of_a_member_that_lives() -> None:
    """It is dropped and counted; of a member that is unknown it is taken, for that one is asked itself."""
    m = machine(B, C, D)
    bare = replace(alive(C), standing=Standing.DEAD)
    hear(m, Gossip((bare,)))
    assert status(m, C) is Status.ALIVE
    assert m.tallies.dropped == {("unproven",): 1}
    newcomer = machine(B, D)
    newcomer.learn_voices([by(C).own_statement], 0.0)
    newcomer.merge_sync(Sync((bare,)), B, 0.1)
    assert status(newcomer, C) is Status.DEAD


def test_nobody_says_of_the_living_that_they_have_left() -> None:
    """Neither with the member's old signature nor as who lets it go; of the dead the latter counts."""
    m = machine(B, C, D)
    gone = replace(alive(C), standing=Standing.LEFT)
    let_go = replace(gone, accuser=B, word=by(B).release((C, *LIFE)))
    hear(m, Gossip((gone, let_go)))
    assert status(m, C) is Status.ALIVE
    hear(m, Gossip((accused(C, buries(B, C), buries(D, C), standing=Standing.DEAD),)))
    hear(m, Gossip((replace(let_go, accuser=D),)))
    assert status(m, C) is Status.DEAD
    hear(m, Gossip((let_go,)))
    assert status(m, C) is Status.LEFT


def test_incarnations_are_not_used_up_by_others() -> None:
    """An accusation under an incarnation that this node never had is forged; under its own it is refuted."""
    m = machine(B, C)
    beyond = replace(alive(ME), incarnation=INCARNATION_MAX, standing=Standing.SUSPECT, accuser=B)
    hear(m, Ping(1, ME, (beyond,)))
    view = m.view(ME)
    assert view is not None
    assert view.incarnation == 0
    hear(m, Ping(2, ME, (accused(ME, accuses(B, ME)),)))
    view = m.view(ME)
    assert view is not None
    assert view.incarnation == 1


def test_what_nobody_signed_is_refuted_once_in_a_while() -> None:
    """A member that is taken for dead by newcomers says so; nobody makes it say so a hundred times."""
    m = machine(B, C)
    for _ in range(5):
        view = m.view(ME)
        assert view is not None
        bare = replace(by(ME).claimed(Update(ME, BOOT, view.incarnation, Standing.ALIVE, own_attributes(m))), proof=b"")
        hear(m, Ping(1, ME, (replace(bare, standing=Standing.DEAD),)))
    view = m.view(ME)
    assert view is not None
    assert view.incarnation == 1
    assert m.tallies.dropped == {("unproven",): 4}


def test_a_crash_that_one_observer_reports_for_two_is_seen_by_one() -> None:
    """The second report has not been signed by whom it names."""
    m = machine(B, C, D)
    word = by(B).accusation((C, *LIFE), Evidence.CRASH).word
    for observer in (B, D):
        hear(m, Gossip((), (RUMOURS.encode(CrashReport(C, *LIFE, observer, True, word=word)),)), B, 1.0)
    assert m.tallies.rumours_dropped == {("forged", "crash_report"): 1}
    run_to(m, 3.0)
    assert status(m, C) is not Status.DEAD


def test_a_nack_without_signature_accuses_nobody() -> None:
    """It says that the helper is there, and its voice is not counted against the member."""
    m = machine(B, C, D)
    while m._probing._probe is None or not m._probing._probe.asked:
        m.advance(m.next_deadline_s)
    probe = m._probing._probe
    helper = probe.asked[0]
    hear(m, Nack(probe.sequence, probe.node, boot=BOOT), helper, m._claims.now_s)
    assert list(probe.nacks) == [helper]
    assert probe.accusations == []


def test_a_claim_with_an_unknown_voice_waits_for_whoever_told_it() -> None:
    """It is asked for at once and again, each teller in turn; the claim counts when the statement has come."""
    m = machine(B, C)
    effects = hear(m, Gossip((alive(D),)), B, 1.0)
    assert m.view(D) is None
    effects += hear(m, Gossip((alive(D),)), C, 1.1)
    effects += run_to(m, 1.1 + 2 * ASK_S)
    asked = [e for e in effects if isinstance(e, AskVoices)]
    assert asked == [AskVoices(B, (D,)), AskVoices(B, (D,)), AskVoices(C, (D,))]
    effects = m.learn_voices([by(D).own_statement, b"nonsense"], 2.6)
    assert status(m, D) is Status.ALIVE
    assert m.tallies.dropped == {("statement",): 1}
    assert m.exchange.statements((D, E)) == (by(D).own_statement,)


def test_a_newcomers_voice_comes_with_its_first_claim() -> None:
    """Whoever believes it passes it on before other news, so that hardly anybody has to ask; an echo is no news."""
    m = machine(B, C)
    introduction = RUMOURS.encode(Introduction(D, by(D).own_statement))
    for _ in range(2):
        assert not [e for e in hear(m, Gossip((alive(D),), (introduction,)), B, 1.0) if isinstance(e, AskVoices)]
    assert status(m, D) is Status.ALIVE
    told = [packet for _, packet in sent(run_to(m, 2.0)) if isinstance(packet, Gossip)]
    assert sum(introduction in packet.rumours for packet in told) == CONFIG.retransmit_multiplier
    assert D in {update.node for packet in told if introduction in packet.rumours for update in packet.updates}


def test_what_waits_for_a_voice_is_forgotten_in_time() -> None:
    """Voices that nobody has are asked for ten times."""
    m = machine(B, C)
    hear(m, Gossip((alive(D),)), B, 1.0)
    effects = run_to(m, 1.0 + 2 * HELD_S)
    assert len([e for e in effects if isinstance(e, AskVoices)]) <= HELD_S / ASK_S
    assert not m._claims.hearing.held
    assert m.tallies.dropped == {("voice_unknown",): 1}


def test_what_waits_is_bounded() -> None:
    """Made-up voices, and made-up claims with one of them, take no more room than that."""
    tallies = Tallies()
    held = Held(tallies)
    for number in range(VOICES_MAX + 5):
        held.want(NodeId(f"{number:032x}"), B, 1.0)
    assert len(held) == VOICES_MAX
    assert tallies.dropped == {("held_full",): 5}
    lie = alive(C)
    for number in range(CLAIMS_MAX + 5):
        held.want(NodeId("0" * 32), B, 1.0, replace(lie, node=NodeId(f"{number:032x}")))
    assert len(held.release(NodeId("0" * 32))) == CLAIMS_MAX
    held.want(NodeId("0" * 31 + "1"), B, 1.0, lie)
    assert held.release(NodeId("0" * 31 + "1")) == [(lie, B)]


def test_an_exchange_brings_the_voice_of_whoever_speaks() -> None:
    """A seed believes a newcomer at once, because its statement comes with its table."""
    m = machine(B, C)
    effects = m.merge_sync(Sync((alive(D),), statements=(by(D).own_statement,)), D, 1.0)
    assert not [e for e in effects if isinstance(e, AskVoices)]
    assert status(m, D) is Status.ALIVE
    assert m.sync(NodeId(""), 1.0).statements == (by(ME).own_statement,)


def test_an_answer_brings_the_voices_that_the_asker_cannot_know() -> None:
    """A newcomer believes the table at once; who names the members itself is not told whose voices they are."""
    m = machine(B, C)
    newcomer = Sync((alive(D),), statements=(by(D).own_statement,))
    assert m.exchange.answer(newcomer, 1.0).statements == tuple(by(node).own_statement for node in (ME, B, C))
    acquainted = Sync(tuple(map(alive, (B, C, D))), statements=(by(D).own_statement,))
    assert m.exchange.answer(acquainted, 1.0).statements == (by(ME).own_statement,)
    fresh = Membership(
        node=D,
        boot=BOOT,
        attributes=make_attributes("3", address(D)),
        config=CONFIG,
        rng=random.Random(1),
        now_s=0.0,
        voices=Ed25519Voices(D),
    )
    effects = fresh.merge_sync(m.exchange.answer(newcomer, 1.0), ME, 1.0)
    assert fresh.live_count == 3
    assert not [e for e in effects if isinstance(e, AskVoices)]


def test_an_event_is_its_origins() -> None:
    """In another one's name it is dropped, also when it comes as what was missed."""
    m = machine(B, C)
    forged = Rumours(1_000, Tallies(), by(B)).signed(UserEvent(C, BOOT, 1, 1, 0, "forged"))
    hear(m, Gossip((), (RUMOURS.encode(forged),)))
    assert m.tallies.rumours_dropped == {("forged", "event"): 1}
    assert not m.talk.events.windows


def test_a_members_state_is_told_whole_and_unaltered() -> None:
    """Whoever passes it on can neither change a value, nor leave one out, nor put the version forward."""

    def states(node: NodeId) -> States:
        tallies, signing = Tallies(), Signing(node, FakeVoices(node))
        return States(node, BOOT, Rumours(1_000, tallies, signing), 1_000, tallies, signing)

    owner, reader = states(B), states(ME)
    for key in ("a", "b"):
        owner.put(key, b"1", 0.0)
    whole = owner.by_node[B].delta(B, 0)
    changed = (replace(whole.entries[0], value=b"2"), whole.entries[1])
    for delta in (
        replace(whole, entries=changed),
        replace(whole, entries=whole.entries[1:]),
        replace(whole, version=9),
        replace(whole, entries=(*whole.entries, StateEntry("c", b"3", 3)), version=3),
        StateDelta(B, BOOT, 0, 0, 9),
    ):
        assert not reader.take(delta, C, 1.0)
    assert reader._tallies.rumours_dropped == {("forged", "state"): 5}
    assert reader.take(whole, C, 1.0)


def test_an_echo_of_a_suspicion_is_not_verified_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Most claims that arrive are known, and cost no signature."""
    m = machine(B, C, D)
    update = accused(C, accuses(B, C))
    hear(m, Gossip((update,)))
    monkeypatch.setattr(Ed25519Voices, "verify", lambda *_: pytest.fail("a known claim was verified"))
    hear(m, Gossip((update, alive(D))), D)


def test_a_liar_succeeds_where_nothing_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scenario of the lying member has teeth: it fails as soon as signatures are not looked at."""
    assert not run_scenario(7, 4.0, 1, "none").violations
    monkeypatch.setattr(Ed25519Voices, "verify", lambda *_: True)
    assert run_scenario(7, 4.0, 1, "none").violations


def test_rumours_of_the_tests_are_signed_as_those_of_the_machine() -> None:
    """What the tests' hands make is what a member would have said."""
    event = UserEvent(B, BOOT, 1, 1, 0, "e")
    assert RUMOURS.decode(said(event)) == Rumours(1_000, Tallies(), Signing(B, FakeVoices(B))).signed(event)

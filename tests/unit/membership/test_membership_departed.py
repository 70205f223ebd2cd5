"""How members end: forced out, left, dead, stopped, and how each of these is told to whoever was not there."""

from __future__ import annotations

import pytest
from membership_hands import BOOT, ME, B, C, D, E, address, claim, dead, hear, live, machine, said, signed, status
from msgspec.structs import replace

from frys_node.base.errors import NotFound
from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Condition, Status
from membership.config import for_profile
from membership.errors import MemberAlive
from membership.findings import LifelineDown, LifelineEnd
from membership.machine import Membership
from membership.member import make_attributes
from membership.messages import NOBODY, Evidence, Gossip, Standing, Sync
from membership.story import Entry
from membership.telling import evidence_told, vote_told
from membership.testimony import Vouch, VouchKind


def test_force_leave_needs_one_failed_member() -> None:
    """Unknown names are refused; a dead one becomes LEFT."""
    m = machine(B)
    with pytest.raises(NotFound):
        m.force_leave("nobody", 0.0)
    hear(m, Gossip((claim(B, Standing.DEAD),)))
    m.force_leave(B, 1.0)
    assert status(m, B) is Status.LEFT
    before = m.story(B)
    m.force_leave(B, 2.0)
    assert m.story(B) == before


def test_the_beginning_of_an_id_names_a_member_if_it_is_the_only_one() -> None:
    """What the log or `members --json` shows can be typed in part; two that fit are both named, and nothing is done."""
    first, second = NodeId("beef1" + 27 * "0"), NodeId("beef2" + 27 * "1")
    m = machine(first, second)
    hear(m, Gossip((claim(first, Standing.DEAD),)), second)
    with pytest.raises(NotFound, match=f"the ids of 2 members begin with 'beef': {first} .*, {second} "):
        m.force_leave("beef", 1.0)
    with pytest.raises(NotFound, match="there is no member 'bee'"):
        m.force_leave("bee", 1.0)
    assert status(m, first) is Status.DEAD
    m.force_leave("BEEF1", 1.0)
    assert status(m, first) is Status.LEFT


def test_force_leave_spares_whoever_is_not_dead() -> None:
    """Alive, suspect, or stalled, whose kernel speaks for it: each is refused, with what to do instead."""
    m = machine(B, C, config=for_profile("lan", watchers=0, probe_interval_s=600.0))
    with pytest.raises(MemberAlive) as alive:
        m.force_leave(B, 0.0)
    assert alive.value.hint == "run `frys-node leave` on it"
    hear(m, Gossip((claim(B, Standing.SUSPECT, accuser=C),)), C, 1.0)
    with pytest.raises(MemberAlive, match="'1' is suspect, not dead") as suspect:
        m.force_leave("1", 1.0)
    assert "wait until it is dead; `frys-node why 1`" in suspect.value.hint
    hear(m, Gossip((), (said(Vouch(B, BOOT, 0, C, VouchKind.KERNEL_ACK, 1)),)), C, 1.5)
    view = m.view(B, 1.6)
    assert view is not None
    assert view.condition is Condition.STALLED
    with pytest.raises(MemberAlive):
        m.force_leave(B, 1.6)
    assert status(m, B) is Status.SUSPECT


def test_vouchers_about_oneself_are_dropped() -> None:
    """A node that was stopped and goes on is not stalled in its own eyes, whatever others still say of it."""
    m = machine(B, C)
    hear(m, Gossip((), (said(Vouch(ME, BOOT, 0, B, VouchKind.KERNEL_ACK, 1)),)), B, 0.2)
    view = m.view(ME, 0.3)
    assert view is not None
    assert view.condition is Condition.OK
    assert m.story(ME) == ()


def test_a_death_names_its_accuser_and_the_evidence_in_every_claim() -> None:
    """So that whoever was not there can tell why; a refutation takes both back."""
    m = machine(B, C, D)
    hear(m, Gossip((claim(B, Standing.SUSPECT, accuser=C),)), C, 1.0)
    hear(m, Gossip((signed(replace(claim(B, Standing.SUSPECT, accuser=D), evidence=Evidence.GONE)),)), D, 1.1)
    live(m, 60.0, dead(B))
    (death,) = [u for u in m.sync(NOBODY, 60.0).updates if u.node == B]
    assert (death.standing, death.accuser, death.evidence) == (Standing.DEAD, ME, Evidence.GONE)
    hear(m, Gossip((claim(B, incarnation=1),)), B, 60.1)
    (back,) = [u for u in m.sync(NOBODY, 60.1).updates if u.node == B]
    assert (back.standing, back.accuser, back.evidence) == (Standing.ALIVE, NOBODY, Evidence.SILENCE)


def test_a_departure_says_who_declared_it() -> None:
    """The leaver itself says nothing of it; another one names itself, and the heir of a name is named."""
    m = machine(B, C)
    m.leave(1.0)
    (gone,) = [u for u in m.sync(NOBODY, 1.0).updates if u.node == ME]
    assert (gone.standing, gone.accuser) == (Standing.LEFT, NOBODY)
    m = machine(B, C)
    hear(m, Gossip((claim(B, Standing.DEAD, accuser=C),)), C)
    m.force_leave(B, 1.0)
    (gone,) = [u for u in m.sync(NOBODY, 1.0).updates if u.node == B]
    assert (gone.standing, gone.accuser) == (Standing.LEFT, ME)


@pytest.mark.parametrize(
    ("accuser", "incarnation", "told"),
    [
        (NOBODY, 1, ("left", NOBODY, "")),
        (B, 1, ("left", NOBODY, "")),
        (D, 0, ("left", D, "")),
        (NOBODY, 0, ("left", NOBODY, "as others say")),
        (E, 0, ("replaced", E, "")),
    ],
)
def test_how_a_departure_is_told(accuser: NodeId, incarnation: int, told: tuple[str, str, str]) -> None:
    """Own word, a forced one, one of a node that does not say who, and one whose name another node has."""
    m = machine(B, C, D)
    heir = signed(replace(claim(E), attributes=make_attributes("1", address(E))))
    hear(m, Gossip((heir, claim(B, Standing.DEAD, accuser=C))), C)
    hear(m, Gossip((claim(B, Standing.LEFT, incarnation, accuser=accuser),)), C, 1.0)
    entry = m.story(B)[-1]
    assert (entry.what, entry.who, entry.detail) == told


def whats(m: Membership, node: NodeId) -> list[str]:
    """The turns of a member's story, in a word each."""
    return [entry.what for entry in m.story(node)]


def test_who_comes_later_is_told_of_a_death_as_of_when_it_was() -> None:
    """By the age of the claim: the death stands before the node's own hearing of it."""
    m = machine(C, D)
    m.merge_sync(
        Sync((signed(replace(claim(B, Standing.DEAD, accuser=D, age_s=30), evidence=Evidence.GONE)),)), C, 40.0
    )
    death, met = m.story(B)
    assert death == Entry(10.0, "dead", D, Evidence.GONE, "as others say")
    assert (met.now_s, met.what, met.detail) == (40.0, "met", "dead")


def test_a_stop_that_was_announced_is_in_the_story_of_that_life_alone() -> None:
    """Not of one that has left, nor of the next; and it accuses nobody."""
    m = machine(B, C)
    m.found(LifelineDown(B, BOOT, LifelineEnd.STOPPED), 1.0)
    assert whats(m, B) == ["met", "stopped"]
    assert status(m, B) is Status.ALIVE
    hear(m, Gossip((claim(B, boot=BOOT + 1),)), B, 2.0, BOOT + 1)
    m.found(LifelineDown(B, BOOT, LifelineEnd.STOPPED), 2.0)
    hear(m, Gossip((claim(C, Standing.LEFT, 1),)), C, 2.0)
    m.found(LifelineDown(C, BOOT, LifelineEnd.STOPPED), 2.1)
    m.found(LifelineDown(C, BOOT, LifelineEnd.GOODBYE), 2.2)
    assert (whats(m, B), whats(m, C)) == (["met", "stopped", "restarted"], ["met", "left"])


def test_an_accuser_that_was_refused_is_not_told_to_have_heard_nothing() -> None:
    """A lone observer, several that do not suffice, and a refusal that belongs to what was over before."""

    def refused(who: NodeId, at_s: float) -> Entry:
        return Entry(at_s, "refused", who, Evidence.CRASH)

    def suspects(who: NodeId, at_s: float, what: str = "suspected") -> Entry:
        return Entry(at_s, what, who, Evidence.SILENCE)

    story = [refused(C, 1.0), suspects(C, 1.0), suspects(D, 1.1, "confirmed"), refused(E, 1.2)]
    told = [evidence_told(story, index) for index in range(len(story))]
    assert told == ["crash", "refused", "silence", "crash"]
    assert vote_told(story, C, Evidence.SILENCE) == "unproven"
    assert vote_told(story, C, Evidence.CRASH) == "crash"
    # The report may come after the accusation that rests on it.
    assert evidence_told([suspects(C, 1.0), refused(C, 1.1)], 0) == "refused"
    for turn in ("refuted", "vouched"):
        over = [refused(C, 1.0), Entry(2.0, turn), suspects(C, 9.0)]
        assert evidence_told(over, 2) == "silence"
        assert vote_told(over, C, Evidence.SILENCE) == "silence"

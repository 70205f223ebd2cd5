"""What lies behind a member's state, and the members' sights laid side by side."""

from __future__ import annotations

import membership_hands as hands
import pytest
from membership_hands import BOOT, CONFIG, ME, B, C, D, E, claim, dead, hear, live, machine, said, signed
from msgspec.structs import replace

from frys_node.base.errors import NotFound
from frys_node.base.types import NodeId
from frys_node.kernel.services.members import MemberView
from membership.config import for_profile
from membership.insight import EdgeView, Seen, Sight, Who
from membership.machine import Membership
from membership.messages import Evidence, Gossip, Standing
from membership.reachability import Answer, Reachability, Silence, judge
from membership.testimony import CrashReport, Vouch, VouchKind

QUIET = for_profile("lan", watchers=0, probe_interval_s=600.0)
"""Without probes that nobody answers here; silence between two packets is no pause either."""

NOW_NS = 1_800_000_000_000_000_000
"""What the wall clock says at 10 s."""


def accused() -> Membership:
    """A machine that has heard C and D accuse B, at 4 and 6 s."""
    m = machine(B, C, D, E, config=QUIET)
    hear(m, Gossip((claim(B, Standing.SUSPECT, accuser=C),)), C, 4.0)
    hear(m, Gossip((claim(B, Standing.SUSPECT, accuser=D),)), D, 6.0)
    return m


def test_a_suspicion_is_told_with_votes_and_wall_clock_times() -> None:
    """Accusers by name with their evidence; the start and the deadline as the driver's clock has them now."""
    why = accused().insight.why("1", 10.0, NOW_NS)
    assert why.suspicion is not None
    assert [(vote.accuser.name, vote.evidence) for vote in why.suspicion.votes] == [("2", "silence"), ("3", "silence")]
    assert why.suspicion.since_unix_ns == NOW_NS - 6_000_000_000
    assert why.suspicion.deadline_unix_ns > NOW_NS
    assert (why.suspicion.is_crash, why.suspicion.is_withheld) == (False, False)
    assert [(turn.what, turn.who and turn.who.name, NOW_NS - turn.unix_ns) for turn in why.story] == [
        ("met", None, 10_000_000_000),
        ("suspected", "2", 6_000_000_000),
        ("confirmed", "3", 4_000_000_000),
    ]


def test_a_crash_that_others_tell_of_is_told_as_hearsay() -> None:
    """Votes and turns say what was told, not `gone`, which nobody has claimed; then `crash`, once it was reported."""
    m = machine(B, C, D, E, config=QUIET)
    for accuser in (C, D):
        told = signed(replace(claim(B, Standing.SUSPECT, accuser=accuser), evidence=Evidence.CRASH))
        hear(m, Gossip((told,)), accuser, 4.0)
    why = m.insight.why("1", 4.0, NOW_NS)
    assert why.suspicion is not None
    assert [(vote.accuser.name, vote.evidence) for vote in why.suspicion.votes] == [("2", "hearsay"), ("3", "hearsay")]
    assert [turn.evidence for turn in why.story] == [None, "hearsay", "hearsay"]
    for observer in (C, D):
        report = CrashReport(B, BOOT, 0, observer, is_lifeline_lost=True)
        hear(m, Gossip((), (said(report),)), observer, 4.1)
    why = m.insight.why("1", 4.1, NOW_NS)
    assert why.suspicion is not None
    assert [vote.evidence for vote in why.suspicion.votes] == ["crash", "crash"]


def test_a_voucher_is_told_and_holds_death_off() -> None:
    """Who vouches, how and when; until when the member is held alive."""
    m = accused()
    hear(m, Gossip((), (said(Vouch(B, BOOT, 0, E, VouchKind.KERNEL_ACK, 1)),)), E, 7.0)
    why = m.insight.why("1", 10.0, NOW_NS)
    assert [(v.voucher.name, v.kind, NOW_NS - v.unix_ns) for v in why.vouchers] == [("4", "kernel_ack", 3_000_000_000)]
    assert why.suspicion is not None
    assert why.suspicion.held_until_unix_ns == NOW_NS + 2_000_000_000
    assert why.member.condition.value == "stalled"


def test_a_forgotten_accuser_is_named_by_its_id() -> None:
    """A story outlives those who are in it."""
    m = machine(B, C)
    hear(m, Gossip((claim(B, Standing.SUSPECT, accuser=C),)), C, 4.0)
    m._claims.forget(C)
    who = m.insight.why(B, 10.0, NOW_NS).story[-1].who
    assert who == Who(id=C, name="")


def test_nobody_and_two_of_one_name_are_refused() -> None:
    """`why` wants one member, by name or id."""
    m = machine(B)
    assert m.insight.why(B, 1.0, NOW_NS).member.id == B
    assert m.insight.why("0", 1.0, NOW_NS).member.id == ME
    with pytest.raises(NotFound, match="no member 'nobody'"):
        m.insight.why("nobody", 1.0, NOW_NS)


def test_a_refuted_suspicion_and_death_are_counted_as_false() -> None:
    """By the same life; a restart proves nothing about the one before."""
    m = accused()
    hear(m, Gossip((claim(B, incarnation=1),)), B, 7.0)
    hear(m, Gossip((claim(C, Standing.DEAD),)), D, 8.0)
    assert [turn.detail for turn in m.insight.why("2", 9.0, NOW_NS).story if turn.what == "dead"] == ["as others say"]
    hear(m, Gossip((claim(C, incarnation=1),)), C, 9.0)
    hear(m, Gossip((claim(D, Standing.DEAD),)), C, 9.0)
    hear(m, Gossip((claim(D, boot=BOOT + 1),)), D, 9.5, BOOT + 1)
    events = m.tallies.events
    assert (events[("false_suspicion",)], events[("false_death",)]) == (1, 1)


def test_the_story_of_a_death_counts_votes_and_time() -> None:
    """The node that concludes it says from how many accusers, and how long after the first."""
    m = machine(B, C, D, E, config=CONFIG)
    for accuser, now_s in ((C, 4.0), (D, 4.5), (E, 5.0)):
        live(m, now_s, dead(B))
        hear(m, Gossip((claim(B, Standing.SUSPECT, accuser=accuser),)), accuser, now_s)
    live(m, 8.5, dead(B))
    assert m.insight.why("1", 9.0, NOW_NS).story[-1].detail == "4 votes, 4.00 s after the first"


def test_a_twin_of_the_askers_table_lists_only_the_dead() -> None:
    """An equal digest stands for the live members; without it all of them are listed."""
    m = machine(B, C)
    hear(m, Gossip((claim(C, Standing.DEAD),)), B, 1.0)
    assert m.insight.sight(m.insight.digest, 2.0).seen == (Seen(C, Standing.DEAD),)
    assert len(m.insight.sight(0, 2.0).seen) == 3


def judged(m: Membership, answers: dict[NodeId, Sight | Silence], edges: tuple[EdgeView, ...] = ()) -> Reachability:
    """Lay sights beside the machine's own."""
    views: list[MemberView] = m.views()
    own = {ME: Answer(0.0, m.insight.sight(m.insight.digest, 5.0))}
    return judge(m.insight.who(ME), views, own | {n: Answer(0.1, s) for n, s in answers.items()}, edges)


def sight(*seen: Seen, is_same: bool = False, cut_off: tuple[NodeId, ...] = (), is_isolated: bool = False) -> Sight:
    """What somebody sees."""
    return Sight(is_same, seen, cut_off, 0, is_isolated)


def everybody(**standings: Standing) -> tuple[Seen, ...]:
    """A full list, everybody alive but for those given by name."""
    return tuple(Seen(node, standings.get(f"n{node[-1]}", Standing.ALIVE)) for node in (ME, B, C))


def test_a_cluster_in_which_all_agree_is_whole() -> None:
    """Twins, and one with a table that differs in what does not matter here."""
    found = judged(machine(B, C), {B: sight(is_same=True), C: sight(*everybody())})
    assert found.is_whole
    assert [row.error for row in found.rows] == [None, None, None]


def test_each_disagreement_is_a_problem_of_its_kind() -> None:
    """Silent, seen otherwise, unknown, a stranger, isolated and cut off."""
    stranger = NodeId("f" * 32)
    b_sees = sight(*everybody(n2=Standing.DEAD), Seen(stranger, Standing.ALIVE), cut_off=(C,), is_isolated=True)
    found = judged(machine(B, C), {B: b_sees, C: Silence(code="request.deadline", message="no answer within 2 s")})
    assert [(p.kind, p.member.name or p.member.id, p.observer and p.observer.name) for p in found.problems] == [
        ("seen_otherwise", "2", "1"),
        ("seen_otherwise", stranger, "1"),
        ("isolated", "1", "1"),
        ("no_answer", "2", "0"),
        ("cut", "2", "1"),
    ]
    assert not found.is_whole
    assert [p.detail for p in judged(machine(B, C), {B: sight(Seen(ME, Standing.ALIVE))}).problems] == [
        "as unknown",
        "as unknown",
    ]


def test_the_dead_are_missed_and_the_departed_are_not() -> None:
    """A dead member is a problem even if all agree; whoever forgot it agrees too; one that left is not listed."""
    m = machine(B, C, D)
    hear(m, Gossip((claim(C, Standing.DEAD), claim(D, Standing.LEFT))), B, 1.0)
    found = judged(m, {B: sight(is_same=True)})
    assert [(p.kind, p.member.name) for p in found.problems] == [("dead", "2")]
    assert [view.name for view in found.members] == ["0", "1", "2"]
    alive = judged(m, {B: sight(*everybody())})
    assert [(p.kind, p.detail) for p in alive.problems] == [
        ("dead", "every path to it is gone"),
        ("seen_otherwise", "as alive"),
    ]


def test_an_edge_is_a_problem_once() -> None:
    """Told by its own end and known by rumour: one problem."""
    m = machine(B, C)
    edge = EdgeView(a=m.insight.who(B), b=m.insight.who(C), unix_ns=NOW_NS, kind="packets")
    found = judged(m, {B: sight(is_same=True, cut_off=(C,)), C: sight(is_same=True)}, (edge,))
    assert [(p.kind, p.member.name) for p in found.problems] == [("cut", "2")]
    found = judged(m, {B: sight(is_same=True), C: sight(is_same=True)}, (edge,))
    assert [(p.kind, p.member.name) for p in found.problems] == [("cut", "2")]


def test_round_trips_are_told_with_their_samples() -> None:
    """Nothing before the first ack."""
    m = machine(B)
    assert m.insight.round_trips(B).srtt_s is None
    member_of = m.insight._claims.table.get(B)
    assert member_of is not None
    member_of.vitals.observe_rtt(0.002)
    assert (m.insight.round_trips(B).srtt_s, m.insight.round_trips(B).samples) == (0.002, 1)
    assert m.insight.why("1", 1.0, NOW_NS).rtt.samples == 1
    assert m.insight.round_trips(NodeId("f" * 32)).samples == 0


def test_evidence_is_told_by_name() -> None:
    """The words of the JSON body are those of the protocol."""
    m = machine(B, C, D)
    hear(m, Gossip((claim(B, Standing.SUSPECT, accuser=C),)), C, 4.0)
    m.insight._claims.accuse(B, (BOOT, 0), hands.accused(B, D, evidence=Evidence.GONE), 5.0, Evidence.GONE)
    why = m.insight.why("1", 6.0, NOW_NS)
    assert [turn.evidence for turn in why.story] == [None, "silence", "gone"]

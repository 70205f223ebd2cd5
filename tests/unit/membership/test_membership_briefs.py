"""Claims without attributes: what they mean, who may use them, and that they always fit."""

from __future__ import annotations

from itertools import product

import pytest
from membership_hands import (
    BOOT,
    ME,
    B,
    C,
    D,
    address,
    claim,
    hear,
    machine,
    own,
    run_to,
    sent,
    signed,
    signing,
    status,
)
from msgspec.structs import replace

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Status
from frys_node.sections import MTU_MIN
from membership.briefs import BRIEFS, brief_of, unfold, whole
from membership.claims import HEADER_BYTES_MAX
from membership.config import for_profile, packet_bytes_for
from membership.effects import PushPull
from membership.machine import Membership
from membership.member import AGE_S_MAX, make_attributes, supersedes
from membership.messages import (
    INCARNATION_MAX,
    NOBODY,
    PACKETS,
    Beat,
    BeatAck,
    Evidence,
    Gossip,
    Ping,
    PingReq,
    Standing,
    Sync,
    Update,
)
from membership.table import Table
from membership.voices import told_to_itself

SMALL = for_profile("lan", watchers=0, packet_bytes_max=packet_bytes_for(MTU_MIN))
WIDE = {"note": "x" * 400}
"""With these tags no packet of a `SMALL` node has room for the whole claim."""


def wide(node: NodeId, standing: Standing = Standing.ALIVE, incarnation: int = 0, accuser: NodeId = NOBODY) -> Update:
    """Make a claim about a member with many tags."""
    attributes = make_attributes(node[-1], address(node), tags=WIDE)
    return signed(replace(claim(node, standing, incarnation, accuser=accuser), attributes=attributes))


def known() -> Membership:
    """A node with small packets that knows B and, with many tags, C."""
    m = machine(B, config=SMALL)
    m.merge_sync(Sync((wide(C), claim(D))), B, 0.0)
    run_to(m, 0.09)
    return m


def test_a_brief_means_the_claim_that_was_meant_or_nothing() -> None:
    """Whoever holds the same attributes gets the claim itself, others none that could win over what they have."""
    tagged = [make_attributes("1", address(B), tags=tags) for tags in ({}, {"a": "1"}, {"a": "2"})]
    for standing, incarnation, meant_as, held_as in product(Standing, range(3), tagged, tagged):
        meant = signed(replace(claim(B, standing, incarnation), attributes=meant_as))
        held = signed(replace(claim(B, incarnation=1), attributes=held_as))
        found = whole(brief_of(meant), held, is_own=False)
        if meant_as == held_as:
            assert found == meant
        else:
            assert found is None or not supersedes(found, held)
            assert (found is None) is (incarnation >= 1)


def test_a_brief_fits_into_the_smallest_packet() -> None:
    """With the longest ids and numbers, beside the header that the queue leaves room for."""
    longest = NodeId("x" * 64)
    update = Update(
        longest,
        (1 << 64) - 1,
        INCARNATION_MAX,
        Standing.LEFT,
        make_attributes("n" * 64, Address("h" * 255, 65_535)),
        longest,
        AGE_S_MAX,
        Evidence.CRASH,
    )
    assert len(BRIEFS.encode(brief_of(update))) <= SMALL.payload_bytes_max - HEADER_BYTES_MAX


def test_the_accused_hears_of_it_and_refutes_in_a_packet() -> None:
    """The buddy system, and the refutation that answers it, both without attributes; none is larger than the link."""
    m = known()
    hear(m, Gossip((wide(C, Standing.SUSPECT, accuser=D),)), D, 0.1)
    effects = hear(m, Ping(7, ME), C, 0.2)
    (told,) = [brief for _, packet in sent(effects) for brief in packet.briefs]
    assert told == brief_of(told_to_itself(wide(C, Standing.SUSPECT, accuser=D)))
    accused = machine(B, config=SMALL)
    accused.set_tags(WIDE, 0.0)
    before = own(accused)
    word = signing(D).accusation((ME, BOOT, before), Evidence.SILENCE).word
    effects = hear(accused, Gossip((), (), (replace(told, node=ME, incarnation=before, word=word),)), B, 0.3)
    effects += run_to(accused, 2.0)
    assert own(accused) == before + 1
    claims = [brief for _, packet in sent(effects) for brief in packet.briefs if brief.node == ME]
    assert {(c.incarnation, c.standing) for c in claims} == {(before + 1, Standing.ALIVE)}
    assert accused.tallies.oversized["brief",] == len(claims)
    assert all(len(PACKETS.encode(packet)) <= SMALL.payload_bytes_max for _, packet in sent(effects))


def test_what_a_node_knows_the_attributes_of_it_believes_at_once() -> None:
    """Suspicion, refutation and death by briefs alone; nobody has to be asked."""
    m = known()
    heard = [wide(C, Standing.SUSPECT, accuser=D), wide(C, incarnation=1), wide(C, Standing.DEAD, 1, D)]
    seen = []
    for number, update in enumerate(heard):
        effects = hear(m, Gossip((), (), (brief_of(update),)), D, 0.1 + number)
        assert not [e for e in effects if isinstance(e, PushPull)]
        seen.append(status(m, C))
    assert seen == [Status.SUSPECT, Status.ALIVE, Status.DEAD]
    view = m.view(C)
    assert view is not None
    assert view.tags == WIDE


@pytest.mark.parametrize(
    "update", [wide(NodeId(f"{'4':a>32}")), signed(replace(wide(C, incarnation=1), attributes=claim(C).attributes))]
)
def test_whoever_tells_of_unknown_attributes_is_asked_for_its_state(update: Update) -> None:
    """A newcomer, or tags that have changed: once per interval, and nothing is made up meanwhile."""
    m = known()
    effects = hear(m, Gossip((), (), (brief_of(update),)), D, 5.0)
    effects += hear(m, Gossip((), (), (brief_of(update),)), D, 5.1)
    assert [e for e in effects if isinstance(e, PushPull)] == [PushPull(D, address(D))]
    before = m.view(update.node)
    assert before is None or before.incarnation == 0
    m.merge_sync(Sync((update,)), D, 5.2)
    view = m.view(update.node)
    assert view is not None
    assert (view.incarnation, view.tags) == (update.incarnation, dict(update.attributes.tags))


def test_an_unknown_member_that_is_gone_is_no_reason_to_ask() -> None:
    """Who forgot the dead must not exchange states with everybody who remembers them."""
    gone = brief_of(wide(NodeId(f"{'4':a>32}"), Standing.DEAD))
    assert unfold(Gossip((), (), (gone,)), Table(ME), ME) == ([], False)
    assert unfold(Gossip((claim(B),)), Table(ME), ME) == ((claim(B),), False)


def test_every_packet_can_carry_an_accusation() -> None:
    """Even a request for an indirect ping of a host with a long name, on the smallest link."""
    m = known()
    hear(m, Gossip((wide(C, Standing.SUSPECT, accuser=D),)), D, 0.1)
    host = "h" * 255
    for packet in (Beat(1), BeatAck(1), Ping(1, C), PingReq(1, D, host, 7946)):
        m._outbox.send(address(C), packet, m._claims.about(C))
    packets = [packet for _, packet in sent(m.end_turn(0.2))]
    told = [{c.node for c in packet.updates} | {c.node for c in packet.briefs} for packet in packets[:4]]
    assert all(C in nodes for nodes in told)
    assert [brief.node for brief in packets[3].briefs] == [C]
    assert ("left_out",) not in m.tallies.oversized

"""The membership machine by hand: bytes in, effects out, one behaviour each."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from membership_hands import (
    BOOT,
    CONFIG,
    ME,
    B,
    C,
    D,
    accused,
    address,
    claim,
    dead,
    hear,
    live,
    machine,
    own,
    run_to,
    sent,
    signed,
    status,
)
from msgspec.structs import replace

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Status
from membership.briefs import brief_of
from membership.config import for_profile
from membership.effects import (
    Effect,
    Emit,
    LeaveAcknowledged,
    Peer,
    PersistPeers,
    PushPull,
    RoundTrip,
    Superseded,
)
from membership.farewell import TOLD_AT_ONCE, TOLD_MAX
from membership.member import make_attributes
from membership.messages import (
    NOBODY,
    PACKETS,
    SYNC_UPDATES_MAX,
    SYNCS,
    Ack,
    Beat,
    BeatAck,
    Brief,
    Evidence,
    Gossip,
    Nack,
    NackReason,
    Packet,
    Ping,
    PingReq,
    Standing,
    Sync,
    Update,
)
from membership.probing import RELAYS_MAX

GOLDEN = Path(__file__).parents[2] / "golden"


def test_a_ping_is_acked_to_where_it_came_from() -> None:
    """An ack carries the sequence and this node's id; a ping meant for another node is dropped and counted."""
    m = machine(B)
    (reply,) = sent(hear(m, Ping(9, ME)))
    assert reply[0] == address(B)
    assert isinstance(reply[1], Ack)
    assert (reply[1].sequence, reply[1].node) == (9, ME)
    assert sent(hear(m, Ping(9, NOBODY)))
    assert not sent(hear(m, Ping(9, C)))
    assert m.tallies.dropped == {("misaddressed",): 1}


def test_a_suspicion_of_itself_is_refuted_in_the_very_reply() -> None:
    """M3: hearing suspect(i), i >= own, the node stands at i + 1 and says so at once."""
    m = machine(B, C)
    (reply,) = sent(hear(m, Ping(1, ME, (claim(ME, Standing.SUSPECT, 4, accuser=C),))))
    assert own(m) == 5
    assert claim(ME, Standing.ALIVE, 5) in reply[1].updates


def test_a_stale_suspicion_does_not_raise_the_incarnation_but_is_answered() -> None:
    """Who says it has not heard of the refutation: the own claim rides in the reply again, or halves stay apart."""
    m = machine(B)
    hear(m, Ping(1, ME, (claim(ME, Standing.DEAD, 7),)))
    run_to(m, 20.0)
    (reply,) = sent(hear(m, Ping(2, ME, (claim(ME, Standing.DEAD, 7),)), now_s=20.0))
    assert own(m) == 8
    assert claim(ME, Standing.ALIVE, 8) in reply[1].updates


def test_accusations_of_an_earlier_boot_leave_the_incarnation_alone() -> None:
    """The dead self of yesterday is somebody else."""
    m = machine(B)
    hear(m, Ping(1, ME, (claim(ME, Standing.DEAD, 3, boot=BOOT - 1),)))
    assert own(m) == 0


def test_a_higher_boot_of_itself_is_reported_once() -> None:
    """A twin or a restored data directory is an operator's matter, not something to refute."""
    m = machine(B)
    effects = hear(m, Gossip((claim(ME, boot=BOOT + 1),)))
    assert Superseded(BOOT + 1) in effects
    assert Superseded(BOOT + 1) not in hear(m, Gossip((claim(ME, boot=BOOT + 1),)))
    assert own(m) == 0


def test_silence_leads_from_helpers_to_suspicion_to_death() -> None:
    """Direct ping, helpers after the ack timeout, suspicion at the interval's end, death after the floor."""
    m = machine(B, C)
    effects: list[Effect] = []
    now_s = 0.0
    # C acks everything; B is silent, and C says so when asked.
    while not any(isinstance(e, Emit) and e.event.new.status is Status.DEAD for e in effects) and now_s < 60:
        now_s = m.next_deadline_s
        out = m.advance(now_s)
        effects += out
        for where, message in sent(out):
            if where == address(C) and isinstance(message, Ping):
                effects += hear(m, Ack(message.sequence, C), C, now_s)
            if where == address(C) and isinstance(message, PingReq):
                assert message.target == B
                (accusation,) = accused(B, C)
                nack = Nack(message.sequence, B, boot=BOOT, word=accusation.word)
                effects += hear(m, nack, C, now_s)
    assert status(m, B) is Status.DEAD
    assert status(m, C) is Status.ALIVE
    changes = [(e.event.new.status, e.event.new.id) for e in effects if isinstance(e, Emit)]
    assert changes == [(Status.SUSPECT, B), (Status.DEAD, B)]
    assert now_s < 8.0
    assert m.tallies.events["confirmation",] == 1


def test_an_ack_by_a_helper_saves_the_member() -> None:
    """A broken path between two nodes is no death while others get through."""
    m = machine(B, C)
    now_s = 0.0
    while now_s < 30.0:
        now_s = m.next_deadline_s
        for where, message in sent(m.advance(now_s)):
            if where == address(C) and isinstance(message, Ping | PingReq):
                node = C if isinstance(message, Ping) else B
                hear(m, Ack(message.sequence, node), C, now_s)
    assert status(m, B) is Status.ALIVE
    assert m.tallies.events["saved_by_helper",] > 5
    assert ("suspicion",) not in m.tallies.events


def test_a_helper_passes_on_the_ack_or_says_nack_in_time() -> None:
    """Indirect pings end in an ack from the target itself or a nack before the asker's interval is over."""
    m = machine(B, C)
    (ping,) = sent(hear(m, PingReq(77, C, *address(C)), B, 0.1))
    assert ping[0] == address(C)
    assert isinstance(ping[1], Ping)
    assert not sent(hear(m, Ack(ping[1].sequence, C), D, 0.15))
    acks = [p for p in sent(hear(m, Ack(ping[1].sequence, C), C, 0.2)) if isinstance(p[1], Ack)]
    assert [(where, p.sequence, p.node) for where, p in acks if isinstance(p, Ack)] == [(address(B), 77, C)]
    hear(m, PingReq(78, C, *address(C)), B, 0.3)
    nacks = [p for p in sent(run_to(m, 0.3 + CONFIG.nack_after_s)) if isinstance(p[1], Nack)]
    assert [(where, p.sequence, p.target) for where, p in nacks if isinstance(p, Nack)] == [(address(B), 78, C)]


def test_relays_are_bounded() -> None:
    """A flood of requests for indirect pings is refused and counted beyond the limit."""
    m = machine(B, C)
    for sequence in range(RELAYS_MAX + 5):
        hear(m, PingReq(sequence, C, *address(C)), B, 0.0)
    assert m.tallies.dropped["relays_full",] == 5


def test_a_round_trip_reaches_view_and_effect() -> None:
    """The time between ping and ack is measured for direct answers."""
    m = machine(B)
    (ping,) = [p for p in sent(run_to(m, 1.0)) if isinstance(p[1], Ping)][:1]
    assert isinstance(ping[1], Ping)
    started_s = m.next_deadline_s - CONFIG.ack_timeout_s
    effects = hear(m, Ack(ping[1].sequence, B), B, started_s + 0.02)
    (trip,) = [e for e in effects if isinstance(e, RoundTrip)]
    view = m.view(B)
    assert view is not None
    assert view.rtt_s == trip.rtt_s
    assert 0 < trip.rtt_s < CONFIG.ack_timeout_s


def test_a_dead_member_stays_dead_until_a_higher_identity() -> None:
    """M9: replays of old claims change nothing, a higher incarnation or boot does."""
    m = machine(B, C)
    hear(m, Gossip((claim(C, Standing.DEAD, 3),)))
    for old in (claim(C, Standing.ALIVE, 3), claim(C, Standing.SUSPECT, 3), claim(C, Standing.ALIVE, 9, boot=1)):
        hear(m, Gossip((old,)))
        assert status(m, C) is Status.DEAD
    hear(m, Gossip((claim(C, Standing.ALIVE, 4),)))
    assert status(m, C) is Status.ALIVE
    hear(m, Gossip((claim(C, Standing.LEFT, 4),)))
    hear(m, Gossip((claim(C, Standing.ALIVE, 0, boot=BOOT + 1),)))
    assert status(m, C) is Status.ALIVE


def test_a_member_believed_dead_that_speaks_is_told_so() -> None:
    """The reply carries the accusation, so that it can refute; that is how partitions heal."""
    m = machine(B, C)
    hear(m, Gossip((claim(C, Standing.DEAD),)))
    (reply,) = sent(hear(m, Ping(3, ME), C))
    assert next((u.node, u.standing) for u in reply[1].updates) == (C, Standing.DEAD)
    effects = hear(m, Gossip((claim(C, Standing.ALIVE, 1),)), C, 5.0)
    assert PushPull(C, address(C)) in effects


def test_a_stranger_and_a_newer_boot_are_asked_for_their_state_once_per_interval() -> None:
    """Third parties make nobody a member without an exchange; repeated packets do not repeat it."""
    m = machine(B)
    assert PushPull(D, address(D)) in hear(m, Ping(1, ME), D, 0.1)
    assert PushPull(D, address(D)) not in hear(m, Ping(2, ME), D, 0.2)
    assert PushPull(B, address(B)) in hear(m, Ping(1, ME), B, 0.3, boot=BOOT + 1)
    assert m.view(D) is None


def test_a_packet_of_an_old_boot_is_answered_with_the_newer_claim() -> None:
    """A former self that is still about learns that it has been superseded, and changes nothing."""
    m = machine(B)
    hear(m, Gossip((claim(B, boot=BOOT + 1),)), C)
    (reply,) = sent(hear(m, Gossip(), B, boot=BOOT))
    assert reply[1].updates[0].boot == BOOT + 1
    assert m.tallies.dropped["stale_boot",] == 1


def test_leave_is_repeated_until_acknowledged_and_never_refuted() -> None:
    """The goodbye goes out until somebody acks it; later accusations do not bring the node back."""
    m = machine(B, C)
    first = sent(m.leave(1.0))
    assert {p[0] for p in first} == {address(B), address(C)}
    assert all(p[1].updates[0].standing is Standing.LEFT for p in first)
    later = [p for p in sent(run_to(m, 2.0)) if isinstance(p[1], Ping)]
    assert later
    assert isinstance(later[-1][1], Ping)
    effects = hear(m, Ack(later[-1][1].sequence, B), B, 2.0)
    assert LeaveAcknowledged(B) in effects
    assert m.leave(2.1) == []
    hear(m, Gossip((claim(ME, Standing.DEAD, 9),)), B, 2.2)
    assert status(m, ME) is Status.LEFT


def goodbyes(effects: list[Effect]) -> dict[Address, int]:
    """Who is told by a packet of its own that this node leaves, and the number of that ping."""
    return {where: p.sequence for where, p in sent(effects) if isinstance(p, Ping)}


def test_a_leave_is_told_to_every_member_until_it_has_acknowledged() -> None:
    """Sixty-four at once and the others a round later; who acknowledges hears no more, who does not, thrice."""
    nodes = [NodeId(f"{index:032x}") for index in range(70)]
    at = {node: Address(f"10.0.1.{index}", 7946) for index, node in enumerate(nodes)}
    m = machine()
    found = [signed(Update(n, BOOT, 0, Standing.ALIVE, make_attributes(n, at[n]))) for n in nodes]
    m.merge_sync(Sync(tuple(found[:SYNC_UPDATES_MAX])), nodes[0], 0.0)
    m.merge_sync(Sync(tuple(found[SYNC_UPDATES_MAX:])), nodes[0], 0.0)
    first = goodbyes(m.leave(1.0))
    assert len(first) == TOLD_AT_ONCE
    told, mute = dict.fromkeys(first, 1), next(iter(first))
    unanswered = dict(first)
    while not m.has_said_all:
        for where, sequence in unanswered.items():
            if where != mute:
                node = next(node for node in nodes if at[node] == where)
                m.receive(PACKETS.encode(Ack(sequence, node)), node, where, m._claims.now_s, source_boot=BOOT)
        unanswered = goodbyes(m.advance(m.next_deadline_s))
        for where in unanswered:
            told[where] = told.get(where, 0) + 1
    assert told == {where: TOLD_MAX if where == mute else 1 for where in at.values()}


def test_a_leave_that_nobody_acknowledges_goes_on_to_a_few() -> None:
    """After everybody was told thrice, as many as gossip takes are told each round, and one ack ends it."""
    m = machine(B, C, D, config=replace(CONFIG, gossip_fanout=1))
    m.leave(1.0)
    run_to(m, 4.0)
    assert not m.has_said_all
    later = goodbyes(run_to(m, 4.0 + CONFIG.gossip_interval_s))
    assert len(later) == 1
    ((where, sequence),) = later.items()
    node = next(node for node in (B, C, D) if address(node) == where)
    assert LeaveAcknowledged(node) in hear(m, Ack(sequence, node), node, 4.3)
    assert m.has_said_all


def test_leave_of_a_node_alone_is_acknowledged_at_once() -> None:
    """Nobody is there to tell."""
    assert LeaveAcknowledged(ME) in machine().leave(0.0)


def test_joining_asks_known_nodes_over_the_channel_and_addresses_by_packet() -> None:
    """A few at a time, all of them again until somebody answers, never this node itself."""
    m = machine()
    effects = m.join([Peer(B, address(B)), Peer(NOBODY, address(C)), Peer(ME, address(ME))], 0.0)
    assert [e for e in effects if isinstance(e, PushPull)] == [PushPull(B, address(B))]
    assert {where for where, _ in sent(effects)} == {address(B), address(C)}
    again = run_to(m, 3.0)
    assert {where for where, _ in sent(again)} == {address(B), address(C)}


def test_peers_to_persist_are_live_then_failed_then_unmet() -> None:
    """What is written for the next start leaves out who has left."""
    m = machine(B, C)
    m.join([Peer(NOBODY, Address("seed", 1))], 0.0)
    hear(m, Gossip((claim(B, Standing.DEAD), claim(D, Standing.LEFT))), C)
    (persist,) = [e for e in run_to(m, 4.0) if isinstance(e, PersistPeers)][-1:]
    assert [p.node for p in persist.peers] == [C, B, NOBODY]


def test_a_full_table_refuses_strangers_and_counts_them() -> None:
    """Memory is bounded by `members_max`, whatever others say."""
    m = machine(config=for_profile("lan", members_max=3))
    hear(m, Gossip(tuple(claim(NodeId(f"{i:032x}")) for i in range(10))))
    assert len(m.views()) == 3
    assert m.tallies.dropped["table_full",] == 8


def test_the_dead_and_the_left_are_forgotten_in_time_and_not_learnt_again_from_stale_tables() -> None:
    """A tombstone whose time is up elsewhere does not come back through a member that still has it."""
    m = machine(B, config=for_profile("lan", dead_reap_s=100.0, left_reap_s=50.0))
    hear(m, Gossip((claim(C, Standing.DEAD), claim(D, Standing.LEFT))), B)
    run_to(m, 95.0)
    assert m.view(D) is None
    assert status(m, C) is Status.DEAD
    run_to(m, 150.0)
    assert m.view(C) is None
    m.merge_sync(Sync((claim(C, Standing.DEAD, age_s=120), claim(D, Standing.LEFT, age_s=49))), B, 150.0)
    assert m.view(C) is None
    assert status(m, D) is Status.LEFT


def test_large_tables_are_exchanged_in_pieces() -> None:
    """Pieces follow one another by node id and together hold everybody once."""
    m = machine(config=for_profile("lan", members_max=2_000))
    everybody = tuple(claim(NodeId(f"{i:032x}")) for i in range(1_200))
    for start in range(0, 1_200, SYNC_UPDATES_MAX):
        m.merge_sync(Sync(everybody[start : start + SYNC_UPDATES_MAX]), B, 0.0)
    seen: list[NodeId] = []
    after = NOBODY
    while True:
        piece = SYNCS.decode(SYNCS.encode(m.sync(after, 1.0)))
        seen += [u.node for u in piece.updates]
        after = seen[-1]
        if not piece.more:
            break
    assert len(seen) == 1_201
    assert seen == sorted(set(seen))


def test_after_a_pause_nobody_is_accused_of_it() -> None:
    """A node that stood still itself restarts its suspicions and drops the verdict of the running probe."""
    m = machine(B, C)
    hear(m, Gossip((claim(C, Standing.SUSPECT, accuser=B),)), B, 0.0)
    while not any(isinstance(p, Ping) for _, p in sent(m.advance(m.next_deadline_s))):
        continue
    m.advance(40.0)
    assert status(m, C) is Status.SUSPECT
    assert status(m, B) is Status.ALIVE
    assert m.tallies.events["pause",] == 1


def test_a_node_alone_sets_no_timer_but_the_reaper() -> None:
    """Nothing to probe, nothing to tell: an idle single node sleeps."""
    m = machine()
    effects = run_to(m, 3_600.0)
    assert effects == []
    assert m.next_deadline_s <= 3_630.0


@given(st.binary(max_size=200))
def test_no_bytes_make_the_machine_raise(payload: bytes) -> None:
    """Junk that passed the seal, e.g. from a later version, is dropped and counted."""
    m = machine(B)
    m.receive(payload, B, address(B), 0.1, source_boot=BOOT)
    assert sum(m.tallies.packets.values()) + sum(m.tallies.dropped.values()) >= 1


def bare(
    node: NodeId,
    standing: Standing = Standing.ALIVE,
    incarnation: int = 0,
    boot: int = BOOT,
    accuser: NodeId = NOBODY,
    age_s: int = 0,
) -> Update:
    """Make a claim as it was before there were signatures."""
    return replace(claim(node, standing, incarnation, boot, accuser, age_s), proof=b"", word=b"", accusations=())


SYNC = Sync((bare(B),), C, more=True)
PACKETS_1: dict[str, Packet] = {
    "ping": Ping(1, B, (bare(C, Standing.SUSPECT, 2, accuser=D),)),
    "ack": Ack(2, B, (), 0xFFFF_FFFF_FFFF_FFFF),
    "ping_req": PingReq(3, C, "10.0.0.2", 7946),
    "nack": Nack(4, C),
    "gossip": Gossip((bare(B, Standing.DEAD, 1, age_s=7), bare(D, Standing.LEFT, 9, boot=1 << 63))),
}
PACKETS_2: dict[str, Packet] = PACKETS_1 | {
    "nack_refused": Nack(4, C, (), NackReason.REFUSED),
    "suspicion": Gossip((replace(bare(B, Standing.SUSPECT, accuser=C), evidence=Evidence.CRASH),)),
}
SYNC_3 = replace(SYNC, said=b"\x92\x90\xc3")
PACKETS_3: dict[str, Packet] = PACKETS_2 | {"rumours": Gossip((), (b"\x93\x63one", b""))}
BRIEF = Brief(C, BOOT, 2, Standing.SUSPECT, b"\x01\x02\x03\x04\x05\x06\x07\x08", D, 3, Evidence.GONE)
PACKETS_4: dict[str, Packet] = PACKETS_3 | {
    "ping_brief": Ping(1, B, (), (BRIEF,)),
    "ack_brief": Ack(2, B, (), 0xFFFF_FFFF_FFFF_FFFF, (BRIEF,)),
    "ping_req_brief": PingReq(3, C, "10.0.0.2", 7946, (), (BRIEF,)),
    "nack_brief": Nack(4, C, (), NackReason.REFUSED, (BRIEF,)),
    "gossip_brief": Gossip((bare(B),), (b"\x93\x63one",), (BRIEF,)),
    "beat_brief": Beat(70_000, (), (BRIEF,)),
    "beat_ack_brief": BeatAck(70_000, (), (BRIEF,)),
}


DEATH = replace(claim(B, Standing.DEAD, 1, accuser=C), accusations=accused(B, D))
PACKETS_5: dict[str, Packet] = PACKETS_4 | {
    "claim": Gossip((claim(B),)),
    "accusation": Ping(1, B, (claim(B, Standing.SUSPECT, accuser=C),)),
    "death": Gossip((DEATH,), (), (brief_of(DEATH),)),
    "nack_accusing": Nack(4, C, (), NackReason.TIMEOUT, (), BOOT, 2, accused(C, D)[0].word),
}
SYNC_5 = replace(SYNC_3, statements=(b"statement",))


def golden_lines(version: int) -> dict[str, bytes]:
    """Return the golden packets of a version by name."""
    lines = (GOLDEN / f"membership-packets-{version}.hex").read_text().splitlines()
    return {name: bytes.fromhex(data) for name, data in (line.split() for line in lines if not line.startswith("#"))}


@pytest.mark.parametrize(
    ("version", "packets", "sync"),
    [
        (1, PACKETS_1, SYNC),
        (2, PACKETS_2, SYNC),
        (3, PACKETS_3, SYNC_3),
        (4, PACKETS_4, SYNC_3),
        (5, PACKETS_5, SYNC_5),
    ],
)
def test_golden_packets_decode_for_ever(version: int, packets: dict[str, Packet], sync: Sync) -> None:
    """Bytes that any version has written mean the same in every later one."""
    golden = golden_lines(version)
    assert SYNCS.decode(golden.pop("sync")) == sync
    assert {name: PACKETS.decode(data) for name, data in golden.items()} == packets


def test_packets_are_written_as_the_newest_golden_ones() -> None:
    """What is written today is the newest golden file, byte for byte."""
    golden = golden_lines(5)
    assert golden.pop("sync") == SYNCS.encode(SYNC_5)
    assert golden == {name: PACKETS.encode(packet) for name, packet in PACKETS_5.items()}


def test_the_name_of_a_dead_member_may_be_taken_over() -> None:
    """30 s after the death a live member of its name makes the dead one count as left; before that both stay."""
    m = machine(B, C)
    hear(m, Gossip((claim(C, Standing.DEAD),)), B, 1.0)
    heir = signed(replace(claim(D), attributes=claim(C).attributes))
    hear(m, Gossip((heir,)), B, 2.0)
    assert not m.is_lost(C, 30.9)
    assert m.is_lost(C, 31.0)
    assert not m.is_lost(B, 31.0)
    live(m, 30.5, dead(C))
    assert status(m, C) is Status.DEAD
    live(m, 60.5, dead(C))
    assert status(m, C) is Status.LEFT
    assert status(m, D) is Status.ALIVE
    assert (m.story(C)[-1].what, m.story(C)[-1].who) == ("replaced", D)
    hear(m, Gossip((claim(C, Standing.ALIVE, 1),)), B, 61.0)
    assert status(m, C) is Status.ALIVE


def test_a_return_makes_others_that_are_lost_be_tried_in_haste() -> None:
    """A partition heals: whoever is back brings the rest, within a fraction of the usual interval."""
    others = [NodeId(f"{index:032x}") for index in range(4, 10)]
    m = machine(B, *others)
    hear(m, Gossip(tuple(claim(node, Standing.DEAD) for node in others)), B, 1.0)
    live(m, 10.0, dead(*others))
    hear(m, Gossip((claim(others[0], Standing.ALIVE, 1),)), others[0], 10.0)
    tried = [node for _, node, p in live(m, 10.1, dead(*others[1:])) if isinstance(p, Ping)]
    assert set(others[1:]) <= set(tried)
    live(m, 30.0, dead(*others[1:]))
    later = [node for _, node, p in live(m, 40.0, dead(*others[1:])) if node in others[1:] and isinstance(p, Ping)]
    assert 4 <= len(later) <= 6

"""What a hostile or broken member may say: nothing of it breaks a node, speaks in its name or takes its memory."""

from __future__ import annotations

import msgspec
import pytest
from membership_hands import (
    BOOT,
    ME,
    B,
    C,
    address,
    claim,
    hear,
    machine,
    own,
    run_to,
    said,
    sent,
    signed,
    signing,
    status,
)
from msgspec.structs import replace

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Status
from membership.catchup import BATCHES, HEADS, Batch, CatchUp, Head, Heads
from membership.config import for_profile
from membership.driver_exchange import PUSH_PULL
from membership.edges import Edge
from membership.effects import Tallies
from membership.events import WINDOW, Events
from membership.member import AGE_S_MAX, ATTRIBUTES_BYTES_MAX, is_acceptable, make_attributes
from membership.messages import (
    INCARNATION_MAX,
    NOBODY,
    PACKETS,
    SYNC_PLAIN_BYTES_MAX,
    UPDATES,
    Attributes,
    Gossip,
    Ping,
    PingReq,
    Standing,
    Sync,
)
from membership.peers import INTRODUCED_MAX
from membership.probing import RELAYS_MAX
from membership.queries import ANSWERING_MAX
from membership.rumours import (
    RUMOURS_BYTES_MAX,
    RUMOURS_MAX,
    Query,
    Rumour,
    Rumours,
    StateDelta,
    UserEvent,
)
from membership.state import States
from membership.testimony import CrashReport, Vouch, VouchKind

TOP = 1 << 62


def events(boot: int = BOOT) -> Events:
    """Make the events of this node."""
    tallies = Tallies()
    return Events(ME, boot, Rumours(1_000, tallies, signing(ME)), tallies)


def test_a_forged_age_does_not_break_the_next_exchange() -> None:
    """An age beyond what anybody remembers is refused: told on, it would be a number that no message holds."""
    m = machine(B, C)
    hear(m, Gossip((claim(C, Standing.DEAD, 1, age_s=(1 << 64) - 1),)))
    assert m.tallies.dropped == {("unacceptable",): 1}
    assert status(m, C) is Status.ALIVE
    hear(m, Gossip((claim(C, Standing.DEAD, 1, age_s=AGE_S_MAX),)))
    assert status(m, C) is Status.DEAD
    (told,) = [update for update in m.sync(NOBODY, 100.0).updates if update.node == C]
    assert UPDATES.decode(UPDATES.encode(told)) == told
    assert msgspec.json.encode(m.views(100.0))


def test_the_last_incarnation_is_not_passed() -> None:
    """Accused under the highest incarnation there is, a node goes on to say what others can read."""
    m = machine(B, C)
    hear(m, Gossip((claim(ME, Standing.SUSPECT, INCARNATION_MAX, accuser=B),)))
    assert own(m) == INCARNATION_MAX
    hear(m, Gossip((), (said(CrashReport(ME, BOOT, INCARNATION_MAX, B, True)),)))
    m.set_attributes(make_attributes("0", address(ME), "", {"a": "1"}), 0.2)
    assert own(m) == INCARNATION_MAX
    heard = [packet for _, packet in sent(run_to(m, 3.0))]
    assert any(update.node == ME for packet in heard for update in packet.updates)
    m.leave(3.1)
    assert sent(run_to(m, 4.0))


def test_only_this_node_numbers_its_events() -> None:
    """What others say in its name of this boot or a later one is refused; its next event is the next one."""
    mine = events()
    mine.fire("a", b"", 0.0, 0)
    for boot, sequence in ((BOOT, 1), (BOOT, TOP - 1), (BOOT + 1, 1)):
        assert not mine.take(UserEvent(ME, boot, sequence, 1, 0, "forged"), 1.0)
        mine.adopt(ME, boot, sequence, frozenset(), 1.0, False)
    assert mine._tallies.rumours_dropped == {("known", "event"): 1, ("forged", "event"): 2}
    fired = mine.fire("b", b"", 2.0, 0)
    assert (fired.boot, fired.sequence) == (BOOT, 2)
    assert [event.name for event in mine.delivered] == ["a", "b"]


def test_the_events_of_a_boot_begin_at_one_although_the_last_boot_is_remembered() -> None:
    """A node that hears of its own past first would number on from there, and everybody would miss the rest."""
    mine = events()
    mine.adopt(ME, BOOT - 1, 40, frozenset(), 0.0, True)
    assert mine.take(UserEvent(ME, BOOT - 1, 41, 1, 0, "old"), 0.0)
    fired = mine.fire("new", b"", 1.0, 0)
    assert (fired.boot, fired.sequence) == (BOOT, 1)
    assert not mine.windows[ME].missing


def test_a_forged_head_costs_no_memory() -> None:
    """A number of events beyond all counting is compared, not counted up to."""
    tallies = Tallies()
    rumours = Rumours(1_000, tallies, signing(ME))
    mine, states = Events(ME, BOOT, rumours, tallies), States(ME, BOOT, rumours, 1_000, tallies, signing(ME))
    repair = CatchUp(mine, states, rumours, lambda _: BOOT)
    mine.take(UserEvent(B, BOOT, 3, 1, 0, "e"), 0.0)
    assert repair.meet(Heads((Head(B, BOOT, 0, TOP - 1, (1, 2, TOP - 2)),), True), 0.0) is None
    batch = repair.meet(Heads((Head(B, BOOT, 0, TOP - 1, (3,)),), True), 0.0)
    assert batch is not None
    assert len(batch.rumours) == 1


def test_heads_fit_into_a_frame_whatever_is_missing() -> None:
    """Four hundred origins with every number missing would make each exchange too large to send."""
    m = machine(B)
    for number in range(400):
        event = UserEvent(NodeId(f"{number:032x}"), BOOT, TOP - 1, 1, 0, "e")
        hear(m, Gossip((), (said(event),)))
    piece = m.sync(NOBODY, 1.0)
    assert len(piece.said) < 300 * 1_024
    heads = HEADS.decode(piece.said).heads
    assert 50 < len(heads) < 400
    assert all(len(head.missing) == WINDOW - 1 for head in heads)
    assert m.talk.take_batch(Batch((), Heads(), False), B, 1.0) == piece.said


def test_an_update_over_its_size_is_refused() -> None:
    """Limits of characters are not limits of bytes: such claims fill packets and make pieces larger than a frame."""
    wide = Attributes("\N{SNOWMAN}" * 64, "\N{SNOWMAN}" * 255, 7946)
    assert len(UPDATES.encode(signed(replace(claim(B), attributes=wide)))) > ATTRIBUTES_BYTES_MAX
    large = replace(wide, http="\N{SNOWMAN}" * 200)
    assert not is_acceptable(signed(replace(claim(B), attributes=large)))
    honest = make_attributes("n" * 64, address(B), "", {"k": "v" * 480})
    assert is_acceptable(signed(replace(claim(B), attributes=honest, accuser=C)))
    m = machine(config=for_profile("lan", members_max=2_000))
    for start in range(0, 600, 300):
        ids = (NodeId(f"{number:032x}") for number in range(start, start + 300))
        m.merge_sync(Sync(tuple(signed(replace(claim(node), attributes=large)) for node in ids)), B, 0.0)
        ids = (NodeId(f"{number:032x}") for number in range(start, start + 300))
        m.merge_sync(Sync(tuple(signed(replace(claim(node), attributes=honest)) for node in ids)), B, 0.0)
    assert len(PUSH_PULL.reply.encode(m.sync(NOBODY, 0.0))) < SYNC_PLAIN_BYTES_MAX


@pytest.mark.parametrize("packet_bytes_max", [576, 1_400])
def test_what_should_ride_along_and_does_not_fit_stays_behind(packet_bytes_max: int) -> None:
    """A packet never exceeds its size, even for a helper that is suspect and asked about a host of a long name."""
    config = for_profile("lan", watchers=0, packet_bytes_max=packet_bytes_max)
    m = machine(config=config)
    long = Attributes("c", "h" * 255, 7946, "", (("k", "v" * 500),))
    m.merge_sync(Sync((claim(B, Standing.SUSPECT, accuser=C), signed(replace(claim(C), attributes=long)))), B, 0.0)
    hear(m, Gossip((signed(replace(claim(C, Standing.SUSPECT, accuser=B), attributes=long)),)))
    packets = sent(hear(m, Ping(1, NodeId("")), C)) + sent(run_to(m, 4.0))
    assert any(isinstance(packet, PingReq) for _, packet in packets)
    assert all(len(PACKETS.encode(packet)) <= config.payload_bytes_max for _, packet in packets)


def rumours_about(number: int) -> list[Rumour]:
    """One rumour of each kind that names nobody that was named before."""
    node = NodeId(f"{number:032x}")
    return [
        Edge(node, B, number),
        Vouch(B, BOOT, 0, node, VouchKind.DATAGRAM, number),
        CrashReport(node, BOOT, 0, B, True),
        UserEvent(node, BOOT, 1 + number, 1, 0, "e", bytes(500)),
        Query(node, BOOT, 1 + number, 1, 600_000, "nothing", b"", (), (), True),
        StateDelta(node, BOOT, 0, 0, 1 + number),
    ]


def test_a_flood_of_forgeries_stays_within_every_bound() -> None:
    """Thousands of strangers, rumours and requests later each list is as long as its limit and the node goes on."""
    m = machine(B, C, config=for_profile("lan", members_max=16))
    for number in range(3_000):
        stranger, now_s = NodeId(f"{number:032x}"), number / 1e4
        data = tuple(map(said, rumours_about(number)))
        m.receive(PACKETS.encode(Gossip((), data)), stranger, address(B), now_s, source_boot=BOOT)
        hear(m, Gossip((claim(stranger),)), B, now_s)
        hear(m, PingReq(number, stranger, "10.0.0.9", 1), B, now_s)
    claims, talk = m._claims, m.talk
    assert len(claims.table) == 16
    assert m.queue_length <= 16
    assert len(m.rumours.queue) <= RUMOURS_MAX
    assert m.rumours.queue.bytes <= RUMOURS_BYTES_MAX
    assert len(m._introductions._last_s) <= INTRODUCED_MAX
    assert len(m._probing._relays) == RELAYS_MAX
    assert len(claims.edges) == 0
    assert len(talk.queries._answering) == ANSWERING_MAX
    assert len(m._guard._heard) <= 1_024
    assert len(BATCHES.encode(Batch((), talk.catch_up.heads()))) < SYNC_PLAIN_BYTES_MAX
    assert status(m, ME) is Status.ALIVE
    assert sent(run_to(m, 1.0))

"""Rumours: the queue's order and bounds, and their way through the machine's packets."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from membership_hands import signed, signing, spoken
from msgspec.structs import replace

from frys_node.base.types import Address, NodeId
from frys_node.testing.voices import FakeVoices
from membership.config import for_profile
from membership.effects import SendPacket, Tallies
from membership.machine import Membership
from membership.member import make_attributes
from membership.messages import PACKETS, Gossip, Standing, Sync, Update
from membership.rumours import (
    BYTES_HEADER,
    RUMOURS,
    RUMOURS_BYTES_MAX,
    RUMOURS_MAX,
    Query,
    QueryReply,
    Rumour,
    RumourQueue,
    Rumours,
    StateDelta,
    StateEntry,
    UserEvent,
)

CONFIG = for_profile("lan")
ME, B = NodeId("a"), NodeId("b")


def event(sequence: int, payload: bytes = b"") -> UserEvent:
    """Make an event of a test node."""
    return spoken(UserEvent(B, 1, sequence, sequence, 0, "deploy", payload))


def delta(version: int) -> StateDelta:
    """Make a delta that says nothing but its version."""
    return StateDelta(B, 1, 0, 0, version)


def machine() -> Membership:
    """Make a machine that knows one other member, with the news of that passed on."""
    made = Membership(
        node=ME,
        boot=1,
        attributes=make_attributes("a", Address("10.0.0.1", 7946)),
        config=CONFIG,
        rng=random.Random(1),
        now_s=0.0,
        voices=FakeVoices(ME),
    )
    other = signed(Update(B, 1, 0, Standing.ALIVE, make_attributes("b", Address("10.0.0.2", 7946))))
    made.merge_sync(Sync((other,)), B, 0.0)
    return made


def test_each_rumour_is_sent_as_often_as_the_limit_says_and_the_least_sent_first() -> None:
    """The newest of the least-sent goes first; after `limit` transmits a rumour is forgotten."""
    queue = RumourQueue(1_000, Tallies())
    for sequence in (1, 2):
        assert queue.put(event(sequence))
    one = len(RUMOURS.encode(event(1))) + BYTES_HEADER
    order = [queue.take(one, 2, 9) for _ in range(5)]
    assert [RUMOURS.decode(taken[0]) for taken in order[:4]] == [event(2), event(1), event(2), event(1)]
    assert order[4] == ()
    assert len(queue) == queue.bytes == 0


def test_a_newer_rumour_of_a_key_replaces_the_older_one() -> None:
    """A state is passed on as it is now, and gets all its transmits anew."""
    queue = RumourQueue(1_000, Tallies())
    queue.put(delta(1))
    queue.take(1_000, 2, 9)
    queue.put(delta(2))
    assert [queue.take(1_000, 2, 9) for _ in range(3)] == [(RUMOURS.encode(delta(2)),)] * 2 + [()]


def test_the_queue_is_bounded_and_says_what_it_drops() -> None:
    """Over a bound the most-sent and oldest goes; what fits into no packet is refused and counted."""
    tallies = Tallies()
    queue = RumourQueue(1_000, tallies)
    for sequence in range(1, RUMOURS_MAX + 3):
        queue.put(event(sequence))
    assert len(queue) == RUMOURS_MAX
    assert tallies.rumours_dropped["crowded_out", "event"] == 2
    for sequence in range(1, RUMOURS_MAX):
        queue.put(event(sequence, bytes(500)))
    assert queue.bytes <= RUMOURS_BYTES_MAX
    small = RumourQueue(100, tallies)
    assert not small.put(event(1, bytes(200)))
    assert tallies.rumours_dropped["oversized", "event"] == 1
    assert not len(small)


@given(st.lists(st.integers(0, 512), max_size=30), st.integers(0, 2_000), st.integers(1, 8))
def test_a_packet_never_exceeds_its_budget(sizes: list[int], budget: int, count_max: int) -> None:
    """What is taken fits with its headers, and every rumour that fits alone goes out in the end."""
    queue = RumourQueue(2_000, Tallies())
    for sequence, size in enumerate(sizes, 1):
        queue.put(event(sequence, bytes(size)))
    seen: set[bytes] = set()
    for _ in range(len(sizes) + 1):
        taken = queue.take(budget, 1, count_max)
        assert len(taken) <= count_max
        assert sum(len(data) + BYTES_HEADER for data in taken) <= budget
        seen.update(taken)
    assert all(len(RUMOURS.encode(event(1, bytes(size)))) + BYTES_HEADER > budget - 4 for size in sizes) or seen


def test_an_unknown_kind_costs_nothing_but_a_count() -> None:
    """A rumour of a later version is passed over, its neighbours in the packet are taken; junk is told apart."""
    tallies = Tallies()
    rumours = Rumours(1_000, tallies, signing(ME))
    taken: list[UserEvent] = []
    rumours.handle(UserEvent, lambda rumour, source, now_s: taken.append(rumour))
    for data in (msgspec.msgpack.encode([99, "x"]), b"\xc1", RUMOURS.encode(event(3)), RUMOURS.encode(delta(1))):
        rumours.take(data, B, 1.0)
    assert taken == [event(3)]
    assert tallies.rumours == {("received", "event"): 1, ("received", "state"): 1}
    assert tallies.rumours_dropped == {("unknown", ""): 1, ("malformed", ""): 1}


@given(st.binary(max_size=64))
def test_no_bytes_make_the_switchboard_raise(data: bytes) -> None:
    """Whatever arrives is taken or counted."""
    Rumours(1_000, Tallies(), signing(ME)).take(data, B, 0.0)


@pytest.mark.parametrize("size", [0, 512])
def test_rumours_ride_in_rounds_of_gossip(size: int) -> None:
    """A queue with a rumour arms the gossip timer; it goes out in packets within their size, then silence returns."""
    m = machine()
    rumours = m.rumours
    while m.queue_length:
        m.advance(m.next_deadline_s)
    for sequence in range(1, 6):
        rumours.queue.put(event(sequence, bytes(size)))
    hint = PACKETS.encode(Gossip())
    assert not m.receive(hint, B, Address("10.0.0.2", 7946), 0.7, source_boot=1)
    heard: list[bytes] = []
    while len(rumours.queue):
        for effect in m.advance(m.next_deadline_s):
            if isinstance(effect, SendPacket):
                assert len(effect.payload) <= CONFIG.payload_bytes_max
                message = PACKETS.decode(effect.payload)
                heard += message.rumours if isinstance(message, Gossip) else ()
        assert m.next_deadline_s < 5.0
    assert {RUMOURS.decode(data) for data in heard} == {event(n, bytes(size)) for n in range(1, 6)}
    assert len(heard) == 5 * CONFIG.retransmit_multiplier


def test_a_rumour_that_arrives_reaches_its_handler() -> None:
    """The handler hears of the rumour, who passed it on, and when."""
    m = machine()
    taken: list[tuple[UserEvent, NodeId, float]] = []
    m.rumours.handle(UserEvent, lambda rumour, source, now_s: taken.append((rumour, source, now_s)))
    m.receive(PACKETS.encode(Gossip((), (RUMOURS.encode(event(1)),))), B, Address("10.0.0.2", 7946), 1.0, source_boot=1)
    assert taken == [(event(1), B, 1.0)]


GOLDEN = Path(__file__).parents[2] / "golden"
RUMOURS_1 = {
    "event": UserEvent(B, 1 << 40, 7, 9, 1_700_000_000_000_000_000, "deploy", b"v1"),
    "query": Query(B, 1 << 40, 3, 10, 5_000, "ping", b"x", ("n1",), (("zone", "a"),), True),
    "query_reply": QueryReply(1 << 40, 3, 1, b"pong"),
    "state": StateDelta(B, 1 << 40, 4, 2, 6, (StateEntry("k", b"v", 5), StateEntry("gone", b"", 6, True))),
}


RUMOURS_2 = {name: replace(rumour, word=b"w" * 64) for name, rumour in RUMOURS_1.items()}


@pytest.mark.parametrize(("version", "meant"), [(1, RUMOURS_1), (2, RUMOURS_2)])
def test_golden_rumours_are_read_as_they_were_meant(version: int, meant: dict[str, Rumour]) -> None:
    """Bytes that any version has written mean the same for ever; the newest are what is written today."""
    written = (GOLDEN / f"membership-rumours-{version}.hex").read_text().splitlines()
    golden = {name: bytes.fromhex(data) for name, data in (line.split() for line in written if line[0] != "#")}
    assert {name: RUMOURS.decode(data) for name, data in golden.items()} == meant
    if version == 2:
        assert {name: RUMOURS.encode(rumour) for name, rumour in meant.items()} == golden

"""Suspicion, dissemination, probe order, vitals, settings, seeds and the peers file."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.errors import ConfigError, InvalidAddress
from frys_node.base.types import Address, NodeId
from frys_node.sections import MTU_MIN
from frys_node.secure.packet import OVERHEAD_BYTES, SHORT_OVERHEAD_BYTES
from frys_node.testing.network import FakeNetwork
from membership.briefs import BRIEFS, brief_of
from membership.config import PROFILES, SEALING_BYTES, SHORT_SEALING_BYTES, for_profile, packet_bytes_for
from membership.detector import Vitals
from membership.discovery import decode_peers, encode_peers, resolve_seeds
from membership.dissemination import PACKET_CLAIMS, Dissemination, transmit_limit
from membership.effects import Peer
from membership.errors import TagsTooLarge
from membership.member import is_acceptable, make_attributes
from membership.messages import TAGS_BYTES_MAX, UPDATES, Attributes, Brief, NackReason, Standing, Update
from membership.peers import Introductions, Unmet
from membership.probe import Probe, ProbeOrder
from membership.suspicion import Floors, Suspicion, suspicion_floor_s, suspicion_timeout_s
from membership.table import Roster

FLOORS = Floors(silence_s=4.0, gone_s=2.5, crash_s=0.5, ceiling_factor=6.0, stall_max_s=30.0)
ATTRIBUTES = make_attributes("a", Address("10.0.0.1", 7946))


def update(index: int, **tags: str) -> Update:
    """Make a claim about the index-th node."""
    return Update(NodeId(f"{index:032x}"), 1, 0, Standing.ALIVE, make_attributes("a", Address("h", 1), tags=tags))


@given(st.integers(0, 5), st.integers(0, 5), st.floats(0.1, 100), st.floats(1, 10))
def test_a_suspicion_lasts_between_its_bounds_and_shrinks_with_accusers(
    confirmations: int, expected: int, floor_s: float, factor: float
) -> None:
    """The timeout falls from ceiling to floor and reaches the floor with the expected confirmations."""
    ceiling_s = floor_s * factor
    timeout_s = suspicion_timeout_s(confirmations, expected, floor_s, ceiling_s)
    assert floor_s <= timeout_s <= ceiling_s
    assert suspicion_timeout_s(confirmations + 1, expected, floor_s, ceiling_s) <= timeout_s
    assert suspicion_timeout_s(expected, expected, floor_s, ceiling_s) == floor_s


def test_the_floor_follows_the_formula_of_lifeguard() -> None:
    """Four intervals up to ten members, growing with the logarithm beyond."""
    assert suspicion_floor_s(4, 3, 1.0) == 4.0
    assert suspicion_floor_s(4, 100, 1.0) == 8.0
    assert suspicion_floor_s(4, 1_000, 0.3) == pytest.approx(3.6)


def test_only_distinct_and_wanted_accusers_confirm() -> None:
    """The same accuser counts once, and nobody is passed on beyond what is expected."""
    suspicion = Suspicion(1, 0, NodeId("a"), 0.0, FLOORS)
    assert suspicion.deadline_s(2, ()) == 24
    assert not suspicion.confirm(NodeId("a"), 2)
    assert not suspicion.confirm(NodeId(""), 2)
    assert suspicion.confirm(NodeId("b"), 2)
    assert suspicion.confirm(NodeId("c"), 2)
    assert not suspicion.confirm(NodeId("d"), 2)
    assert suspicion.deadline_s(2, ()) == 4
    assert suspicion.accusers == ("a", "b", "c")
    suspicion.shift(10)
    assert suspicion.deadline_s(2, ()) == 14


def test_each_update_is_sent_as_often_as_the_limit_says() -> None:
    """Least-sent goes first, the newest among equals, and after the limit an update is forgotten (M7)."""
    queue = Dissemination(1_000)
    for index in range(3):
        queue.put(update(index))
    sent: dict[str, int] = {}
    order = []
    while len(queue):
        (taken,) = queue.take(10_000, 4, 1)
        order.append(int(taken.node, 16))
        sent[taken.node] = sent.get(taken.node, 0) + 1
    assert order[:6] == [2, 1, 0, 2, 1, 0]
    assert set(sent.values()) == {4}


def test_newer_news_about_a_node_replaces_older() -> None:
    """The queue holds at most one update per node, so it is bounded by the members."""
    queue = Dissemination(1_000)
    for round_number in range(50):
        queue.put(update(7, round=str(round_number)))
    assert len(queue) == 1
    assert queue.take(10_000, 4, 64) == [update(7, round="49")]


@given(st.lists(st.integers(0, 400), min_size=1, max_size=30), st.integers(0, 2_000), st.integers(0, 64))
def test_a_packet_never_exceeds_its_budget(sizes: list[int], budget: int, count_max: int) -> None:
    """Updates of any size fill what room there is and no more."""
    queue = Dissemination(1_000)
    for index, size in enumerate(sizes):
        queue.put(update(index, pad="x" * size))
    taken = queue.take(budget, 4, count_max)
    assert sum(len((BRIEFS if isinstance(u, Brief) else UPDATES).encode(u)) for u in taken) <= budget
    assert len(taken) <= count_max


def test_an_update_that_fits_into_no_packet_rides_without_attributes() -> None:
    """The accusation of a member with many tags would otherwise be heard by the next state exchange only."""
    queue = Dissemination(150)
    queue.put(update(1, pad="x" * 200))
    queue.put(update(2))
    assert queue.take(1_000, 4, 64) == [update(2), brief_of(update(1, pad="x" * 200))]


def test_the_transmit_limit_grows_with_the_logarithm() -> None:
    """Multiplier * ceil(log10(n + 1)), as in memberlist."""
    assert [transmit_limit(4, n) for n in (0, 1, 9, 10, 99, 100)] == [4, 4, 4, 8, 8, 12]


def test_every_live_member_is_probed_once_per_round() -> None:
    """The order is a permutation in each round, newcomers come in the round in which they are learnt."""
    live = Roster()
    for index in range(10):
        live.add(NodeId(str(index)))
    order = ProbeOrder(random.Random(1))
    assert sorted(str(order.next(live)) for _ in range(10)) == [str(i) for i in range(10)]
    first = [order.next(live) for _ in range(4)]
    live.add(NodeId("new"))
    order.add(NodeId("new"))
    live.discard(NodeId("3"))
    rest = [order.next(live) for _ in range(10 - 4 + 1 - (NodeId("3") not in first))]
    assert NodeId("new") in rest
    assert ProbeOrder(random.Random(1)).next(Roster()) is None


def test_only_helpers_that_were_asked_can_nack_and_once() -> None:
    """A nack from a stranger is no accusation."""
    probe = Probe(NodeId("a"), (1, 0), 7, 0.0, 0.5)
    probe.asked = [NodeId("b")]
    probe.nack(NodeId("x"), NackReason.TIMEOUT, None)
    probe.nack(NodeId("b"), NackReason.REFUSED, None)
    probe.nack(NodeId("b"), NackReason.TIMEOUT, None)
    assert probe.nacks == {NodeId("b"): NackReason.REFUSED}


def test_round_trips_are_smoothed_as_in_tcp() -> None:
    """The first sample stands, later ones weigh an eighth; phi is null until a watch hears it."""
    vitals = Vitals()
    assert vitals.srtt_s is None
    assert vitals.phi(0.0) is None
    vitals.observe_rtt(0.1)
    assert (vitals.srtt_s, vitals.rttvar_s) == (0.1, 0.05)
    vitals.observe_rtt(0.18)
    assert vitals.srtt_s == pytest.approx(0.11)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_profiles_are_valid_and_leave_room_for_the_seal(name: str) -> None:
    """Each profile stands the cross-field check, and a nack arrives before the asker's interval ends."""
    config = for_profile(name)
    assert config.payload_bytes_max == 1_400 - SEALING_BYTES
    assert (SEALING_BYTES, SHORT_SEALING_BYTES) == (OVERHEAD_BYTES, SHORT_OVERHEAD_BYTES)
    assert config.ack_timeout_s + config.nack_after_s < config.probe_interval_s


def test_wrong_settings_are_refused_with_the_fix() -> None:
    """A timeout that is not below the interval and an unknown profile are configuration errors."""
    with pytest.raises(ConfigError, match="must be less"):
        for_profile("lan", ack_timeout_s=1.0)
    with pytest.raises(ConfigError, match="no membership profile 'moon'"):
        for_profile("moon")


def test_without_nudges_a_lan_forgives_a_longer_silence() -> None:
    """Study S2: 1 s where nothing tells a pause from a loss; what was set by hand stands."""
    assert for_profile("lan", crash_evidence="off").watch_pause_s == 1.0
    assert for_profile("lan", crash_evidence="off", watch_pause_s=0.7).watch_pause_s == 0.7
    assert for_profile("wan", crash_evidence="off").watch_pause_s == 3.0


def test_the_mtu_leaves_room_for_ip_and_udp() -> None:
    """1,500 bytes of Ethernet hold a packet of 1,452 by IPv6; the smallest that is taken is 576 and headers."""
    assert packet_bytes_for(1_500) == 1_452
    assert for_profile("lan", packet_bytes_max=packet_bytes_for(MTU_MIN)).packet_bytes_max == 576
    assert for_profile("lan", packet_bytes_max=packet_bytes_for(8_240)).packet_bytes_max == 8_192


def test_too_many_tags_or_too_long_names_are_refused() -> None:
    """What would not fit into a packet never becomes a member's attributes."""
    with pytest.raises(TagsTooLarge):
        make_attributes("a", Address("h", 1), tags={"k": "x" * TAGS_BYTES_MAX})
    with pytest.raises(TagsTooLarge):
        make_attributes("n" * 65, Address("h", 1))
    assert make_attributes("a", Address("h", 1), tags={"b": "2", "a": "1"}).tags == (("a", "1"), ("b", "2"))


def test_updates_that_no_honest_member_makes_are_not_acceptable() -> None:
    """Oversized and unordered tags of others are refused before they reach the table."""

    def claim(*tags: tuple[str, str]) -> Update:
        return Update(NodeId("a"), 1, 0, Standing.ALIVE, Attributes("a", "h", 1, "", tags))

    assert is_acceptable(claim())
    assert is_acceptable(claim(("a", "1"), ("b", "2")))
    assert not is_acceptable(claim(("b", "2"), ("a", "1")))
    assert not is_acceptable(claim(("a", "1"), ("a", "1")))
    assert not is_acceptable(claim(("a", "x" * 500), ("b", "x" * 500)))


def test_introductions_are_limited_per_node() -> None:
    """A node that keeps talking is asked for its state once per interval, others are not held up."""
    introductions = Introductions(1.0)
    assert introductions.may(NodeId("a"), 0.0)
    assert not introductions.may(NodeId("a"), 0.9)
    assert introductions.may(NodeId("b"), 0.9)
    assert introductions.may(NodeId("a"), 1.0)


def test_a_met_peer_is_forgotten_by_address_or_id() -> None:
    """Remembered peers are tried until they are members, under whatever address they are then."""
    unmet = Unmet()
    unmet.add(Peer(NodeId(""), Address("a", 1)))
    unmet.add(Peer(NodeId("b"), Address("b", 1)))
    unmet.add(Peer(NodeId("c"), Address("c", 1)))
    unmet.met(NodeId("x"), Address("a", 1))
    unmet.met(NodeId("b"), Address("elsewhere", 1))
    assert [peer.node for peer in unmet.all()] == ["c"]


def test_peers_survive_the_file_and_junk_counts_as_none() -> None:
    """What was written is read back; damaged, foreign and oversized files give no peers and no error."""
    peers = [Peer(NodeId("ab"), Address("10.0.0.1", 7946)), Peer(NodeId("cd"), Address("fe80::1", 1))]
    data = encode_peers(peers)
    assert decode_peers(data) == peers
    for junk in (b"", b"{", data[:-9], b"[]", data.replace(b'"version": 1', b'"version": 9'), b" " * (1 << 21)):
        assert decode_peers(junk) == []


async def test_seeds_resolve_in_parallel_and_dead_names_are_left_out() -> None:
    """Every address of every name, in the order of the seeds, without duplicates."""
    network = FakeNetwork()
    network.names["many"] = ["10.0.0.2", "10.0.0.1"]
    host = network.host("10.0.0.9")
    network.host("10.0.0.1")
    found = await resolve_seeds(host, ["nowhere", "many:1", "10.0.0.1:1", "many"])
    assert [str(peer.address) for peer in found] == ["10.0.0.1:1", "10.0.0.2:1", "10.0.0.1:7946", "10.0.0.2:7946"]
    for port in ("99999", "9" * 5_000):
        with pytest.raises(InvalidAddress):
            await resolve_seeds(host, [f"a:{port}"])


def test_a_round_tells_more_members_while_a_packet_does_not_hold_all_news() -> None:
    """Signed claims are larger: a start of many would take longer by as much."""
    queue = Dissemination(1_000)
    for number in range(PACKET_CLAIMS):
        queue.put(Update(NodeId(f"{number}"), 1, 0, Standing.ALIVE, make_attributes("n", Address("h", 1))))
    assert queue.fanout(3) == 3
    queue.put(Update(NodeId("one more"), 1, 0, Standing.ALIVE, make_attributes("n", Address("h", 1))))
    assert queue.fanout(3) == 6

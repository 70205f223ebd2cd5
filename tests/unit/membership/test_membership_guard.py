"""Testimony that goes round: what is news, what is an echo, and who may say it."""

from __future__ import annotations

import random

import pytest
from membership_hands import BOOT, ME, B, C, D, E, address, claim, hear, machine, run_to, said, sent, signed
from msgspec.structs import replace

from frys_node.base.types import Address, NodeId
from frys_node.testing.voices import FakeVoices
from membership.config import for_profile
from membership.effects import TryPort
from membership.findings import LifelineDown, LifelineEnd, LifelineUp, PortState, Tried
from membership.looks import PATIENCE_S
from membership.machine import Membership
from membership.member import make_attributes
from membership.messages import Beat, Gossip, Ping, Standing, Sync, Update
from membership.rumours import RUMOURS
from membership.testimony import Vouch, VouchKind

LAN = for_profile("lan", probe_interval_s=600.0)
STILL = for_profile("lan", probe_interval_s=600.0, watch_interval_s=600.0)
"""Without beats as well: to skip time is no pause."""

NOBODY = NodeId(f"{'9':a>32}")


def word(node: NodeId, voucher: NodeId, sequence: int, boot: int = BOOT) -> Gossip:
    """A voucher's word about a member."""
    return Gossip((), (said(Vouch(node, boot, 0, voucher, VouchKind.KERNEL_ACK, sequence)),))


def waiting(m: Membership) -> int:
    """Rumours that the machine would pass on."""
    return len(m.rumours.queue)


def test_a_large_cluster_that_stalls_as_a_whole_makes_no_echo_news() -> None:
    """400 members with three vouchers each, all heard twice: the second time nothing is passed on."""
    nodes = [NodeId(f"{index:032x}") for index in range(400)]
    m = machine(config=LAN)
    attributes_of = {node: make_attributes(node, Address("10.0.0.9", 7946)) for node in nodes}
    found = [signed(Update(node, BOOT, 0, Standing.ALIVE, attributes_of[node])) for node in nodes]
    m.merge_sync(Sync(tuple(found)), nodes[0], 0.0)
    told = [(node, nodes[(index + step) % 400]) for index, node in enumerate(nodes) for step in (1, 2, 3)]
    for node, voucher in told:
        hear(m, word(node, voucher, 7), nodes[0], 1.0)
    assert m.tallies.events[("vouched_kernel_ack",)] == len(told)
    m.rumours.queue.clear()
    for node, voucher in told:
        hear(m, word(node, voucher, 7), nodes[0], 2.0)
    assert waiting(m) == 0
    assert ("vouches_full",) not in m.tallies.events


def test_more_words_than_there_can_be_are_not_taken() -> None:
    """Forgetting what was heard would make its echoes news; old words make room."""
    nodes = [NodeId(f"{index:032x}") for index in range(40)]
    m = machine(config=STILL)
    attributes_of = {node: make_attributes(node, Address("10.0.0.9", 7946)) for node in nodes}
    found = [signed(Update(node, BOOT, 0, Standing.ALIVE, attributes_of[node])) for node in nodes]
    m.merge_sync(Sync(tuple(found)), nodes[0], 0.0)
    told = [(node, voucher) for node in nodes for voucher in nodes if node != voucher][:1_030]
    for node, voucher in told:
        hear(m, word(node, voucher, 7), nodes[0], 1.0)
    assert m.tallies.events[("vouches_full",)] == 1_030 - 1_024
    hear(m, word(*told[-1], 7), nodes[0], 12.0)
    assert m.tallies.events[("vouches_full",)] == 1_030 - 1_024


def test_words_of_strangers_and_about_strangers_are_not_passed_on() -> None:
    """Neither an unknown voucher nor an unknown, dead or former life is anybody's news."""
    m = machine(B, C, D, E, config=LAN)
    hear(m, Gossip((claim(E, Standing.DEAD),)), B, 0.5)
    for node, voucher, boot in ((NOBODY, B, BOOT), (B, NOBODY, BOOT), (B, E, BOOT), (E, B, BOOT), (B, C, BOOT - 1)):
        hear(m, word(node, voucher, 1, boot), D, 1.0)
    assert waiting(m) == 0
    hear(m, word(B, C, 1), D, 1.0)
    assert waiting(m) == 1


def test_a_voucher_that_has_restarted_is_heard_at_once() -> None:
    """Its numbers rise over its restarts, so that its first word is none of its last life's echoes."""

    def object_to(boot: int, packets: int) -> Vouch:
        """A watcher of some boot that has sent some packets hears the accused after it was refused."""
        m = Membership(
            node=D,
            boot=boot,
            attributes=claim(D).attributes,
            config=LAN,
            rng=random.Random(1),
            now_s=0.0,
            voices=FakeVoices(D),
        )
        m.merge_sync(Sync((claim(ME), claim(C))), C, 0.0)
        for _ in range(packets):
            m._outbox.next_sequence()
        m.found(LifelineUp(C, BOOT), 5.0)
        m.found(LifelineDown(C, BOOT, LifelineEnd.LOST), 6.0)
        m.found(Tried(C, BOOT, PortState.REFUSED), 6.0)
        effects = hear(m, Beat(1), C, 6.1) + run_to(m, 6.5)
        found = [RUMOURS.decode(data) for _, p in sent(effects) if isinstance(p, Gossip) for data in p.rumours]
        return next(rumour for rumour in found if isinstance(rumour, Vouch))

    m = machine(B, C, D, config=LAN)
    for now_s, boot, packets in ((1.0, 5 << 32, 5_000), (7.0, 6 << 32, 10)):
        hear(m, Gossip((), (said(object_to(boot, packets)),)), B, now_s)
        assert m._claims.suspicions.vouched_at_s(C, VouchKind.DATAGRAM) == now_s


def asked(m: Membership, until_s: float) -> list[float]:
    """When the machine asks B itself and accuses it, up to a time."""
    times: list[float] = []
    while m.next_deadline_s <= until_s:
        now_s, before = m.next_deadline_s, m.tallies.events.get(("suspect_asked",), 0)
        packets = [packet for where, packet in sent(m.advance(now_s)) if where == address(B)]
        if m.tallies.events.get(("suspect_asked",), 0) > before:
            assert any(isinstance(p, Ping) and any(u.node == B for u in p.updates) for p in packets)
            times.append(now_s)
    return times


def test_whoever_hears_no_refutation_asks_the_suspect() -> None:
    """From a quarter of the shortest suspicion on, with the accusation in the ping: gossip misses some under loss."""
    m = machine(B, C, D, config=for_profile("lan"))
    run_to(m, 0.5)
    hear(m, Gossip((signed(replace(claim(B, Standing.SUSPECT), accuser=C)),)), C, 0.5)
    assert [round(at_s, 3) for at_s in asked(m, 2.7)] == [1.5, 2.0, 2.5]
    hear(m, Gossip((claim(B, incarnation=1),)), C, 2.7)
    assert asked(m, 3.2) == []


def test_when_half_a_cluster_is_suspected_few_are_asked_at_once() -> None:
    """Sixteen, then one in each probe interval, and each of them once before anybody is asked again."""
    nodes = [NodeId(f"{index:032x}") for index in range(40)]
    m = machine(config=LAN)
    attributes_of = {node: make_attributes(node, Address("10.0.0.9", 7946)) for node in nodes}
    found = [signed(Update(node, BOOT, 0, Standing.ALIVE, attributes_of[node])) for node in nodes]
    m.merge_sync(Sync(tuple(found)), nodes[0], 0.0)
    for node in nodes[1:]:
        accused = Update(node, BOOT, 0, Standing.SUSPECT, attributes_of[node], nodes[0])
        hear(m, Gossip((signed(accused),)), nodes[0], 1.0)
    suspicions = m._claims.suspicions
    first_s, asked_s = suspicions.ask_s, []
    asks = [suspicions.ask(first_s)]
    while sum(map(len, asks)) < 39:
        asked_s.append(suspicions.ask_s)
        asks.append(suspicions.ask(suspicions.ask_s))
    assert [len(some) for some in asks] == [16] + 23 * [1]
    assert asked_s == pytest.approx([first_s + LAN.probe_interval_s * step for step in range(1, 24)])
    assert len({node for some in asks for node in some}) == 39


def test_what_waited_while_this_node_stood_still_is_no_news() -> None:
    """A word heard before a pause of 20 s is an echo after it."""
    m = machine(B, C, D, config=for_profile("lan"))
    hear(m, word(B, C, 4), D, 1.0)
    run_to(m, 1.5)
    m.rumours.queue.clear()
    m.advance(m.next_deadline_s + 20.0)
    hear(m, word(B, C, 4), D, m._claims.now_s)
    assert waiting(m) == 0


@pytest.mark.parametrize("state", PortState)
def test_a_helper_vouches_for_a_kernel_and_not_for_whoever_has_the_port(state: PortState) -> None:
    """F17, the silence path: silence after a connection was accepted is a stopped process, any other answer is not."""
    others = [NodeId(f"{letter:a>32}") for letter in "12345678"]
    helped, accuser = others[4], others[5]
    m = machine(*others, config=LAN)
    run_to(m, 5.0)
    hear(m, Gossip((claim(helped, Standing.SUSPECT, accuser=accuser),)), accuser, 6.0)
    looks = [effect for effect in run_to(m, 8.0) if isinstance(effect, TryPort)]
    assert looks == [TryPort(helped, BOOT, address(helped), PATIENCE_S)]
    m.found(Tried(helped, BOOT, state), 8.0)
    vouches = m.tallies.events.get(("vouch_port",), 0)
    assert vouches == (state in (PortState.OPEN, PortState.GREETED))

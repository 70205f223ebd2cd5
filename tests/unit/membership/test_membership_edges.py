"""Edges: paths that are cut one way, found by probing, told as rumours and shown as a condition."""

from __future__ import annotations

from membership_hands import ME, B, C, D, E, address, claim, hear, machine, said, sent

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Condition, Status
from membership.config import for_profile
from membership.edges import EDGE_TTL_S, EDGES_MAX, Edge, Edges
from membership.machine import Membership
from membership.messages import Ack, Gossip, Packet, Ping, PingReq
from membership.rumours import RUMOURS


def condition(m: Membership, node: NodeId) -> Condition:
    """The condition of a member."""
    view = m.view(node)
    assert view is not None
    return view.condition


def rumour(*edges: Edge) -> Gossip:
    """Make a packet that tells of edges."""
    return Gossip((), tuple(said(edge) for edge in edges))


def probe(m: Membership, until_s: float, *, is_cut: bool) -> list[Edge]:
    """Let everybody answer, B only through helpers while the path is cut; returns the edges that went out."""
    told: list[Edge] = []
    while m.next_deadline_s <= until_s:
        now_s = m.next_deadline_s
        for where, message in sent(m.advance(now_s)):
            node = next(n for n in (B, C, D) if address(n) == where)
            reply = answer(node, message, is_cut=is_cut)
            if reply is not None:
                hear(m, reply, node, now_s)
            if isinstance(message, Gossip):
                told += [r for r in map(RUMOURS.decode, message.rumours) if isinstance(r, Edge)]
    return told


def answer(node: NodeId, message: Packet, *, is_cut: bool) -> Packet | None:
    """What a node answers."""
    if isinstance(message, PingReq):
        return Ack(message.sequence, message.target)
    if isinstance(message, Ping) and not (is_cut and node == B):
        return Ack(message.sequence, node)
    return None


def test_a_path_that_stays_cut_is_published_and_nobody_is_suspected() -> None:
    """Five direct pings without an answer while helpers get through: an edge, no suspicion."""
    m = machine(B, C, D)
    told = probe(m, 30.0, is_cut=True)
    assert {(edge.a, edge.b, edge.is_up) for edge in told} == {(ME, B, False)}
    view = m.view(B)
    assert view is not None
    assert view.status is Status.ALIVE
    assert [(seen.edge.a, seen.edge.b) for seen in m.edges(30.0)] == [(ME, B)]


def test_an_edge_is_taken_back_when_the_path_heals() -> None:
    """The first direct ack says so to everybody."""
    m = machine(B, C, D)
    probe(m, 30.0, is_cut=True)
    told = probe(m, 40.0, is_cut=False)
    assert told[-1].is_up
    assert m.edges(40.0) == []


def test_a_few_lost_packets_make_no_edge() -> None:
    """A direct ping that is answered before the fifth ends the look."""
    m = machine(B, C, D)
    start_s = 0.0
    for _ in range(6):
        probe(m, start_s + 3.0, is_cut=True)
        probe(m, start_s + 6.0, is_cut=False)
        start_s += 6.0
    assert ("edge_down",) not in m.tallies.events


def test_a_member_that_most_cannot_reach_is_degraded_while_others_can() -> None:
    """Four others: three edges of four are more than half; four of four is no longer a matter of edges."""
    m = machine(B, C, D, E)
    hear(m, rumour(Edge(C, B, 10), Edge(D, B, 10)), C, 1.0)
    assert condition(m, B) is Condition.OK
    hear(m, rumour(Edge(E, B, 10)), C, 1.0)
    assert condition(m, B) is Condition.DEGRADED
    assert condition(m, C) is Condition.OK
    hear(m, rumour(Edge(ME, B, 10)), C, 1.0)
    assert condition(m, B) is Condition.OK
    hear(m, rumour(Edge(C, B, 11, is_up=True)), C, 1.0)
    assert condition(m, B) is Condition.DEGRADED


def test_a_member_hears_that_it_is_hard_to_reach_itself() -> None:
    """Its own condition follows the same rule."""
    m = machine(B, C, D)
    hear(m, rumour(Edge(B, ME, 10), Edge(C, ME, 10)), C, 1.0)
    assert condition(m, ME) is Condition.DEGRADED


def test_in_a_large_cluster_those_who_could_have_probed_count() -> None:
    """In a minute at most sixty members probe a given one: more than thirty edges are more than half of them."""
    others = [NodeId(f"{index:032x}") for index in range(200)]
    m = machine(*others, config=for_profile("lan"))
    for index in range(1, 32):
        assert condition(m, others[0]) is Condition.OK
        hear(m, rumour(Edge(others[index], others[0], 10)), others[1], 1.0)
    assert condition(m, others[0]) is Condition.DEGRADED


def test_an_edge_is_passed_on_once_and_forgotten_after_its_time() -> None:
    """Old news is not news, and after a minute without a word an edge is gone."""
    edges = Edges()
    assert edges.take(Edge(B, C, 10), 100.0)
    assert not edges.take(Edge(B, C, 10), 110.0)
    assert not edges.take(Edge(B, C, 9, is_up=True), 110.0)
    assert edges.has(B, C, 110.0)
    assert edges.take(Edge(B, C, 10, is_up=True), 110.0)
    assert not edges.has(B, C, 110.0)
    assert edges.take(Edge(B, C, 12), 120.0)
    assert edges.count_to(C, 120.0 + EDGE_TTL_S - 0.1) == 1
    assert edges.count_to(C, 120.0 + EDGE_TTL_S) == 0


def test_edges_are_bounded() -> None:
    """Beyond the bound nothing new is taken, or the echo of what made room would be news for ever; in time there is."""
    edges = Edges()
    claimed = [Edge(NodeId(str(index)), B, 1) for index in range(EDGES_MAX + 10)]
    assert sum(edges.take(edge, 1.0) for edge in claimed) == EDGES_MAX
    assert sum(edges.take(edge, 2.0) for edge in claimed) == 0
    assert edges.take(claimed[-1], 1.0 + EDGE_TTL_S)


def test_edges_to_strangers_are_ignored() -> None:
    """What is said of a member that nobody knows, or that is dead, makes no rumour."""
    m = machine(C)
    hear(m, rumour(Edge(C, B, 10)), C, 1.0)
    assert m.edges(1.0) == []
    hear(m, Gossip((claim(B),)), C, 1.0)
    hear(m, rumour(Edge(C, B, 10)), C, 1.0)
    assert len(m.edges(1.0)) == 1

"""What the tests of the machine share: a node with made-up neighbours, fed by hand and driven through its deadlines."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from typing import TypeVar

from msgspec.structs import replace

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Status
from frys_node.testing.voices import FakeVoices
from membership.config import MembershipConfig, for_profile
from membership.edges import Edge
from membership.effects import Effect, SendPacket, Tallies
from membership.machine import Membership
from membership.member import make_attributes
from membership.messages import (
    NOBODY,
    PACKETS,
    Accusation,
    Ack,
    Evidence,
    Nack,
    NackReason,
    Packet,
    Ping,
    PingReq,
    Standing,
    Sync,
    Update,
)
from membership.rumours import RUMOURS, Query, QueryReply, Rumour, Rumours, StateDelta, UserEvent
from membership.state import NodeState
from membership.testimony import CrashReport, Vouch
from membership.voices import Signing

Accusations = tuple[Accusation, ...]
R = TypeVar("R", bound=Rumour)

BOOT = 5
ME, B, C, D, E = (NodeId(f"{letter:a>32}") for letter in "01234")
CONFIG = for_profile("lan", watchers=0, accusers=1)
"""Without watchers and second accusers: whoever tests them asks for them."""


def address(node: NodeId) -> Address:
    """Where a test node is."""
    return Address(f"10.0.0.{node[-1]}", 7946)


def claim(
    node: NodeId,
    standing: Standing = Standing.ALIVE,
    incarnation: int = 0,
    boot: int = BOOT,
    accuser: NodeId = NOBODY,
    age_s: int = 0,
) -> Update:
    """Make a claim about a test node, with the signatures that it needs."""
    return signed(Update(node, boot, incarnation, standing, make_attributes(node[-1], address(node)), accuser, age_s))


def signing(node: NodeId) -> Signing:
    """Make what signs for a test node."""
    return Signing(node, FakeVoices(node))


def accused(
    node: NodeId, *accusers: NodeId, evidence: Evidence = Evidence.SILENCE, incarnation: int = 0
) -> Accusations:
    """Make what members accuse a test node of."""
    return tuple(signing(accuser).accusation((node, BOOT, incarnation), evidence) for accuser in accusers)


def signed(update: Update) -> Update:
    """Sign a claim: the member for itself, its accuser, and for a death two more, the tested node among them."""
    others = tuple(other for other in (ME, B, C) if other not in (update.node, update.accuser))
    standing, accuser, life = update.standing, update.accuser, (update.node, update.boot, update.incarnation)
    word, accusations = b"", ()
    if accuser not in (NOBODY, update.node):
        by = signing(accuser)
        accuse = by.verdict if standing is Standing.DEAD else by.accusation
        word = by.release(life) if standing is Standing.LEFT else accuse(life, update.evidence).word
    if standing is Standing.DEAD or (standing is Standing.LEFT and word):
        accusations = tuple(signing(other).verdict(life, Evidence.SILENCE) for other in others[:2])
    proof = signing(update.node).claimed(update).proof
    return replace(update, proof=proof, word=word, accusations=accusations)


def spoken(rumour: R) -> R:
    """Sign a rumour for its author."""
    match rumour:
        case CrashReport(node, boot, incarnation, observer):
            return replace(rumour, word=signing(observer).accusation((node, boot, incarnation), Evidence.CRASH).word)
        case StateDelta(node, boot):
            state = NodeState(boot)
            state.merge(rumour)
            return replace(rumour, word=signing(node).word(state.signed_bytes(node)))
        case Edge() | Vouch() | UserEvent() | Query():
            return Rumours(1_000, Tallies(), signing(rumour.author)).signed(rumour)
    raise AssertionError(rumour)


def said(rumour: Rumour) -> bytes:
    """Sign a rumour for its author, and encode it."""
    return RUMOURS.encode(spoken(rumour))


def answered(reply: QueryReply, source: NodeId) -> bytes:
    """Sign an answer for the member that gives it, and encode it."""
    return RUMOURS.encode(Rumours(1_000, Tallies(), signing(source)).signed(reply))


def machine(*others: NodeId, config: MembershipConfig = CONFIG) -> Membership:
    """Make a machine that knows others alive, with its first news sent."""
    made = Membership(
        node=ME,
        boot=BOOT,
        attributes=make_attributes("0", address(ME)),
        config=config,
        rng=random.Random(1),
        now_s=0.0,
        voices=FakeVoices(ME),
    )
    if others:
        made.merge_sync(Sync(tuple(claim(node) for node in others)), others[0], 0.0)
    return made


def hear(m: Membership, message: Packet, source: NodeId = B, now_s: float = 0.1, boot: int = BOOT) -> list[Effect]:
    """Give the machine a packet."""
    return m.receive(PACKETS.encode(message), source, address(source), now_s, source_boot=boot)


def sent(effects: Iterable[Effect]) -> list[tuple[Address, Packet]]:
    """Decode what was sent."""
    return [(e.address, PACKETS.decode(e.payload)) for e in effects if isinstance(e, SendPacket)]


def run_to(m: Membership, until_s: float) -> list[Effect]:
    """Advance the machine through its deadlines."""
    effects: list[Effect] = []
    while m.next_deadline_s <= until_s:
        effects += m.advance(m.next_deadline_s)
    return effects


def status(m: Membership, node: NodeId) -> Status:
    """What the machine says of a member."""
    view = m.view(node)
    assert view is not None
    return view.status


def own(m: Membership) -> int:
    """The machine's own incarnation."""
    view = m.view(ME)
    assert view is not None
    return view.incarnation


Answer = Callable[[NodeId, Packet], Packet | None]
TimedAnswer = Callable[[NodeId, Packet, float], Packet | None]
Timed = list[tuple[float, Effect]]


def drive(m: Membership, until_s: float, answer: TimedAnswer, latency_s: float = 0.0) -> Timed:
    """Drive the machine through its deadlines while others answer; returns its effects, and when they came."""
    nodes = {view.address: view.id for view in m.views()}
    out: Timed = []
    pending: list[tuple[float, NodeId, Packet]] = []
    while True:
        now_s = min([m.next_deadline_s, *(at_s for at_s, _, _ in pending)])
        if now_s > until_s:
            return out
        arrived = [item for item in pending if item[0] <= now_s]
        pending = [item for item in pending if item[0] > now_s]
        effects = [e for _, source, reply in arrived for e in hear(m, reply, source, now_s)]
        effects += m.advance(now_s) if now_s >= m.next_deadline_s else []
        out += [(now_s, effect) for effect in effects]
        for where, message in sent(effects):
            nodes = nodes if where in nodes else {view.address: view.id for view in m.views()}
            reply = answer(nodes[where], message, now_s)
            if reply is not None:
                pending.append((now_s + latency_s, nodes[where], reply))


def live(m: Membership, until_s: float, answer: Answer, latency_s: float = 0.0) -> list[tuple[float, NodeId, Packet]]:
    """Drive the machine while others answer; returns what it sent, when and to whom."""
    timed = drive(m, until_s, lambda node, message, _now_s: answer(node, message), latency_s)
    nodes = {view.address: view.id for view in m.views()}
    return [(at_s, nodes[where], message) for at_s, effect in timed for where, message in sent([effect])]


def well(node: NodeId, message: Packet) -> Packet | None:
    """Everybody answers."""
    return Ack(message.sequence, node) if isinstance(message, Ping) else None


def dead(*victims: NodeId, reason: NackReason = NackReason.TIMEOUT) -> Answer:
    """Some are dead, and the others say so when they are asked."""

    def answer(node: NodeId, message: Packet) -> Packet | None:
        if node in victims:
            return None
        if isinstance(message, PingReq):
            acked = message.target not in victims
            word = signing(node).accusation((message.target, BOOT, 0), Evidence.SILENCE).word
            nack = Nack(message.sequence, message.target, (), reason, boot=BOOT, word=word)
            return Ack(message.sequence, message.target) if acked else nack
        return well(node, message)

    return answer


def nobody(node: NodeId, message: Packet) -> Packet | None:
    """This node hears nothing."""
    return None

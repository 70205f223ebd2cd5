"""What the tests of the watch share: a machine whose neighbours answer beats, or fall silent."""

from __future__ import annotations

from collections.abc import Callable

from membership_hands import BOOT, B, Timed, address, drive, sent

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Condition
from membership.config import for_profile
from membership.effects import Effect, Nudge
from membership.findings import Nudged, Response
from membership.machine import Membership
from membership.messages import Ack, Beat, BeatAck, Gossip, Packet, Ping
from membership.rumours import RUMOURS
from membership.testimony import Vouch
from membership.watch import ANSWER_S

LAN = for_profile("lan")
ALONE = for_profile("lan", probe_interval_s=600.0)
"""The watch without the probe loop, which would suspect a member that does not answer as well."""

RTT_S = 0.001


def live(m: Membership, until_s: float, answers: Callable[[NodeId, float], bool] = lambda _node, _now_s: True) -> Timed:
    """Drive a machine whose neighbours answer pings and beats when `answers` says so; returns its effects."""

    def answer(node: NodeId, message: Packet, now_s: float) -> Packet | None:
        if isinstance(message, Beat) and answers(node, now_s):
            return BeatAck(message.sequence)
        return Ack(message.sequence, node) if isinstance(message, Ping) and answers(node, now_s) else None

    return drive(m, until_s, answer, RTT_S)


def beats(out: Timed, node: NodeId) -> list[float]:
    """When a machine sent beats to a node."""
    packets = [(at_s, *letter) for at_s, effect in out for letter in sent([effect])]
    return [at_s for at_s, where, packet in packets if where == address(node) and isinstance(packet, Beat)]


def nudges(out: Timed) -> list[tuple[float, Nudge]]:
    """When a machine asked for nudges."""
    return [(at_s, effect) for at_s, effect in out if isinstance(effect, Nudge)]


def silent_from(node: NodeId, from_s: float) -> Callable[[NodeId, float], bool]:
    """Answers of neighbours of whom one falls silent."""
    return lambda other, now_s: other != node or now_s < from_s


def until_nudged(m: Membership, node: NodeId) -> float:
    """Let a member fall silent and return when it was nudged."""
    live(m, 10.0)
    until_s = 10.0
    while not (found := nudges(live(m, until_s, silent_from(node, 10.0)))):
        until_s += 0.05
        assert until_s < 15.0
    return found[0][0]


def told(response: Response, patience_s: float = ANSWER_S) -> Nudged:
    """What the driver says of a nudge that the watch asked for."""
    return Nudged(B, BOOT, response, patience_s)


def vouches(out: list[Effect]) -> list[Vouch]:
    """The vouches in the gossip that was sent."""
    found = [RUMOURS.decode(data) for _, p in sent(out) if isinstance(p, Gossip) for data in p.rumours]
    return [rumour for rumour in found if isinstance(rumour, Vouch)]


def condition(m: Membership, node: NodeId = B) -> Condition:
    """How a member does."""
    view = m.view(node)
    assert view is not None
    return view.condition

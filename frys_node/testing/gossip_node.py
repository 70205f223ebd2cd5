"""A simulated member that also tells events, answers queries and shares state.

What the real node sends over the channel goes as packets here, so that it suffers every fault of the wires.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from frys_node.base.errors import FrysError, MalformedFrame
from frys_node.base.types import NodeId
from frys_node.testing.membership_node import MembershipNode
from frys_node.testing.simulator import Packet
from frys_node.wire.codec import Codec, Message
from membership.catchup import BATCHES
from membership.effects import Effect, EventHeard, QueryEnded, QuerySaid, SendBatch, SendRumour
from membership.queries import Said
from membership.rumours import UserEvent


class Bulk(Message, frozen=True, array_like=True, gc=False, tag=21):
    """A batch of what the receiver lacks."""

    data: bytes


class More(Message, frozen=True, array_like=True, gc=False, tag=22):
    """How far the receiver of a batch has come; the sender has more."""

    data: bytes


class Bulky(Message, frozen=True, array_like=True, gc=False, tag=23):
    """A rumour that fits into no packet."""

    data: bytes


BULK: Codec[Bulk | More | Bulky] = Codec(Bulk | More | Bulky)

FIRE, PUT, DELETE, ASK = "fire", "put", "delete", "ask"
"""Commands: ``(FIRE, name)``, ``(PUT, key, value)``, ``(DELETE, key)``, ``(ASK, name, timeout in ms)``."""


class GossipNode(MembershipNode):
    """The shell around one machine, with ears."""

    heard: list[UserEvent]
    """Events that the checker has not seen yet."""
    said: dict[int, list[Said]]
    """Answers to this node's queries."""
    ended: set[int]

    def start(self, now_s: float) -> Sequence[Packet]:
        """Boot."""
        self.heard, self.said, self.ended = [], {}, set()
        self.refused = 0
        return super().start(now_s)

    def receive(self, payload: bytes, source: str, now_s: float) -> Sequence[Packet]:
        """Take a packet, or what goes over the channel in a real node."""
        try:
            message = BULK.decode(payload)
        except MalformedFrame:
            return super().receive(payload, source, now_s)
        machine, source_node = self.machine, NodeId(f"{int(source[1:]):032x}")
        if isinstance(message, Bulky):
            return self._perform(machine.hear(message.data, source_node, now_s), now_s)
        answers: list[Packet] = []
        if isinstance(message, Bulk):
            heads = machine.talk.take_batch(BATCHES.decode(message.data), source_node, now_s)
            if heads:
                answers.append(Packet(source, BULK.encode(More(heads))))
        else:
            machine.talk.meet(message.data, source_node, now_s)
        return [*self._perform(machine.end_turn(now_s), now_s), *answers]

    def wake(self, token: object, now_s: float) -> Sequence[Packet]:
        """Take a command; one over a rate is refused and counted."""
        if not isinstance(token, tuple):
            return super().wake(token, now_s)
        talk = self.machine.talk
        try:
            match token:
                case ("fire", str(name)):
                    talk.fire(name, b"", now_s)
                case ("put", str(key), str(value)):
                    talk.states.put(key, value.encode(), now_s)
                case ("delete", str(key)):
                    talk.states.delete(key, now_s)
                case ("ask", str(name), int(timeout_ms)):
                    sequence = talk.ask(name, b"", timeout_s=timeout_ms / 1e3, now_s=now_s)
                    self.said[sequence] = []
        except FrysError:
            self.refused += 1
        return self._perform(self.machine.end_turn(now_s), now_s)

    def _perform(self, effects: Iterable[Effect], now_s: float) -> list[Packet]:
        effects = list(effects)
        packets = super()._perform(effects, now_s)
        for effect in effects:
            match effect:
                case EventHeard(event):
                    self.heard.append(event)
                case QuerySaid(said):
                    self.said[said.sequence].append(said)
                case QueryEnded(sequence):
                    self.ended.add(sequence)
                case SendBatch(_, address, data):
                    packets.append(Packet(address.host, BULK.encode(Bulk(data))))
                case SendRumour(_, address, data):
                    packets.append(Packet(address.host, BULK.encode(Bulky(data))))
                case _:
                    continue
        return packets

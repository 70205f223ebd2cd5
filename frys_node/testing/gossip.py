"""A shipped fake of `Gossip`: members in one process, everything told at once and nothing lost.

It obeys the Protocol: each event is delivered once at each member, each member asked gives one last word, state is its
owner's. Of the limits only those of size are kept: there is no clock here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence

import trio

from frys_node.base.errors import AlreadyExists, FrysError, NotFound
from frys_node.base.types import NodeId
from frys_node.kernel.bus import Bus
from frys_node.kernel.services.gossip import (
    ClusterEvent,
    Outcome,
    QueryAnswer,
    Question,
    Responder,
    StateChanged,
    StateValue,
)
from membership.errors import GossipTooLarge
from membership.events import check_name
from membership.rumours import EVENT_PAYLOAD_BYTES_MAX, QUERY_PAYLOAD_BYTES_MAX
from membership.state import VALUE_BYTES_MAX


class FakeGossip:
    """One member; members made with the same list hear each other."""

    def __init__(
        self,
        node: NodeId,
        bus: Bus,
        members: list[FakeGossip],
        *,
        name: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        self.node, self.name, self.tags = node, name or node, dict(tags or {})
        self.is_silent = False
        """True: it does not answer."""
        self.bus = bus
        self._members = members
        self._responders: dict[str, Responder] = {}
        self.kept: dict[str, StateValue] = {}
        self._sequence = self._version = 0
        members.append(self)

    def fire(self, name: str, payload: bytes = b"") -> ClusterEvent:
        """Deliver at every member."""
        _check("event", name, payload, EVENT_PAYLOAD_BYTES_MAX)
        self._sequence += 1
        event = ClusterEvent(
            name=name,
            payload=payload,
            origin=self.node,
            origin_name=self.name,
            boot=1,
            sequence=self._sequence,
            lamport=self._sequence,
            unix_ns=0,
        )
        for member in self._members:
            member.bus.publish(event)
        return event

    def ask(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> AsyncIterator[QueryAnswer]:
        """Ask one member after the other."""
        _check("query", name, payload, QUERY_PAYLOAD_BYTES_MAX)
        wanted = (tags or {}).items()
        asked = [
            member
            for member in self._members
            if (not nodes or {member.node, member.name} & set(nodes)) and wanted <= member.tags.items()
        ]
        return self._answers(asked, Question(name=name, payload=payload, origin=self.node), timeout_s)

    async def _answers(
        self, asked: Sequence[FakeGossip], question: Question, timeout_s: float
    ) -> AsyncIterator[QueryAnswer]:
        for member in asked:
            await trio.lowlevel.checkpoint()
            outcome, payload = Outcome.SILENT, b""
            if not member.is_silent:
                outcome, payload = await member.answer(question)
            after_s = timeout_s if member.is_silent else 0.0
            yield QueryAnswer(node=member.node, name=member.name, outcome=outcome, payload=payload, after_s=after_s)

    async def answer(self, question: Question) -> tuple[Outcome, bytes]:
        """Give this member's last word."""
        responder = self._responders.get(question.name)
        if responder is None:
            return (Outcome.ANSWERED, question.payload) if question.name == "ping" else (Outcome.UNHANDLED, b"")
        try:
            return Outcome.ANSWERED, await responder(question)
        except FrysError as error:
            return Outcome.FAILED, f"{error.code}: {error.message}".encode()

    def respond(self, name: str, responder: Responder) -> Callable[[], None]:
        """Answer queries of a name."""
        if name in self._responders:
            raise AlreadyExists(f"queries named '{name}' are answered here already")
        self._responders[name] = responder
        return lambda: self._responders.pop(name, None) and None

    def put(self, key: str, value: bytes) -> StateValue:
        """Set a key."""
        _check("key", key, value, VALUE_BYTES_MAX)
        self._version += 1
        made = self.kept[key] = StateValue(key=key, value=value, version=self._version)
        self._publish(key, value)
        return made

    def delete(self, key: str) -> None:
        """Remove a key."""
        if key not in self.kept:
            raise NotFound(f"this node has no key '{key}'")
        self._version += 1
        del self.kept[key]
        self._publish(key, None)

    def _publish(self, key: str, value: bytes | None) -> None:
        change = StateChanged(node=self.node, name=self.name, key=key, value=value, version=self._version)
        for member in self._members:
            member.bus.publish(change)

    def state(self, node: NodeId) -> Sequence[StateValue]:
        """A member's keys."""
        return [value for member in self._members if member.node == node for _, value in sorted(member.kept.items())]


def _check(what: str, name: str, data: bytes, size_max: int) -> None:
    check_name(what, name)
    if len(data) > size_max:
        raise GossipTooLarge(f"the {what} '{name[:64]}' is over a limit")

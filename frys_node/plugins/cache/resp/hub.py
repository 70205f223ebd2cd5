"""Publish and subscribe: messages to the subscribers of this node, and by notes to every other node with clients.

At most once, as Redis: a message that meets a node which cannot be dialled, a full queue or a client that does not read
is lost. What one node publishes arrives at another in its order; notes wait in order while a connection is made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Rpc
from frys_node.observe.metrics import Metrics
from frys_node.plugins.cache.resp import encode
from frys_node.plugins.cache.resp.glob import matches
from frys_node.plugins.cache.resp.session import Session
from frys_node.wire.codec import Codec, Message

NOTE = "cache.published"


class Published(Message, frozen=True):
    """A message of another node."""

    channel: bytes
    body: bytes


PUBLISHED: Codec[Published] = Codec(Published)


class Listener(Protocol):
    """Who gets messages."""

    @property
    def session(self) -> Session:
        """Its session."""
        ...

    def push(self, data: bytes) -> None:
        """Take a message to the client, without waiting."""
        ...


class Hub:
    """The subscriptions of this node."""

    def __init__(self, *, rpc: Rpc, peers: Callable[[], Sequence[NodeId]], metrics: Metrics) -> None:
        self.channels: dict[bytes, dict[Listener, None]] = {}
        self.patterns: dict[bytes, dict[Listener, None]] = {}
        self._rpc = rpc
        self._peers = peers
        self._messages = metrics.counter(
            "frys_cache_messages_total", "Published messages, by what became of them.", ("result",)
        )
        rpc.on_note(NOTE, self._on_note)

    def close(self) -> None:
        """Take no more messages."""
        self._rpc.off_note(NOTE)

    def publish(self, channel: bytes, body: bytes) -> int:
        """Send to everybody; returns how many clients of this node got it, as in a Redis cluster."""
        payload = b""
        for node in self._peers():
            payload = payload or PUBLISHED.encode(Published(channel, body))
            # What has no room is lost: anything that tried again would be overtaken by what comes after it.
            self._messages.inc("sent" if self._rpc.note(node, NOTE, payload) else "lost")
        return self.deliver(channel, body)

    def _on_note(self, sender: NodeId, payload: bytes) -> None:
        del sender
        try:
            message = PUBLISHED.decode(payload)
        except MalformedFrame:
            self._messages.inc("malformed")
            return
        self.deliver(message.channel, message.body)

    def deliver(self, channel: bytes, body: bytes) -> int:
        """Hand a message to the clients of this node; returns how many times it was."""
        count = 0
        for listener in list(self.channels.get(channel, ())):
            parts = [encode.bulk(b"message"), encode.bulk(channel), encode.bulk(body)]
            listener.push(encode.push(parts, listener.session.protocol))
            count += 1
        for pattern, listeners in list(self.patterns.items()):
            if not matches(pattern, channel):
                continue
            parts = [encode.bulk(part) for part in (b"pmessage", pattern, channel, body)]
            for listener in list(listeners):
                listener.push(encode.push(parts, listener.session.protocol))
                count += 1
        self._messages.inc("delivered", by=count)
        return count

    def change(self, listener: Listener, verb: str, names: Sequence[bytes], limit: int) -> bytes:
        """Carry out SUBSCRIBE and its relatives; returns one confirmation for each name."""
        session = listener.session
        is_pattern, is_end = verb.startswith("p"), "unsub" in verb
        mine = session.patterns if is_pattern else session.channels
        table = self.patterns if is_pattern else self.channels
        replies: list[bytes] = []
        if is_end and not names:
            names = list(mine)
            if not names:
                return self._confirm(session, verb, None)
        for name in names:
            if is_end:
                if name in mine:
                    del mine[name]
                    _remove(table, name, listener)
            elif name not in mine:
                if session.subscriptions >= limit:
                    replies.append(encode.error(f"ERR more than {limit} subscriptions of one client"))
                    continue
                mine[name] = None
                table.setdefault(name, {})[listener] = None
            replies.append(self._confirm(session, verb, name))
        return b"".join(replies)

    def leave(self, listener: Listener) -> None:
        """End every subscription of a client."""
        session = listener.session
        for name in session.channels:
            _remove(self.channels, name, listener)
        for name in session.patterns:
            _remove(self.patterns, name, listener)
        session.channels.clear()
        session.patterns.clear()

    @staticmethod
    def _confirm(session: Session, verb: str, name: bytes | None) -> bytes:
        parts = [
            encode.bulk(verb.encode()),
            encode.bulk_or_null(name, session.protocol),
            encode.integer(session.subscriptions),
        ]
        return encode.push(parts, session.protocol)


def _remove(table: dict[bytes, dict[Listener, None]], name: bytes, listener: Listener) -> None:
    listeners = table.get(name)
    if listeners is not None:
        listeners.pop(listener, None)
        if not listeners:
            del table[name]

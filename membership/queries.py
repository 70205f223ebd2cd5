"""Queries: one node asks, the members answer it directly.

Sans-I/O. In a cluster of up to `DIRECT_MAX` members the asker sends the question to each of them; in a larger one it
spreads as a rumour. A member says at once that it has the question (ack), or that nothing here answers to that name,
and later what it answers. Packets get lost both ways, so the asker repeats the question to whoever has not given a last
word; a member that knows the question repeats what it said. Hence nobody needs to acknowledge an answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from enum import IntEnum
from typing import NamedTuple

from frys_node.base.errors import Overloaded, UsageError
from frys_node.base.types import NodeId
from frys_node.kernel.services.gossip import Outcome
from membership.allowance import Allowance
from membership.errors import GossipTooLarge
from membership.events import check_name
from membership.messages import Attributes
from membership.rumours import QUERY_PAYLOAD_BYTES_MAX, REPLY_PAYLOAD_BYTES_MAX, Query, QueryReply, Rumours

QUERIES_PER_S = 5.0
QUERIES_BURST = 20

ASKED_MAX = 32
"""Queries of this node under way at once."""

ANSWERING_MAX = 1_024
"""Queries of others remembered, so that each is answered once and the answer can be repeated."""

DIRECT_MAX = 64
"""Up to so many members are asked one by one; so many are reminded at a time."""

REMIND_MIN_S, REMIND_MAX_S = 0.1, 0.5
"""A question is repeated after a twentieth of its timeout, within these bounds: at a loss of a third both ways the
chance that none of twenty gets through is under one in a hundred thousand."""

REMIND_ACKED_EVERY = 4
"""Who has the question already is reminded only so seldom: its answer may have been lost, but it is likely at work."""

TIMEOUT_MAX_S = 600.0


class ReplyKind(IntEnum):
    """What a member says to a query."""

    ACK = 0
    ANSWER = 1
    UNHANDLED = 2
    FAILED = 3


OUTCOMES: dict[int, Outcome] = {
    ReplyKind.ANSWER: Outcome.ANSWERED,
    ReplyKind.UNHANDLED: Outcome.UNHANDLED,
    ReplyKind.FAILED: Outcome.FAILED,
}


class Said(NamedTuple):
    """A member's last word on a query of this node; `payload` belongs to an answer or a failure."""

    sequence: int
    node: NodeId
    outcome: Outcome
    payload: bytes
    after_s: float


class Ended(NamedTuple):
    """A query of this node is over: everybody has spoken, or the time is up."""

    sequence: int


class Asked(NamedTuple):
    """Another node, or this one, wants a handler's answer; the driver brings it with `Queries.answer`."""

    query: Query


class Direct(NamedTuple):
    """Send a rumour to one node alone."""

    node: NodeId
    rumour: Query | QueryReply


Outgoing = Said | Ended | Asked | Direct


class _Pending:
    """A query of this node under way."""

    __slots__ = ("asked_s", "deadline_s", "is_acked", "query", "remind_at_s", "remind_s", "turns", "waiting")

    def __init__(self, query: Query, waiting: Iterable[NodeId], now_s: float) -> None:
        timeout_s = query.timeout_ms / 1e3
        self.query = query
        self.waiting = dict.fromkeys(waiting)
        """Members that have not given their last word."""
        self.is_acked: set[NodeId] = set()
        self.asked_s = now_s
        self.deadline_s = now_s + timeout_s
        self.remind_s = min(max(timeout_s / 20, REMIND_MIN_S), REMIND_MAX_S)
        self.remind_at_s = now_s + self.remind_s
        self.turns = 0

    def to_remind(self) -> list[NodeId]:
        """Return whom to ask again."""
        self.turns += 1
        is_for_all = self.turns % REMIND_ACKED_EVERY == 0
        return [node for node in self.waiting if is_for_all or node not in self.is_acked][:DIRECT_MAX]

    @property
    def due_s(self) -> float:
        return min(self.remind_at_s, self.deadline_s)


class _Answering:
    """A query of another node, and what was said to it."""

    __slots__ = ("query", "reply", "until_s")

    def __init__(self, query: Query, now_s: float) -> None:
        self.query = query
        self.until_s = now_s + query.timeout_ms / 1e3
        self.reply: QueryReply | None = None
        """None: not for this node."""


Builtin = Callable[[bytes, float], bytes]


class Queries:
    """Both sides of queries at one node."""

    def __init__(
        self, node: NodeId, boot: int, rumours: Rumours, own: Callable[[], Attributes], builtins: Mapping[str, Builtin]
    ) -> None:
        """`builtins` answer at once: payload and now_s in, payload out."""
        self._node = node
        self._boot = boot
        self._rumours = rumours
        self._own = own
        self._builtins = builtins
        self._allowance: Allowance | None = None
        self._sequence = 0
        self._pending: dict[int, _Pending] = {}
        self._answering: dict[str, _Answering] = {}
        self.handled: set[str] = set()
        """Names that the driver has a handler for."""
        self.out: list[Outgoing] = []
        """What the composing machine has not handed out yet."""

    @property
    def next_deadline_s(self) -> float:
        """When `advance` has something to do."""
        return min((pending.due_s for pending in self._pending.values()), default=math.inf)

    # Asking.

    def ask(self, query: Query, targets: Iterable[tuple[NodeId, Attributes]], now_s: float) -> int:
        """Put a question to whoever of the targets it is for (`draft` makes it); returns the query's number.

        Raises:
            GossipTooFast: Over the rate. Nothing was sent.
            Overloaded: Too many queries are under way. Nothing was sent.
        """
        if len(self._pending) >= ASKED_MAX:
            raise Overloaded(f"{ASKED_MAX} queries of this node are under way", hint="wait for one to end")
        if self._allowance is None:
            self._allowance = Allowance("queries", per_s=QUERIES_PER_S, burst=QUERIES_BURST, now_s=now_s)
        self._allowance.spend(now_s)
        self._sequence = query.sequence
        waiting = [node for node, attributes in targets if matches(query, node, attributes)]
        pending = self._pending[query.sequence] = _Pending(query, waiting, now_s)
        if query.is_spread:
            self._rumours.queue.put(query)
        else:
            self.out += [Direct(node, query) for node in waiting if node != self._node]
        if matches(query, self._node, self._own()):
            pending.waiting[self._node] = None
            pending.is_acked.add(self._node)
            self._begin(query, now_s)
        self._end_if_done(pending)
        return query.sequence

    def draft(
        self,
        name: str,
        payload: bytes,
        *,
        nodes: tuple[str, ...],
        tags: Mapping[str, str],
        timeout_s: float,
        lamport: int,
        live_count: int,
    ) -> Query:
        """Make a question.

        Raises:
            GossipTooLarge: Over a limit, or over what a packet holds.
            UsageError: The name is not printable, or the wait is too short or too long.
        """
        check_name("query", name)
        if len(payload) > QUERY_PAYLOAD_BYTES_MAX:
            raise GossipTooLarge(
                f"the payload of a query has {len(payload)} bytes, the limit is {QUERY_PAYLOAD_BYTES_MAX}",
                hint="put the data elsewhere (a cache key, an object) and its name into the query",
            )
        if len(nodes) > 64 or len(tags) > 64 or any(len(node) > 64 for node in nodes):
            raise GossipTooLarge("a query names at most 64 members of up to 64 characters and 64 tags")
        if not 0.001 <= timeout_s <= TIMEOUT_MAX_S:
            raise UsageError(f"a query waits 0.001 to {TIMEOUT_MAX_S:g} s, not {timeout_s:g}")
        query = Query(
            self._node,
            self._boot,
            self._sequence + 1,
            lamport,
            round(timeout_s * 1e3),
            name,
            payload,
            nodes,
            tuple(sorted(tags.items())),
            live_count > DIRECT_MAX,
        )
        query = self._rumours.signed(query)
        self._rumours.queue.check_fits(query)
        return query

    def cancel(self, sequence: int) -> None:
        """Stop waiting for a query's answers."""
        pending = self._pending.pop(sequence, None)
        if pending is not None:
            self._rumours.queue.drop(Query, pending.query.key)

    def take_reply(self, reply: QueryReply, source: NodeId, now_s: float) -> None:
        """Take what a member says to a query of this node. What nobody waits for is passed over."""
        pending = self._pending.get(reply.sequence)
        if pending is None or reply.boot != self._boot:
            return
        if reply.kind == ReplyKind.ACK:
            pending.is_acked.add(source)
            return
        outcome = OUTCOMES.get(reply.kind)
        if outcome is None or source not in pending.waiting:
            return
        del pending.waiting[source]
        self.out.append(Said(reply.sequence, source, outcome, reply.payload, now_s - pending.asked_s))
        self._end_if_done(pending)

    def _end_if_done(self, pending: _Pending) -> None:
        if not pending.waiting and self._pending.get(pending.query.sequence) is pending:
            self.cancel(pending.query.sequence)
            self.out.append(Ended(pending.query.sequence))

    def advance(self, now_s: float) -> None:
        """Remind whoever is silent, and end what has run out."""
        for pending in list(self._pending.values()):
            if pending.deadline_s <= now_s:
                sequence, after_s = pending.query.sequence, now_s - pending.asked_s
                for node in pending.waiting:
                    outcome = Outcome.ACKED if node in pending.is_acked else Outcome.SILENT
                    self.out.append(Said(sequence, node, outcome, b"", after_s))
                pending.waiting.clear()
                self._end_if_done(pending)
            elif pending.remind_at_s <= now_s:
                pending.remind_at_s = now_s + pending.remind_s
                for node in pending.to_remind():
                    # To the end of the line, so that in a large cluster everybody gets a turn.
                    pending.waiting[node] = pending.waiting.pop(node)
                    if node != self._node:
                        self.out.append(Direct(node, pending.query))

    # Answering.

    def take(self, query: Query, source: NodeId, now_s: float) -> None:
        """Take a question: pass it on if it spreads, and answer if it is for this node."""
        if query.origin == self._node:
            return
        known = self._answering.get(query.key)
        if known is not None:
            if source == query.origin and known.reply is not None:
                self.out.append(Direct(query.origin, known.reply))
            return
        self._answering[query.key] = _Answering(query, now_s)
        while len(self._answering) > ANSWERING_MAX:
            del self._answering[next(iter(self._answering))]
        if query.is_spread:
            self._rumours.queue.put(query)
        if matches(query, self._node, self._own()):
            self._begin(query, now_s)

    def _begin(self, query: Query, now_s: float) -> None:
        builtin = self._builtins.get(query.name)
        if query.name in self.handled:
            if query.origin != self._node:
                self._say(query, ReplyKind.ACK, b"", now_s)
            self.out.append(Asked(query))
        elif builtin is not None:
            self._say(query, ReplyKind.ANSWER, builtin(query.payload, now_s), now_s)
        else:
            self._say(query, ReplyKind.UNHANDLED, b"", now_s)

    def answer(self, query: Query, kind: ReplyKind, payload: bytes, now_s: float) -> None:
        """Bring what a handler says to a question; dropped if nobody waits any more."""
        if len(payload) > REPLY_PAYLOAD_BYTES_MAX:
            text = f"the answer has {len(payload)} bytes, the limit is {REPLY_PAYLOAD_BYTES_MAX}"
            kind, payload = ReplyKind.FAILED, text.encode()
        self._say(query, kind, payload, now_s)

    def _say(self, query: Query, kind: ReplyKind, payload: bytes, now_s: float) -> None:
        reply = QueryReply(query.boot, query.sequence, kind, payload)
        if query.origin == self._node:
            self.take_reply(reply, self._node, now_s)
            return
        reply = self._rumours.signed(reply)
        known = self._answering.get(query.key)
        if known is not None and now_s < known.until_s:
            known.reply = reply
            self.out.append(Direct(query.origin, reply))


def matches(query: Query, node: NodeId, attributes: Attributes) -> bool:
    """Return True if a question is for a member."""
    if query.nodes and node not in query.nodes and attributes.name not in query.nodes:
        return False
    tags = dict(attributes.tags)
    return all(tags.get(key) == value for key, value in query.tags)

"""What the members tell each other beside membership: events, queries and state, joined for the machine.

Sans-I/O. `Talk` registers for its kinds of rumours, collects what its parts want done, and turns that into effects at
the end of each turn of the machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import NodeId
from membership.catchup import BATCHES, HEADS, Batch, CatchUp
from membership.claims import RUMOUR_HEADER_BYTES_MAX, Claims
from membership.config import MembershipConfig
from membership.effects import EventHeard, QueryAsked, QueryEnded, QuerySaid, SendBatch, SendRumour, StateHeard
from membership.events import Events
from membership.messages import PACKETS, Attributes, Gossip
from membership.outbox import Outbox
from membership.queries import Asked, Direct, Ended, Queries, ReplyKind, Said
from membership.rumours import RUMOURS, Query, QueryReply, StateDelta, StateEntry, UserEvent
from membership.state import States

DIFFERING_ACKS = 2
"""Acks in a row with another digest than this node's before states are exchanged: one may have crossed with news."""

DIFFERING_ACKS_BUSY = 4
"""The same while rumours under way may explain the difference, and no event is known to be missing."""


class Talk:
    """Events, queries and state of one node. Whoever commands it then ends the machine's turn."""

    def __init__(
        self, claims: Claims, outbox: Outbox, config: MembershipConfig, *, now_s: float, unix_offset_ns: int
    ) -> None:
        self._claims = claims
        self._outbox = outbox
        self._packet_bytes_max = config.payload_bytes_max
        self._unix_offset_ns = unix_offset_ns
        self._started_s = now_s
        self._differing = 0
        rumours = claims.rumours
        self.events = Events(claims.node, claims.boot, rumours, claims.tallies)
        room_bytes = config.payload_bytes_max - RUMOUR_HEADER_BYTES_MAX
        self.states = States(claims.node, claims.boot, rumours, room_bytes, claims.tallies, claims.signing)
        self.queries = Queries(
            claims.node,
            claims.boot,
            rumours,
            lambda: claims.own.attributes,
            {"ping": lambda payload, _: payload, "uptime": self._uptime},
        )
        self.catch_up = CatchUp(self.events, self.states, rumours, self._boot_of)
        rumours.handle(UserEvent, lambda event, source, at_s: self.events.take(event, at_s))
        rumours.handle(StateDelta, self.states.take)
        rumours.handle(Query, self.queries.take)
        rumours.handle(QueryReply, self.queries.take_reply)

    def _uptime(self, payload: bytes, now_s: float) -> bytes:
        return b"%.3f" % (now_s - self._started_s)

    def _boot_of(self, node: NodeId) -> int | None:
        member = self._claims.table.get(node)
        return None if member is None or not member.is_live else member.update.boot

    # Commands.

    def fire(self, name: str, payload: bytes, now_s: float) -> UserEvent:
        """Tell everybody; see `Events.fire`."""
        return self.events.fire(name, payload, now_s, self._unix_offset_ns + int(now_s * 1e9))

    def ask(
        self,
        name: str,
        payload: bytes,
        *,
        nodes: tuple[str, ...] = (),
        tags: Mapping[str, str] | None = None,
        timeout_s: float,
        now_s: float,
    ) -> int:
        """Put a question to the live members; returns its number. See `Queries.draft` and `Queries.ask`."""
        table = self._claims.table
        query = self.queries.draft(
            name,
            payload,
            nodes=nodes,
            tags=tags or {},
            timeout_s=timeout_s,
            lamport=self.events.next_lamport,
            live_count=len(table.live),
        )
        targets: list[tuple[NodeId, Attributes]] = []
        for node in table.live:
            member = table.get(node)
            assert member is not None
            targets.append((node, member.update.attributes))
        return self.queries.ask(query, targets, now_s)

    def answer(self, query: Query, kind: ReplyKind, payload: bytes, now_s: float) -> None:
        """Bring a handler's answer; see `Queries.answer`."""
        self.queries.answer(query, kind, payload, now_s)

    def state_of(self, node: NodeId) -> list[StateEntry]:
        """Return a member's keys in order; none of an earlier boot than the one that is known of."""
        state = self.states.by_node.get(node)
        member = self._claims.table.get(node)
        is_current = state is not None and (member is None or state.boot >= member.update.boot)
        return state.live if state is not None and is_current else []

    # Exchange.

    def said(self) -> bytes:
        """Return how far this node has come with everybody, for the other side of an exchange."""
        return HEADS.encode(self.catch_up.heads())

    def meet(self, said: bytes, source: NodeId, now_s: float) -> None:
        """Take how far another node has come, and send it what it lacks."""
        try:
            heads = HEADS.decode(said)
        except MalformedFrame:
            self._drop("malformed", "heads")
            return
        batch = self.catch_up.meet(heads, now_s)
        member = self._claims.table.get(source)
        if batch is not None and member is not None:
            self._claims.out.append(SendBatch(source, member.address, BATCHES.encode(batch)))

    def take_batch(self, batch: Batch, source: NodeId, now_s: float) -> bytes:
        """Take what this node lacked; returns its heads if the sender has more, else nothing."""
        heads = self.catch_up.take(batch, source, now_s)
        return b"" if heads is None else HEADS.encode(heads)

    @property
    def digest(self) -> int:
        """What stands for all that this node knows: of its members, and of what they have said."""
        table_digest = self._claims.table.digest
        return table_digest ^ self.catch_up.digest(table_digest)

    def differs(self, digest: int) -> bool:
        """Take the digest of an ack; True if it is time to exchange, because the news under way has had its chance."""
        if digest == self.digest or len(self._claims.queue):
            self._differing = 0
            return False
        self._differing += 1
        is_busy = len(self._claims.rumours.queue) and not any(w.missing for w in self.events.windows.values())
        if self._differing < (DIFFERING_ACKS_BUSY if is_busy else DIFFERING_ACKS):
            return False
        self._differing = 0
        return True

    # Time.

    @property
    def next_deadline_s(self) -> float:
        """When `advance` has something to do."""
        return self.queries.next_deadline_s

    def advance(self, now_s: float) -> None:
        """Do what is due."""
        self.queries.advance(now_s)

    def forget(self, now_s: float) -> None:
        """Drop what came from nodes that are no members any more."""
        for node in [node for node in self.events.windows if self._claims.table.get(node) is None]:
            self.events.forget(node, now_s)
        self.states.forget(lambda node: self._claims.table.get(node) is not None)
        self.catch_up.revision += 1

    def flush(self) -> None:
        """Turn what the parts want done into effects."""
        events, states, queries, out = self.events, self.states, self.queries, self._claims.out
        if events.delivered or states.changed:
            self.catch_up.revision += 1
            out += [EventHeard(event) for event in events.delivered]
            out += [StateHeard(node, entry) for node, entry in states.changed]
            events.delivered.clear()
            states.changed.clear()
        if not queries.out:
            return
        for what in queries.out:
            match what:
                case Direct(node, rumour):
                    self._send(node, rumour)
                case Asked(query):
                    out.append(QueryAsked(query))
                case Said():
                    out.append(QuerySaid(what))
                case Ended(sequence):
                    out.append(QueryEnded(sequence))
        queries.out.clear()

    def _send(self, node: NodeId, rumour: Query | QueryReply) -> None:
        """Send to one node: in a packet if it fits, else over the channel."""
        tallies = self._claims.tallies
        kind = "query" if isinstance(rumour, Query) else "query_reply"
        member = self._claims.table.get(node)
        if member is None:
            # A question of a stranger: it will be met, and remind us.
            self._drop("unknown_node", kind)
            return
        tallies.add(tallies.rumours, "sent", kind)
        data = RUMOURS.encode(rumour)
        message = Gossip((), (data,))
        if len(PACKETS.encode(message)) <= self._packet_bytes_max:
            self._outbox.send(member.address, message, ())
        else:
            self._claims.out.append(SendRumour(node, member.address, data))

    def _drop(self, reason: str, kind: str) -> None:
        self._claims.tallies.add(self._claims.tallies.rumours_dropped, reason, kind)

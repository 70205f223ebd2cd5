"""Repair: what two nodes tell each other so that both know all events and all state.

Sans-I/O. Gossip is quick and loses a little. A `Head` says how far a node has come with one member: version of its
state, number of its latest event, and the events missing before that. Heads ride on the exchange of tables; whoever
sees that the other is behind sends it a `Batch` of rumours with its own heads. Acks carry a digest of all heads, so a
difference is found within a few probes. What a batch's sender knows of and can no longer tell (an event too old), its
receiver gives up, or the two would never become equal.

A node that has just started takes state, but not the events from before: it adopts the heads of the first peer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import NodeId
from frys_node.wire.codec import Codec, Message
from membership.events import WINDOW, Events
from membership.rumours import RUMOURS, Rumour, Rumours, StateDelta, UserEvent
from membership.state import States

HEADS_MAX = 4_096

HEADS_BYTES_MAX = 256 * 1024
"""Heads ride in the first piece of a state exchange, which must fit into one frame whatever others claim to miss."""

HEAD_BYTES = 48
NUMBER_BYTES = 9
"""What a head costs beside its node and its missing numbers, and each of those, at most."""

TELLERS_MAX = 4
"""Members whose word on another one's events is remembered; the oldest make room."""

BATCH_BYTES_MAX = 256 * 1024
"""Rumours in one batch; the rest follows in the next one."""

_Id = Annotated[NodeId, msgspec.Meta(min_length=1, max_length=64)]
_Count = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]


class Head(Message, frozen=True, array_like=True, gc=False):
    """How far a node has come with one member's boot."""

    node: _Id
    boot: _Count
    version: _Count
    sequence: _Count
    missing: Annotated[tuple[_Count, ...], msgspec.Meta(max_length=WINDOW)] = ()


class Heads(Message, frozen=True, array_like=True, gc=False):
    """How far a node has come with everybody who has said anything."""

    heads: Annotated[tuple[Head, ...], msgspec.Meta(max_length=HEADS_MAX)] = ()
    is_settled: bool = False
    """False until the node has caught up with a peer once: it does not want the events from before its time."""


class Batch(Message, frozen=True, array_like=True, gc=False):
    """What the receiver lacks, and where that brings it."""

    rumours: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=65_536)]
    heads: Heads
    is_whole: bool = True
    """False if there is more: the receiver answers with its heads, and the next batch follows."""


HEADS: Codec[Heads] = Codec(Heads)
BATCHES: Codec[Batch] = Codec(Batch)


class CatchUp:
    """Compares and repairs, for one node."""

    def __init__(
        self, events: Events, states: States, rumours: Rumours, boot_of: Callable[[NodeId], int | None]
    ) -> None:
        """`boot_of` says which boot of a node is live here; None for anybody who is no live member."""
        self._events = events
        self._states = states
        self._rumours = rumours
        self._boot_of = boot_of
        self.is_settled = False
        self._said: dict[tuple[NodeId, int], dict[NodeId, int]] = {}
        """Who says up to where the events of a member's boot go, where that is beyond what was heard here."""
        self._digest = 0
        self._digest_of: tuple[int, int] | None = None
        self.revision = 0
        """Grows with every change of a head, so that the digest is not computed for each ack."""

    def heads(self) -> Heads:
        """Return how far this node has come."""
        heads: list[Head] = []
        size_bytes = 0
        for head in self._heads():
            size_bytes += HEAD_BYTES + len(head.node.encode()) + NUMBER_BYTES * len(head.missing)
            if len(heads) == HEADS_MAX or size_bytes > HEADS_BYTES_MAX:
                break
            heads.append(head)
        return Heads(tuple(heads), self.is_settled)

    def _heads(self) -> Iterator[Head]:
        windows, states = self._events.windows, self._states.by_node
        for node in sorted(windows.keys() | states.keys()):
            window, state = windows.get(node), states.get(node)
            boot = max(-1 if window is None else window.boot, -1 if state is None else state.boot)
            version = state.version if state is not None and state.boot == boot else 0
            is_heard = window is not None and window.boot == boot
            sequence = window.head if window is not None and is_heard else 0
            missing = tuple(sorted(window.missing)) if window is not None and is_heard else ()
            if version or sequence:
                yield Head(node, boot, version, sequence, missing)

    def digest(self, table_digest: int) -> int:
        """Return 64 bits that are equal at nodes with equal tables that have come equally far; 0 if nothing was said.

        Only live members count: who is gone is forgotten by each node in its own time.
        """
        if self._digest_of != (table_digest, self.revision):
            self._digest_of = (table_digest, self.revision)
            self._digest = 0
            for head in self._heads():
                if self._boot_of(head.node) == head.boot:
                    data = msgspec.msgpack.encode(head)
                    self._digest ^= int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")
        return self._digest

    def meet(self, theirs: Heads, now_s: float) -> Batch | None:
        """Compare with another node; returns what to send it, None if it lacks nothing that is known here."""
        known = {head.node: head for head in theirs.heads}
        mine = {head.node: head for head in self._heads()}
        if not any(_is_behind(mine.get(node), head) for node, head in known.items()):
            self.is_settled = True
        ahead = [head for head in mine.values() if _is_behind(known.get(head.node), head)]
        if not ahead:
            return None
        rumours: list[bytes] = []
        size_bytes = 0
        for rumour in self._lacking(ahead, known, theirs.is_settled, now_s):
            data = RUMOURS.encode(rumour)
            size_bytes += len(data)
            if size_bytes > BATCH_BYTES_MAX and rumours:
                return Batch(tuple(rumours), self.heads(), False)
            rumours.append(data)
        return Batch(tuple(rumours), self.heads(), True)

    def _lacking(
        self, ahead: list[Head], known: dict[NodeId, Head], wants_events: bool, now_s: float
    ) -> Iterator[Rumour]:
        if wants_events:
            for event in self._events.recent(now_s):
                theirs = known.get(event.origin)
                if theirs is None or theirs.boot < event.boot or _lacks(theirs, event):
                    yield event
        for head in ahead:
            theirs = known.get(head.node)
            since = theirs.version if theirs is not None and theirs.boot == head.boot else 0
            if head.version > since:
                yield self._states.by_node[head.node].delta(head.node, since)

    def take(self, batch: Batch, source: NodeId, now_s: float) -> Heads | None:
        """Take a batch; returns this node's heads if the sender has more."""
        for data in batch.rumours:
            try:
                rumour = RUMOURS.decode(data)
            except MalformedFrame:
                continue
            if isinstance(rumour, UserEvent):
                if self._rumours.is_signed(rumour, rumour.author, source, now_s):
                    self._events.take(rumour, now_s)
            elif isinstance(rumour, StateDelta):
                self._states.take(rumour, source, now_s)
        self.revision += 1
        if not batch.is_whole:
            return self.heads()
        for head in batch.heads.heads:
            sequence = self._agreed(head, source)
            if sequence:
                missing = frozenset(head.missing)
                self._events.adopt(head.node, head.boot, sequence, missing, now_s, not self.is_settled)
        self.is_settled = True
        return None

    def _agreed(self, head: Head, source: NodeId) -> int:
        """Return up to which event a member's events are given up, because others cannot tell them any more.

        Numbers that nobody has signed: beyond what was heard of the member itself it takes two who say so, or itself.
        Otherwise whoever lies about them would silence it here. A newcomer takes what the first one says.
        """
        window = self._events.windows.get(head.node)
        heard = window.head if window is not None and window.boot == head.boot else 0
        if head.sequence <= heard or source == head.node or not self.is_settled:
            return head.sequence
        said = self._said.setdefault((head.node, head.boot), {})
        said.pop(source, None)
        said[source] = head.sequence
        if len(said) > TELLERS_MAX:
            del said[next(iter(said))]
        if len(self._said) > HEADS_MAX:
            del self._said[next(iter(self._said))]
        agreed = sorted(said.values())[-2] if len(said) > 1 else 0
        return max(heard, agreed)


def _lacks(theirs: Head, event: UserEvent) -> bool:
    return theirs.boot == event.boot and (event.sequence > theirs.sequence or event.sequence in theirs.missing)


def _is_behind(theirs: Head | None, mine: Head) -> bool:
    """True if they lack something of a member that is known here."""
    if theirs is None or theirs.boot < mine.boot:
        return True
    if theirs.boot > mine.boot:
        return False
    if theirs.version < mine.version or theirs.sequence < mine.sequence:
        return True
    missing = frozenset(mine.missing)
    return any(number <= mine.sequence and number not in missing for number in theirs.missing)

"""Which members cannot reach which others, although those live: one-way cuts, bad cables, half a firewall rule.

Sans-I/O. There are three kinds, for packets and connections fail apart. A probe that only a helper could save is
repeated directly; after `TRIES` direct pings without an answer the prober publishes the edge, and takes it back when an
answer comes. Nobody is suspected for it. A member to which more than half of those who probed it within `EDGE_TTL_S`
have such an edge is degraded. One lost packet makes no edge: at 20 % loss one probe in 170 does, and at 40 % one in
ten, far from a half.

A watcher knows more, for it has a connection besides. A member that answers on it and answers no packet lives, and so
does one whose port refuses new connections while it answers packets. Either is degraded if more than half of its
watchers find it so; one of them may be to blame itself. They tell of it anew every `EDGE_REFRESH_S`: the word of most
watchers also excuses the member from what probes would accuse it of (`Edges.is_spoken_for`).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Annotated, NamedTuple

import msgspec

from frys_node.base.types import NodeId
from frys_node.wire.codec import Message

EDGE_TTL_S = 60.0
"""An edge is forgotten so long after it was last heard of."""

EDGE_REFRESH_S = 10.0
"""A watcher tells of an edge that lasts so often."""

SPOKEN_FOR_S = 25.0
"""For so long the word of the watchers excuses a member: two of their words may be lost."""

EDGES_MAX = 1_024
"""Edges remembered; the oldest make room."""

TRIES = 5
"""Direct pings without an answer that make an edge, the probe's own included."""

RECHECKS_MAX = 4
"""Members whose direct path is looked at again at a time."""

_Id = Annotated[NodeId, msgspec.Meta(min_length=1, max_length=64)]


class EdgeKind(IntEnum):
    """What `a` does not get through to `b`."""

    PACKETS = 0
    """Packets, though helpers are answered."""
    PACKETS_ALONE = 1
    """Packets, though `b` answers on the connection that `a` has to it."""
    CONNECTIONS = 2
    """New connections, which its port refuses, though it answers packets."""


_TURNS = {
    (EdgeKind.PACKETS, False): "not reached directly",
    (EdgeKind.PACKETS, True): "reached again",
    (EdgeKind.PACKETS_ALONE, False): "answers no packets",
    (EdgeKind.PACKETS_ALONE, True): "reached again",
    (EdgeKind.CONNECTIONS, False): "refuses connections",
    (EdgeKind.CONNECTIONS, True): "connected again",
}


class Edge(Message, frozen=True, array_like=True, gc=False, tag=1):
    """`a` gets no answer from `b`, which lives; or, if `is_up`, gets one again."""

    a: _Id
    b: _Id
    seen_s: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    """When, by the wall clock of `a`. Only to tell the newer of two."""
    is_up: bool = False
    kind: EdgeKind = EdgeKind.PACKETS
    word: Annotated[bytes, msgspec.Meta(max_length=65)] = b""
    """The signature of `a`."""

    @property
    def author(self) -> NodeId:
        """Whose signature it needs."""
        return self.a

    @property
    def key(self) -> str:
        """Which edge it is."""
        return f"{self.a}/{self.b}/{self.kind:d}"

    @property
    def turn(self) -> str:
        """What it is in the story of `b`."""
        return _TURNS[self.kind, self.is_up]


class Seen(NamedTuple):
    """An edge as it is remembered."""

    edge: Edge
    at_s: float
    """When this node heard of it."""


class Edges:
    """The edges that one node knows of."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[tuple[NodeId, NodeId, EdgeKind], Seen] = {}
        """By (a, b, kind), the one heard of last at the end."""

    def __len__(self) -> int:
        return len(self._seen)

    def take(self, edge: Edge, now_s: float) -> bool:
        """Take what somebody says of an edge; True if it is news."""
        self._expire(now_s)
        key = (edge.a, edge.b, edge.kind)
        known = self._seen.get(key)
        if known is not None and (edge.seen_s, edge.is_up) <= (known.edge.seen_s, known.edge.is_up):
            return False
        if known is None and len(self._seen) >= EDGES_MAX:
            # To forget one for it would make news of its next echo, for ever.
            return False
        self._seen.pop(key, None)
        self._seen[key] = Seen(edge, now_s)
        return known is not None or not edge.is_up

    def has(
        self,
        a: NodeId,
        b: NodeId,
        now_s: float,
        kind: EdgeKind = EdgeKind.PACKETS,
        *,
        within_s: float = EDGE_TTL_S,
    ) -> bool:
        """Return True if `a` is known not to reach `b`, and has said so lately."""
        seen = self._seen.get((a, b, kind))
        return seen is not None and not seen.edge.is_up and now_s - seen.at_s < within_s

    def down(self, now_s: float) -> list[Seen]:
        """Return the edges that are down, the one heard of last at the end."""
        self._expire(now_s)
        return [seen for seen in self._seen.values() if not seen.edge.is_up]

    def count_to(self, node: NodeId, now_s: float) -> int:
        """Return how many members cannot reach a node by packets."""
        if not self._seen:
            return 0
        edges = [seen.edge for seen in self.down(now_s)]
        return len({edge.a for edge in edges if edge.b == node and edge.kind is not EdgeKind.CONNECTIONS})

    def is_found_so(
        self, node: NodeId, kind: EdgeKind, watchers: Sequence[NodeId], now_s: float, *, within_s: float = EDGE_TTL_S
    ) -> bool:
        """Return True if more than half of a member's watchers find it cut off from them in this way."""
        return 2 * sum(self.has(a, node, now_s, kind, within_s=within_s) for a in watchers) > len(watchers)

    def is_spoken_for(self, node: NodeId, watchers: Sequence[NodeId], now_s: float) -> bool:
        """Return True if most watchers have said lately that a member lives, though their packets are lost."""
        if not self._seen:
            return False
        return self.is_found_so(node, EdgeKind.PACKETS_ALONE, watchers, now_s, within_s=SPOKEN_FOR_S)

    def shift(self, gap_s: float) -> None:
        """Move all of them by a time during which this node itself stood still."""
        for key, seen in self._seen.items():
            self._seen[key] = seen._replace(at_s=seen.at_s + gap_s)

    def _expire(self, now_s: float) -> None:
        while self._seen:
            key, seen = next(iter(self._seen.items()))
            if now_s - seen.at_s < EDGE_TTL_S:
                return
            del self._seen[key]


class Recheck:
    """One member whose direct path is looked at again."""

    __slots__ = ("missed", "node", "sequence")

    def __init__(self, node: NodeId, sequence: int) -> None:
        self.node = node
        self.sequence = sequence
        """Of the ping under way."""
        self.missed = 1
        """Direct pings without an answer so far."""

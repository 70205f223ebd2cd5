"""Which members cannot reach which others, although somebody can: one-way cuts, bad cables, half a firewall rule.

Sans-I/O. A probe that only a helper could save is repeated directly; after `TRIES` direct pings without an answer the
prober publishes the edge, and takes it back when an answer comes. Nobody is suspected for it. A member to which more
than half of those who probed it within `EDGE_TTL_S` have such an edge is degraded. One lost packet makes no edge: at
20 % loss one probe in 170 does, and at 40 % one in ten, far from a half.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import msgspec

from frys_node.base.types import NodeId
from frys_node.wire.codec import Message

EDGE_TTL_S = 60.0
"""An edge is forgotten so long after it was last heard of."""

EDGES_MAX = 1_024
"""Edges remembered; the oldest make room."""

TRIES = 5
"""Direct pings without an answer that make an edge, the probe's own included."""

RECHECKS_MAX = 4
"""Members whose direct path is looked at again at a time."""

_Id = Annotated[NodeId, msgspec.Meta(min_length=1, max_length=64)]


class Edge(Message, frozen=True, array_like=True, gc=False, tag=1):
    """`a` gets no answer from `b`, while others do; or, if `is_up`, gets one again."""

    a: _Id
    b: _Id
    seen_s: Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
    """When, by the wall clock of `a`. Only to tell the newer of two."""
    is_up: bool = False

    @property
    def key(self) -> str:
        """Which edge it is."""
        return f"{self.a}/{self.b}"


class Seen(NamedTuple):
    """An edge as it is remembered."""

    edge: Edge
    at_s: float
    """When this node heard of it."""


class Edges:
    """The edges that one node knows of."""

    __slots__ = ("_seen",)

    def __init__(self) -> None:
        self._seen: dict[tuple[NodeId, NodeId], Seen] = {}
        """By (a, b), the one heard of last at the end."""

    def take(self, edge: Edge, now_s: float) -> bool:
        """Take what somebody says of an edge; True if it is news."""
        self._expire(now_s)
        key = (edge.a, edge.b)
        known = self._seen.get(key)
        if known is not None and (edge.seen_s, edge.is_up) <= (known.edge.seen_s, known.edge.is_up):
            return False
        self._seen.pop(key, None)
        self._seen[key] = Seen(edge, now_s)
        if len(self._seen) > EDGES_MAX:
            del self._seen[next(iter(self._seen))]
        return known is not None or not edge.is_up

    def has(self, a: NodeId, b: NodeId, now_s: float) -> bool:
        """Return True if `a` is known not to reach `b`."""
        seen = self._seen.get((a, b))
        return seen is not None and not seen.edge.is_up and now_s - seen.at_s < EDGE_TTL_S

    def down(self, now_s: float) -> list[Seen]:
        """Return the edges that are down, the one heard of last at the end."""
        self._expire(now_s)
        return [seen for seen in self._seen.values() if not seen.edge.is_up]

    def count_to(self, node: NodeId, now_s: float) -> int:
        """Return how many members cannot reach a node."""
        if not self._seen:
            return 0
        return sum(1 for seen in self.down(now_s) if seen.edge.b == node)

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

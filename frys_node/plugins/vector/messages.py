"""What the nodes say to one another about searches.

Sans-I/O. One request carries a batch of queries for some shards of one collection on one node; the answer has one list
of hits per query, already merged over those shards. Tags and field order are frozen, new fields go at the end (D10).
"""

from __future__ import annotations

from typing import Final

from frys_node.base.types import Epoch
from frys_node.kernel.services.replication import Version
from frys_node.kernel.services.rpc import Method
from frys_node.wire.codec import Message

REPLY_BYTES_MAX = 960 * 1024
"""Room for hits and values in one reply; a frame is 1 MiB at most."""

REPLY_VALUES_BYTES_MAX = 256 * 1024
"""Values sent along with the hits of one reply; the rest are read by the asking node."""

HIT_BYTES = 96
"""A hit without its value: id up to 17 bytes, score, version with a node of 32 characters, framing."""

REQUEST_BYTES_MAX = 512 * 1024
"""Query vectors in one request; a larger batch is sent in several."""

HITS_PER_REPLY_MAX = 10_000
"""Hits in one reply: about 80 bytes each."""


class Query(Message, tag=1, frozen=True):
    """One query. Without a vector it lists points in the order of their ids, from `start` on.

    `filter` is the JSON of a Qdrant filter, empty for none. `ef` 0 means the default. `limit` 0 only counts.
    """

    vector: bytes
    limit: int
    filter: bytes = b""
    exact: bool = False
    ef: int = 0
    score_threshold: float | None = None
    with_value: bool = False
    start: bytes = b""


class Hit(Message, tag=2, frozen=True):
    """A point found: its encoded id, score, version and, when it was asked for and there was room, its value."""

    id: bytes
    score: float
    version: Version
    value: bytes | None = None


class QueryHits(Message, tag=3, frozen=True):
    """Hits of one query, best first; `matched` is the number of points that match, for listings."""

    hits: list[Hit]
    matched: int = 0


class SearchRequest(Message, tag=4, frozen=True):
    """Search some shards of a collection. `is_strict` demands the same topology record on both sides (quorum, all)."""

    epoch: Epoch
    collection: str
    shards: tuple[int, ...]
    queries: list[Query]
    is_strict: bool = False


class SearchReply(Message, tag=5, frozen=True):
    """One answer per query, and the shards that this node does not serve."""

    answers: list[QueryHits]
    missing: tuple[int, ...] = ()


SEARCH: Final[Method[SearchRequest, SearchReply]] = Method("vector.search", SearchRequest, SearchReply)


class StatsRequest(Message, tag=6, frozen=True):
    """Ask for the size of some shards."""

    collection: str
    shards: tuple[int, ...]


class StatsReply(Message, tag=7, frozen=True):
    """Per shard that this node serves: number, points, points in a graph, segments."""

    shards: list[tuple[int, int, int, int]]


STATS: Final[Method[StatsRequest, StatsReply]] = Method("vector.stats", StatsRequest, StatsReply)

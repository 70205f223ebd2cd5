"""The asking half of a search: which nodes to ask for which shards, until each shard has answers enough.

One frame per node and batch. `one` asks one replica of each shard and turns to another when it fails; `quorum` and
`all` ask so many members of the shard's current set, all under one topology record. Shards without answers enough are
named.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import trio

from frys_node.base.errors import FrysError, StaleEpoch, UsageError
from frys_node.base.types import Consistency, NodeId
from frys_node.kernel.parallel import run_all
from frys_node.kernel.services.replication import Replication
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.topology import Collection, Topology
from frys_node.observe.metrics import Metrics
from frys_node.plugins.vector.collection import unit_of
from frys_node.plugins.vector.config import VectorConfig
from frys_node.plugins.vector.local import LocalShards
from frys_node.plugins.vector.messages import (
    HITS_PER_REPLY_MAX,
    REQUEST_BYTES_MAX,
    SEARCH,
    STATS,
    Hit,
    Query,
    QueryHits,
    SearchReply,
    SearchRequest,
    StatsRequest,
)

STALE_RETRIES_MAX = 40
STALE_PAUSE_S = 0.05
"""How long, and how often, a strict search waits for the nodes to agree on the topology record."""


class Gathered(NamedTuple):
    """For each query the lists of hits, one per answer, and the shards that nobody answered for."""

    lists: list[list[QueryHits]]
    missing: tuple[int, ...]


class Sizes(NamedTuple):
    """What a collection holds, and the shards that nobody answered for, whose points are not counted."""

    points: int
    indexed: int
    segments: int
    missing: tuple[int, ...]


class _Asking:
    """Who has been asked about one shard, and who is still to be."""

    __slots__ = ("answers", "candidates", "need")

    def __init__(self, candidates: Sequence[NodeId], need: int) -> None:
        self.candidates = list(candidates)
        self.need = need
        self.answers = 0

    def take(self) -> list[NodeId]:
        """Return the nodes to ask now."""
        wanted = self.need - self.answers
        nodes, self.candidates = self.candidates[:wanted], self.candidates[wanted:]
        return nodes


class Scatter:
    """Asks the nodes that hold a collection's shards."""

    def __init__(
        self,
        *,
        local: LocalShards,
        replication: Replication,
        topology: Topology,
        rpc: Rpc,
        config: VectorConfig,
        metrics: Metrics,
    ) -> None:
        self.config = config
        self._local = local
        self._replication = replication
        self._topology = topology
        self._rpc = rpc
        self._asked = metrics.counter("frys_vector_node_searches_total", "Requests to nodes, by outcome.", ("result",))

    async def load(self) -> None:
        """Have what works with vectors in memory."""
        await self._local.load()

    async def search(self, collection: Collection, queries: Sequence[Query], consistency: Consistency) -> Gathered:
        """Ask for a batch of queries over every shard of the collection."""
        lists: list[list[QueryHits]] = []
        missing: set[int] = set()
        for batch in _batches(queries):
            part = await self._agreed(collection, batch, consistency)
            lists += part.lists
            missing.update(part.missing)
        return Gathered(lists, tuple(sorted(missing)))

    async def sizes(self, collection: Collection) -> Sizes:
        """Return points, points in graphs and segments, from one replica of each shard."""
        points = indexed = segments = 0
        pending = dict.fromkeys(range(collection.shard_number), 0)
        for attempt in range(max(1, collection.replication_factor)):
            groups: dict[NodeId, list[int]] = {}
            for shard in pending:
                replicas = self._replication.replicas(unit_of(collection, shard))
                if attempt < len(replicas):
                    groups.setdefault(replicas[attempt], []).append(shard)
            jobs = [partial(self._stats, node, collection, shards) for node, shards in groups.items()]
            for shard, held, graphed, parts in [size for sizes in await run_all(jobs) for size in sizes]:
                del pending[shard]
                points, indexed, segments = points + held, indexed + graphed, segments + parts
            if not pending:
                break
        return Sizes(points, indexed, segments, tuple(pending))

    async def _stats(self, node: NodeId, collection: Collection, shards: list[int]) -> list[tuple[int, int, int, int]]:
        request = StatsRequest(collection.id, tuple(shards))
        try:
            with trio.fail_after(self.config.node_timeout_s):
                if node == self._rpc.self_id:
                    return (await self._local.stats(node, request)).shards
                return (await self._rpc.call(node, STATS, request)).shards
        except (FrysError, trio.TooSlowError):
            return []

    async def _agreed(self, collection: Collection, queries: list[Query], consistency: Consistency) -> Gathered:
        for _ in range(STALE_RETRIES_MAX):
            try:
                return await self._gather(collection, queries, consistency)
            except StaleEpoch:
                await trio.sleep(STALE_PAUSE_S)
        return await self._gather(collection, queries, consistency)

    def _plan(self, collection: Collection, consistency: Consistency) -> dict[int, _Asking]:
        plan: dict[int, _Asking] = {}
        for shard in range(collection.shard_number):
            unit = unit_of(collection, shard)
            candidates = list(self._replication.replicas(unit))
            need = 1
            if consistency is not Consistency.ONE:
                # In `joint` the members of the next set take part when the candidates' versions are verified.
                current = self._topology.sets(unit).current
                candidates = [node for node in candidates if node in current]
                need = len(current) if consistency is Consistency.ALL else len(current) // 2 + 1
            plan[shard] = _Asking(candidates, need)
        return plan

    async def _gather(self, collection: Collection, queries: list[Query], consistency: Consistency) -> Gathered:
        plan = self._plan(collection, consistency)
        epoch = self._topology.epoch
        is_strict = consistency is not Consistency.ONE
        lists: list[list[QueryHits]] = [[] for _ in queries]
        while True:
            groups: dict[NodeId, list[int]] = {}
            for shard, asking in plan.items():
                for node in asking.take():
                    groups.setdefault(node, []).append(shard)
            if not groups:
                break
            requests = [
                (node, SearchRequest(epoch, collection.id, tuple(shards), queries, is_strict))
                for node, shards in groups.items()
            ]
            replies = await run_all([partial(self._ask, node, request) for node, request in requests])
            for (_, request), reply in zip(requests, replies, strict=True):
                if reply is None:
                    continue
                for shard in request.shards:
                    plan[shard].answers += shard not in reply.missing
                for found, answer in zip(lists, reply.answers, strict=True):
                    found.append(answer)
        return Gathered(lists, tuple(shard for shard, asking in plan.items() if asking.answers < asking.need))

    async def _ask(self, node: NodeId, request: SearchRequest) -> SearchReply | None:
        """Ask one node; None when it does not answer (somebody else is asked then)."""
        try:
            if node == self._rpc.self_id:
                reply = await self._local.search(node, request)
            else:
                with trio.fail_after(self.config.node_timeout_s):
                    reply = await self._rpc.call(node, SEARCH, request)
        except StaleEpoch:
            self._asked.inc("stale")
            raise
        except UsageError:
            raise  # the request itself is wrong: nobody else would answer it
        except (FrysError, trio.TooSlowError):
            self._asked.inc("failed")
            return None
        self._asked.inc("answered")
        return reply


def merged_hits(lists: Sequence[QueryHits]) -> list[list[Hit]]:
    """Return the bare lists of hits of one query."""
    return [part.hits for part in lists]


def _batches(queries: Sequence[Query]) -> list[list[Query]]:
    """Cut a batch so that requests and replies stay below the frame limit."""
    batches: list[list[Query]] = []
    size_bytes = hits = 0
    for query in queries:
        query_bytes = len(query.vector) + len(query.filter) + 64
        if not batches or size_bytes + query_bytes > REQUEST_BYTES_MAX or hits + query.limit > HITS_PER_REPLY_MAX:
            batches.append([])
            size_bytes = hits = 0
        batches[-1].append(query)
        size_bytes += query_bytes
        hits += query.limit
    return batches

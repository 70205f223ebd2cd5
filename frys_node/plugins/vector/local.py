"""The answering half of a search: queries run over the shards that this node holds, in this thread or in a worker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import trio

from frys_node.base.errors import StaleEpoch
from frys_node.base.ports import Executor
from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import shard_of
from frys_node.kernel.services.replication import Replication
from frys_node.kernel.services.topology import Collection, Topology
from frys_node.plugins.vector.collection import Distance, unit_of
from frys_node.plugins.vector.config import VectorConfig
from frys_node.plugins.vector.filters import Predicate, compile_filter
from frys_node.plugins.vector.messages import (
    HIT_BYTES,
    REPLY_BYTES_MAX,
    REPLY_VALUES_BYTES_MAX,
    Hit,
    Query,
    QueryHits,
    SearchReply,
    SearchRequest,
    StatsReply,
    StatsRequest,
)
from frys_node.plugins.vector.query import merge_by_id, merge_top_k
from frys_node.plugins.vector.shard import ShardStore

if TYPE_CHECKING:
    from frys_node.plugins.vector.index import BuildJob

Work = Callable[[], QueryHits]


class LocalShards:
    """The shards of this node."""

    def __init__(
        self, *, replication: Replication, topology: Topology, executor: Executor, config: VectorConfig
    ) -> None:
        self.config = config
        self._replication = replication
        self._topology = topology
        self._executor = executor
        self._has_index = False
        self.opened = trio.Event()
        """Set with the first shard that is placed here."""

    def open(self, unit: UnitId) -> ShardStore:
        """Return a new, empty store of a shard: the factory that replication is given."""
        self.opened.set()
        collection_id = unit.split("/")[1]

        def definition() -> Distance | None:
            found = self.find(collection_id)
            return None if found is None else Distance(found.distance)

        return ShardStore(unit, definition)

    def find(self, collection_id: str) -> Collection | None:
        """Return a collection by id."""
        return next((one for one in self._topology.collections() if one.id == collection_id), None)

    def stores(self) -> list[ShardStore]:
        """Every complete shard held here, by collection and number."""
        held = (
            self._local(collection, shard)
            for collection in self._topology.collections()
            for shard in range(collection.shard_number)
        )
        return [store for store in held if store is not None]

    def _local(self, collection: Collection, shard: int) -> ShardStore | None:
        store = self._replication.local(unit_of(collection, shard))
        return store if isinstance(store, ShardStore) else None

    async def search(self, _caller: NodeId, request: SearchRequest) -> SearchReply:
        """Answer a batch of queries over the shards asked for that are held here, complete.

        Raises:
            StaleEpoch: A strict request was made under another record than this node's.
        """
        epoch = self._topology.epoch
        if request.is_strict and request.epoch != epoch:
            raise StaleEpoch(f"the request was made under record {request.epoch}, this node has adopted {epoch}")
        collection = self.find(request.collection)
        if collection is None:
            return SearchReply([QueryHits([]) for _ in request.queries], request.shards)
        stores: list[ShardStore] = []
        missing: list[int] = []
        for shard in request.shards:
            store = self._local(collection, shard)
            if store is None:
                missing.append(shard)
            else:
                stores.append(store)
        distance = Distance(collection.distance)
        lists = await self._run(request.queries, stores, distance)
        merged = [_merged(query, found, distance) for query, found in zip(request.queries, lists, strict=True)]
        budget = min(REPLY_VALUES_BYTES_MAX, REPLY_BYTES_MAX - HIT_BYTES * sum(map(len, merged)))
        answers: list[QueryHits] = []
        for query, found, hits in zip(request.queries, lists, merged, strict=True):
            if query.with_value:
                hits, budget = self._with_values(collection, hits, budget)
            answers.append(QueryHits(hits, sum(part.matched for part in found)))
        return SearchReply(answers, tuple(missing))

    async def _run(
        self, queries: Sequence[Query], stores: Sequence[ShardStore], distance: Distance
    ) -> list[list[QueryHits]]:
        predicates: dict[bytes, Predicate] = {}
        for query in queries:
            if query.filter and query.filter not in predicates:
                predicates[query.filter] = compile_filter(query.filter)
        if _is_cheap(queries, stores, predicates):
            return [[store.run(query, predicates.get(query.filter), distance) for store in stores] for query in queries]
        work = [
            [_in_worker(store, query, predicates.get(query.filter), distance) for store in stores] for query in queries
        ]
        return await self._executor.run(_run_work, work)

    def _with_values(self, collection: Collection, hits: Sequence[Hit], budget: int) -> tuple[list[Hit], int]:
        """Attach values while they fit; whoever asked reads the others itself."""
        with_values: list[Hit] = []
        for hit in hits:
            value = None
            if budget > 0:
                store = self._local(collection, shard_of(hit.id, collection.shard_number))
                entry = store.get([hit.id])[0] if store is not None else None
                # A newer value than the one that was scored would not belong to the score.
                if entry is not None and entry.value is not None and entry.version == hit.version:
                    budget -= len(entry.value)
                    value = entry.value if budget >= 0 else None
            with_values.append(Hit(hit.id, hit.score, hit.version, value))
        return with_values, budget

    async def stats(self, _caller: NodeId, request: StatsRequest) -> StatsReply:
        """Return the sizes of the shards asked for that are held here."""
        collection = self.find(request.collection)
        sizes: list[tuple[int, int, int, int]] = []
        for shard in request.shards if collection is not None else ():
            store = self._local(collection, shard) if collection is not None else None
            if store is not None:
                sizes.append((shard, *store.sizes()))
        return StatsReply(sizes)

    async def load(self) -> None:
        """Have what works with vectors in memory: numpy takes 100 ms and more, in which the event loop goes on."""
        if not self._has_index:
            await self._executor.run(_load_index)
            self._has_index = True

    async def maintain(self) -> bool:
        """Do one piece of index work that is due, in a worker; False when there is none."""
        for store in self.stores():
            due = store.next_job(self.config.index_rows_min, self.config.dead_ratio_max)
            if due is not None:
                await self._index(store, *due)
                return True
        return False

    async def _index(self, store: ShardStore, generation: int, job: BuildJob) -> None:
        """Build the graph of a job beside everything else, and install it."""
        # Only with work at hand: numpy and usearch have no place in a node without vectors (D12).
        from frys_node.plugins.vector.index import BUILD_ROWS, begin, extend

        graph = await self._executor.run(begin, job)
        for first in range(0, 0 if graph is None else len(job.vectors), BUILD_ROWS):
            if not store.is_due(generation, job):
                return
            await self._executor.run_aside(extend, job, graph, first)
        store.install(generation, job, graph)


def _load_index() -> None:
    import frys_node.plugins.vector.index  # noqa: F401


def _merged(query: Query, found: Sequence[QueryHits], distance: Distance) -> list[Hit]:
    lists = [part.hits for part in found]
    if not query.vector:
        return merge_by_id(lists, query.limit)
    if len(lists) == 1:
        return lists[0]
    return merge_top_k(lists, query.limit, is_similarity=distance.is_similarity)


def _is_cheap(queries: Sequence[Query], stores: Sequence[ShardStore], predicates: dict[bytes, Predicate]) -> bool:
    """True if the batch is small: one query, or few over little data (a worker costs more than they do)."""
    if len(queries) * len(stores) > 64:
        return False
    return all(store.is_cheap(query, predicates.get(query.filter)) for query in queries for store in stores)


def _in_worker(store: ShardStore, query: Query, predicate: Predicate | None, distance: Distance) -> Work:
    if not query.vector:
        # Listings read the live maps: they are answered here, before the worker starts.
        answer = store.run(query, predicate, distance)
        return lambda: answer
    view = store.view()
    return lambda: view.search(query, predicate, distance)


def _run_work(work: Sequence[Sequence[Work]]) -> list[list[QueryHits]]:
    return [[one() for one in several] for several in work]

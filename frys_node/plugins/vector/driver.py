"""Collections and points through any node: writes grouped by shard, searches scattered and merged, reads verified."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from typing import NamedTuple

from frys_node.base.errors import NoReplica, NotFound
from frys_node.base.types import Consistency
from frys_node.kernel.parallel import run_all
from frys_node.kernel.services.replication import Entry, Replication, Version
from frys_node.kernel.services.sessions import SESSION
from frys_node.kernel.services.topology import Collection, Topology
from frys_node.observe.metrics import Metrics
from frys_node.plugins.vector.collection import Distance, by_shard, decode_point, parse_payload, unit_of
from frys_node.plugins.vector.config import VectorConfig
from frys_node.plugins.vector.errors import MissingShards, UnknownCollection
from frys_node.plugins.vector.filters import Predicate, compile_filter
from frys_node.plugins.vector.messages import HITS_PER_REPLY_MAX, Hit, Query
from frys_node.plugins.vector.query import is_within, merge_by_id, merge_top_k, order, stale
from frys_node.plugins.vector.scatter import Gathered, Scatter, Sizes, merged_hits
from frys_node.plugins.vector.vectors import Vectors

READ_KEYS_MAX = 64
"""Keys in one read; those of a longer list are read side by side."""

WIDEN_ROUNDS_MAX = 3
"""How often a verified search looks further when too many of its candidates were out of date."""

VERIFY_SLACK = 8
"""Candidates beyond the limit that a verified search asks for at once."""


SAYS_MORE = {"replication.unit_damaged", "replication.not_repaired"}
"""The only replica of a shard lost a part of it, or what was read cannot be put on a quorum: the error's own hint is
what helps."""


class Found(NamedTuple):
    """Hits of one query, best first, and the shards that did not answer (only when the caller allowed that)."""

    hits: list[Hit]
    missing: tuple[int, ...]


class VectorService:
    """What the REST dialect calls."""

    def __init__(
        self,
        *,
        replication: Replication,
        topology: Topology,
        scatter: Scatter,
        config: VectorConfig,
        metrics: Metrics,
    ) -> None:
        self.config = config
        self._replication = replication
        self._topology = topology
        self._scatter = scatter
        self._queries = metrics.counter("frys_vector_queries_total", "Searches, by consistency.", ("consistency",))
        self._written = metrics.counter("frys_vector_points_written_total", "Points written or deleted through here.")

    async def vectors(self, collection: Collection) -> Vectors:
        """Return what checks and converts the vectors of requests; the first time it is imported, beside the loop."""
        await self._scatter.load()
        return Vectors(collection)

    def collections(self) -> Sequence[Collection]:
        """The catalogue, by name."""
        return self._topology.collections()

    def find(self, name: str) -> Collection | None:
        """Return a collection by name."""
        return next((one for one in self._topology.collections() if one.name == name), None)

    async def lookup(self, name: str) -> Collection | None:
        """Return a collection by name; before it is missed, see whether it was just created elsewhere."""
        found = self.find(name)
        if found is None:
            await self._topology.refresh()
            found = self.find(name)
        return found

    async def collection(self, name: str) -> Collection:
        """Return a collection by name or raise `UnknownCollection`."""
        found = await self.lookup(name)
        if found is None:
            raise UnknownCollection(f"Not found: Collection `{name[:255]}` doesn't exist!")
        return found

    async def create(self, collection: Collection) -> None:
        """Add a collection; returns when its shards are writable."""
        await self._topology.create_collection(collection)

    async def delete(self, name: str) -> bool:
        """Remove a collection and its points; False when there is none."""
        if await self.lookup(name) is None:
            return False
        try:
            await self._topology.delete_collection(name)
        except NotFound:
            return False
        return True

    async def sizes(self, collection: Collection) -> Sizes:
        """Return how much the collection holds, as far as its shards answer."""
        return await self._scatter.sizes(collection)

    async def write(
        self, collection: Collection, items: Sequence[tuple[bytes, bytes | None]], consistency: Consistency
    ) -> Version | None:
        """Write points (None deletes), the last of equal ids; shards in parallel. Returns the highest version.

        A failure may leave some shards written; writing again is safe.
        """
        unique = list(dict(items).items())
        self._written.inc(by=len(unique))
        versions: list[Version] = []

        async def write(shard: int, positions: list[int]) -> None:
            part = [unique[position] for position in positions]
            versions.append(await self._replication.write(unit_of(collection, shard), part, consistency))

        groups = by_shard([key for key, _ in unique], collection.shard_number)
        await self._each_shard(
            collection, groups.items(), write, hint="points of the other shards are written; writing all again is safe"
        )
        return max(versions, default=None)

    async def read(self, collection: Collection, keys: Sequence[bytes], consistency: Consistency) -> list[Entry | None]:
        """Return the entries of ids, in order; tombstones are None."""
        found: list[Entry | None] = [None] * len(keys)

        async def read(shard: int, positions: list[int]) -> None:
            wanted = [keys[position] for position in positions]
            entries = await self._replication.read(unit_of(collection, shard), wanted, consistency)
            for position, entry in zip(positions, entries, strict=True):
                found[position] = entry

        pages = [
            (shard, positions[at : at + READ_KEYS_MAX])
            for shard, positions in by_shard(keys, collection.shard_number).items()
            for at in range(0, len(positions), READ_KEYS_MAX)
        ]
        await self._each_shard(collection, pages, read, hint=_retry_hint(consistency))
        return [entry if entry is not None and entry.value is not None else None for entry in found]

    async def _each_shard(
        self,
        collection: Collection,
        parts: Iterable[tuple[int, list[int]]],
        work: Callable[[int, list[int]], Awaitable[None]],
        *,
        hint: str,
    ) -> None:
        """Do a piece of work for each part of a request, shards in parallel.

        Raises:
            MissingShards: Of these shards too few replicas answered; the work of all others is done.
        """
        failed: dict[int, NoReplica] = {}

        async def one(shard: int, positions: list[int]) -> None:
            if shard in failed:
                return
            try:
                await work(shard, positions)
            except NoReplica as error:
                failed[shard] = error

        await run_all([partial(one, shard, positions) for shard, positions in parts])
        if failed:
            hint = next((error.hint for error in failed.values() if error.code in SAYS_MORE), hint)
            raise _missing(collection, sorted(failed), hint) from next(iter(failed.values()))

    async def search(
        self, collection: Collection, queries: Sequence[Query], consistency: Consistency, *, is_partial: bool = False
    ) -> list[Found]:
        """Answer queries with vectors; quorum and all verify each candidate's version before it is shown."""
        consistency = self._level(collection, consistency)
        distance = Distance(collection.distance)
        self._queries.inc(consistency.value, by=len(queries))
        if consistency is Consistency.ONE:
            gathered = await self._gather(collection, queries, consistency, is_partial=is_partial)
            merged = [
                merge_top_k(merged_hits(lists), query.limit, is_similarity=distance.is_similarity)
                for query, lists in zip(queries, gathered.lists, strict=True)
            ]
            jobs = [
                partial(self._with_values, collection, hits if query.with_value else [])
                for query, hits in zip(queries, merged, strict=True)
            ]
            valued = await run_all(jobs)
            return [
                Found(full if query.with_value else hits, gathered.missing)
                for query, hits, full in zip(queries, merged, valued, strict=True)
            ]
        jobs_verified = [
            partial(self._verified_search, collection, query, consistency, is_partial=is_partial) for query in queries
        ]
        return await run_all(jobs_verified, at_once_max=8)

    def _level(self, collection: Collection, consistency: Consistency) -> Consistency:
        """Return the level of a search: a session that has seen something of the collection searches at quorum.

        Which replicas hold it is known by shard, but a search of one may ask any replica of each.
        """
        session = SESSION.get()
        if session is None or consistency is not Consistency.ONE:
            return consistency
        units = [unit_of(collection, shard) for shard in range(collection.shard_number)]
        has_seen = any(session.places(unit) is not None for unit in units)
        return Consistency.QUORUM if has_seen else consistency

    async def _gather(
        self, collection: Collection, queries: Sequence[Query], consistency: Consistency, *, is_partial: bool | None
    ) -> Gathered:
        """Ask the shards; None says that a partial answer is not on offer."""
        gathered = await self._scatter.search(collection, queries, consistency)
        if gathered.missing and not is_partial:
            hint = _retry_hint(consistency)
            if is_partial is not None:
                hint += ", or accept the rest with partial=true"
            raise _missing(collection, gathered.missing, hint)
        return gathered

    async def _with_values(self, collection: Collection, hits: list[Hit]) -> list[Hit]:
        """Read the values that did not fit in the replies."""
        lacking = [position for position, hit in enumerate(hits) if hit.value is None]
        if not lacking:
            return hits
        entries = await self.read(collection, [hits[position].id for position in lacking], Consistency.ONE)
        full = list(hits)
        for position, entry in zip(lacking, entries, strict=True):
            hit = hits[position]
            full[position] = Hit(hit.id, hit.score, hit.version, entry.value if entry is not None else None)
        return full

    async def _verified_search(
        self, collection: Collection, query: Query, consistency: Consistency, *, is_partial: bool
    ) -> Found:
        distance = Distance(collection.distance)
        is_similarity = distance.is_similarity
        wanted = query.limit + VERIFY_SLACK
        hits: list[Hit] = []
        missing: tuple[int, ...] = ()
        for _ in range(WIDEN_ROUNDS_MAX):
            wider = Query(
                query.vector,
                min(wanted, HITS_PER_REPLY_MAX),
                query.filter,
                query.exact,
                query.ef,
                query.score_threshold,
            )
            gathered = await self._gather(collection, [wider], consistency, is_partial=is_partial)
            missing = gathered.missing
            raw = merge_top_k(merged_hits(gathered.lists[0]), wider.limit, is_similarity=is_similarity)
            hits = await self._verify(collection, raw, query, consistency)
            if len(raw) < wider.limit:
                break
            # Beyond the worst candidate there may be points that were not seen; the answer must lie within it.
            edge = order(raw[-1], is_similarity)
            if sum(order(hit, is_similarity) <= edge for hit in hits) >= query.limit:
                break
            wanted *= 4
        hits.sort(key=lambda hit: order(hit, is_similarity))
        return Found(hits[: query.limit], missing)

    async def _verify(
        self, collection: Collection, raw: list[Hit], query: Query, consistency: Consistency
    ) -> list[Hit]:
        """Drop hits that were deleted, score again those that were overwritten, and attach every value."""
        entries = await self.read(collection, [hit.id for hit in raw], consistency)
        outdated = set(stale(raw, [None if entry is None else entry.version for entry in entries]))
        predicate = compile_filter(query.filter) if query.filter and outdated else None
        hits: list[Hit] = []
        for position, (hit, entry) in enumerate(zip(raw, entries, strict=True)):
            if entry is None or entry.value is None:
                continue
            if position not in outdated:
                hits.append(Hit(hit.id, hit.score, hit.version, entry.value))
            else:
                fresh = _scored_again(entry, query, predicate, Distance(collection.distance))
                hits += [] if fresh is None else [fresh]
        return hits

    async def listing(
        self,
        collection: Collection,
        source: bytes,
        start: bytes,
        limit: int,
        consistency: Consistency,
        *,
        is_partial: bool | None = None,
    ) -> Found:
        """Return the first `limit` points by id from `start` on that a filter lets through, with their values."""
        consistency = self._level(collection, consistency)
        hits: list[Hit] = []
        missing: set[int] = set()
        while len(hits) < limit:
            wanted = min(limit - len(hits), HITS_PER_REPLY_MAX)
            query = Query(b"", wanted, source, with_value=True, start=start)
            gathered = await self._gather(collection, [query], consistency, is_partial=is_partial)
            missing.update(gathered.missing)
            raw = merge_by_id(merged_hits(gathered.lists[0]), wanted)
            if consistency is Consistency.ONE:
                hits += await self._with_values(collection, raw)
            else:
                hits += await self._verify(collection, raw, query, consistency)
            if len(raw) < wanted:
                break
            start = raw[-1].id + b"\x00"
        return Found(hits, tuple(sorted(missing)))

    async def count(self, collection: Collection, source: bytes, consistency: Consistency) -> int:
        """Count points, all of them or those that a filter lets through; verified one by one at quorum and all."""
        consistency = self._level(collection, consistency)
        if consistency is Consistency.ONE:
            gathered = await self._gather(collection, [Query(b"", 0, source)], consistency, is_partial=None)
            return sum(part.matched for part in gathered.lists[0])
        total, start = 0, b""
        while True:
            page = (await self.listing(collection, source, start, HITS_PER_REPLY_MAX, consistency)).hits
            total += len(page)
            if len(page) < HITS_PER_REPLY_MAX:
                return total
            start = page[-1].id + b"\x00"

    async def delete_matching(self, collection: Collection, source: bytes, consistency: Consistency) -> Version | None:
        """Delete every point that a filter lets through, page by page; a failure may leave some of them."""
        version: Version | None = None
        start = b""
        while True:
            page = (await self.listing(collection, source, start, HITS_PER_REPLY_MAX, Consistency.QUORUM)).hits
            if page:
                version = await self.write(collection, [(hit.id, None) for hit in page], consistency)
            if len(page) < HITS_PER_REPLY_MAX:
                return version
            start = page[-1].id + b"\x00"


def _missing(collection: Collection, shards: Sequence[int], hint: str) -> MissingShards:
    names = ", ".join(map(str, shards))
    return MissingShards(
        f"shards {names} of collection `{collection.name}` have too few replicas that answer", hint=hint
    )


def _retry_hint(consistency: Consistency) -> str:
    if consistency is Consistency.ONE:
        return "`frys-node members` shows which nodes are down, `frys-node status` which shards are damaged on a node"
    return f"{consistency} was asked for: retry, or ask for consistency=one"


def _scored_again(entry: Entry, query: Query, predicate: Predicate | None, distance: Distance) -> Hit | None:
    from frys_node.plugins.vector.index import score_one

    assert entry.value is not None
    point = decode_point(entry.value)
    if predicate is not None and not predicate(entry.key, parse_payload(point.payload)):
        return None
    score = score_one(query.vector, point.vector, distance) if query.vector else 0.0
    if not is_within(score, query.score_threshold, is_similarity=distance.is_similarity):
        return None
    return Hit(entry.key, score, entry.version, entry.value)

"""What this node holds of one shard: points by id with versions and payloads, and the index of their vectors.

A `UnitStore` for the replication engine, and the local half of a search. Payloads stay the JSON that the client sent
and are parsed when a filter first looks at them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from frys_node.base.errors import CorruptData
from frys_node.base.types import UnitId
from frys_node.kernel.services.replication import ENTRY_BYTES, Changes, Entry, Version
from frys_node.plugins.vector.collection import Distance, StoredPoint, decode_point, encode_point, parse_payload
from frys_node.plugins.vector.filters import Predicate
from frys_node.plugins.vector.messages import Hit, Query, QueryHits
from frys_node.plugins.vector.query import is_within

if TYPE_CHECKING:
    from frys_node.plugins.vector.index import BuildJob, Mask, VectorIndex

INLINE_FLOATS_MAX = 2_000_000
"""Multiplications that may run on the node's thread: about half a millisecond."""

INLINE_FILTER_ROWS_MAX = 500
"""Payloads that a filter may look at on the node's thread."""

MASKS_MAX = 8
"""Filter results kept per shard until its next write."""


class ShardStore:
    """One shard in memory."""

    __slots__ = (
        "_generation", "_index", "_keys", "_masks", "_parsed", "_payloads", "_rows", "_sorted", "_tombs",
        "_versions", "changes", "definition", "unit",
    )  # fmt: skip

    def __init__(self, unit: UnitId, definition: Callable[[], Distance | None]) -> None:
        self.unit = unit
        self.definition = definition
        """The collection's distance under the adopted record, None once the collection is gone."""
        self.changes = 0
        """Grows with every change of the data."""
        self._generation = 0
        self.clear()

    def __len__(self) -> int:
        """Points alive."""
        return len(self._rows)

    def clear(self) -> None:
        """Forget everything (a joiner wipes first, rule 12)."""
        self._index: VectorIndex | None = None
        self._rows: dict[bytes, int] = {}
        self._tombs: dict[bytes, Version] = {}
        self._keys: list[bytes] = []
        self._versions: list[Version] = []
        self._payloads: list[bytes] = []
        self._parsed: list[dict[str, Any] | None] = []
        self._generation += 1
        self._changed()

    def _changed(self) -> None:
        self.changes += 1
        self._masks: dict[bytes, Mask] = {}
        self._sorted: list[bytes] | None = None

    def get(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """The entries held, tombstones included, in the order of the keys."""
        found: list[Entry | None] = []
        for key in keys:
            row = self._rows.get(key)
            if row is not None:
                found.append(self._entry(key, row))
            else:
                version = self._tombs.get(key)
                found.append(None if version is None else Entry(key, version, None))
        return found

    def put(self, entries: Sequence[Entry]) -> None:
        """Apply entries that are newer than what is held; all of them or, when one cannot be read, none.

        Raises:
            CorruptData: A value is not a point of this shard's dimension.
        """
        points = [(entry, self._decode(entry)) for entry in entries if entry.value is not None]
        dimensions = {len(point.vector) for _, point in points}
        if self._index is not None:
            dimensions.add(4 * self._index.dimension)
        if len(dimensions) > 1 or 0 in dimensions:
            raise CorruptData(f"{self.unit} got vectors of {sorted(dimensions)} bytes in one shard")
        for entry in entries:
            row = self._rows.pop(entry.key, None)
            if row is not None and self._index is not None:
                self._index.kill(row)
                self._payloads[row], self._parsed[row] = b"", None
            if entry.value is None:
                self._tombs[entry.key] = entry.version
            else:
                self._tombs.pop(entry.key, None)
        if points:
            self._append(points)
        self._changed()

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget points and tombstones as if they had never been here."""
        for key in keys:
            self._tombs.pop(key, None)
            row = self._rows.pop(key, None)
            if row is not None and self._index is not None:
                self._index.kill(row)
                self._payloads[row], self._parsed[row] = b"", None
        self._changed()

    def _decode(self, entry: Entry) -> StoredPoint:
        try:
            point = decode_point(entry.value or b"")
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            raise CorruptData(f"{self.unit} holds a value that is not a point: {error}") from error
        if not point.vector or len(point.vector) % 4:
            raise CorruptData(f"{self.unit} holds a vector of {len(point.vector)} bytes")
        return point

    def _append(self, points: Sequence[tuple[Entry, StoredPoint]]) -> None:
        if self._index is None:
            from frys_node.plugins.vector.index import VectorIndex

            self._index = VectorIndex(len(points[0][1].vector) // 4)
        first = self._index.append([point.vector for _, point in points])
        for row, (entry, point) in enumerate(points, first):
            self._rows[entry.key] = row
            self._keys.append(entry.key)
            self._versions.append(entry.version)
            self._payloads.append(point.payload)
            self._parsed.append(None)

    def size_bytes(self) -> int:
        """What the entries take when they travel; a vector four bytes a dimension."""
        vector_bytes = 0 if self._index is None else 4 * self._index.dimension
        points = len(self._rows) * (ENTRY_BYTES + vector_bytes) + sum(map(len, self._rows))
        tombs = len(self._tombs) * ENTRY_BYTES + sum(map(len, self._tombs))
        return points + sum(map(len, self._payloads)) + tombs

    def keys(self) -> Iterable[bytes]:
        """The key of every point and tombstone."""
        return [*self._rows, *self._tombs]

    def since(self, version: Version) -> Iterable[bytes]:
        """The key of every point and tombstone that is not below a version."""
        versions = self._versions
        points = [key for key, row in self._rows.items() if versions[row] >= version]
        return points + [key for key, buried in self._tombs.items() if buried >= version]

    def changed(self) -> Changes:
        """Everything: the engine, which alone changes a durable shard, keeps its tree by itself."""
        return Changes(True, ((None, entry) for entry in self.entries()))

    def entries(self) -> Iterable[Entry]:
        """Every entry held, tombstones included, by key."""
        return self._entries(sorted([*self._rows, *self._tombs]))

    def freeze(self) -> Iterator[Entry]:
        """Every entry as it is now, by key, made when it is asked for: what is written meanwhile does not show."""
        index = None if self._index is None else self._index.view()
        keys, rows, tombs = sorted([*self._rows, *self._tombs]), dict(self._rows), dict(self._tombs)
        versions, payloads = list(self._versions), list(self._payloads)

        def entries() -> Iterator[Entry]:
            for key in keys:
                row = rows.get(key)
                if row is None:
                    yield Entry(key, tombs[key], None)
                else:
                    assert index is not None
                    yield Entry(key, versions[row], encode_point(StoredPoint(index.vector(row), payloads[row])))

        return entries()

    def _entries(self, keys: Sequence[bytes]) -> Iterator[Entry]:
        for key in keys:
            for entry in self.get([key]):
                if entry is not None:
                    yield entry

    def _entry(self, key: bytes, row: int) -> Entry:
        return Entry(key, self._versions[row], self._value(row))

    def _value(self, row: int) -> bytes:
        assert self._index is not None
        return encode_point(StoredPoint(self._index.vector(row), self._payloads[row]))

    @property
    def dimension(self) -> int | None:
        """Length of the vectors, None while there has been none."""
        return None if self._index is None else self._index.dimension

    def sizes(self) -> tuple[int, int, int]:
        """Points, points covered by a graph (about), segments."""
        if self._index is None:
            return 0, 0, 0
        indexed = max(0, self._index.indexed - self._index.dead)
        return len(self._rows), min(indexed, len(self._rows)), len(self._index.segments) + 1

    def is_cheap(self, query: Query, predicate: Predicate | None) -> bool:
        """True if the query may run on the node's thread."""
        if self._index is None:
            return True
        if predicate is not None and query.filter not in self._masks and len(self._rows) > INLINE_FILTER_ROWS_MAX:
            return False
        return self._index.cost_floats(query.exact, predicate is not None) <= INLINE_FLOATS_MAX

    def view(self) -> ShardView:
        """Return what a query needs, safe to use in a worker while this thread goes on writing."""
        index = self._index.view() if self._index is not None else None
        return ShardView(index, self._keys, self._versions, self._payloads, self._parsed, self._masks)

    def sorted_keys(self) -> list[bytes]:
        """Ids of the living points in order; sorted again after a write."""
        if self._sorted is None:
            self._sorted = sorted(self._rows)
        return self._sorted

    def run(self, query: Query, predicate: Predicate | None, distance: Distance) -> QueryHits:
        """Answer one query from what is held now; see `ShardView.search`."""
        if query.vector:
            return self.view().search(query, predicate, distance)
        return self._listing(query, predicate)

    def _listing(self, query: Query, predicate: Predicate | None) -> QueryHits:
        if predicate is None and query.limit == 0:
            return QueryHits([], len(self._rows))
        keys = self.sorted_keys()
        view = self.view()
        mask = None if predicate is None else view.mask(query.filter, predicate)
        first = bisect_left(keys, query.start)
        hits: list[Hit] = []
        for key in keys[first:]:
            if len(hits) >= query.limit:
                break
            row = self._rows[key]
            if mask is None or mask[row]:
                hits.append(Hit(key, 0.0, self._versions[row]))
        return QueryHits(hits, self._matched(mask))

    def _matched(self, mask: Mask | None) -> int:
        if mask is None or self._index is None:
            return len(self._rows)
        rows = min(len(mask), self._index.rows)
        return int((mask[:rows] & self._index.alive[:rows]).sum())

    def next_job(self, rows_min: int, dead_ratio_max: float) -> tuple[int, BuildJob] | None:
        """Return index work that is due and the generation to hand back with it."""
        distance = self.definition()
        if self._index is None or distance is None:
            return None
        job = self._index.next_job(distance, rows_min, dead_ratio_max)
        return None if job is None else (self._generation, job)

    def is_due(self, generation: int, job: BuildJob) -> bool:
        """Return False when the shard was wiped or rewritten since it gave the job: its graph is of no use any more."""
        return generation == self._generation and self._index is not None and job.generation == self._index.generation

    def install(self, generation: int, job: BuildJob, graph: Any | None) -> bool:
        """Take finished index work; False when the shard was wiped or rewritten meanwhile."""
        if generation != self._generation or self._index is None or not self._index.install(job, graph):
            return False
        if job.rows is not None:
            rows = [*job.rows.tolist(), *range(job.last, len(self._keys))]
            self._keys = [self._keys[row] for row in rows]
            self._versions = [self._versions[row] for row in rows]
            self._payloads = [self._payloads[row] for row in rows]
            self._parsed = [self._parsed[row] for row in rows]
            alive = self._index.alive
            self._rows = {key: row for row, key in enumerate(self._keys) if alive[row]}
            self._masks = {}
        return True


class ShardView(NamedTuple):
    """A shard as it was when the view was taken."""

    vectors: VectorIndex | None
    keys: list[bytes]
    versions: list[Version]
    payloads: list[bytes]
    parsed: list[dict[str, Any] | None]
    masks: dict[bytes, Mask]

    def search(self, query: Query, predicate: Predicate | None, distance: Distance) -> QueryHits:
        """Return the nearest points, best first, without values."""
        if self.vectors is None or self.vectors.dimension * 4 != len(query.vector):
            return QueryHits([])
        mask = None if predicate is None else self.mask(query.filter, predicate)
        rows, scores = self.vectors.search(
            query.vector, query.limit, distance, ef=query.ef, exact=query.exact, mask=mask
        )
        is_similarity = distance.is_similarity
        hits = [
            Hit(self.keys[row], score, self.versions[row])
            for row, score in zip(rows, scores, strict=True)
            if is_within(score, query.score_threshold, is_similarity=is_similarity)
        ]
        return QueryHits(hits)

    def mask(self, source: bytes, predicate: Predicate) -> Mask:
        """Return which rows a filter lets through, kept until the shard's next write."""
        mask = self.masks.get(source)
        if mask is None:
            from frys_node.plugins.vector.arrays import np

            count = 0 if self.vectors is None else self.vectors.rows
            alive = np.zeros(0, dtype=np.bool_) if self.vectors is None else self.vectors.alive
            mask = np.zeros(count, dtype=np.bool_)
            for row in np.flatnonzero(alive).tolist():
                mask[row] = predicate(self.keys[row], self._payload(row))
            for old in list(self.masks)[: max(0, len(self.masks) + 1 - MASKS_MAX)]:
                self.masks.pop(old, None)  # a worker and the node's thread may both be here
            self.masks[source] = mask
        return mask

    def _payload(self, row: int) -> dict[str, Any]:
        parsed = self.parsed[row]
        if parsed is None:
            parsed = parse_payload(self.payloads[row])
            self.parsed[row] = parsed
        return parsed

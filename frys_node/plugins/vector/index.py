"""The vectors of one shard: rows of a float32 matrix, graphs over full runs of rows, and the exact scan.

The typed adapter of numpy and usearch; it is imported with the first shard or vector (D12). Theory of operation:

* Rows are appended and never changed. An update kills the old row and appends a new one.
* A *segment* is an immutable usearch graph (bf16) over a run of rows; its keys are row numbers. Rows after the last
  segment are scanned exactly. Graphs are built in a worker that stands back, some rows at a time, and installed on the
  node's thread, so no graph is ever searched while it grows (usearch issue 735, and the GIL is released inside it).
* Dead rows are masked out of what a graph finds. When they are too many, the rows are rewritten without them.
* Whatever a graph returns is scored again in float32, and a query that a graph cannot fill is scanned exactly: k points
  are returned whenever k exist. Filters are always scanned exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from frys_node.plugins.vector.arrays import np, npt
from frys_node.plugins.vector.collection import Distance

Matrix = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

ROWS_MIN = 64
EF_DEFAULT = 64
EF_MAX = 4_096
CONNECTIVITY = 16
EF_CONSTRUCT = 128
BUILD_ROWS = 512
"""Rows that a graph takes at a time: 0.1 s at 32 dimensions. Between two slices a build may be given up."""
DENSE_RATIO = 8
"""A run of rows is scored whole when at least one row in so many is wanted."""
SCAN_FLOATS_MAX = 1 << 24
"""Differences held at once by the Euclid and Manhattan scans (64 MiB)."""


class Segment(NamedTuple):
    """An immutable graph over rows ``[first, last)``."""

    first: int
    last: int
    graph: Any


class BuildJob(NamedTuple):
    """Vectors to build a graph over: rows of the index, which never change; copies of `rows` when it is rewritten."""

    generation: int
    first: int
    last: int
    vectors: Matrix
    rows: Rows | None
    distance: Distance
    rows_min: int


def new_graph(dimension: int, distance: Distance) -> Any:
    """Return an empty usearch index: inner product (rows are normalised under Cosine) or squared Euclid, bf16."""
    from usearch.compiled import MetricKind, ScalarKind
    from usearch.index import Index

    metric = MetricKind.IP if distance.is_similarity else MetricKind.L2sq
    return Index(
        ndim=dimension,
        metric=metric,
        dtype=ScalarKind.BF16,
        connectivity=CONNECTIVITY,
        expansion_add=EF_CONSTRUCT,
        expansion_search=EF_DEFAULT,
        enable_key_lookups=False,
    )


def begin(job: BuildJob) -> Any | None:
    """Return the graph of a job, still empty; None if it has not rows enough for one. Runs in a worker."""
    return None if len(job.vectors) < job.rows_min else new_graph(job.vectors.shape[1], job.distance)


def extend(job: BuildJob, graph: Any, first: int) -> None:
    """Put the next `BUILD_ROWS` vectors of a job, from the one with that number, into its graph.

    Runs in a worker, on one thread so that no row becomes unreachable.
    """
    vectors = job.vectors[first : first + BUILD_ROWS]
    keys = np.arange(job.first + first, job.first + first + len(vectors), dtype=np.uint64)
    graph.add(keys, vectors, copy=True, threads=1)


def prepare(vectors: Sequence[Sequence[float]], distance: Distance) -> Matrix:
    """Return rows of equal length as float32, (n, d), normalised under Cosine; a zero vector stays zero.

    Values beyond float32 become infinite: see `not_finite`.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        rows = np.asarray(vectors, dtype=np.float64).astype(np.float32)
        if distance is Distance.COSINE and len(rows):
            lengths = np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
            rows = (rows / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return np.ascontiguousarray(rows)


def not_finite(rows: Matrix) -> Sequence[int]:
    """Return the numbers of rows that hold NaN or infinity."""
    return [int(row) for row in np.flatnonzero(~np.isfinite(rows).all(axis=1))]


def to_list(vector: bytes) -> list[float]:
    """Return a stored vector as floats."""
    values: list[float] = np.frombuffer(vector, dtype="<f4").tolist()
    return values


def score_one(query: bytes, vector: bytes, distance: Distance) -> float:
    """Return the score of one stored vector: similarity, or distance that is not squared."""
    row = np.frombuffer(vector, dtype="<f4")[np.newaxis]
    return float(scores_of(np.frombuffer(query, dtype="<f4"), row, distance)[0])


def scores_of(query: npt.NDArray[np.float32], rows: Matrix, distance: Distance) -> npt.NDArray[np.float32]:
    """Return the scores of rows for a query vector."""
    if distance.is_similarity:
        similar: npt.NDArray[np.float32] = rows @ query
        return similar
    step = max(1, SCAN_FLOATS_MAX // max(1, rows.shape[1]))
    parts = [_distances(query, rows[at : at + step], distance) for at in range(0, len(rows), step)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.float32)


def _distances(query: npt.NDArray[np.float32], rows: Matrix, distance: Distance) -> npt.NDArray[np.float32]:
    differences = rows - query
    if distance is Distance.MANHATTAN:
        total: npt.NDArray[np.float32] = np.abs(differences).sum(axis=1)
        return total
    squares: npt.NDArray[np.float32] = np.sqrt(np.einsum("ij,ij->i", differences, differences)).astype(np.float32)
    return squares


def _best(rows: Rows, scores: npt.NDArray[np.float32], limit: int, distance: Distance) -> tuple[list[int], list[float]]:
    """Return the best `limit` rows and their scores, best first, ties by row."""
    signed = -scores if distance.is_similarity else scores
    if len(rows) > limit:
        chosen = np.argpartition(signed, limit - 1)[:limit]
        # Ties at the edge go to the lower row, whatever the partition did with them.
        edge = signed[chosen].max()
        if np.count_nonzero(signed <= edge) > limit:
            chosen = np.flatnonzero(signed <= edge)
        chosen = chosen[np.lexsort((rows[chosen], signed[chosen]))][:limit]
    else:
        chosen = np.lexsort((rows, signed))
    return rows[chosen].tolist(), scores[chosen].tolist()


class VectorIndex:
    """Rows, their graphs and which of them are alive."""

    __slots__ = ("_alive", "_matrix", "dead", "dimension", "generation", "rows", "segments")

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.rows = 0
        self.dead = 0
        self.generation = 0
        """Raised when rows are renumbered; a build of an older generation is thrown away."""
        self.segments: tuple[Segment, ...] = ()
        self._matrix: Matrix = np.empty((ROWS_MIN, dimension), dtype=np.float32)
        self._alive: Mask = np.zeros(ROWS_MIN, dtype=np.bool_)

    @property
    def alive(self) -> Mask:
        """True per row that is alive, (rows,)."""
        return self._alive[: self.rows]

    @property
    def matrix(self) -> Matrix:
        """Every row, dead ones included, (rows, dimension)."""
        return self._matrix[: self.rows]

    @property
    def indexed(self) -> int:
        """Rows covered by graphs."""
        return self.segments[-1].last if self.segments else 0

    def append(self, vectors: Sequence[bytes]) -> int:
        """Append rows, float32 little-endian of the index's dimension each; returns the first row's number."""
        first, needed = self.rows, self.rows + len(vectors)
        if needed > len(self._matrix):
            capacity = max(needed, 2 * len(self._matrix))
            matrix = np.empty((capacity, self.dimension), dtype=np.float32)
            matrix[:first] = self._matrix[:first]
            alive = np.zeros(capacity, dtype=np.bool_)
            alive[:first] = self._alive[:first]
            self._matrix, self._alive = matrix, alive
        block = np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(vectors), self.dimension)
        self._matrix[first:needed] = block
        self._alive[first:needed] = True
        self.rows = needed
        return first

    def kill(self, row: int) -> None:
        """Mark a row as dead."""
        if self._alive[row]:
            self._alive[row] = False
            self.dead += 1

    def view(self) -> VectorIndex:
        """Return an index over the same rows that later appends and rewrites do not change; kills show through."""
        view = VectorIndex.__new__(VectorIndex)
        for name in VectorIndex.__slots__:
            setattr(view, name, getattr(self, name))
        return view

    def vector(self, row: int) -> bytes:
        """Return a row as it was appended."""
        raw: bytes = self._matrix[row].astype("<f4", copy=False).tobytes()
        return raw

    def search(
        self,
        query: bytes,
        limit: int,
        distance: Distance,
        *,
        ef: int = 0,
        exact: bool = False,
        mask: Mask | None = None,
    ) -> tuple[list[int], list[float]]:
        """Return the rows nearest to the query among the living (and, with a mask, the marked) and their scores.

        Best first; ties by row. At most `limit`, and exactly `limit` when there are as many.
        """
        vector = np.frombuffer(query, dtype="<f4")
        if not limit or not self.rows:
            return [], []
        eligible = self.alive if mask is None else self.alive & mask[: self.rows]
        if exact or mask is not None or not self.segments:
            rows = np.flatnonzero(eligible)
            return _best(rows, self._scores(vector, rows, distance), limit, distance)
        tail = np.flatnonzero(eligible[self.indexed :]) + self.indexed
        slack = limit + 8 + 2 * limit * self.dead // self.rows
        graphed: list[Rows] = []
        for segment in self.segments:
            found = self._from_graph(segment, vector, min(slack, segment.last - segment.first), ef)
            graphed.append(found[eligible[found]])
        near = np.concatenate(graphed)
        if len(tail) + len(near) < min(limit, self.rows - self.dead):
            rows = np.flatnonzero(eligible)
            return _best(rows, self._scores(vector, rows, distance), limit, distance)
        scores = np.concatenate([self._scores(vector, tail, distance), scores_of(vector, self._matrix[near], distance)])
        return _best(np.concatenate([tail, near]), scores, limit, distance)

    def _scores(self, vector: npt.NDArray[np.float32], rows: Rows, distance: Distance) -> npt.NDArray[np.float32]:
        """Score ascending rows; where they lie close together the whole run, since gathering costs more than that."""
        if not len(rows):
            return np.empty(0, dtype=np.float32)
        first, last = int(rows[0]), int(rows[-1]) + 1
        if last - first > DENSE_RATIO * len(rows):
            return scores_of(vector, self._matrix[rows], distance)
        scores = scores_of(vector, self._matrix[first:last], distance)
        return scores if last - first == len(rows) else scores[rows - first]

    def cost_floats(self, exact: bool, is_filtered: bool) -> int:
        """Estimate the multiplications of one query, to choose between this thread and a worker."""
        scanned = self.rows if exact or is_filtered or not self.segments else self.rows - self.indexed
        return (scanned + 1_000 * len(self.segments)) * self.dimension

    def _from_graph(self, segment: Segment, vector: npt.NDArray[np.float32], count: int, ef: int) -> Rows:
        # usearch keeps ef on the index. Setting it races only with another query of the same segment in a worker, which
        # then looks a little more or less widely than it asked for.
        wanted = min(EF_MAX, max(ef or EF_DEFAULT, count))
        if segment.graph.expansion_search != wanted:
            segment.graph.expansion_search = wanted
        matches = segment.graph.search(vector, count, threads=1)
        return np.asarray(matches.keys[: len(matches)], dtype=np.int64)

    def next_job(self, distance: Distance, rows_min: int, dead_ratio_max: float) -> BuildJob | None:
        """Return work that is due: a rewrite without dead rows, or a graph over the rows after the last segment.

        A new graph swallows segments that are not larger than what it already covers, so that there are few of them and
        each row is built about log(rows) times.
        """
        if distance is Distance.MANHATTAN:
            rows_min = self.rows + 1  # usearch has no such metric: always scanned exactly
        if self.rows >= 2 * ROWS_MIN and self.dead > dead_ratio_max * self.rows:
            living = np.flatnonzero(self.alive)
            return BuildJob(self.generation, 0, self.rows, self._matrix[living], living, distance, rows_min)
        first = self.indexed
        if self.rows - first < rows_min:
            return None
        for segment in reversed(self.segments):
            if segment.last - segment.first > self.rows - segment.last:
                break
            first = segment.first
        return BuildJob(self.generation, first, self.rows, self._matrix[first : self.rows], None, distance, rows_min)

    def install(self, job: BuildJob, graph: Any | None) -> bool:
        """Take a built graph; False when the index was renumbered meanwhile and nothing changed."""
        if job.generation != self.generation:
            return False
        if job.rows is None:
            kept = tuple(segment for segment in self.segments if segment.last <= job.first)
            self.segments = (*kept, Segment(job.first, job.last, graph))
            return True
        tail = self._matrix[job.last : self.rows]
        alive = np.concatenate([self._alive[job.rows], self._alive[job.last : self.rows]])
        self._matrix = np.concatenate([job.vectors, tail])
        self._alive = alive
        self.rows = len(alive)
        self.dead = int(self.rows - np.count_nonzero(alive))
        self.segments = () if graph is None else (Segment(0, len(job.vectors), graph),)
        self.generation += 1
        return True

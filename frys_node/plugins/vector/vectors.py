"""Vectors on their way in: dimension and finiteness checked, converted in one go."""

from __future__ import annotations

from collections.abc import Sequence

from frys_node.kernel.services.topology import Collection
from frys_node.plugins.vector.collection import Distance
from frys_node.plugins.vector.errors import DimensionMismatch, NotFinite


class Vectors:
    """Checks and converts vectors for one collection."""

    __slots__ = ("_dimension", "_distance")

    def __init__(self, collection: Collection) -> None:
        self._dimension = collection.dimension
        self._distance = Distance(collection.distance)

    def prepare(self, vectors: Sequence[Sequence[float]], names: Sequence[str]) -> list[bytes]:
        """Return each vector as float32 little-endian, normalised under Cosine.

        `names` says in errors which vector it was.

        Raises:
            DimensionMismatch: A vector is shorter or longer than the collection's dimension.
            NotFinite: A value is NaN, infinite, or too large for 32 bits.
        """
        for vector, name in zip(vectors, names, strict=True):
            if len(vector) != self._dimension:
                raise DimensionMismatch(
                    f"Vector dimension error: expected dim: {self._dimension}, got {len(vector)} in {name}"
                )
        if not vectors:
            return []
        from frys_node.plugins.vector.index import not_finite, prepare

        rows = prepare(vectors, self._distance)
        wrong = not_finite(rows)
        if wrong:
            raise NotFinite(f"the vector of {names[wrong[0]]} holds NaN, infinity or a value beyond 32-bit floats")
        return [row.astype("<f4", copy=False).tobytes() for row in rows]

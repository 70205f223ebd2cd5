"""Where the keys of a saved unit belong now. Sans-I/O.

The cluster that restores may have other partitions, other shards, other collection ids than the one that was saved; a
key belongs to the unit that the functions of `frys_node.base.units` name for it, here as everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from frys_node.base.types import UnitId
from frys_node.base.units import cache_unit_of, partition_of, shard_of, vector_unit, workflow_unit
from frys_node.kernel.services.topology import Collection
from snapshots.index import Missing


class Routing:
    """`Rerouting` from a saved cluster to this one."""

    def __init__(
        self,
        *,
        saved_partitions: int,
        partitions: int,
        collections: Mapping[str, Collection],
        saved_shards: Mapping[str, int],
    ) -> None:
        self._is_same_size = saved_partitions in (0, partitions)
        self._partitions = partitions
        self._collections = collections
        """By the saved id: the collection of now."""
        self._saved_shards = saved_shards
        self._of_kind: Mapping[str, Callable[[UnitId, bytes], UnitId | None]] = {
            "cache": self._cache,
            "vector": self._vector,
            "workflow": self._workflow,
        }

    def is_same(self, kind: str) -> bool:
        """True if each key of that kind belongs to the unit that it was saved from."""
        if kind == "vector":
            return all(
                now.id == saved and now.shard_number == self._saved_shards.get(saved, now.shard_number)
                for saved, now in self._collections.items()
            )
        return self._is_same_size or kind not in self._of_kind

    def unit_of(self, unit: UnitId, key: bytes) -> UnitId | None:
        """The unit of a key that was saved from `unit`; None if its collection is gone."""
        function = self._of_kind.get(unit.split("/", 1)[0])
        return unit if function is None else function(unit, key)

    def _cache(self, unit: UnitId, key: bytes) -> UnitId:
        # A full key is the namespace, a zero byte and the key; the namespace decides nothing (fine print 14).
        return unit if self._is_same_size else cache_unit_of(key[key.index(0) + 1 :], self._partitions)

    def _workflow(self, unit: UnitId, key: bytes) -> UnitId:
        return unit if self._is_same_size else workflow_unit(partition_of(key.decode(), self._partitions))

    def _vector(self, unit: UnitId, key: bytes) -> UnitId | None:
        collection = self._collections.get(unit.split("/")[1])
        return None if collection is None else vector_unit(collection.id, shard_of(key, collection.shard_number))


def match_collections(
    saved: Sequence[Collection], present: Sequence[Collection], units: Sequence[UnitId]
) -> tuple[dict[str, Collection], list[Collection], list[Missing]]:
    """Return the collections of now by saved id, those that have to be made, and the units that belong nowhere.

    A collection that is here by its id is the same one. Else one of its name takes the points, if it has the same
    dimension and distance; one that is not here at all is to be made.
    """
    by_id = {one.id: one for one in present}
    by_name = {one.name: one for one in present}
    found: dict[str, Collection] = {}
    to_make: list[Collection] = []
    missing: list[Missing] = []
    definitions = {one.id: one for one in saved}
    for identity in dict.fromkeys(unit.split("/")[1] for unit in units if unit.startswith("vector/")):
        mine = [unit for unit in units if unit.startswith(f"vector/{identity}/")]
        definition = definitions.get(identity)
        named = by_name.get(definition.name) if definition is not None else None
        if identity in by_id:
            found[identity] = by_id[identity]
        elif definition is None:
            missing += [
                Missing(unit=unit, reason="its collection is gone, and the snapshot does not describe it")
                for unit in mine
            ]
        elif named is None:
            to_make.append(definition)
        elif (named.dimension, named.distance) == (definition.dimension, definition.distance):
            found[identity] = named
        else:
            reason = (
                f"collection '{named.name}' has {named.dimension} dimensions and {named.distance} now, the saved one"
                f" {definition.dimension} and {definition.distance}: delete or rename it first"
            )
            missing += [Missing(unit=unit, reason=reason) for unit in mine]
    return found, to_make, missing

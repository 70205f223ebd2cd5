"""The store of the replication scenario.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from frys_node.base.types import UnitId
from frys_node.kernel.services.replication import Entry
from frys_node.testing.data_cluster import DictStore


class WatchedStore(DictStore):
    """A store whose freed tombstones are told to the checker: what they hid may be missing, not come back."""

    def __init__(self, unit: UnitId, freed: Callable[[UnitId, Entry], None]) -> None:
        super().__init__()
        self._unit = unit
        self._freed = freed

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget entries."""
        for entry in self.get(keys):
            if entry is not None and entry.value is None:
                self._freed(self._unit, entry)
        super().drop(keys)

"""What this node is to each unit of the cache, as the topology record and replication have it."""

from __future__ import annotations

from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Replication
from frys_node.kernel.services.topology import Topology
from frys_node.plugins.cache.tombstones import Standing


class Standings:
    """Asked for each tombstone, so it remembers what stays as it is under one record."""

    def __init__(self, *, replication: Replication, topology: Topology, node: NodeId) -> None:
        self._replication = replication
        self._topology = topology
        self._alone = (node,)
        self._epoch: Epoch | None = None
        self._known: dict[UnitId, Standing] = {}

    def __call__(self, unit: UnitId) -> Standing:
        """Return what this node is to a unit."""
        epoch = self._topology.epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self._known.clear()
        known = self._known.get(unit)
        if known is not None:
            return known
        if self._replication.local(unit) is None:
            # It may get what it lacks at any moment.
            return Standing.FILLING
        sets = self._topology.sets(unit)
        is_alone = sets.current == self._alone and sets.next == self._alone
        found = self._known[unit] = Standing.ALONE if is_alone else Standing.WHOLE
        return found

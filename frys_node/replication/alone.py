"""Versions for a node that holds every unit of a kind alone and in memory: no message, no vote, no wait.

Sans-I/O. Such a unit's quorum is this node, and nothing of it waits for a disk, so a write is done when it is in the
store. What the coordinator, the replica and their messages would find out is known beforehand: a version that is above
everything merged here is above whatever is held under any key, so nothing need be compared.
"""

from __future__ import annotations

from frys_node.base.types import Epoch
from frys_node.kernel.services.replication import Version
from frys_node.replication.hlc import HybridClock
from frys_node.replication.replica import ReplicaMachine, kind_of
from frys_node.replication.version import ZERO


class LoneStamps:
    """Stamps writes of kinds that live on this node alone."""

    def __init__(self, replica: ReplicaMachine, clock: HybridClock) -> None:
        self._replica = replica
        self._clock = clock
        self._alone: dict[str, tuple[Epoch, Version]] = {}
        """For each kind that is here alone the record under which it is, and the highest floor of its units."""

    def stamp(self, kind: str, wall_ms: int) -> Version | None:
        """Return a version above everything held of a kind; None if some of it may be elsewhere, or on its way here."""
        placement = self._replica.placement
        if placement is None:
            return None
        found = self._alone.get(kind)
        if found is None or found[0] != placement.record.epoch:
            floor = self._look(kind)
            if floor is None:
                return None
            found = self._alone[kind] = (placement.record.epoch, floor)
        version = self._clock.stamp(wall_ms)
        highest = max(found[1], self._replica.table.newest)
        if highest > version:
            # Rule 4: somebody with a faster clock has written here, and a later write must be newer than that.
            self._clock.observe(highest)
            version = self._clock.stamp(0)
        return version

    def _look(self, kind: str) -> Version | None:
        """Return the highest floor of a kind's units, if this node is all of each one's set and holds it whole.

        Under one record that stays so: only a wipe makes a complete unit incomplete, and that is for another record.
        """
        placement, alone = self._replica.placement, (self._replica.node,)
        assert placement is not None
        highest = ZERO
        for unit in placement.units():
            if kind_of(unit) != kind:
                continue
            held, sets = self._replica.table.units.get(unit), placement.sets(unit)
            if held is None or held.durable or not held.complete or sets.current != alone or sets.next != alone:
                return None
            highest = max(highest, held.floor or ZERO)
        return highest

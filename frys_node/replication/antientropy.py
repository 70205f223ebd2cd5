"""Anti-entropy: now and then some units are compared with one other member each (rule 15).

Sans-I/O. Bound to the record in force, as every pull is; no guarantee rests on it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from random import Random

from balancer.placement import Placement
from frys_node.base.types import NodeId
from frys_node.replication.effects import Effect
from frys_node.replication.puller import Puller
from frys_node.replication.quorum import targets
from frys_node.replication.unit import UnitTable


class AntiEntropy:
    """When this node compares, and with whom."""

    def __init__(
        self,
        node: NodeId,
        table: UnitTable,
        puller: Callable[[], Puller],
        rng: Random,
        *,
        interval_s: float,
        units: int,
    ) -> None:
        self.interval_s = interval_s
        self.units = units
        """Units compared in a round."""
        self.next_s = math.inf
        """When the next round begins."""
        self._node = node
        self._table = table
        self._puller = puller
        self._rng = rng
        self._placement: Placement | None = None

    def adopt(self, placement: Placement, now_s: float) -> None:
        """Work under a record from now on."""
        self._placement = placement
        if self.next_s == math.inf and self.interval_s < math.inf:
            self._plan(now_s)

    def _plan(self, now_s: float) -> None:
        self.next_s = now_s + self.interval_s * self._rng.uniform(0.5, 1.0)

    def advance(self, now_s: float) -> list[Effect]:
        """Begin a round if it is due."""
        if now_s < self.next_s:
            return []
        self._plan(now_s)
        placement, puller = self._placement, self._puller()
        if placement is None or not self._table.units:
            return []
        effects: list[Effect] = []
        names = list(self._table.units)
        for unit in self._rng.sample(names, min(self.units, len(names))):
            if unit not in placement or puller.busy_with(unit) is not None:
                continue
            sets = placement.sets(unit)
            members = targets(sets)
            others = [node for node in members if node != self._node]
            if others and self._node in members:
                effects += puller.sync(unit, self._rng.choice(others), sets.epoch, now_s)
        return effects

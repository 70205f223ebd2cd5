"""A durable replica that lost state comes back through the register (rule 14).

Sans-I/O. Theory of operation. What this node acknowledged before the loss may still be counted by a coordinator, so a
refill under the same record could miss a write that becomes acknowledged a moment later. Under a *later* record it
cannot: no attempt of an older one completes once the sources of a pass have adopted it, and any majority that counts
an acknowledgement from before the loss has one of those sources in it. So the unit is incomplete, durably, from the
record on under which the loss was found; the issuer is asked for another record, with the same content; and under that
one, or any other that comes first, the unit takes a pass over the fence of its set. Until then it takes writes and
gives nothing (rule 8).

Fewer complete members than a fence are left: then acknowledged writes may be lost for good, and the unit stays as it is
until they return. Of a set of one nobody else holds anything: the unit starts empty, and says so.
"""

from __future__ import annotations

import math

from balancer.placement import Placement
from balancer.work import MOVED_KINDS
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.replication.effects import Effect, NeedRecord, UnitLost
from frys_node.replication.messages import LostRecord
from frys_node.replication.unit import HeldUnit

ASK_S = 2.0
"""The issuer is asked again for another record after this."""


class Regain:
    """Which units lost state, and since which record."""

    def __init__(self, node: NodeId) -> None:
        self._node = node
        self._has_lost_all = False
        self._lost: dict[UnitId, Epoch] = {}
        """Units of a lost log that nobody has asked for yet."""
        self._waiting: set[UnitId] = set()
        self.ask_at_s = math.inf
        """When the issuer is asked (again)."""

    def lose_all(self) -> None:
        """The log is gone, though it was here: whatever the record in force places here is lost."""
        self._has_lost_all = True

    def adopt(self, placement: Placement) -> tuple[LostRecord, ...]:
        """Take a record; returns what the log must hold at once, for the units that the lost one had held."""
        self._waiting.clear()
        self.ask_at_s = math.inf
        if not self._has_lost_all:
            return ()
        self._has_lost_all = False
        epoch = placement.record.epoch
        self._lost = {
            unit: epoch
            for unit in placement.units()
            if self._node in placement.sets(unit).current and unit.partition("/")[0] not in MOVED_KINDS
        }
        return tuple(LostRecord(unit, epoch) for unit in self._lost)

    def lost_at(self, unit: UnitId) -> Epoch | None:
        """Return under which record the unit was lost with the log; asked when it is opened."""
        return self._lost.pop(unit, None)

    def may_pass(self, held: HeldUnit, epoch: Epoch) -> bool:
        """True if the record in force is later than that under which the loss was found."""
        return held.lost is not None and held.lost < epoch

    def wait(self, held: HeldUnit, now_s: float) -> list[Effect]:
        """Ask the issuer for another record, again and again until there is one."""
        self._waiting.add(held.unit)
        self.ask_at_s = now_s + ASK_S
        return [UnitLost(held.unit), NeedRecord()]

    def advance(self, now_s: float) -> list[Effect]:
        """Ask again."""
        if now_s < self.ask_at_s:
            return []
        self.ask_at_s = now_s + ASK_S if self._waiting else math.inf
        return [NeedRecord()] if self._waiting else []

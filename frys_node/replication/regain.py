"""A durable replica that lost state comes back through the register (rule 14).

Sans-I/O. Theory of operation. What this node acknowledged before the loss may still be counted by a coordinator, so a
refill under the same record could miss a write that becomes acknowledged a moment later. Under a *later* record it
cannot: no attempt of an older one completes once the sources of a pass have adopted it, and any majority that counts
an acknowledgement from before the loss has one of those sources in it. So the unit is incomplete, durably, from the
record on under which the loss was found; the issuer is asked for another record, with the same content; and under that
one, or any other that comes first, the unit takes a pass over the fence of its set. Until then it takes writes without
acknowledging any, and gives nothing: it counts for nothing.

Fewer complete members than a fence are left: then acknowledged writes may be lost for good, and the unit stays as it is
until they return. Of a set of one nobody else holds anything: reads of the unit are refused by name until an operator
has restored a snapshot, or nothing.

What was lost is the same to the register, however it was found out: a log that is gone, one with a hole that named the
unit, or one with a hole that nobody can name. The last makes each unit suspect that the log does not hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from balancer.placement import Placement
from balancer.work import MOVED_KINDS, kind_of
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication.effects import Effect, NeedRecord, UnitLost
from frys_node.replication.messages import EVERY_UNIT, CompletedRecord, DamagedRecord, LogRecord, lost_records
from frys_node.replication.unit import HeldUnit, UnitTable

ASK_S = 2.0
"""The issuer is asked again for another record after this."""


def is_lone(node: NodeId, sets: UnitSets) -> bool:
    """True if no other node has what was acknowledged: newcomers have nothing but from this one."""
    return sets.current == (node,)


class Regain:
    """Which units lost state, and since which record."""

    def __init__(self, node: NodeId, table: UnitTable) -> None:
        self._node = node
        self._table = table
        self._has_lost_all = False
        self._kept: frozenset[UnitId] = frozenset()
        self._lost: dict[UnitId, Epoch] = {}
        """Units of a lost log that nobody has asked for yet."""
        self._waiting: set[UnitId] = set()
        self.ask_at_s = math.inf
        """When the issuer is asked (again)."""

    def lose_all(self, but: Iterable[UnitId] = ()) -> None:
        """The log is gone, or may have lost all of a unit: what the next record places here is lost.

        Args:
            but: What the log did tell of, whole or not.
        """
        self._has_lost_all = True
        self._kept = frozenset(but)

    def adopt(self, placement: Placement) -> tuple[LogRecord, ...]:
        """Take a record; returns what the log must hold at once, for the units of which it has told nothing."""
        self._waiting.clear()
        self.ask_at_s = math.inf
        if not self._has_lost_all:
            return ()
        self._has_lost_all = False
        epoch = placement.record.epoch
        self._lost = {
            unit: epoch
            for unit in placement.units()
            if unit not in self._kept
            and self._node in placement.sets(unit).current
            and kind_of(unit) not in MOVED_KINDS
        }
        # From now on a unit that seems new is new.
        return (*self._told(), CompletedRecord(EVERY_UNIT))

    def _told(self) -> list[LogRecord]:
        return [record for unit, epoch in self._lost.items() for record in lost_records(unit, epoch)]

    def dump(self) -> list[LogRecord]:
        """Return what a checkpoint must hold besides the units that are here."""
        return [DamagedRecord(EVERY_UNIT)] if self._has_lost_all else self._told()

    def opened(self, held: HeldUnit) -> None:
        """Look at a unit that the log has not told of: it is new, unless the log lost it."""
        held.lost = self._lost.pop(held.unit, None) if held.durable else None
        held.is_damaged = held.lost is not None
        held.complete &= not held.is_damaged

    def counts(self, held: HeldUnit, placement: Placement | None) -> bool:
        """True if a write that is durable here may be acknowledged.

        A lost member would say that it knows of nothing newer, and a quorum of such would put a write below one that
        was acknowledged before it. An only replica has nobody to be contradicted by.
        """
        if not held.is_damaged or placement is None:
            return True
        sets = placement.sets(held.unit)
        return self._node not in sets.current or is_lone(self._node, sets)

    def may_pass(self, held: HeldUnit, sets: UnitSets) -> bool:
        """True if the record in force is later than that under which the loss was found, and others hold the unit."""
        return held.lost is not None and held.lost < sets.epoch and not is_lone(self._node, sets)

    def lose(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        """Some of the unit was lost before this record: say so durably, and ask for another, again and again."""
        effects: list[Effect] = []
        if held.lost is None:
            held.lost, held.is_damaged = sets.epoch, True
            effects = self._table.log(tuple(lost_records(held.unit, sets.epoch)), lambda _at_s: [])
        if is_lone(self._node, sets):
            return [*effects, UnitLost(held.unit, is_for_good=True)]
        self._waiting.add(held.unit)
        self.ask_at_s = now_s + ASK_S
        return [*effects, UnitLost(held.unit), NeedRecord()]

    def advance(self, now_s: float) -> list[Effect]:
        """Ask again."""
        if now_s < self.ask_at_s:
            return []
        self.ask_at_s = now_s + ASK_S if self._waiting else math.inf
        return [NeedRecord()] if self._waiting else []

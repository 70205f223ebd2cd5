"""The issuer's side of a change: stable -> joining -> joint -> stable, each step behind its barrier.

Sans-I/O. One change is under way at a time; the next begins when the last is *settled* (rule 13). The barriers are
rules 9 to 11: every joiner has its bulk before ``joint``; before ``stable`` the fence of each changed unit's old set
has durably adopted ``joint``, every joiner has finished its pass, and a majority of the new set has. A step that makes
no progress is aborted to stable(C), which is safe from both intermediate phases. An owner of workflow partitions that
is silent in ``joining`` keeps them: they are pinned to it, so that one dead disk blocks nobody's join (D5).
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Collection

import msgspec

from balancer.placement import Placement
from balancer.record import JOINING, JOINT, STABLE, TopologyRecord
from balancer.spread import RingMember
from balancer.topology_messages import Report
from balancer.work import MOVED_KINDS
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.topology import Collection as CollectionInfo
from frys_node.kernel.services.topology import UnitSets

CHANGES_MAX = 256
"""Joins and leaves that wait; more are refused until some are done."""


class StepConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Patience of the issuer with a step that makes no progress."""

    joining_patience_s: float = 600.0
    joint_patience_s: float = 10.0
    pin_patience_s: float = 3.0
    """A workflow owner that has not adopted ``joining`` for so long keeps its partitions."""
    retry_pause_s: float = 2.0
    """Pause before a change whose step was aborted is tried again."""


class Steps:
    """Waiting changes, the reports on the record in force, and what the next record is."""

    def __init__(self, node: NodeId, config: StepConfig | None = None) -> None:
        self.node = node
        self.config = config or StepConfig()
        self.abort_count = 0
        self._placement: Placement | None = None
        self._reports: dict[NodeId, Report] = {}
        self._waiting: OrderedDict[NodeId, RingMember | None] = OrderedDict()
        self._settling: Placement | None = None
        self._changed: list[UnitId] = []
        self._progress_s = 0.0
        self._entered_s = 0.0
        self._not_before_s = -math.inf
        self.is_settled = False

    # ------------------------------------------------------------------ changes that wait

    @property
    def waiting(self) -> tuple[NodeId, ...]:
        """Nodes whose join or leave waits, in order."""
        return tuple(self._waiting)

    def request_join(self, member: RingMember) -> bool:
        """Queue a join; False when the queue is full. Asking again changes nothing."""
        return self._queue(member.node, member)

    def request_leave(self, node: NodeId) -> bool:
        """Queue a leave; it replaces a join that waits."""
        return self._queue(node, None)

    def _queue(self, node: NodeId, member: RingMember | None) -> bool:
        if node not in self._waiting and len(self._waiting) >= CHANGES_MAX:
            return False
        self._waiting[node] = member
        return True

    # ------------------------------------------------------------------ what is in force

    def adopted(self, placement: Placement, settled: Epoch | None, now_s: float) -> None:
        """A record is in force: collect reports on it anew."""
        record = placement.record
        previous = self._placement
        self._placement = placement
        self._reports = {}
        self._progress_s = self._entered_s = now_s
        self.is_settled = record.phase == STABLE and settled == record.epoch
        if record.phase != STABLE:
            self._changed = placement.changed_units()
        elif previous is None:
            # Nobody knows here what the last step changed, so all units must have adopted before the next one.
            self._changed = list(placement.units())
        elif previous.record.phase == STABLE:
            self._changed = [unit for unit in placement.units() if unit not in previous]

    def take(self, source: NodeId, report: Report, now_s: float) -> None:
        """Count a report; one on another record says nothing about this one."""
        if self._placement is None or report.epoch != self._placement.record.epoch:
            return
        if self._reports.get(source) != report:
            self._reports[source] = report
            self._progress_s = now_s

    def _nodes(self, test: Callable[[Report], bool]) -> dict[NodeId, None]:
        return {node: None for node, report in self._reports.items() if test(report)}

    # ------------------------------------------------------------------ barriers

    def bulk_is_met(self) -> bool:
        """Rule 9: every joiner of every changed unit has its bulk."""
        bulk = self._nodes(lambda report: report.is_bulk_done)
        return all(node in bulk for unit in self._changed for node in _joiners(self._sets(unit)))

    def fence_is_met(self) -> bool:
        """Rules 10 and 11: fences adopted, joiners done, majorities of the new sets done."""
        adopted = self._nodes(lambda _report: True)
        done = self._nodes(lambda report: report.is_done)
        for unit in self._changed:
            sets = self._sets(unit)
            if _count(sets.current, adopted) < _fence(len(sets.current)):
                return False
            if any(node not in done for node in _joiners(sets)):
                return False
            if _count(sets.next, done) < _majority(len(sets.next)):
                return False
        return True

    def settled_is_met(self) -> bool:
        """Rule 13: a majority of each changed unit's set has adopted the stable record."""
        adopted = self._nodes(lambda _report: True)
        for unit in self._changed:
            if self._placement is None or unit not in self._placement:
                continue
            sets = self._sets(unit)
            if _count(sets.current, adopted) < _majority(len(sets.current)):
                return False
        return True

    def _sets(self, unit: UnitId) -> UnitSets:
        assert self._placement is not None
        return self._placement.sets(unit)

    # ------------------------------------------------------------------ the next record

    def next_record(self, now_s: float) -> TopologyRecord | None:
        """Return the record to propose now, or None to wait."""
        if self._placement is None:
            return None
        record = self._placement.record
        if record.phase == STABLE:
            if not self.is_settled or now_s < self._not_before_s:
                return None
            return self._begin(record)
        if record.phase == JOINING and self.bulk_is_met():
            return self._enter_joint(record, now_s)
        if record.phase == JOINT and self.fence_is_met():
            return _after(record, phase=STABLE, ring=record.next_ring)
        return self._abort(record, now_s) if now_s >= self._gives_up_s(record) else None

    def _gives_up_s(self, record: TopologyRecord) -> float:
        """Return when a step that makes no progress has had its patience."""
        is_joining = record.phase == JOINING
        return self._progress_s + (self.config.joining_patience_s if is_joining else self.config.joint_patience_s)

    def _enter_joint(self, record: TopologyRecord, now_s: float) -> TopologyRecord | None:
        """Return the ``joint`` record; partitions of silent owners are pinned to them, after some patience."""
        silent = self._silent_owners()
        if silent and now_s < self._entered_s + self.config.pin_patience_s:
            return None
        pinned = tuple(sorted({*record.pinned, *silent}))
        return _after(record, phase=JOINT, pinned=pinned)

    def _silent_owners(self) -> list[tuple[int, NodeId]]:
        leaving = {node for node, member in self._waiting.items() if member is None}
        silent = []
        for unit in self._changed:
            kind, _, number = unit.partition("/")
            if kind in MOVED_KINDS:
                owner = self._sets(unit).current[0]
                if owner not in self._reports and owner not in leaving:
                    silent.append((int(number), owner))
        return silent

    def _begin(self, record: TopologyRecord) -> TopologyRecord | None:
        """Turn the oldest change that still changes something into a ``joining`` record."""
        while self._waiting:
            node, member = next(iter(self._waiting.items()))
            is_present = any(held.node == node for held in record.ring)
            if member is None and is_present and len(record.ring) > 1:
                ring = tuple(held for held in record.ring if held.node != node)
                return _after(record, phase=JOINING, next_ring=ring)
            if member is not None and not is_present:
                ring = (*record.ring, member)
                return _after(record, phase=JOINING, next_ring=tuple(sorted(ring, key=lambda held: held.node)))
            del self._waiting[node]
        return None

    def _abort(self, record: TopologyRecord, now_s: float) -> TopologyRecord:
        """Go back to stable(C). The change leaves the queue; whoever still wants it asks again, behind the others."""
        self.abort_count += 1
        self._not_before_s = now_s + self.config.retry_pause_s
        if self._waiting:
            self._waiting.popitem(last=False)
        return _after(record, phase=STABLE, next_ring=record.ring)

    def catalogue(self, collections: tuple[CollectionInfo, ...]) -> TopologyRecord | None:
        """Return the record of a catalogue change, or None unless all is stable and settled (fine print 1)."""
        if self._placement is None or not self.is_settled or self._placement.record.phase != STABLE:
            return None
        return _after(self._placement.record, phase=STABLE, collections=collections)

    def next_deadline_s(self) -> float:
        """When a step has had its patience."""
        if self._placement is None:
            return math.inf
        phase = self._placement.record.phase
        if phase == STABLE:
            return self._not_before_s if self._waiting and self.is_settled else math.inf
        if phase == JOINING and self.bulk_is_met():
            return self._entered_s + self.config.pin_patience_s
        return self._gives_up_s(self._placement.record)

    def waits_for(self) -> list[str]:
        """Say for people what the present step waits for, one line each."""
        if self._placement is None or (self._placement.record.phase == STABLE and self.is_settled):
            return []
        lines = []
        for node in self._placement.record.members():
            report = self._reports.get(node)
            if report is None:
                lines.append(f"{node}: has not adopted {self._placement.record.epoch}")
            elif report.waiting:
                lines.append(f"{node}: {report.waiting} units to take")
        return lines


def _after(record: TopologyRecord, **changes: object) -> TopologyRecord:
    epoch = Epoch(record.epoch.term, record.epoch.seq + 1)
    changed: TopologyRecord = msgspec.structs.replace(record, epoch=epoch, parent=record.epoch, **changes)
    return changed


def _joiners(sets: UnitSets) -> tuple[NodeId, ...]:
    return tuple(node for node in sets.next if node not in sets.current)


def _count(members: Collection[NodeId], voters: Collection[NodeId]) -> int:
    return sum(1 for member in members if member in voters)


def _majority(count: int) -> int:
    return count // 2 + 1


def _fence(count: int) -> int:
    return count - _majority(count) + 1

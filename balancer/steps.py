"""The issuer's side of a change: stable -> joining -> joint -> stable, each step behind its barrier.

Sans-I/O. One step is under way at a time and may carry several changes (`changes`); the next begins when the last is
*settled* (rule 13). The barriers are rules 9 to 11: before ``joint`` every joiner has its bulk, and enough of each
changed unit's old set have adopted ``joining`` for the fence to be within reach; before ``stable`` that fence has
durably adopted ``joint``, every joiner has finished its pass, and a majority of the new set has. A step that makes no
progress is aborted to stable(C), which is safe from both intermediate phases; it is aborted early when a node that
joins or leaves is known to be dead or never adopts the record, and goes on without that one. A step waits for nobody
who is known to be dead: it is planned so that the dead take nothing (`absence`), and when somebody dies in the middle
it is begun anew around that one. What cannot end without the dead is not begun, and `waits_for` says why. Who is dead
is an input: it decides what is *tried*, never who owns. An owner of workflow partitions that is silent in ``joining``
keeps them: they are pinned to it, so that one dead disk blocks nobody's join (D5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection

import msgspec

from balancer.absence import Absence, around, ring_is_short, short_units
from balancer.bypass import BYPASS_BYTES_MAX, bypass_bytes
from balancer.changes import (
    JOIN,
    KINDS,
    LEAVE,
    REMOVE,
    Change,
    Changes,
    changed_nodes,
    newcomers,
    unfenced,
)
from balancer.placement import Placement, fence, majority
from balancer.promotion import voters
from balancer.record import JOINING, JOINT, STABLE, TopologyRecord, aborted, after, finished, weight_of
from balancer.spread import RingMember
from balancer.topology_messages import Report
from balancer.work import MOVED_KINDS, kind_of
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.topology import Collection as CollectionInfo
from frys_node.kernel.services.topology import UnitSets

RETRY_GROWTH_MAX = 8
"""The pause after an abort grows up to so many times its first length."""


UNITS_SHOWN_MAX = 3
"""Units that a step waits for and that are named; the rest are counted."""

LOOK_S = 5.0
"""Pause between looks at a node that is due for removal and cannot be removed without loss."""


class StepConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Patience of the issuer with a step that makes no progress."""

    joining_patience_s: float = 600.0
    joint_patience_s: float = 10.0
    pin_patience_s: float = 3.0
    """A workflow owner that has not adopted ``joining`` for so long keeps its partitions."""
    dead_patience_s: float = 3.0
    """A step goes on without a node that has been known dead for so long. A member that only gains units by it may be
    dead for as long as the step had run before, if that is longer: no wait costs more than beginning anew."""
    adopt_patience_s: float = 10.0
    """A step goes on without a node that gets something by it and has not adopted ``joining`` for so long."""
    return_patience_s: float = 10.0
    """A member that was passed over while it was dead gets its places again when it has been back for so long."""
    retry_pause_s: float = 2.0
    """Pause before a change whose step was aborted is tried again; doubled by each further abort, up to eightfold."""
    bypass_bytes_max: int = BYPASS_BYTES_MAX
    """A step that would have to name more members and units that are passed over is not begun."""
    auto_remove_after_s: float = math.inf
    """A node that has been dead for so long is removed, unless that would lose something."""


class Steps:
    """Waiting changes, the reports on the record in force, and what the next record is."""

    def __init__(self, node: NodeId, config: StepConfig | None = None) -> None:
        self.node = node
        self.config = config or StepConfig()
        self.abort_count = 0
        self.changes = Changes()
        self.absence = Absence(node)
        self._placement: Placement | None = None
        self._reports: dict[NodeId, Report] = {}
        self._taken_bytes: dict[NodeId, int] = {}
        """The most that each has reported under this record."""
        self._changed: list[UnitId] = []
        self._taking: dict[NodeId, int] = {}
        """Who gets units by the step under way, and how many."""
        self._progress_s = 0.0
        self._entered_s = 0.0
        self._not_before_s = -math.inf
        self._failures = 0
        self._look_at_s = -math.inf
        self._held_up: list[str] = []
        """Why what waits is not begun."""
        self.is_settled = False
        self.may_remove: Callable[[], bool] = lambda: True
        """Set by the host: False while one of the dead may have the only key of the cluster's authority."""

    # ------------------------------------------------------------------ changes that wait

    @property
    def dead(self) -> dict[NodeId, float]:
        """Since when each node is known to be dead."""
        return self.absence.dead

    @property
    def waiting(self) -> tuple[NodeId, ...]:
        """Nodes whose join, leave or removal waits or is under way, in order."""
        return self.changes.nodes

    def request_join(self, member: RingMember) -> bool:
        """Queue a join, or another weight of a member; False when the queue is full. Asking again changes nothing."""
        return self._want(member.node, Change(JOIN, member))

    def request_leave(self, node: NodeId) -> bool:
        """Queue a leave; it replaces a join that waits."""
        return self._want(node, Change(LEAVE))

    def request_remove(self, node: NodeId, *, accepts_loss: bool = False, keeps_out: bool = True) -> bool:
        """Queue the replacement of a dead node (rule 24); False when the queue is full."""
        return self._want(node, Change(REMOVE, None, accepts_loss, keeps_out))

    def _want(self, node: NodeId, change: Change) -> bool:
        if self.changes.wanted_of(node) != change.kind:
            self._look_again()
        return self.changes.want(node, change)

    def request_factor(self, whose: str, factor: int) -> bool:
        """Queue another replication factor for a collection's id, or for the cluster (`CLUSTER`)."""
        return self.changes.want_factor(whose, factor)

    def verdict(self, dead: Collection[NodeId], now_s: float) -> None:
        """Take who is known to be dead now."""
        bypassed = self._placement.record.bypassed if self._placement is not None else ()
        if self.absence.verdict(dead, [bypass.node for bypass in bypassed], now_s):
            self._look_again()

    def _look_again(self) -> None:
        """What was held up may be possible now."""
        if self._held_up:
            self._held_up, self._not_before_s = [], -math.inf

    def loss_of(self, node: NodeId) -> list[UnitId]:
        """Return the replicated units that keep a node from being removed: too few other members are alive."""
        if self._placement is None:
            return []
        blocked = unfenced(self._placement, {**self.dead, node: 0.0})
        return [unit for unit in blocked if node in self._placement.sets(unit).current]

    def auto_remove(self, now_s: float) -> None:
        """Queue the removal of nodes that have been dead for long; never one that would lose anything (rule 24)."""
        if self._placement is None or self._placement.record.phase != STABLE or not self.is_settled:
            return
        self._look_at_s = now_s + LOOK_S
        if not self.may_remove():
            return
        for node, since_s in self.dead.items():
            is_due = now_s >= since_s + self.config.auto_remove_after_s
            if is_due and weight_of(self._placement.record.ring, node) and not self.loss_of(node):
                self.request_remove(node, keeps_out=False)

    # ------------------------------------------------------------------ what is in force

    def adopted(self, placement: Placement, settled: Epoch | None, now_s: float) -> None:
        """A record is in force: collect reports on it anew."""
        record = placement.record
        previous = self._placement
        self._placement = placement
        self._reports, self._taken_bytes = {}, {}
        self._progress_s = self._entered_s = now_s
        self._held_up = []
        self.is_settled = record.phase == STABLE and settled == record.epoch
        if record.phase != STABLE:
            self._changed = placement.changed_units()
        elif previous is None:
            # Nobody knows here what the last step changed, so all units must have adopted before the next one.
            self._changed = list(placement.units())
        elif previous.record.phase == STABLE:
            self._changed = [unit for unit in placement.units() if unit not in previous]
        self._taking = {}
        if record.phase != STABLE:
            for unit in self._changed:
                for node in _joiners(placement.sets(unit)):
                    self._taking[node] = self._taking.get(node, 0) + 1
        if (
            record.phase == STABLE
            and previous is not None
            and previous.record.phase == JOINT
            and record.ring == (previous.record.next_ring)
        ):
            self._failures = 0

    def take(self, source: NodeId, report: Report, now_s: float) -> None:
        """Count a report; one on another record says nothing about this one."""
        if self._placement is None or report.epoch != self._placement.record.epoch:
            return
        self.absence.heard(source)
        held = self._reports.get(source)
        if held == report:
            return
        self._reports[source] = report
        has_more = report.taken_bytes > self._taken_bytes.get(source, 0)
        self._taken_bytes[source] = max(report.taken_bytes, self._taken_bytes.get(source, 0))
        # What comes, is thrown away and comes again says nothing: only more than ever before does.
        if has_more or held is None or msgspec.structs.replace(held, taken_bytes=report.taken_bytes) != report:
            self._progress_s = now_s
        self._notice_return(source)

    def _notice_return(self, node: NodeId) -> None:
        """A node that was removed is here again: it hands over the partitions that are pinned to its disk."""
        assert self._placement is not None
        record = self._placement.record
        if node in record.removed and node not in record.lost and weight_of(record.ring, node) == 0:
            self.request_leave(node)

    def forget(self) -> None:
        """This node writes the records from now on: what it knew under another issuer is of no use."""
        self._placement = None
        self.changes = Changes()
        self.absence.forget()
        self._held_up = []
        self._not_before_s, self._failures = -math.inf, 0

    def _nodes(self, test: Callable[[Report], bool]) -> dict[NodeId, None]:
        return {node: None for node, report in self._reports.items() if test(report)}

    # ------------------------------------------------------------------ barriers

    def bulk_is_met(self) -> bool:
        """Rule 9: every joiner of every changed unit has its bulk."""
        bulk = self._nodes(lambda report: report.is_bulk_done)
        return all(node in bulk for unit in self._changed for node in _joiners(self._sets(unit)))

    def fence_is_near(self) -> bool:
        """True if enough of each changed unit's old set answer under ``joining`` for ``joint`` to end."""
        return not self._short_of_fence()

    def _short_of_fence(self) -> list[UnitId]:
        short = []
        for unit in self._changed:
            current = self._sets(unit).current
            is_single = kind_of(unit) in MOVED_KINDS
            if not is_single and _count(current, self._reports) < fence(len(current)):
                short.append(unit)
        return short

    def fence_is_met(self) -> bool:
        """Rules 10 and 11: fences adopted, joiners done, majorities of the new sets done."""
        adopted = self._nodes(lambda _report: True)
        done = self._nodes(lambda report: report.is_done)
        if not self._is_majority(adopted):
            return False
        for unit in self._changed:
            sets = self._sets(unit)
            if _count(sets.current, adopted) < fence(len(sets.current)):
                return False
            if any(node not in done for node in _joiners(sets)):
                return False
            if _count(sets.next, done) < majority(len(sets.next)):
                return False
        return True

    def settled_is_met(self) -> bool:
        """Rule 13: a majority of each changed unit's set, and of the ring, has adopted the stable record.

        Of a unit with one owner the ring's majority is enough: the next issuer's survey meets it. Nobody waits for a
        node that an operator gives up.
        """
        adopted = self._nodes(lambda _report: True)
        if not self._is_majority(adopted):
            return False
        assert self._placement is not None
        given_up = {*self.changes.given_up, *self._placement.record.lost}
        for unit in self._changed:
            if unit not in self._placement or kind_of(unit) in MOVED_KINDS:
                continue
            current = self._sets(unit).current
            left = sum(1 for node in current if node not in given_up)
            if _count(current, adopted) < min(majority(len(current)), left):
                return False
        return True

    def _is_majority(self, adopted: Collection[NodeId]) -> bool:
        """True if most members of the ring adopted the record: every survey of a promotion then sees it."""
        assert self._placement is not None
        record = self._placement.record
        ring = voters(record.ring, {*record.lost, *self.changes.given_up})
        return _count(ring, adopted) >= majority(len(ring)) or not ring

    def _sets(self, unit: UnitId) -> UnitSets:
        return self._in_force.sets(unit)

    @property
    def _in_force(self) -> Placement:
        assert self._placement is not None
        return self._placement

    # ------------------------------------------------------------------ the next record

    def next_record(self, now_s: float) -> TopologyRecord | None:
        """Return the record to propose now, or None to wait."""
        if self._placement is None:
            return None
        record = self._placement.record
        if record.phase == STABLE:
            if not self.is_settled or now_s < self._not_before_s:
                return None
            return self._begin(record, now_s)
        if record.phase == JOINING and self.bulk_is_met() and self.fence_is_near():
            joint = self._enter_joint(record, now_s)
            if joint is not None:
                return joint
        if record.phase == JOINT and self.fence_is_met():
            return finished(record)
        return self._abort(record, now_s) if now_s >= self._gives_up_s(record) else None

    def _gives_up_s(self, record: TopologyRecord) -> float:
        """Return when a step has had its patience: without progress, or with somebody that it cannot go on with."""
        is_joining = record.phase == JOINING
        at_s = self._progress_s + (self.config.joining_patience_s if is_joining else self.config.joint_patience_s)
        doubtful = self._doubtful(record)
        for node in {*doubtful, *self._taking}:
            if node in self.dead:
                dead_s = max(self.dead[node], self._entered_s)
                ran_s = 0.0 if node in doubtful or not is_joining else dead_s - self._entered_s
                at_s = min(at_s, dead_s + max(self.config.dead_patience_s, ran_s))
            if node not in self._reports and is_joining:
                at_s = min(at_s, self._entered_s + self.config.adopt_patience_s)
        dead = self._dead_members(record)
        if dead and short_units(self._in_force, self._changed, dead):
            at_s = min(at_s, max(*dead.values(), self._entered_s) + self.config.dead_patience_s)
        return at_s

    def _dead_members(self, record: TopologyRecord) -> dict[NodeId, float]:
        """Return the dead of either ring; whoever has left or was removed is dead as well, and no set waits for it."""
        members = record.members()
        return {node: since_s for node, since_s in self.dead.items() if node in members}

    def _doubtful(self, record: TopologyRecord) -> list[NodeId]:
        """Return the nodes whose own part the step waits for: newcomers, and those that hand over what they hold."""
        leaving = [node for node in self.changes.leaving if weight_of(record.next_ring, node) is None]
        return newcomers(record) + [node for node in leaving if weight_of(record.ring, node) is not None]

    def _enter_joint(self, record: TopologyRecord, now_s: float) -> TopologyRecord | None:
        """Return the ``joint`` record; partitions of silent owners are pinned to them, after some patience."""
        silent = self._silent_owners()
        if silent and now_s < self._entered_s + self.config.pin_patience_s:
            return None
        pinned = tuple(sorted({*record.pinned, *silent}))
        return after(record, phase=JOINT, pinned=pinned)

    def _silent_owners(self) -> list[tuple[int, NodeId]]:
        assert self._placement is not None
        lost = self._placement.record.lost
        silent = []
        for unit in self._changed:
            kind, _, number = unit.partition("/")
            if kind not in MOVED_KINDS:
                continue
            owner = next(iter(self._sets(unit).current), None)
            has_hope = owner is None or owner in self._reports or owner in self.changes.leaving or owner in lost
            if owner is not None and not has_hope:
                silent.append((int(number), owner))
        return silent

    def _begin(self, record: TopologyRecord, now_s: float) -> TopologyRecord | None:
        """Turn the changes that wait, as many as a step carries, into a ``joining`` record around the absent."""
        absent = self.absence.absent(record, now_s, self.config.return_patience_s)
        self._held_up = []
        for kinds in (KINDS, (REMOVE,), (JOIN,)):
            changed = self.changes.plan(self._in_force, self.dead, kinds)
            if changed is None and now_s < self.absence.back_at_s(record, self.config.return_patience_s):
                continue
            joining = after(record, phase=JOINING, **(changed or {}))
            if not absent:
                return joining
            planned = around(joining, absent)
            if not self._is_too_long(planned.record, absent) and not self._holds_up(planned):
                return planned.record
        if self._held_up:
            self._not_before_s = now_s + LOOK_S
        return None

    def _is_too_long(self, planned: TopologyRecord, absent: list[NodeId]) -> bool:
        """True if the record has no room for whom and where it would pass over; then it says what to do."""
        size_bytes, bytes_max = bypass_bytes(planned.next_bypassed), self.config.bypass_bytes_max
        if size_bytes <= bytes_max:
            return False
        why = f"going around all {len(absent)} such nodes takes {size_bytes} bytes of the record, over {bytes_max}"
        self._held_up = [f"{node}: dead, and {why}; remove some, or start them again" for node in absent]
        return True

    def _holds_up(self, planned: Placement) -> bool:
        """True if the dead would keep a step from ending; then it says which, and why."""
        dead = self._dead_members(planned.record)
        if not dead:
            return False
        short = short_units(planned, planned.changed_units(), dead)
        if not short and not ring_is_short(planned.record, self.changes.given_up, dead):
            return False
        what = _some(short) if short else "the ring"
        self._held_up = [f"{node}: dead, and without it too few members live of {what}" for node in dead]
        return True

    def _abort(self, record: TopologyRecord, now_s: float) -> TopologyRecord:
        """Go back to stable(C). Who held the step up leaves the queue and asks again, behind the others."""
        self.abort_count += 1
        doubtful = self._doubtful(record)
        culprits = {node for node in doubtful if node in self.dead or node not in self._reports}
        if now_s >= self._entered_s + self.config.adopt_patience_s:
            mute = (node for node in self._taking if node not in self._reports and node not in doubtful)
            self.absence.silent.update(dict.fromkeys(mute))
        missed = [node for node in self._taking if node in self.dead or node in self.absence.silent]
        if culprits or missed or short_units(self._in_force, self._changed, self._dead_members(record)):
            # The rest is begun again at once, around those who are missed.
            self.changes.forget(culprits)
            self._not_before_s = now_s
        else:
            self.changes.forget({*changed_nodes(record)})
            self.changes.forget_factors()
            self._not_before_s = now_s + self.config.retry_pause_s * min(2**self._failures, RETRY_GROWTH_MAX)
            self._failures += 1
        return aborted(record)

    def catalogue(self, collections: tuple[CollectionInfo, ...]) -> TopologyRecord | None:
        """Return the record of a catalogue change, or None unless all is stable and settled (fine print 1)."""
        if self._placement is None or not self.is_settled or self._placement.record.phase != STABLE:
            return None
        return after(self._placement.record, phase=STABLE, collections=collections)

    def next_deadline_s(self) -> float:
        """When a step has had its patience, or a dead node."""
        if self._placement is None:
            return math.inf
        record = self._placement.record
        if record.phase == STABLE:
            if not self.is_settled:
                return math.inf
            back_at_s = self.absence.back_at_s(record, self.config.return_patience_s)
            begins_s = -math.inf if self.changes else back_at_s
            return min(max(self._not_before_s, begins_s), self._auto_remove_s(record))
        gives_up_s = self._gives_up_s(record)
        if record.phase == JOINING and self.bulk_is_met() and self.fence_is_near():
            return min(gives_up_s, self._entered_s + self.config.pin_patience_s)
        return gives_up_s

    def _auto_remove_s(self, record: TopologyRecord) -> float:
        waits = [since_s for node, since_s in self.dead.items() if weight_of(record.ring, node)]
        return max(min(waits, default=math.inf) + self.config.auto_remove_after_s, self._look_at_s)

    def waits_for(self) -> list[str]:
        """Say for people what the present step waits for, one line each."""
        if self._placement is None:
            return []
        record = self._placement.record
        if record.phase == STABLE and self.is_settled:
            return list(self._held_up)
        lines = []
        for node in record.members():
            report = self._reports.get(node)
            if node in self.dead:
                # A step waits for no dead member but one that died under way, and begins anew without that one.
                taking = self._taking.get(node)
                lines += [f"{node}: dead, with {taking} units to take"] if taking else []
            elif report is None:
                lines.append(f"{node}: has not adopted {record.epoch}")
            elif report.waiting:
                lines.append(f"{node}: {report.waiting} units to take")
        if record.phase == JOINING:
            short = self._short_of_fence()
            lines += [f"{unit}: too few members of its set answer" for unit in short[:UNITS_SHOWN_MAX]]
            if len(short) > UNITS_SHOWN_MAX:
                lines.append(f"{len(short) - UNITS_SHOWN_MAX} more units: too few members of their sets answer")
        return lines


def _some(units: Collection[UnitId]) -> str:
    """Name a few of many."""
    shown = ", ".join(list(units)[:UNITS_SHOWN_MAX])
    return shown if len(units) <= UNITS_SHOWN_MAX else f"{shown} and {len(units) - UNITS_SHOWN_MAX} more units"


def _joiners(sets: UnitSets) -> tuple[NodeId, ...]:
    return tuple(node for node in sets.next if node not in sets.current)


def _count(members: Collection[NodeId], voters: Collection[NodeId]) -> int:
    return sum(1 for member in members if member in voters)

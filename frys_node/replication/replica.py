"""The replica: holds units, answers requests made under its own record, and takes over what it lacks.

Sans-I/O. Theory of operation. The host adopts a record durably, then calls `adopt`; from that instant every request
under another record is refused (rule 6), and that refusal is what makes the fence of rule 10 true. A write is merged
into the store, handed to the log, and acknowledged when the log says it is durable (rule 7). A unit is *complete* when
it holds everything that its set acknowledged, up to its place in quorums; an incomplete one takes writes and gives
nothing (8).

What adoption does to a unit of this node:

* member of C: nothing, or, seen for the first time, it is born complete and empty: nobody can enter C otherwise
  without having finished a pass. A unit in memory is refilled first, since a restart lost it.
* member of N only: wiped once per transition (12), then bulk in ``joining`` and a pass in ``joint``.
* member of N in ``joint``: a pass over C, this node counting as one source if it is a complete member (10, 11).
* member of neither: kept until the record is settled (13), unless it was incomplete anyway.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import NamedTuple

from balancer.placement import Placement
from balancer.record import JOINING, JOINT, STABLE
from balancer.work import kind_of
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Entry, UnitStore, Version
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication.admission import Admission
from frys_node.replication.antientropy import AntiEntropy
from frys_node.replication.bulk_progress import BulkProgress
from frys_node.replication.effects import (
    BulkFinished,
    BulkPull,
    Effect,
    PassFinished,
    StartedEmpty,
)
from frys_node.replication.emptying import Emptying
from frys_node.replication.knobs import ReplicaConfig
from frys_node.replication.messages import (
    CompletedRecord,
    DroppedRecord,
    FloorsRecord,
    LeafPage,
    LogRecord,
    PullReply,
    Purge,
    Purged,
    PurgeReply,
    ReplicaRequest,
    Seal,
    Sealed,
    Tree,
    WipedRecord,
)
from frys_node.replication.pull import Purpose
from frys_node.replication.puller import Puller
from frys_node.replication.purge import Purger
from frys_node.replication.quorum import fence, targets
from frys_node.replication.regain import Regain, is_lone
from frys_node.replication.serving import Serving
from frys_node.replication.takeover import Takeover
from frys_node.replication.unit import HeldUnit, UnitTable
from frys_node.replication.version import ZERO

__all__ = ["ReplicaConfig", "ReplicaMachine", "kind_of"]

Floors = tuple[Version | None, Version | None]
"""Write floor and purge floor."""

REFILL_CHECK_S = 0.5
"""Pause between looks at refills that are past their patience."""


class Kind(NamedTuple):
    """How units of a kind are kept."""

    factory: Callable[[UnitId], UnitStore]
    durable: bool


class ReplicaMachine:
    """The units that this node holds."""

    def __init__(
        self,
        node: NodeId,
        rng: Random,
        config: ReplicaConfig | None = None,
        stamp: Callable[[], Version] = lambda: ZERO,
        wall_ms: Callable[[], int] | None = None,
        boot: int = 0,
        *,
        is_usable: Callable[[NodeId], bool] = lambda _node: True,
    ) -> None:
        self.node = node
        self._seq = boot << 40
        self._stamp = stamp
        self._born: Version | None = None
        """Stamped before the first refill: what this node has forgotten was written before."""
        self.table = UnitTable()
        self.placement: Placement | None = None
        self.admission = Admission()
        self._rng = rng
        self.config = config or ReplicaConfig()
        self.serving = Serving(self.table, wall_ms, self.config.clock_drift_max_s)
        self._kinds: dict[str, Kind] = {}
        self._puller = Puller(node, self.table, rng, is_usable)
        self._emptying = Emptying()
        self.sync = AntiEntropy(
            node,
            self.table,
            lambda: self._puller,
            rng,
            interval_s=self.config.sync_interval_s,
            units=self.config.sync_units,
        )
        self.regain = Regain(node, self.table)
        self.purger = Purger(
            node,
            self.table,
            rng,
            wall_ms=wall_ms or (lambda: 0),
            min_age_s=self.config.gc_min_age_s,
            memory_min_age_s=self.config.memory_min_age_s,
            interval_s=self.config.gc_interval_s,
            sync=self._sync_one,
            is_usable=is_usable,
        )
        self._settled: Epoch | None = None
        self.refill_at_s = math.inf
        """When the patience of units in memory that are filled again is looked at next; infinite: none is."""

    # ------------------------------------------------------------------ what is held

    @property
    def bulks(self) -> BulkProgress:
        """How far the bulk copies are that go by messages."""
        return self._puller.bulks

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds declared so far."""
        return tuple(self._kinds)

    def declare(self, kind: str, factory: Callable[[UnitId], UnitStore], *, durable: bool) -> None:
        """Declare a kind; then `load` what the log held of it, then `open_kind`."""
        self._kinds[kind] = Kind(factory, durable)

    def open_kind(self, kind: str, now_s: float) -> list[Effect]:
        """Open the units of a kind that was declared after the record was adopted."""
        if self.placement is None:
            return []
        effects = self._adopt_units(now_s, only_kind=kind)
        # What was loaded only now may belong to others since long.
        return effects + self.settled(self._settled, now_s) if self._settled else effects

    def _hold(self, unit: UnitId, *, complete: bool, join_key: Epoch | None = None) -> HeldUnit:
        kind = self._kinds[kind_of(unit)]
        held = HeldUnit(unit, kind.factory(unit), durable=kind.durable, complete=complete, join_key=join_key)
        held.seq = self._seq
        self.table.units[unit] = held
        return held

    def load(
        self,
        unit: UnitId,
        entries: Iterable[Entry],
        *,
        complete: bool,
        join_key: Epoch | None,
        is_damaged: bool = False,
        lost: Epoch | None = None,
        floors: Floors = (None, None),
    ) -> None:
        """Put back what the log held of a unit; call before `adopt`, after `declare` of its kind.

        Not complete, and no joiner under the record in force: some of it was lost, and it is refilled through the
        register (rule 14). What is left of it is kept, but not its purge floor: of what lies below it some may be lost
        and not dead, and what the others hold of that must be taken again.
        """
        if not self._kinds[kind_of(unit)].durable:
            return  # a lost log names the units of every kind; those in memory are refilled anyway
        held = self._hold(unit, complete=complete, join_key=join_key)
        held.put(list(entries))
        held.raise_floors(floors[0], floors[1] if complete else None)
        held.is_damaged, held.lost = is_damaged, lost
        held.is_behind = self.config.catches_up

    def local(self, unit: UnitId) -> HeldUnit | None:
        """Return the unit if this node is a complete member of its current set."""
        held = self.table.units.get(unit)
        if held is None or not held.complete or self.placement is None or unit not in self.placement:
            return None
        return held if self.node in self.placement.sets(unit).current else None

    @property
    def epoch(self) -> Epoch | None:
        """Key of the record in force here."""
        return self.placement.record.epoch if self.placement else None

    # ------------------------------------------------------------------ adoption

    def adopt(self, placement: Placement, now_s: float) -> list[Effect]:
        """Work under a record from now on; the host has made it durable before."""
        if self.placement is not None and placement.record.epoch <= self.placement.record.epoch:
            return []
        self.placement = placement
        self._puller.cancel_all(now_s if placement.record.phase == STABLE else now_s + self.config.breath_s)
        self.purger.adopt(placement, now_s)
        self.sync.adopt(placement, now_s)
        lost = self.regain.adopt(placement)
        effects = self.table.log(lost, lambda _at_s: []) if lost else []
        effects += self._adopt_units(now_s)
        for unit, held in list(self.table.units.items()):
            if not held.complete and not self._is_holder(unit):
                effects += self._drop(held, now_s)
        for source, message in self.admission.take(placement.record.epoch):
            effects += self.receive(source, message, now_s)
        return effects

    def settled(self, epoch: Epoch, now_s: float) -> list[Effect]:
        """Enough members have adopted this stable record: drop what it does not place here (rule 13)."""
        if epoch != self.epoch:
            return []
        self._settled = epoch
        effects: list[Effect] = []
        for unit, held in list(self.table.units.items()):
            if not self._is_holder(unit):
                effects += self._drop(held, now_s)
        return effects

    def _is_holder(self, unit: UnitId) -> bool:
        if self.placement is None or unit not in self.placement:
            return False
        return self.node in targets(self.placement.sets(unit))

    def _drop(self, held: HeldUnit, now_s: float) -> list[Effect]:
        self._puller.cancel(held.unit)
        self.table.units.pop(held.unit, None)
        self._emptying.add(held.store, now_s)
        return self.table.persist(held, (DroppedRecord(held.unit),), lambda _at_s: [], now_s)

    def _adopt_units(self, now_s: float, only_kind: str | None = None) -> list[Effect]:
        assert self.placement is not None
        effects: list[Effect] = []
        for unit in self.placement.held_by(self.node):
            kind = kind_of(unit)
            if kind in self._kinds and (only_kind is None or kind == only_kind):
                effects += self._adopt_unit(unit, self.placement.sets(unit), now_s)
        return effects

    def _adopt_unit(self, unit: UnitId, sets: UnitSets, now_s: float) -> list[Effect]:
        assert self.placement is not None
        record = self.placement.record
        held = self.table.units.get(unit)
        is_member = self.node in sets.current
        effects: list[Effect] = []
        if held is None:
            held = self._hold(unit, complete=is_member and self._kinds[kind_of(unit)].durable)
            self.regain.opened(held)
        if is_member and held.durable and not held.complete and not self.regain.may_pass(held, sets):
            return effects + self.regain.lose(held, sets, now_s)
        if not is_member:
            join_key = record.epoch if record.phase == JOINING else record.parent
            assert join_key is not None
            if held.join_key != join_key:
                effects += self._wipe(held, join_key, now_s)
            if record.phase == JOINING:
                return effects + self._start_bulk(held, sets, now_s)
        if is_member and not held.complete and not held.durable:
            # A pass may be owed as well, but too few others may have what it needs.
            return effects + self._start_refill(held, sets, now_s)
        if self._owes_pass(sets) or (is_member and held.lost is not None):
            return effects + self._start_pass(held, sets, now_s)
        if is_member and held.complete and held.is_behind:
            return effects + self._start_catch_up(held, sets, now_s)
        return effects

    def _owes_pass(self, sets: UnitSets) -> bool:
        """True if this node is of the next set of a unit whose set changes, in ``joint``."""
        return sets.phase == JOINT and self.node in sets.next and set(sets.current) != set(sets.next)

    def _wipe(self, held: HeldUnit, join_key: Epoch, now_s: float) -> list[Effect]:
        held.wipe(join_key)
        return self.table.persist(held, (WipedRecord(held.unit, join_key),), lambda _at_s: [], now_s)

    def _start_bulk(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        unit, epoch = held.unit, sets.epoch
        if not sets.current:
            # An operator gave up every replica: the unit begins empty.
            return self.bulk_finished(unit, epoch, now_s)
        # Memory units are small or many: a tree exchange each is quicker than a snapshot.
        if held.durable and not self.config.bulk_by_messages:
            return [BulkPull(unit, epoch, sets.current)]
        return self._puller.start(
            Takeover(
                unit,
                epoch=epoch,
                purpose=Purpose.BULK,
                sources=sets.current,
                needed=1,
                then=lambda at_s: self.bulk_finished(unit, epoch, at_s),
                started_s=now_s,
            ),
            now_s,
        )

    def bulk_finished(self, unit: UnitId, epoch: Epoch, now_s: float) -> list[Effect]:
        """Everything of the bulk was merged: once it is durable, tell the topology."""
        held = self.table.units.get(unit)
        if held is None or epoch != self.epoch:
            return []
        return self.table.persist(held, (), lambda _at_s: [BulkFinished(unit, epoch)], now_s)

    def _start_pass(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        counts_itself = self.node in sets.current and held.complete
        takeover = Takeover(
            held.unit,
            epoch=sets.epoch,
            purpose=Purpose.FENCED,
            sources=tuple(node for node in sets.current if node != self.node),
            needed=fence(len(sets.current)) - counts_itself,
            then=lambda at_s: self._complete(held, sets.epoch, takeover, at_s),
            started_s=now_s,
            wants_all=not counts_itself,
        )
        return self._puller.start(takeover, now_s)

    def _complete(self, held: HeldUnit, epoch: Epoch, takeover: Takeover | None, now_s: float) -> list[Effect]:
        """The unit is complete, and the sources' floors come into force with it, not before the data (rule 18)."""
        join_key = held.join_key
        floors = (None, None) if takeover is None else (takeover.write_floor, takeover.purge_floor)

        def then(_at_s: float) -> list[Effect]:
            if self.table.units.get(held.unit) is not held or held.join_key != join_key:
                return []
            if takeover is not None:
                takeover.hand_over(held)
                self.table.note_floor(held)
            held.complete = True
            held.lost, held.waits_since_s = None, None
            held.is_damaged = held.is_behind = False
            return [PassFinished(held.unit, epoch)] if epoch == self.epoch else []

        records: tuple[LogRecord, ...] = (CompletedRecord(held.unit),)
        if floors != (None, None):
            records = (FloorsRecord(held.unit, *floors), *records)
        return self.table.persist(held, records, then, now_s)

    def _start_refill(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        """Fill a unit that lives in memory from members that still have it; too few of them: begin empty, and say so.

        The patience runs on over changes of the record: only the pulls begin anew (rule 15).
        """
        others = tuple(node for node in sets.current if node != self.node)
        self._born = self._born or self._stamp()
        floor = self._born
        since_s = held.waits_since_s = now_s if held.waits_since_s is None else held.waits_since_s
        self.refill_at_s = min(self.refill_at_s, max(since_s + self.config.refill_patience_s, now_s))

        def then(at_s: float) -> list[Effect]:
            if self.table.units.get(held.unit) is not held:
                return []
            refill.hand_over(held)
            held.complete = True
            held.waits_since_s = None
            self.table.note_floor(held)
            told: list[Effect] = []
            if len(refill.done) < fence(len(sets.current)):
                held.raise_floor(floor)
                told.append(StartedEmpty(held.unit, floor))
            return told + self._start_pass(held, sets, at_s) if self._owes_pass(sets) else told

        refill = Takeover(
            held.unit,
            epoch=sets.epoch,
            purpose=Purpose.REFILL,
            sources=others,
            needed=min(fence(len(sets.current)), len(others)),
            then=then,
            started_s=since_s,
        )
        refill.heard_s = now_s
        return self._puller.start(refill, now_s)

    def _start_catch_up(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        """Take what was acknowledged while this node was away; it counts at quorum all the while (rule 19)."""

        def then(_at_s: float) -> list[Effect]:
            held.is_behind = False
            return []

        return self._puller.start(
            Takeover(
                held.unit,
                epoch=sets.epoch,
                purpose=Purpose.CATCH_UP,
                sources=tuple(node for node in sets.current if node != self.node),
                needed=fence(len(sets.current)) - 1,
                then=then,
                started_s=now_s,
            ),
            now_s,
        )

    # ------------------------------------------------------------------ requests

    @property
    def disk_refusal(self) -> str:
        """Why the disk takes no writes now; empty while it does. Set by the host."""
        return self.serving.disk_refusal

    @disk_refusal.setter
    def disk_refusal(self, code: str) -> None:
        self.serving.disk_refusal = code

    def receive(self, source: NodeId, message: ReplicaRequest | PullReply | PurgeReply, now_s: float) -> list[Effect]:
        """Answer a request of a coordinator or replica, or take the answer to an own pull or purge."""
        held = self.table.units.get(message.unit)
        if isinstance(message, Tree | LeafPage):
            is_refused = held is not None and self.serving.is_refused_by_disk(held)
            is_wanted = message.epoch == self.epoch and not is_refused
            return self._puller.receive(source, message, now_s) if is_wanted else []
        if isinstance(message, Sealed | Purged):
            return self.purger.receive(source, message, now_s) if message.epoch == self.epoch else []
        if held is None or not self._is_current(message.epoch) or not self._is_holder(message.unit):
            return self.admission.refuse(source, message, self.epoch)
        if isinstance(message, Seal | Purge):
            if self.serving.is_refused_by_disk(held):
                return []  # the leader asks again
            if isinstance(message, Purge):
                self._puller.cancel_sync(message.unit)
            return self.purger.answer(source, held, message, now_s)
        return self.serving.answer(source, held, message, now_s, counts=self.regain.counts(held, self.placement))

    def _is_current(self, epoch: Epoch) -> bool:
        """True if a request under that record is served (rule 6)."""
        return self.placement is not None and epoch == self.placement.record.epoch

    # ------------------------------------------------------------------ log and time

    def restore(
        self, unit: UnitId, entries: Sequence[Entry], then: Callable[[float], list[Effect]], now_s: float
    ) -> list[Effect] | None:
        """Merge entries of a snapshot, newer wins, and continue once they are durable; None if the unit is not here."""
        held = self.table.units.get(unit)
        if held is None:
            return None
        return self.table.take(held, held.alive(entries), lambda _top, at_s: then(at_s), now_s)

    def restored(self, unit: UnitId, now_s: float) -> list[Effect]:
        """An operator brought back what there was of the unit: the only replica, damaged, serves again with that."""
        held, placement = self.table.units.get(unit), self.placement
        if held is None or not held.is_damaged or placement is None or unit not in placement:
            return []
        sets = placement.sets(unit)
        return self._complete(held, sets.epoch, None, now_s) if is_lone(self.node, sets) else []

    def persisted(self, token: int, now_s: float) -> list[Effect]:
        """Continue what waited for the log."""
        return self.table.persisted(token, now_s)

    @property
    def next_deadline_s(self) -> float:
        """When `advance` has something to do."""
        return min(
            self.sync.next_s,
            self.refill_at_s,
            self._emptying.next_s,
            self.regain.ask_at_s,
            self._puller.next_deadline_s,
            self.purger.next_deadline_s,
        )

    def advance(self, now_s: float) -> list[Effect]:
        """Ask silent sources again, end refills that nobody can serve, start a round of anti-entropy."""
        self._emptying.advance(now_s)
        effects = self._puller.advance(now_s) + self.purger.advance(now_s)
        if now_s >= self.refill_at_s:
            before_s = now_s - self.config.refill_patience_s
            effects += self._puller.expire(Purpose.REFILL, before_s, now_s)
            waits = self._puller.has(Purpose.REFILL)
            self.refill_at_s = now_s + REFILL_CHECK_S if waits else math.inf
        return effects + self.sync.advance(now_s) + self.regain.advance(now_s)

    def sync_soon(self, now_s: float) -> None:
        """Begin a round of anti-entropy at the next `advance`: this node was away, or an operator asks."""
        self.sync.next_s = now_s

    def _sync_one(self, unit: UnitId, source: NodeId, epoch: Epoch, now_s: float) -> list[Effect]:
        """Exchange a unit in which a purge found members to differ, unless anti-entropy is off."""
        if self.sync.interval_s == math.inf or self._puller.busy_with(unit) is not None:
            return []
        return self._puller.sync(unit, source, epoch, now_s)

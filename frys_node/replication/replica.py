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

import msgspec

from balancer.placement import Placement
from balancer.record import JOINING, JOINT
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Entry, UnitStore, Version
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication import hashtree
from frys_node.replication.answers import answer_read, answer_scan
from frys_node.replication.effects import (
    BulkFinished,
    BulkPull,
    Effect,
    PassFinished,
    Send,
    ShareRecord,
    StartedEmpty,
    WantRecord,
)
from frys_node.replication.messages import (
    CompletedRecord,
    DroppedRecord,
    LeafAsk,
    LeafPage,
    PullReply,
    Read,
    Refused,
    Repair,
    RepairAck,
    ReplicaRequest,
    Scan,
    Tree,
    TreeAsk,
    WipedRecord,
    Write,
    WriteAck,
    WriteRefused,
)
from frys_node.replication.pull import PullSource, Purpose
from frys_node.replication.quorum import fence, targets
from frys_node.replication.takeover import Puller, Takeover
from frys_node.replication.unit import HeldUnit, UnitTable
from frys_node.replication.version import ZERO

REFILL_CHECK_S = 0.5
"""Pause between looks at refills that are past their patience."""

WAITING_MAX = 16_384
"""Acknowledgements that may wait for the disk; writes beyond are dropped unread, and their coordinators ask again."""


class ReplicaConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Knobs of a replica; none of them is needed for safety."""

    sync_interval_s: float = 5.0
    """Pause between rounds of anti-entropy; `math.inf` turns it off."""
    sync_units: int = 8
    """Units compared in a round."""
    refill_patience_s: float = 3.0
    """A restarted unit in memory looks so long for complete members before it starts empty."""
    catches_up: bool = True
    """Take what was missed from the other members right after a restart, instead of waiting for anti-entropy."""
    bulk_by_messages: bool = False
    """Copy the bulk by pulls too (simulator) instead of asking the host for a snapshot."""


class Kind(NamedTuple):
    """How units of a kind are kept."""

    factory: Callable[[UnitId], UnitStore]
    durable: bool


def kind_of(unit: UnitId) -> str:
    """Return the first part of a unit id."""
    return unit.partition("/")[0]


class ReplicaMachine:
    """The units that this node holds."""

    def __init__(
        self,
        node: NodeId,
        rng: Random,
        config: ReplicaConfig | None = None,
        stamp: Callable[[], Version] = lambda: ZERO,
    ) -> None:
        self.node = node
        self._stamp = stamp
        self._born: Version | None = None
        """Stamped before the first refill: what this node has forgotten was written before."""
        self.table = UnitTable()
        self.placement: Placement | None = None
        self.disk_refusal = ""
        """Set by the host to the code of the reason while its disk takes no writes: what cannot become durable is not
        merged, since memory and log would grow apart without bound. Reads go on."""
        self.refused_count = 0
        self.overloaded_count = 0
        self._rng = rng
        self.config = config or ReplicaConfig()
        self._kinds: dict[str, Kind] = {}
        self._source = PullSource()
        self._puller = Puller(node, self.table, rng)
        self._settled: Epoch | None = None
        self._sync_at_s = math.inf
        self._refill_at_s = math.inf

    # ------------------------------------------------------------------ what is held

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
        effects = self._adopt_units(now_s, only_kind=kind) + self._tell_lost()
        # What was loaded only now may belong to others since long.
        return effects + self.settled(self._settled, now_s) if self._settled else effects

    def load(self, unit: UnitId, entries: Iterable[Entry], *, complete: bool, join_key: Epoch | None) -> HeldUnit:
        """Put back what the log held of a unit; call before `adopt`, after `declare` of its kind."""
        kind = self._kinds[kind_of(unit)]
        held = HeldUnit(unit, kind.factory(unit), durable=kind.durable, complete=complete, join_key=join_key)
        held.store.put(list(entries))
        held.is_behind = self.config.catches_up
        self.table.units[unit] = held
        return held

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
        self._puller.cancel_all()
        if self._sync_at_s == math.inf and self.config.sync_interval_s < math.inf:
            self._sync_at_s = now_s + self.config.sync_interval_s * self._rng.uniform(0.5, 1.0)
        effects = self._adopt_units(now_s) + self._tell_lost()
        for unit, held in list(self.table.units.items()):
            if not held.complete and not self._is_holder(unit):
                effects += self._drop(held, now_s)
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
        held.store.clear()
        return self.table.persist(held, (DroppedRecord(held.unit),), lambda _at_s: [], now_s)

    def _adopt_units(self, now_s: float, only_kind: str | None = None) -> list[Effect]:
        assert self.placement is not None
        effects: list[Effect] = []
        for unit in self.placement.held_by(self.node):
            kind = kind_of(unit)
            if kind in self._kinds and (only_kind is None or kind == only_kind):
                effects += self._adopt_unit(unit, self.placement.sets(unit), now_s)
        return effects

    def _tell_lost(self) -> list[Effect]:
        return self.table.tell_lost() if any(kind.durable for kind in self._kinds.values()) else []

    def _adopt_unit(self, unit: UnitId, sets: UnitSets, now_s: float) -> list[Effect]:
        assert self.placement is not None
        record = self.placement.record
        held = self.table.units.get(unit)
        is_member = self.node in sets.current
        effects: list[Effect] = []
        if held is None:
            kind = self._kinds[kind_of(unit)]
            held = HeldUnit(unit, kind.factory(unit), durable=kind.durable, complete=False, join_key=None)
            effects += self.table.begin(held, is_member, now_s)
        if not is_member:
            join_key = record.epoch if record.phase == JOINING else record.parent
            assert join_key is not None
            if held.join_key != join_key:
                effects += self._wipe(held, join_key, now_s)
            if record.phase == JOINING:
                return effects + self._start_bulk(held, sets, now_s)
        if record.phase == JOINT and self.node in sets.next and set(sets.current) != set(sets.next):
            return effects + self._start_pass(held, sets, now_s)
        if is_member and not held.complete and not held.durable:
            return effects + self._start_refill(held, sets, now_s)
        if is_member and held.complete and held.is_behind:
            return effects + self._start_catch_up(held, sets, now_s)
        return effects

    def _wipe(self, held: HeldUnit, join_key: Epoch, now_s: float) -> list[Effect]:
        held.wipe(join_key)
        return self.table.persist(held, (WipedRecord(held.unit, join_key),), lambda _at_s: [], now_s)

    def _start_bulk(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        unit, epoch = held.unit, sets.epoch
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
        return self._puller.start(
            Takeover(
                held.unit,
                epoch=sets.epoch,
                purpose=Purpose.FENCED,
                sources=tuple(node for node in sets.current if node != self.node),
                needed=fence(len(sets.current)) - counts_itself,
                then=lambda at_s: self._complete(held, sets.epoch, at_s),
                started_s=now_s,
            ),
            now_s,
        )

    def _complete(self, held: HeldUnit, epoch: Epoch, now_s: float) -> list[Effect]:
        join_key = held.join_key

        def then(_at_s: float) -> list[Effect]:
            if self.table.units.get(held.unit) is not held or held.join_key != join_key:
                return []
            held.complete = True
            held.is_damaged = False
            held.is_behind = False
            held.waits_since_s = None
            return [PassFinished(held.unit, epoch)] if epoch == self.epoch else []

        return self.table.persist(held, (CompletedRecord(held.unit),), then, now_s)

    def _start_refill(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        """Fill a unit that lives in memory from members that still have it; too few of them: begin empty, and say so.

        The patience runs on over changes of the record: only the pulls begin anew (rule 15).
        """
        others = tuple(node for node in sets.current if node != self.node)
        self._born = self._born or self._stamp()
        floor = self._born
        since_s = held.waits_since_s = now_s if held.waits_since_s is None else held.waits_since_s
        self._refill_at_s = min(self._refill_at_s, max(since_s + self.config.refill_patience_s, now_s))

        def then(_at_s: float) -> list[Effect]:
            if self.table.units.get(held.unit) is not held:
                return []
            held.complete = True
            held.waits_since_s = None
            if len(refill.done) >= fence(len(sets.current)):
                return []
            held.raise_floor(floor)
            return [StartedEmpty(held.unit, floor)]

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

    def receive(self, source: NodeId, message: ReplicaRequest | PullReply, now_s: float) -> list[Effect]:
        """Answer a request of a coordinator or replica, or take the answer to an own pull."""
        held = self.table.units.get(message.unit)
        is_refused = bool(self.disk_refusal) and held is not None and held.durable
        if isinstance(message, Tree | LeafPage):
            is_wanted = message.epoch == self.epoch and not is_refused
            return self._puller.receive(source, message, now_s) if is_wanted else []
        if held is None or not self._is_current(message.epoch) or not self._is_holder(message.unit):
            return self._refuse(source, message)
        match message:
            case Write() if is_refused:
                answer = (message.epoch, message.unit, message.request, message.attempt)
                return [Send(source, WriteRefused(*answer, self.disk_refusal))]
            case Write():
                return self._write(source, held, message, now_s)
            case Read():
                return [Send(source, answer_read(held, message))]
            case Scan():
                return [Send(source, answer_scan(held, message))]
            case Repair() if is_refused:
                return []  # a hint comes again
            case Repair():
                return self._repair(source, held, message, now_s)
            case TreeAsk():
                leaves = held.tree() if held.complete else b""
                is_equal = held.complete and hashtree.root(leaves) == message.root
                if is_equal:
                    leaves = b""
                tree = Tree(message.epoch, message.unit, message.pull, held.complete, leaves, held.floor, is_equal)
                return [Send(source, tree)]
            case LeafAsk():
                return [Send(source, self._page(source, held, message))]

    def _is_current(self, epoch: Epoch) -> bool:
        """True if a request under that record is served (rule 6)."""
        return self.placement is not None and epoch == self.placement.record.epoch

    def _refuse(self, source: NodeId, message: ReplicaRequest) -> list[Effect]:
        self.refused_count += 1
        mine = self.epoch
        request = 0 if isinstance(message, TreeAsk | LeafAsk) else message.request
        attempt = message.attempt if isinstance(message, Write | Read | Scan) else 0
        effects: list[Effect] = [Send(source, Refused(mine, message.unit, request, attempt))]
        if mine is None or mine < message.epoch:
            effects.append(WantRecord(source))
        elif mine > message.epoch:
            effects.append(ShareRecord(source))
        return effects

    def _write(self, source: NodeId, held: HeldUnit, message: Write, now_s: float) -> list[Effect]:
        if self.table.waiting >= WAITING_MAX:
            # The coordinator asks again; by then the disk may have caught up.
            self.overloaded_count += 1
            return []
        version = message.version
        entries = [Entry(key, version, value) for key, value in message.items]
        return self.table.take(
            held,
            entries,
            lambda highest, _at_s: [
                Send(source, WriteAck(message.epoch, message.unit, message.request, message.attempt, highest))
            ],
            now_s,
        )

    def _repair(self, source: NodeId, held: HeldUnit, message: Repair, now_s: float) -> list[Effect]:
        def then(_highest: object, _at_s: float) -> list[Effect]:
            if not message.request:
                return []
            return [Send(source, RepairAck(message.epoch, message.unit, message.request))]

        return self.table.take(held, message.entries, then, now_s)

    def _page(self, source: NodeId, held: HeldUnit, ask: LeafAsk) -> LeafPage:
        entries, has_more = self._source.page(held, source, ask) if held.complete else ([], False)
        return LeafPage(ask.epoch, ask.unit, ask.pull, ask.after, held.complete, entries, has_more)

    # ------------------------------------------------------------------ log and time

    def restored(self, unit: UnitId, now_s: float) -> list[Effect]:
        """An operator brought back what there was of the unit: the only replica, damaged, serves again with that."""
        held, placement = self.table.units.get(unit), self.placement
        if held is None or not held.is_damaged or placement is None or unit not in placement:
            return []
        sets = placement.sets(unit)
        return self._complete(held, sets.epoch, now_s) if targets(sets) == (self.node,) else []

    def restore(
        self, unit: UnitId, entries: Sequence[Entry], then: Callable[[float], list[Effect]], now_s: float
    ) -> list[Effect] | None:
        """Merge entries of a snapshot, newer wins, and continue once they are durable; None if the unit is not here."""
        held = self.table.units.get(unit)
        if held is None:
            return None
        return self.table.take(held, entries, lambda _highest, at_s: then(at_s), now_s)

    def persisted(self, token: int, now_s: float) -> list[Effect]:
        """Continue what waited for the log."""
        return self.table.persisted(token, now_s)

    @property
    def next_deadline_s(self) -> float:
        """When `advance` has something to do."""
        return min(self._sync_at_s, self._refill_at_s, self._puller.next_deadline_s)

    def advance(self, now_s: float) -> list[Effect]:
        """Ask silent sources again, end refills that nobody can serve, start a round of anti-entropy."""
        effects = self._puller.advance(now_s)
        if now_s >= self._refill_at_s:
            before_s = now_s - self.config.refill_patience_s
            effects += self._puller.expire(Purpose.REFILL, before_s, now_s)
            waits = self._puller.has(Purpose.REFILL)
            self._refill_at_s = now_s + REFILL_CHECK_S if waits else math.inf
        if now_s >= self._sync_at_s:
            self._sync_at_s = now_s + self.config.sync_interval_s * self._rng.uniform(0.5, 1.0)
            effects += self._sync_round(now_s)
        return effects

    def sync_soon(self, now_s: float) -> None:
        """Begin a round of anti-entropy at the next `advance`: this node was away, or an operator asks."""
        self._sync_at_s = now_s

    def _sync_round(self, now_s: float) -> list[Effect]:
        """Compare some units with one other complete member each (rule 15)."""
        if self.placement is None or not self.table.units:
            return []
        effects: list[Effect] = []
        names = list(self.table.units)
        for unit in self._rng.sample(names, min(self.config.sync_units, len(names))):
            if unit not in self.placement or self._puller.busy_with(unit) is not None:
                continue
            sets = self.placement.sets(unit)
            others = [node for node in targets(sets) if node != self.node]
            if others and self._is_holder(unit):
                effects += self._puller.sync(unit, self._rng.choice(others), sets.epoch, now_s)
        return effects

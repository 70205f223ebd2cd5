"""The coordinator: carries writes, reads and scans to the replicas of a unit and counts their votes.

Sans-I/O. Theory of operation. Each request is an `Operation` with an attempt number; a reply counts only for the
attempt that asked (rule 6). A new record or a re-stamp begins another attempt with no votes. Lost messages are sent
again to whoever has not answered, as long as the deadline lasts. A write that met a higher version in its first
quorum is stamped above it once and written again (rule 4); one that replicas find too old is stamped above their
floor (17). A scan collects candidates at a read quorum and then reads them at one, tombstones included, before anyone
sees them (rule 7). A write fails at once when the disks of too many targets take none.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from random import Random

import msgspec

from balancer.placement import Placement
from frys_node.base.deadlines import DeadlineQueue
from frys_node.base.types import Consistency, Epoch, NodeId, UnitId
from frys_node.kernel.services.members import UNUSABLE, WELL
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication.effects import (
    Effect,
    ReadDone,
    RequestFailed,
    ScanDone,
    Send,
    ShareRecord,
    WantRecord,
    WriteDone,
)
from frys_node.replication.errors import ClockDrift, NotRepaired, TooOld
from frys_node.replication.hints import Hint, HintStore
from frys_node.replication.hlc import HybridClock
from frys_node.replication.messages import (
    SCAN_KEYS_MAX,
    CoordinatorReply,
    Read,
    ReadReply,
    Refused,
    Repair,
    RepairAck,
    Scan,
    ScanReply,
    Write,
    WriteAck,
    WriteRefused,
)
from frys_node.replication.operation import RETRY_MAX_S, Kind, Operation
from frys_node.replication.quorum import read_is_met, targets, write_is_met
from frys_node.replication.repair import repairs
from frys_node.replication.unit import pages


class CoordinatorConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Knobs of a coordinator; none of them is needed for safety."""

    hint_after_s: float = 1.0
    """A target that has not acknowledged a finished write after this gets a hint."""
    hint_interval_s: float = 2.0
    """Pause between rounds of replaying hints."""
    keeps_hints: bool = True
    repairs_reads: bool = True


class CoordinatorMachine:
    """The requests that this node coordinates."""

    def __init__(
        self,
        node: NodeId,
        clock: HybridClock,
        rng: Random,
        config: CoordinatorConfig | None = None,
        rank: Callable[[NodeId], int] = lambda _node: WELL,
        is_behind: Callable[[UnitId], bool] = lambda _unit: False,
    ) -> None:
        self.node = node
        self.hints = HintStore()
        self.placement: Placement | None = None
        self.restamp_count = 0
        self._clock = clock
        self._config = config or CoordinatorConfig()
        self._rank = rank
        self._is_behind = is_behind
        self._operations: dict[int, Operation] = {}
        self._timers: DeadlineQueue[tuple[int, bool]] = DeadlineQueue()
        # Replies may outlive a restart, so requests of two boots must not share numbers.
        self._next_request = rng.getrandbits(40) << 20
        self._hints_at_s = 0.0

    def __len__(self) -> int:
        return len(self._operations)

    # ------------------------------------------------------------------ commands

    def write(
        self,
        unit: UnitId,
        items: Sequence[tuple[bytes, bytes | None]],
        consistency: Consistency,
        *,
        deadline_s: float,
        now_s: float,
        wall_ms: int,
    ) -> tuple[int, list[Effect]]:
        """Write items (distinct keys, None deletes) under one version; returns the request's number and effects."""
        operation = self._open(Kind.WRITE, unit, consistency, deadline_s, now_s)
        operation.items = list(items)
        operation.version = self._clock.stamp(wall_ms)
        operation.clock_ms = wall_ms
        return operation.request, self._attempt(operation, now_s)

    def read(
        self,
        unit: UnitId,
        keys: Sequence[bytes],
        consistency: Consistency,
        *,
        deadline_s: float,
        now_s: float,
        versions_only: bool = False,
        least: Mapping[NodeId, int] | None = None,
        waits_repair: bool = False,
    ) -> tuple[int, list[Effect]]:
        """Read keys, or only their versions.

        With `least` a read of one asks only replicas that have come so far, and a quorum if none of them answers; an
        empty mapping says that no single replica will do. With `waits_repair` a read above one returns only when a
        quorum holds what it returns.
        """
        kind = Kind.VERSIONS if versions_only else Kind.READ
        if least is not None and not least and consistency is Consistency.ONE:
            consistency = Consistency.QUORUM
        operation = self._open(kind, unit, consistency, deadline_s, now_s)
        operation.keys = list(keys)
        operation.least = least or {}
        operation.waits_repair = waits_repair and consistency is not Consistency.ONE and kind is Kind.READ
        return operation.request, self._attempt(operation, now_s)

    def scan(
        self, unit: UnitId, *, after: bytes = b"", limit: int = SCAN_KEYS_MAX, deadline_s: float, now_s: float
    ) -> tuple[int, list[Effect]]:
        """Return a verified page of live keys above `after`, at quorum."""
        operation = self._open(Kind.SCAN, unit, Consistency.QUORUM, deadline_s, now_s)
        operation.after = after
        operation.limit = min(max(limit, 1), SCAN_KEYS_MAX)
        return operation.request, self._attempt(operation, now_s)

    def abandon(self, request: int) -> None:
        """Nobody waits for the request any more."""
        self._operations.pop(request, None)

    def _open(self, kind: Kind, unit: UnitId, consistency: Consistency, deadline_s: float, now_s: float) -> Operation:
        self._next_request += 1
        operation = Operation(self._next_request, kind, unit, consistency, deadline_s=deadline_s)
        self._operations[operation.request] = operation
        self._timers.push(deadline_s, (operation.request, True))
        self._arm(operation, now_s)
        return operation

    # ------------------------------------------------------------------ attempts

    @property
    def _epoch(self) -> Epoch:
        assert self.placement is not None
        return self.placement.record.epoch

    def _arm(self, operation: Operation, now_s: float) -> None:
        operation.retry_s = now_s + operation.pause_s
        operation.pause_s = min(operation.pause_s * 1.5, RETRY_MAX_S)
        self._timers.push(operation.retry_s, (operation.request, False))

    def _attempt(self, operation: Operation, now_s: float) -> list[Effect]:
        """Ask every target anew, under the record in force."""
        operation.reset()
        if self.placement is None or operation.unit not in self.placement:
            operation.sets = None
            return []
        operation.sets = self.placement.sets(operation.unit)
        operation.targets = self._targets(operation, operation.sets)
        return self._ask(operation, operation.targets)

    def _targets(self, operation: Operation, sets: UnitSets) -> tuple[NodeId, ...]:
        """Return whom a request asks: writes C + N; reads the same two quorums in ``joint``, else C (rule 7)."""
        if operation.kind is Kind.WRITE:
            return targets(sets)
        if operation.consistency is Consistency.ONE and operation.least:
            chosen = [node for node in self._best_first(operation, sets) if node in operation.least][:1]
            if chosen and operation.tries == 1:
                return tuple(chosen)
            operation.consistency = Consistency.QUORUM
        if operation.consistency is Consistency.ONE:
            return self._best_first(operation, sets)[: operation.tries]
        return targets(sets) if sets.phase == "joint" else sets.current

    def _best_first(self, operation: Operation, sets: UnitSets) -> tuple[NodeId, ...]:
        """The well members first, of those this node itself, or last while it does not know what it missed.

        Whoever answered a part is asked for the next one: what one replica has seen another may lack.
        """
        is_behind, readers = self._is_behind(operation.unit), operation.readers

        def place(node: NodeId) -> tuple[bool, int, bool]:
            return node not in readers, self._rank(node), (node == self.node) is is_behind

        return tuple(sorted(sets.current, key=place))

    def _ask(self, operation: Operation, nodes: Sequence[NodeId]) -> list[Effect]:
        message: Write | Scan
        unit, request, attempt = operation.unit, operation.request, operation.attempt
        if operation.kind is Kind.WRITE:
            message = Write(self._epoch, unit, request, attempt, operation.version, operation.items, operation.clock_ms)
        elif operation.kind is Kind.SCAN and operation.pending_page is None:
            message = Scan(self._epoch, unit, request, attempt, operation.after, operation.limit)
        else:
            is_bare = operation.kind is Kind.VERSIONS
            least = operation.least if operation.consistency is Consistency.ONE else {}
            keys = list(operation.asked)
            return [
                Send(node, Read(self._epoch, unit, request, attempt, keys, is_bare, least.get(node, 0), True))
                for node in nodes
            ]
        return [Send(node, message) for node in nodes]

    def adopt(self, placement: Placement, now_s: float) -> list[Effect]:
        """Work under a record from now on: open requests are attempted again under it, with the same version."""
        if self.placement is not None and placement.record.epoch <= self._epoch:
            return []
        self.placement = placement
        self.hints.keep(lambda unit, node: unit in placement and node in targets(placement.sets(unit)))
        effects: list[Effect] = []
        for operation in list(self._operations.values()):
            if operation.is_done:
                effects += self._hint(operation)
            else:
                effects += self._attempt(operation, now_s)
        return effects

    # ------------------------------------------------------------------ replies

    def receive(self, source: NodeId, reply: CoordinatorReply, now_s: float) -> list[Effect]:
        """Count a reply; one to an earlier attempt, record or request is dropped."""
        if isinstance(reply, RepairAck):
            self.hints.acknowledge(reply.request, source)
            return self._take_repaired(source, reply, now_s)
        if isinstance(reply, Refused):
            return self._refused(source, reply)
        operation = self._operations.get(reply.request)
        if operation is None or not self._counts(operation, source, reply):
            return []
        if isinstance(reply, WriteAck):
            return self._take_ack(operation, source, reply, now_s)
        if isinstance(reply, WriteRefused):
            return self._take_refusal(operation, source, reply, now_s)
        operation.answered[source] = None
        if reply.is_complete:
            operation.complete[source] = None
        if isinstance(reply, ScanReply):
            return self._take_scan(operation, source, reply, now_s)
        return self._take_read(operation, source, reply, now_s)

    def _counts(
        self, operation: Operation, source: NodeId, reply: WriteAck | WriteRefused | ReadReply | ScanReply
    ) -> bool:
        if operation.sets is None or source not in operation.targets:
            return False
        if reply.attempt != operation.attempt or reply.epoch != operation.sets.epoch:
            return False
        return not isinstance(reply, ReadReply) or not reply.is_complete or operation.is_of_part(reply)

    def _refused(self, source: NodeId, reply: Refused) -> list[Effect]:
        """Help whoever is behind to the newer record; the request is tried again by adoption or by the timer."""
        if self.placement is None:
            return []
        if reply.epoch is None or reply.epoch < self._epoch:
            return [ShareRecord(source)]
        return [WantRecord(source)] if reply.epoch > self._epoch else []

    def _take_ack(self, operation: Operation, source: NodeId, ack: WriteAck, now_s: float) -> list[Effect]:
        operation.acked[source] = ack.seq
        operation.refused.pop(source, None)
        operation.highest = max(operation.highest, ack.highest)
        if operation.is_done:
            if len(operation.acked) == len(operation.targets):
                self._operations.pop(operation.request, None)
            return []
        if not self._write_is_met(operation):
            return []
        if self._must_restamp(operation):
            self._clock.observe(operation.highest)
            operation.version = self._clock.stamp(0)
            operation.is_restamped = True
            self.restamp_count += 1
            return self._attempt(operation, now_s)
        operation.is_done = True
        if len(operation.acked) == len(operation.targets):
            self._operations.pop(operation.request, None)
        else:
            self._timers.push(now_s + self._config.hint_after_s, (operation.request, True))
        return [WriteDone(operation.request, operation.version, dict(operation.acked))]

    def _take_refusal(self, operation: Operation, source: NodeId, reply: WriteRefused, now_s: float) -> list[Effect]:
        """Go on without a target that takes no such write; fail as soon as the others cannot be enough.

        One that is too old is stamped anew above the floor (rule 17); that is not the one re-stamp of rule 4, which
        may still be needed after it.
        """
        if operation.is_done or source in operation.acked:
            return []
        if reply.code == TooOld.code:
            if reply.floor is None or reply.floor <= operation.version:
                return []
            self._clock.observe(reply.floor)
            operation.version = self._clock.stamp(0)
            self.restamp_count += 1
            return self._attempt(operation, now_s)
        if reply.code == ClockDrift.code:
            self._clock.disown()
        assert operation.sets is not None
        operation.refused[source] = reply.code
        left = [node for node in operation.targets if node not in operation.refused]
        if write_is_met(operation.sets, operation.consistency, left):
            return []
        return self._fail(operation, reply.code)

    def _write_is_met(self, operation: Operation) -> bool:
        assert operation.sets is not None
        return write_is_met(operation.sets, operation.consistency, operation.acked)

    def _must_restamp(self, operation: Operation) -> bool:
        """True if the quorum met a higher version: some write acknowledged before this one began may be it (rule 4)."""
        return not operation.is_restamped and operation.highest > operation.version

    def _read_is_met(self, operation: Operation) -> bool:
        assert operation.sets is not None
        return read_is_met(operation.sets, operation.consistency, operation.complete, operation.answered)

    def _take_read(self, operation: Operation, source: NodeId, reply: ReadReply, now_s: float) -> list[Effect]:
        if operation.kind is Kind.SCAN and operation.pending_page is None:
            return []
        if reply.is_complete:
            operation.replies[source] = reply
        if not reply.is_complete and operation.least and operation.consistency is Consistency.ONE:
            # It has not come so far any more: no other single replica is known to have.
            return self._attempt(operation, now_s)
        if not self._read_is_met(operation):
            return []
        if operation.repairing:
            return []
        if operation.kind is Kind.VERSIONS:
            return self._part_done(operation, now_s)
        operation.result = operation.merged()
        if operation.waits_repair:
            return self._repair_first(operation, now_s)
        effects: list[Effect] = []
        if self._config.repairs_reads:
            for node, entries in repairs(operation.result, operation.replies).items():
                effects.append(Send(node, Repair(self._epoch, operation.unit, 0, entries)))
        return self._part_done(operation, now_s) + effects

    def _part_done(self, operation: Operation, now_s: float) -> list[Effect]:
        """Go on with the keys that are left; a scan's page ends instead, and goes on where it ended."""
        has_rest = operation.take_part()
        if has_rest and operation.kind is not Kind.SCAN:
            self._arm(operation, now_s)
            return self._attempt(operation, now_s)
        self._operations.pop(operation.request, None)
        if operation.kind is Kind.SCAN:
            return [ScanDone(operation.request, *operation.page())]
        seqs = operation.seqs or {}
        is_of_one = operation.consistency is Consistency.ONE and len(operation.readers) == len(seqs) == 1
        return [ReadDone(operation.request, operation.entries, operation.stamps, seqs, is_of_one)]

    def _repair_first(self, operation: Operation, now_s: float) -> list[Effect]:
        """Return the result once a quorum holds it, so that nobody reads anything older afterwards."""
        operation.acked = operation.up_to_date()
        operation.repairing = True
        return self._part_done(operation, now_s) if self._is_repaired(operation) else self._ask_repairs(operation)

    def _ask_repairs(self, operation: Operation) -> list[Effect]:
        entries = [entry for entry in operation.result if entry is not None]
        message = Repair(self._epoch, operation.unit, operation.request, entries)
        assert operation.sets is not None
        return [Send(node, message) for node in targets(operation.sets) if node not in operation.acked]

    def _take_repaired(self, source: NodeId, reply: RepairAck, now_s: float) -> list[Effect]:
        """Count who holds the result now.

        Who must refuse what is too old is asked again: anti-entropy, which may bring it, does so before the deadline if
        it can. To write the value anew is no way out: it would go above a write that was acknowledged meanwhile.
        """
        operation = self._operations.get(reply.request)
        if operation is None or not operation.repairing or operation.sets is None or reply.epoch != self._epoch:
            return []
        if not reply.is_held:
            operation.refused[source] = NotRepaired.code
            return []
        operation.refused.pop(source, None)
        operation.acked.setdefault(source, 0)
        return self._part_done(operation, now_s) if self._is_repaired(operation) else []

    def _is_repaired(self, operation: Operation) -> bool:
        assert operation.sets is not None
        is_nothing = not any(operation.result)
        return is_nothing or write_is_met(operation.sets, Consistency.QUORUM, operation.acked)

    def _take_scan(self, operation: Operation, source: NodeId, reply: ScanReply, now_s: float) -> list[Effect]:
        if operation.pending_page is not None:
            return []
        if reply.is_complete:
            operation.scans[source] = reply
        if not self._read_is_met(operation):
            return []
        return self._verify(operation, *operation.candidates(), now_s)

    def _verify(self, operation: Operation, keys: list[bytes], has_more: bool, now_s: float) -> list[Effect]:
        """Read the candidates at quorum, tombstones included, before anyone sees them."""
        if not keys:
            self._operations.pop(operation.request, None)
            return [ScanDone(operation.request, [], [], None)]
        operation.keys = keys
        operation.pending_page = (keys, has_more)
        return self._attempt(operation, now_s)

    # ------------------------------------------------------------------ hints and time

    def _hint(self, operation: Operation) -> list[Effect]:
        """Keep what slow targets of a finished write lack; the request itself is over."""
        self._operations.pop(operation.request, None)
        if not self._config.keeps_hints or operation.kind is not Kind.WRITE or self.placement is None:
            return []
        if operation.unit not in self.placement:
            return []
        members = targets(self.placement.sets(operation.unit))
        for node in operation.targets:
            if node not in operation.acked and node in members and node != self.node:
                for page in pages(operation.entries_written()):
                    self._next_request += 1
                    self.hints.add(Hint(self._next_request, node, operation.unit, page))
        return []

    @property
    def next_deadline_s(self) -> float:
        """When `advance` has something to do."""
        return min(self._timers.next_s, self._hints_at_s) if len(self.hints) else self._timers.next_s

    def advance(self, now_s: float) -> list[Effect]:
        """Ask silent targets again, fail what is past its deadline, replay hints."""
        effects: list[Effect] = []
        while (timer := self._timers.pop_due(now_s)) is not None:
            request, is_end = timer
            operation = self._operations.get(request)
            if operation is None:
                continue
            if operation.is_done:
                effects += self._hint(operation) if is_end else []
            elif now_s >= operation.deadline_s:
                effects += self._fail(operation, NotRepaired.code if operation.repairing and operation.refused else "")
            elif not is_end and now_s >= operation.retry_s:
                self._arm(operation, now_s)
                effects += self._retry(operation, now_s)
        if len(self.hints) and now_s >= self._hints_at_s:
            self._hints_at_s = now_s + self._config.hint_interval_s
            for hint in self.hints.due(lambda node: self._rank(node) < UNUSABLE):
                effects.append(Send(hint.target, Repair(self._epoch, hint.unit, hint.request, hint.entries)))
        return effects

    def _retry(self, operation: Operation, now_s: float) -> list[Effect]:
        if operation.sets is None or (operation.consistency is Consistency.ONE and operation.kind is not Kind.WRITE):
            # One that does not answer is no reason to wait for it: ask the next member too.
            return self._attempt(operation, now_s)
        if operation.repairing:
            return self._ask_repairs(operation)
        heard: Collection[NodeId] = operation.acked if operation.kind is Kind.WRITE else operation.complete
        return self._ask(operation, [node for node in operation.targets if node not in heard])

    def _fail(self, operation: Operation, code: str = "") -> list[Effect]:
        self._operations.pop(operation.request, None)
        heard: Collection[NodeId] = operation.acked if operation.kind is Kind.WRITE else operation.answered
        failed = RequestFailed(
            operation.request, operation.unit, tuple(heard), operation.targets, tuple(operation.refused), code
        )
        if operation.kind is Kind.WRITE and operation.acked:
            # It may have reached some replicas: let the others have it too, so that it does not flicker for long.
            self._hint(operation)
        return [failed]

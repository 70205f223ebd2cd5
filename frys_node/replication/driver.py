"""The replication component: performs the machines' effects over the channel, the log and the snapshots."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import trio

from balancer.placement import Placement
from frys_node.base.errors import NotReady, Overloaded, StorageError, error_from_code
from frys_node.base.ports import Clock, Disk, Entropy, Executor
from frys_node.base.types import Consistency, Epoch, NodeId, UnitId
from frys_node.kernel.services.members import Members
from frys_node.kernel.services.replication import Entry, Replication, Stamp, UnitStore, Version
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.sessions import SESSION
from frys_node.kernel.services.snapshots import Snapshots
from frys_node.kernel.turns import Turns
from frys_node.observe.metrics import Metrics
from frys_node.replication import damage
from frys_node.replication import effects as fx
from frys_node.replication.alone import LoneStamps
from frys_node.replication.batches import split
from frys_node.replication.bulk import BulkPuller
from frys_node.replication.bulk_pace import BulkPace
from frys_node.replication.commit import GroupCommit
from frys_node.replication.config import ReplicationConfig
from frys_node.replication.coordinator import CoordinatorConfig, CoordinatorMachine
from frys_node.replication.hlc import HybridClock
from frys_node.replication.inbox import Inbox
from frys_node.replication.keeper import RecordKeeper
from frys_node.replication.knobs import knobs_of
from frys_node.replication.log import CHECKPOINT_BYTES, Log
from frys_node.replication.messages import CoordinatorReply, ReplicationMessage
from frys_node.replication.outbox import Outbox
from frys_node.replication.recovery import Recovery
from frys_node.replication.renewals import Renewals
from frys_node.replication.replica import ReplicaConfig, ReplicaMachine
from frys_node.replication.reports import Reports
from frys_node.replication.requests import Requests
from frys_node.replication.snapshot import PageMerger, ReplicatedSource

NOTE = "replication"
REQUESTS_MAX = 16_384
"""Requests that one node coordinates at a time; more are refused."""

DEFAULT_DEADLINE_S = 5.0
"""How long a request may take when its caller sets no deadline."""

SETTINGS = ReplicationConfig()
"""The default."""

BOOT_SHIFT = 32
"""A boot id is the count of starts, then so many random bits."""

_log = logging.getLogger(__name__)


class ReplicationComponent:
    """The `Replication` service of one node."""

    name = "replication"

    def __init__(
        self,
        *,
        boot: int,
        rpc: Rpc,
        keeper: RecordKeeper,
        members: Members,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
        executor: Executor,
        metrics: Metrics,
        snapshots: Snapshots | None = None,
        settings: ReplicationConfig = SETTINGS,
        replica_config: ReplicaConfig | None = None,
        coordinator_config: CoordinatorConfig | None = None,
        checkpoint_bytes: int = CHECKPOINT_BYTES,
    ) -> None:
        self.node = rpc.self_id
        self._rpc = rpc
        self._keeper = keeper
        self._members = members
        self._clock = clock
        self._executor = executor
        self._snapshots = snapshots
        config = replica_config or knobs_of(settings, bulk_by_messages=snapshots is None)
        hlc = HybridClock(self.node, boot)
        self._disk = disk
        self.replica = ReplicaMachine(
            self.node,
            entropy.rng("replication.replica"),
            config,
            lambda: hlc.stamp(self._wall_ms()),
            wall_ms=self._wall_ms,
            boot=boot >> BOOT_SHIFT,
            is_usable=members.is_usable,
        )
        self.coordinator = CoordinatorMachine(
            self.node,
            hlc,
            entropy.rng("replication.coordinator"),
            coordinator_config,
            members.rank,
            self._is_behind,
        )
        self._lone = LoneStamps(self.replica, hlc)
        self._turns = Turns(clock, lambda: self.replica.refill_at_s < math.inf)
        self.log = Log(disk)
        self._recovery = Recovery(disk, self.log, self.replica)
        self._effects: deque[fx.Effect] = deque()
        self._is_performing = False
        self._timer_wake = trio.Event()
        self._renewals = Renewals(keeper.renew, lambda: self.replica.epoch)
        self._sleeping_until_s = 0.0
        self._commits = self._group_commit(checkpoint_bytes)
        self._pages = PageMerger(self._restore, self._turns)
        self._bulks = BulkPuller(snapshots, members, lambda: self.replica.epoch, self._bulk_finished)
        self._bulk_pace = BulkPace(self.node, snapshots, self._turns.asked)
        self._is_ready = False
        self._has_run = False
        self._requests = Requests(metrics, members)
        self._dropped = metrics.counter(
            "frys_replication_messages_dropped_total", "Junk, unsendable notes, and pulls beyond their bound", ("why",)
        )
        self._inbox = Inbox(self._take, self._turns, self._dropped)
        self._outbox = Outbox(rpc, NOTE, self._dropped)
        self.reports = Reports(metrics, members, self.replica, self.coordinator, clock)
        self.reports.watch(metrics, self._outbox, self.log, self._commits)

    def _group_commit(self, checkpoint_bytes: int) -> GroupCommit:
        return GroupCommit(
            self.log,
            self._executor,
            self._persisted,
            self._disk_changed,
            self._recovery.dump,
            checkpoint_bytes=checkpoint_bytes,
            turns=self._turns,
        )

    # ------------------------------------------------------------------ the component

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Replay the log, attach to the balancer, then serve until cancelled.

        Raises:
            CorruptData: The log holds records of a newer version; the message names the file. Nothing was changed.
            StorageError: A sync failed. Nothing of it was acknowledged; only a new process may go on.
            NotReady: Something else ended replication in this process; only a new one may go on.
        """
        if self._has_run:
            raise self._requests.stopped_for_good()
        self._has_run = True
        await self._recover()
        self._is_ready = True
        for kind in list(self.replica.kinds):
            self._recovery.load(kind)
        self._rpc.on_note(NOTE, self._inbox.take)
        self._keeper.attach(self._adopt, self._settled)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._commits.run)
                nursery.start_soon(self._commits.run_checkpoints)
                nursery.start_soon(self._run_timers)
                nursery.start_soon(self._inbox.run)
                nursery.start_soon(self._outbox.run)
                nursery.start_soon(self._renewals.run)
                nursery.start_soon(self._bulks.run)
                task_status.started()
        except Exception as error:
            self._requests.stopped = error
            raise
        finally:
            self._is_ready = False
            self._requests.stop()

    async def _recover(self) -> None:
        """Replay the log. After damage all that is left goes to a new file: what is bad once may become worse."""
        await self._executor.run(self._recovery.read)
        self._recovery.begin()
        damage.tell(self.log)
        if self.log.holes:
            await self._commits.checkpoint()

    def status(self) -> dict[str, Any]:
        """Return what an operator must know: a disk that refuses, units that lost something."""
        return {
            "disk_refuses": "" if self._commits.refusal is None else self._commits.refusal.message,
            **self.reports.status(),
            "damaged": damage.damaged_units(self.node, self.replica.table, self.replica.placement, self._name),
        }

    def _name(self, node: NodeId) -> str:
        view = self._members.get(node)
        return node if view is None else view.name

    async def drain(self) -> None:
        """Wait until everything that waits for the log is durable, unless the disk refuses it."""
        await self._commits.flush()

    def register(self, kind: str, factory: Callable[[UnitId], UnitStore], *, durable: bool) -> None:
        """Declare a kind; its recovered units are loaded and its units under the record opened."""
        self.replica.declare(kind, factory, durable=durable)
        if self._snapshots is not None:
            self._snapshots.register(kind, self._source(kind, None if durable else self))
        if self._is_ready:
            self._recovery.load(kind)
            self._perform(self.replica.open_kind(kind, self._clock.now_s()))

    def _source(self, kind: str, writer: Replication | None) -> ReplicatedSource:
        return ReplicatedSource(kind, self.replica.table, self._pages.merge, self._restored, self._turns, writer)

    def _adopt(self, placement: Placement) -> None:
        now_s = self._clock.now_s()
        self._bulks.clear()
        self._perform([*self.replica.adopt(placement, now_s), *self.coordinator.adopt(placement, now_s)])

    def _settled(self, epoch: Epoch) -> None:
        self._perform(self.replica.settled(epoch, self._clock.now_s()))

    # ------------------------------------------------------------------ effects

    def _perform(self, effects: Sequence[fx.Effect]) -> None:
        """Perform effects in order, iteratively: a message to this node itself yields more of them."""
        self._effects.extend(effects)
        if self._is_performing:
            return
        self._is_performing = True
        try:
            while self._effects:
                self._perform_one(self._effects.popleft())
        finally:
            self._is_performing = False
        if min(self.replica.next_deadline_s, self.coordinator.next_deadline_s) < self._sleeping_until_s:
            self._timer_wake.set()

    def _perform_one(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Send():
                self._send(effect)
            case fx.Persist():
                self._commits.add(effect)
            case fx.WriteDone() | fx.ReadDone() | fx.ScanDone() | fx.RequestFailed():
                self._requests.answer(effect)
            case fx.ShareRecord():
                self._keeper.share(effect.to)
            case fx.WantRecord():
                self._keeper.want(effect.source)
            case fx.BulkPull():
                self._bulks.add(effect)
            case fx.BulkFinished():
                self._keeper.finished("bulk", effect.unit, effect.epoch)
            case fx.PassFinished():
                self._keeper.finished("pass", effect.unit, effect.epoch)
            case fx.NeedRecord():
                self._renewals.ask()
            case fx.StartedEmpty() | fx.Corrupted() | fx.UnitLost():
                self.reports.tell(effect)

    def _send(self, effect: fx.Send) -> None:
        if effect.to == self.node:
            self._effects.extend(self._receive(self.node, effect.message))
        elif not self._bulk_pace.keeps_back(effect.message, self.replica.placement):
            self._outbox.add(effect.to, effect.message)

    def _take(self, source: NodeId, messages: Sequence[ReplicationMessage]) -> None:
        self._perform([effect for message in messages for effect in self._receive(source, message)])

    def _receive(self, source: NodeId, message: ReplicationMessage) -> list[fx.Effect]:
        now_s = self._clock.now_s()
        if isinstance(message, CoordinatorReply):
            return self.coordinator.receive(source, message, now_s)
        placement = self.replica.placement
        if self._bulk_pace.puts_off(source, message, placement):
            return []
        effects = self.replica.receive(source, message, now_s)
        self._bulk_pace.moved(source, message, placement, effects)
        return effects

    # ------------------------------------------------------------------ the service

    async def write(
        self,
        unit: UnitId,
        items: Sequence[tuple[bytes, bytes | None]],
        consistency: Consistency = Consistency.QUORUM,
    ) -> Version:
        """Write keys (the last of equal keys counts) under one version; big batches are split and run side by side.

        Raises:
            NoReplica: Not enough answered before the caller's deadline; the write may still appear.
            StorageError: The disks of too many replicas take no writes; it may appear once they do.
            Overloaded: Too many requests are in flight here. Nothing was done.
            UsageError: A key and value are over VALUE_BYTES_MAX. Nothing was done.
        """
        return (await self.write_units({unit: items}, consistency))[unit]

    async def write_units(
        self,
        parts: Mapping[UnitId, Sequence[tuple[bytes, bytes | None]]],
        consistency: Consistency = Consistency.QUORUM,
    ) -> dict[UnitId, Version]:
        """Write keys of many units side by side; returns the (highest) version of each unit. Raises as `write` does.

        What goes to one replica goes in one message. After a failure some units may be written.
        """
        jobs = [(unit, batch) for unit, items in parts.items() for batch in split(list(dict(items).items()))]
        for unit in parts:
            self._check(unit, len(jobs))
        deadline_s, now_s, wall_ms = self._deadline_s(), self._clock.now_s(), self._wall_ms()
        requests: list[int] = []
        effects: list[fx.Effect] = []
        for unit, batch in jobs:
            request, found = self.coordinator.write(
                unit, batch, consistency, deadline_s=deadline_s, now_s=now_s, wall_ms=wall_ms
            )
            requests.append(request)
            effects += found
        done: list[fx.WriteDone] = await self._wait_all("write", requests, effects)
        versions: dict[UnitId, Version] = {}
        session = SESSION.get()
        for (unit, _), one in zip(jobs, done, strict=True):
            versions[unit] = max(versions.get(unit, one.version), one.version)
            if session is not None:
                session.note(unit, one.seqs)
        return versions

    def stamp_alone(self, kind: str) -> Version | None:
        """Return a version above all that is held of a kind, if it lives in memory on this node alone; else None."""
        return self._lone.stamp(kind, self._wall_ms()) if self._is_ready else None

    async def read(
        self, unit: UnitId, keys: Sequence[bytes], consistency: Consistency = Consistency.ONE
    ) -> list[Entry | None]:
        """Return the newest entries among the replicas asked, tombstones included; without a socket if it can."""
        session = SESSION.get()
        least = None if session is None else session.places(unit)
        store = self._local_store(unit, consistency, least)
        if store is not None:
            if session is not None:
                session.note_read(unit, self.node, self.replica.table.units[unit].seq)
            return store.get(keys)
        self._check_readable(unit)
        request, effects = self.coordinator.read(
            unit,
            keys,
            consistency,
            deadline_s=self._deadline_s(),
            now_s=self._clock.now_s(),
            least=least,
            waits_repair=session is not None and session.waits_repair,
        )
        done: fx.ReadDone = await self._wait("read", request, effects)
        if session is not None and done.is_of_one:
            ((node, seq),) = done.seqs.items()
            session.note_read(unit, node, seq)
        elif session is not None:
            session.note(unit, done.seqs)
        return done.entries

    async def versions(
        self, unit: UnitId, keys: Sequence[bytes], consistency: Consistency = Consistency.QUORUM
    ) -> list[Stamp | None]:
        """Return the newest versions among the replicas asked, tombstones included."""
        self._check_readable(unit)
        request, effects = self.coordinator.read(
            unit, keys, consistency, deadline_s=self._deadline_s(), now_s=self._clock.now_s(), versions_only=True
        )
        done: fx.ReadDone = await self._wait("versions", request, effects)
        return done.stamps

    async def scan(self, unit: UnitId, *, after: bytes = b"", limit: int = 1_000) -> fx.ScanDone:
        """Return a page of live entries above a key, verified at quorum (rule 7)."""
        self._check_readable(unit)
        request, effects = self.coordinator.scan(
            unit, after=after, limit=limit, deadline_s=self._deadline_s(), now_s=self._clock.now_s()
        )
        done: fx.ScanDone = await self._wait("scan", request, effects)
        return done

    def local(self, unit: UnitId) -> UnitStore | None:
        """Return this node's store of the unit if it is a complete member that knows what it missed, or the last."""
        held = self.replica.local(unit)
        if held is None or (held.is_behind and self._has_better(unit)):
            return None
        return held.store

    def replicas(self, unit: UnitId) -> Sequence[NodeId]:
        """Return the usable members of the current set, the well ones first; of these this node (last while behind)."""
        placement = self.replica.placement
        if placement is None or unit not in placement:
            return ()
        usable = [node for node in placement.sets(unit).current if node == self.node or self._members.is_usable(node)]
        is_behind = self._is_behind(unit)
        return sorted(usable, key=lambda node: (self._members.rank(node), (node == self.node) is is_behind))

    def _is_behind(self, unit: UnitId) -> bool:
        held = self.replica.local(unit)
        return held is None or held.is_behind

    def _has_better(self, unit: UnitId) -> bool:
        return any(node != self.node for node in self.replicas(unit))

    def _local_store(
        self, unit: UnitId, consistency: Consistency, least: Mapping[NodeId, int] | None
    ) -> UnitStore | None:
        store = self.local(unit)
        if least is not None and consistency is Consistency.ONE and not self._has_come_to(unit, least):
            return None
        if store is None or consistency is Consistency.ONE or self.replica.placement is None:
            return store
        sets = self.replica.placement.sets(unit)
        return store if sets.phase != "joint" and sets.current == (self.node,) else None

    def _check_readable(self, unit: UnitId) -> None:
        self._check(unit)
        if self.replica.placement is not None:
            damage.refuse_damaged(self.node, self.replica.table, self.replica.placement, unit)

    def _has_come_to(self, unit: UnitId, least: Mapping[NodeId, int]) -> bool:
        """True if this node is known to hold all that a session has seen of a unit."""
        held = self.replica.local(unit)
        return held is not None and not held.is_behind and least.get(self.node, held.seq + 1) <= held.seq

    def _check(self, unit: UnitId, count: int = 1) -> None:
        placement = self.replica.placement
        if not self._is_ready:
            raise self._requests.unready("replication does not run on this node")
        if placement is None:
            raise NotReady("this node has no topology record yet", hint="wait until it has joined")
        placement.sets(unit)
        if len(self._requests) + count > REQUESTS_MAX:
            raise Overloaded(f"{REQUESTS_MAX} requests are in flight on this node")

    def _deadline_s(self) -> float:
        """Return when to give up: a little before the caller does, so that it hears why."""
        now_s = self._clock.now_s()
        left_s = trio.current_effective_deadline() - trio.current_time()
        if left_s > 3_600:
            return now_s + DEFAULT_DEADLINE_S
        return now_s + max(0.0, left_s - min(0.05, left_s / 10))

    async def _wait(self, kind: str, request: int, effects: list[fx.Effect]) -> Any:
        return (await self._wait_all(kind, [request], effects))[0]

    async def _wait_all(self, kind: str, requests: list[int], effects: list[fx.Effect]) -> list[Any]:
        try:
            return await self._requests.wait_all(kind, requests, lambda: self._perform(effects))
        except BaseException:
            for request in requests:
                self.coordinator.abandon(request)
            raise

    # ------------------------------------------------------------------ time and snapshots

    async def _run_timers(self) -> None:
        while True:
            self._timer_wake = trio.Event()
            self._sleeping_until_s = min(self.replica.next_deadline_s, self.coordinator.next_deadline_s)
            left_s = self._sleeping_until_s - self._clock.now_s()
            with trio.move_on_after(max(0.0, left_s)):
                await self._timer_wake.wait()
            now_s = self._clock.now_s()
            self._perform([*self.replica.advance(now_s), *self.coordinator.advance(now_s)])

    def _wall_ms(self) -> int:
        return self._clock.unix_ns() // 1_000_000

    def _persisted(self, token: int) -> None:
        self._perform(self.replica.persisted(token, self._clock.now_s()))

    def _disk_changed(self, refusal: StorageError | None) -> None:
        self.replica.disk_refusal = "" if refusal is None else refusal.code
        self._pages.disk_changed(refusal)

    def _bulk_finished(self, bulk: fx.BulkPull) -> None:
        self._perform(self.replica.bulk_finished(bulk.unit, bulk.epoch, self._clock.now_s()))

    def _restore(self, unit: UnitId, entries: Sequence[Entry], then: Callable[[float], list[fx.Effect]]) -> bool:
        effects = self.replica.restore(unit, entries, then, self._clock.now_s())
        self._perform(effects or [])
        return effects is not None

    async def _restored(self, unit: UnitId) -> None:
        self._perform(self.replica.restored(unit, self._clock.now_s()))
        await self._commits.flush()
        refusal = self._commits.refusal
        if refusal is not None:
            raise error_from_code(refusal.code, refusal.message, refusal.hint)

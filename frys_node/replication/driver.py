"""The replication component: performs the machines' effects over the channel, the log and the snapshots."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import trio

from balancer.placement import Placement
from frys_node.base.errors import FrysError, MalformedFrame, NotReady, Overloaded, StorageError
from frys_node.base.ports import Clock, Disk, Entropy, Executor
from frys_node.base.types import Consistency, Epoch, NodeId, UnitId
from frys_node.kernel.services.members import Members
from frys_node.kernel.services.replication import Entry, Stamp, UnitStore, Version
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.snapshots import Snapshots
from frys_node.observe.log import describe
from frys_node.observe.metrics import Metrics
from frys_node.replication import damage
from frys_node.replication import effects as fx
from frys_node.replication.alone import LoneStamps
from frys_node.replication.bulk import BulkPuller
from frys_node.replication.bulk_pace import BulkPace
from frys_node.replication.commit import GroupCommit
from frys_node.replication.coordinator import CoordinatorConfig, CoordinatorMachine
from frys_node.replication.hlc import HybridClock
from frys_node.replication.log import CHECKPOINT_BYTES, Log, Recovered, dump_unit
from frys_node.replication.messages import (
    EVERY_UNIT,
    MESSAGES,
    CoordinatorReply,
    DamagedRecord,
    LogRecord,
    ReplicationMessage,
)
from frys_node.replication.replica import ReplicaConfig, ReplicaMachine, kind_of
from frys_node.replication.requests import Requests, batches_of
from frys_node.replication.snapshot import PageMerger, ReplicatedSource

NOTE = "replication"
REQUESTS_MAX = 16_384
"""Requests that one node coordinates at a time; more are refused."""

DEFAULT_DEADLINE_S = 5.0
"""How long a request may take when its caller sets no deadline."""

_log = logging.getLogger(__name__)


class RecordKeeper(Protocol):
    """What this component needs of the balancer."""

    def attach(self, adopt: Callable[[Placement], None], settled: Callable[[Epoch], None]) -> None:
        """Call `adopt` at every adoption (at once if a record is held) and `settled` when that is known."""
        ...

    def finished(self, what: str, unit: UnitId, epoch: Epoch) -> None:
        """A piece of this node's work is done."""
        ...

    def share(self, node: NodeId) -> None:
        """Send the record to a node that works under an older one."""
        ...

    def want(self, node: NodeId) -> None:
        """Ask a node that works under a newer record for it."""
        ...


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
        config = replica_config or ReplicaConfig(bulk_by_messages=snapshots is None)
        hlc = HybridClock(self.node, boot)
        self.replica = ReplicaMachine(
            self.node,
            entropy.rng("replication.replica"),
            config,
            lambda: hlc.stamp(clock.unix_ns() // 1_000_000),
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
        self.log = Log(disk)
        self._recovered: dict[UnitId, Recovered] = {}
        self._effects: deque[fx.Effect] = deque()
        self._is_performing = False
        self._timer_wake = trio.Event()
        self._sleeping_until_s = 0.0
        self._commits = GroupCommit(
            self.log, executor, self._persisted, self._disk_changed, self._checkpoint_groups, checkpoint_bytes
        )
        self._pages = PageMerger(self._restore)
        self._bulks = BulkPuller(snapshots, members, lambda: self.replica.epoch, self._bulk_finished)
        self._bulk_pace = BulkPace(snapshots)
        self._is_ready = False
        self._has_run = False
        self._requests = Requests(metrics, members)
        self._dropped = metrics.counter(
            "frys_replication_messages_dropped_total", "Junk and unsendable notes", ("why",)
        )
        self._declare(metrics)

    def _declare(self, metrics: Metrics) -> None:
        metrics.gauge("frys_replication_hints", "Hints kept", source=lambda: float(len(self.coordinator.hints)))
        metrics.gauge(
            "frys_replication_log_bytes",
            "Bytes in the log behind the last checkpoint",
            source=lambda: float(self.log.size_bytes),
        )
        metrics.gauge(
            "frys_replication_units_damaged",
            "Durable units whose log lost acknowledged records, until they are filled again",
            source=lambda: float(sum(held.is_damaged for held in self.replica.table.units.values())),
        )
        metrics.gauge(
            "frys_replication_disk_refuses",
            "1 while the disk takes no writes and durable units are only read, else 0",
            source=lambda: float(self._commits.refusal is not None),
        )

    # ------------------------------------------------------------------ the component

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Replay the log, attach to the balancer, then serve until cancelled.

        Raises:
            CorruptData: The log holds records of a newer version; the message names the file. Nothing was changed.
            StorageError: A sync failed. Nothing of it was acknowledged; only a new process may go on.
        """
        if self._has_run:
            raise StorageError(
                f"replication has stopped on this node: {self._requests.stopped_by}",
                hint="look for disk errors in the kernel log, mend the disk, then restart the node",
            )
        self._has_run = True
        await self._recover()
        self._is_ready = True
        for kind in list(self.replica.kinds):
            self._load(kind)
        self._rpc.on_note(NOTE, self._on_note)
        self._keeper.attach(self._adopt, self._settled)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._commits.run)
                nursery.start_soon(self._run_timers)
                nursery.start_soon(self._bulks.run)
                task_status.started()
        except Exception as error:
            self._requests.stopped_by = describe(error)
            raise
        finally:
            self._is_ready = False
            self._requests.stop()

    async def _recover(self) -> None:
        """Replay the log. After damage all that is left goes to a new file: what is bad once may become worse."""
        self._recovered = await self._executor.run(self.log.replay)
        self.replica.table.is_anything_lost = self.log.is_anything_lost
        damage.tell(self.log)
        if self.log.holes:
            await self._commits.checkpoint()

    def status(self) -> dict[str, Any]:
        """Return what an operator must know: a disk that refuses, units that lost something."""
        return {
            "disk_refuses": "" if self._commits.refusal is None else self._commits.refusal.message,
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
            self._snapshots.register(kind, self._source(kind))
        if self._is_ready:
            self._load(kind)
            self._perform(self.replica.open_kind(kind, self._clock.now_s()))

    def _source(self, kind: str) -> ReplicatedSource:
        return ReplicatedSource(kind, self.replica.table, self._pages.merge, self._restored)

    def _load(self, kind: str) -> None:
        for unit in [unit for unit in self._recovered if kind_of(unit) == kind]:
            found = self._recovered.pop(unit)
            held = self.replica.load(unit, found.entries.values(), complete=found.complete, join_key=found.join_key)
            held.is_damaged = found.is_damaged

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
            case fx.StartedEmpty():
                _log.debug("replication.unit_started_empty", extra={"unit": effect.unit})
            case fx.Corrupted():
                _log.error(
                    "replication.version_has_two_values",
                    extra={"unit": effect.unit, "key": effect.key.hex(), "version": str(effect.version)},
                )

    def _send(self, effect: fx.Send) -> None:
        if effect.to == self.node:
            self._effects.extend(self._receive(self.node, effect.message))
        elif not self._rpc.note(effect.to, NOTE, MESSAGES.encode(effect.message)):
            self._dropped.inc("unsent")

    def _on_note(self, source: NodeId, payload: bytes) -> None:
        try:
            message = MESSAGES.decode(payload)
        except MalformedFrame:
            self._dropped.inc("malformed")
            return
        self._perform(self._receive(source, message))

    def _receive(self, source: NodeId, message: ReplicationMessage) -> list[fx.Effect]:
        now_s = self._clock.now_s()
        if isinstance(message, CoordinatorReply):
            return self.coordinator.receive(source, message, now_s)
        placement = self.replica.placement
        if self._bulk_pace.puts_off(source, message, placement):
            return []
        effects = self.replica.receive(source, message, now_s)
        self._bulk_pace.gave(source, message, placement, effects)
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
        batches = batches_of(list(dict(items).items()))
        if len(batches) == 1:
            return await self._write(unit, batches[0], consistency)
        versions: list[Version] = []

        async def write_one(batch: list[tuple[bytes, bytes | None]]) -> None:
            versions.append(await self._write(unit, batch, consistency))

        failures: list[FrysError] = []

        async def guarded(batch: list[tuple[bytes, bytes | None]]) -> None:
            try:
                await write_one(batch)
            except FrysError as error:
                failures.append(error)

        async with trio.open_nursery() as nursery:
            for batch in batches:
                nursery.start_soon(guarded, batch)
        if failures:
            raise failures[0]
        return max(versions)

    def stamp_alone(self, kind: str) -> Version | None:
        """Return a version above all that is held of a kind, if it lives in memory on this node alone; else None."""
        return self._lone.stamp(kind, self._clock.unix_ns() // 1_000_000) if self._is_ready else None

    async def _write(self, unit: UnitId, items: list[tuple[bytes, bytes | None]], consistency: Consistency) -> Version:
        self._check(unit)
        request, effects = self.coordinator.write(
            unit,
            items,
            consistency,
            deadline_s=self._deadline_s(),
            now_s=self._clock.now_s(),
            wall_ms=self._clock.unix_ns() // 1_000_000,
        )
        done: fx.WriteDone = await self._wait("write", request, effects)
        return done.version

    async def read(
        self, unit: UnitId, keys: Sequence[bytes], consistency: Consistency = Consistency.ONE
    ) -> list[Entry | None]:
        """Return the newest entries among the replicas asked, tombstones included; without a socket if it can."""
        store = self._local_store(unit, consistency)
        if store is not None:
            return store.get(keys)
        self._check_readable(unit)
        request, effects = self.coordinator.read(
            unit, keys, consistency, deadline_s=self._deadline_s(), now_s=self._clock.now_s()
        )
        done: fx.ReadDone = await self._wait("read", request, effects)
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

    def _local_store(self, unit: UnitId, consistency: Consistency) -> UnitStore | None:
        store = self.local(unit)
        if store is None or consistency is Consistency.ONE or self.replica.placement is None:
            return store
        sets = self.replica.placement.sets(unit)
        return store if sets.phase != "joint" and sets.current == (self.node,) else None

    def _check_readable(self, unit: UnitId) -> None:
        self._check(unit)
        if self.replica.placement is not None:
            damage.refuse_damaged(self.node, self.replica.table, self.replica.placement, unit)

    def _check(self, unit: UnitId) -> None:
        placement = self.replica.placement
        if not self._is_ready:
            raise self._requests.unready("replication does not run on this node")
        if placement is None:
            raise NotReady("this node has no topology record yet", hint="wait until it has joined")
        placement.sets(unit)
        if len(self._requests) >= REQUESTS_MAX:
            raise Overloaded(f"{REQUESTS_MAX} requests are in flight on this node")

    def _deadline_s(self) -> float:
        """Return when to give up: a little before the caller does, so that it hears why."""
        now_s = self._clock.now_s()
        left_s = trio.current_effective_deadline() - trio.current_time()
        if left_s > 3_600:
            return now_s + DEFAULT_DEADLINE_S
        return now_s + max(0.0, left_s - min(0.05, left_s / 10))

    async def _wait(self, kind: str, request: int, effects: list[fx.Effect]) -> Any:
        try:
            return await self._requests.wait(kind, request, lambda: self._perform(effects))
        except BaseException:
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

    def _persisted(self, token: int) -> None:
        self._perform(self.replica.persisted(token, self._clock.now_s()))

    def _disk_changed(self, refusal: StorageError | None) -> None:
        self.replica.disk_refusal = "" if refusal is None else refusal.code
        self._pages.disk_changed(refusal)

    def _bulk_finished(self, bulk: fx.BulkPull) -> None:
        self._perform(self.replica.bulk_finished(bulk.unit, bulk.epoch, self._clock.now_s()))

    def _checkpoint_groups(self) -> list[list[LogRecord]]:
        """Return everything durable that is held now, loaded or not yet asked for by its plugin."""
        groups: list[list[LogRecord]] = []
        if self.replica.table.is_anything_lost:
            groups.append([DamagedRecord(EVERY_UNIT)])
        for unit, held in self.replica.table.units.items():
            if held.durable:
                entries = list(held.store.entries())
                groups += dump_unit(unit, entries, held.complete, held.join_key, held.is_damaged)
        for unit, found in self._recovered.items():
            groups += dump_unit(unit, list(found.entries.values()), found.complete, found.join_key, found.is_damaged)
        return groups

    def _restore(self, unit: UnitId, entries: Sequence[Entry], then: Callable[[float], list[fx.Effect]]) -> bool:
        effects = self.replica.restore(unit, entries, then, self._clock.now_s())
        self._perform(effects or [])
        return effects is not None

    async def _restored(self, unit: UnitId) -> None:
        self._perform(self.replica.restored(unit, self._clock.now_s()))
        await self._commits.flush()

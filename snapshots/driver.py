"""The snapshot component: the `Snapshots` service, its calls between nodes, and the keeper of captured states."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import msgspec
import trio

from frys_node.base.errors import FrysError, NotReady, StorageError
from frys_node.base.ports import Clock, Disk, Executor
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.snapshots import MoveProgress, Snapshottable
from frys_node.observe.metrics import Metrics
from snapshots.capture import kind_of, provider_of
from snapshots.config import SnapshotsConfig
from snapshots.errors import TransferAborted
from snapshots.messages import CHUNK, OFFER, REFS, RELEASE
from snapshots.metrics import SnapshotMetrics
from snapshots.pull import Pull
from snapshots.source import Source
from snapshots.store import ChunkStore
from snapshots.survey import Survey
from snapshots.throttle import Throttle

FINISHED_MAX = 512
"""Finished moves that `moves` still shows."""

EXPIRE_INTERVAL_S = 5.0

DRAIN_S = 2.0
"""How long a stopping node waits for moves before it gives them up."""

log = logging.getLogger(__name__)


class SnapshotComponent:
    """Moves and saves units. Implements the `Snapshots` service; supervised as a component."""

    name = "snapshots"

    def __init__(
        self,
        *,
        rpc: Rpc,
        clock: Clock,
        disk: Disk,
        executor: Executor,
        metrics: Metrics,
        config: SnapshotsConfig | None = None,
    ) -> None:
        self._config = config or SnapshotsConfig()
        self._rpc = rpc
        self._clock = clock
        self._disk = disk
        self._executor = executor
        self.providers: dict[str, Snapshottable] = {}
        """By kind; shared with whoever saves and restores (`desk`)."""
        self.replacing: set[str] = set()
        """Kinds whose restore replaces what is there."""
        self._metrics = SnapshotMetrics(metrics)
        self._store = ChunkStore(
            disk,
            executor,
            memory_bytes_max=self._config.memory_bytes_max,
            disk_bytes_max=self._config.disk_bytes_max,
        )
        self._active: dict[int, Pull] = {}
        self._throttle = Throttle(clock, metrics, self._config, lambda: bool(self._active))
        self._pulls = trio.Semaphore(self._config.pulls_max)
        self._units: dict[UnitId, trio.Lock] = {}
        self._finished: deque[MoveProgress] = deque(maxlen=FINISHED_MAX)
        self._beside: Callable[[], Sequence[MoveProgress]] = tuple
        self._idle = trio.Event()
        self._numbers = 0
        self._installed_bytes = 0
        self._is_loaded = False
        self._source = Source(
            store=self._store,
            clock=clock,
            providers=self.providers,
            config=self._config,
            metrics=self._metrics,
            throttle=self._throttle,
            sealed_kinds=self.replacing,
        )
        self.survey = Survey(rpc, self.providers, self.moves)
        rpc.serve(OFFER, self._source.offer)
        rpc.serve(REFS, self._source.refs)
        rpc.serve(CHUNK, self._source.chunk)
        rpc.serve(RELEASE, self._source.release)
        self._metrics.watch(self._under_way)
        self._metrics.pins.source = lambda: float(self._source.pins)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; captured states that nobody asks for expire."""
        if not self._is_loaded:
            await self._store.load()
            self._is_loaded = True
        self._source.is_open = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._throttle.run)
            task_status.started()
            while True:
                await trio.sleep(EXPIRE_INTERVAL_S)
                await self._expire()
                self._metrics.store_bytes.set(float(self._store.memory_bytes), "memory")
                self._metrics.store_bytes.set(float(self._store.disk_bytes), "disk")

    async def _expire(self) -> None:
        """Let go of what nobody came back for. A disk that refuses now is asked again later."""
        try:
            await self._source.expire()
            await self._store.expire(self._clock.now_s(), self._config.leftover_ttl_s)
        except StorageError as error:
            log.warning("snapshots.expire_failed", extra={"code": error.code})

    async def drain(self) -> None:
        """Give and take no new snapshots; moves to this node may end within `DRAIN_S`, then they are given up.

        One that is being installed is always waited for. The chunks of the others are kept for their next try.
        """
        self._source.is_open = False
        with trio.move_on_after(DRAIN_S):
            await self._wait_idle()
        for pull in self._active.values():
            pull.give_up()
        await self._wait_idle()

    async def _wait_idle(self) -> None:
        while self._active:
            self._idle = trio.Event()
            await self._idle.wait()

    @property
    def config(self) -> SnapshotsConfig:
        """The settings in force."""
        return self._config

    def configure(self, config: SnapshotsConfig) -> None:
        """Apply the live settings of a new configuration."""
        self._config = self._source.config = config
        self._throttle.configure(config)

    def register(self, kind: str, source: Snapshottable, *, replaces: bool = False) -> None:
        """Declare how units of a kind are captured and restored. A plugin that is reloaded declares its kind again."""
        self.providers[kind] = source
        if replaces:
            self.replacing.add(kind)

    def unregister(self, kind: str) -> None:
        """Forget a kind: its plugin unloads."""
        self.providers.pop(kind, None)

    async def pull(self, unit: UnitId, source: NodeId, progress: Callable[[MoveProgress], None] | None = None) -> int:
        """Copy a unit's state from a node; returns the bytes transferred. The state is captured after this call began.

        A second pull of the same unit waits for the first.

        Raises:
            NotFound: No such kind here, or there.
            TransferAborted: Chunks did not come, or came wrong, too often. The unit is unchanged.
            FrysError: What the source or a disk said; nothing was installed unless `restore` itself failed.
        """
        if not self._source.is_open:
            raise NotReady("the snapshot component is starting or stopping")
        provider = provider_of(self.providers, unit)
        pull = Pull(
            unit,
            source,
            provider=provider,
            rpc=self._rpc,
            store=self._store,
            clock=self._clock,
            throttle=self._throttle,
            is_sealed=kind_of(unit) in self.replacing,
            config=self._config,
            metrics=self._metrics,
            on_progress=progress,
        )
        async with self._tracked(pull), self._unit_lock(unit), self._pulls:
            with pull.scope:
                size_bytes = await pull.run()
                self._installed_bytes += pull.progress().bytes_done
                return size_bytes
            raise TransferAborted(f"this node stops; the move of '{unit}' was given up")

    @asynccontextmanager
    async def _tracked(self, pull: Pull) -> AsyncIterator[None]:
        """Show the move while it lasts, and its end afterwards."""
        self._numbers += 1
        number = self._numbers
        self._active[number] = pull
        try:
            yield
        except FrysError as error:
            log.warning("snapshots.move_failed", extra={"unit": pull.unit, "peer": pull.source, "code": error.code})
            raise
        finally:
            del self._active[number]
            self._finished.append(pull.progress())
            if not self._active:
                self._idle.set()

    @asynccontextmanager
    async def _unit_lock(self, unit: UnitId) -> AsyncIterator[None]:
        lock = self._units.setdefault(unit, trio.Lock())
        try:
            async with lock:
                yield
        finally:
            if not lock.locked() and not lock.statistics().tasks_waiting:
                self._units.pop(unit, None)

    def may_give(self) -> bool:
        """Return whether something may be given beside a snapshot now."""
        return self._throttle.may_give()

    def gave(self, receiver: NodeId, size_bytes: int) -> None:
        """Count what was given beside a snapshot."""
        self._throttle.give(receiver, size_bytes)

    def may_take(self) -> bool:
        """Return whether something may be taken beside a snapshot now."""
        return self._throttle.may_take()

    def took(self, size_bytes: int) -> None:
        """Count what was taken beside a snapshot."""
        self._throttle.took(size_bytes)

    def taken_bytes(self) -> int:
        """Return what has come by snapshots and is kept: of moves installed since the start, and of those under way.

        It falls when a move is given up. What comes again and again to be thrown away is never more than before.
        """
        return self._installed_bytes + sum(pull.progress().bytes_done for pull in self._active.values())

    def asked(self) -> None:
        """Count a question of another node behind which somebody waits."""
        self._throttle.asked()

    def moves(self) -> Sequence[MoveProgress]:
        """Moves under way, oldest first, then the last finished ones, newest first."""
        return self._under_way() + list(reversed(self._finished))

    def tell_of(self, beside: Callable[[], Sequence[MoveProgress]]) -> None:
        """Have moves and metrics tell also of what is on its way here beside snapshots."""
        self._beside = beside

    def _under_way(self) -> list[MoveProgress]:
        why = self._throttle.why_beside
        beside = [msgspec.structs.replace(move, held_back=why(move.source)) for move in self._beside()]
        return beside + [pull.progress() for pull in self._active.values()]

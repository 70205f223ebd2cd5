"""The engine: feeds runs, queues their journal entries, releases effects, keeps timers.

Apply early, release late: an input is applied to the run's host at once and its entry queued; whatever the code then
wants (bodies to run, answers, timers) is held back until the commit returned. Readers see committed state only. A
refused append means that this node does not own the partition any more: the hosts are evicted, their effects dropped,
and nothing is repaired here.
"""

from __future__ import annotations

import heapq
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from frys_node.base.errors import CorruptData, FrysError, NotOwner, Overloaded, StorageError
from frys_node.base.ports import Clock
from frys_node.plugins.workflow.api import Run, Workflow
from frys_node.plugins.workflow.bodies import Bodies
from frys_node.plugins.workflow.commits import COMMITS_QUEUED_MAX, RETRY_S, Commit, Committer
from frys_node.plugins.workflow.config import WorkflowConfig
from frys_node.plugins.workflow.errors import Sealed, Stalled, UnknownRun
from frys_node.plugins.workflow.journal import (
    CancelRequested,
    DeadlineFired,
    Ended,
    Entry,
    RunError,
    Signalled,
    Started,
    StepStopped,
    decode_entries,
    encode_entries,
)
from frys_node.plugins.workflow.machine import SIGNALS_BUFFERED_MAX, Effect, RunStep
from frys_node.plugins.workflow.replay import Host
from frys_node.plugins.workflow.runs import (
    META,
    STATE,
    Arrival,
    Input,
    RunHandle,
    RunMeta,
    RunState,
    WorkflowKey,
    error_of,
)
from frys_node.storage.ports import Append, JournalStore, NewRun, RunExists, RunQuery, RunRow

TIMER_SLEEP_MAX_S = 30.0
"""Longest sleep of the timer task: wall time may step."""
LOADS_MAX = 8
"""Runs rebuilt from the store at once."""

_LOG = logging.getLogger("frys.workflow")


class Partition:
    """One partition that this node serves."""

    __slots__ = ("epoch", "idle", "in_flight", "number", "runs")

    def __init__(self, number: int, epoch: int) -> None:
        self.number = number
        self.epoch = epoch
        self.runs: dict[str, RunHandle] = {}
        self.in_flight = 0
        self.idle: trio.Event | None = None


class Engine:
    """Runs the workflows of the partitions that this node owns."""

    def __init__(
        self,
        *,
        store: JournalStore,
        clock: Clock,
        workflows: Mapping[WorkflowKey, Workflow],
        config: WorkflowConfig,
        owner: str,
        make_bodies: Callable[[trio.Nursery], Bodies],
    ) -> None:
        self.store = store
        self.workflows = workflows
        self.partitions: dict[int, Partition] = {}
        self.sealed: set[int] = set()
        self.runs_ended_total: dict[str, int] = {}
        self.fenced_total = 0
        self._clock = clock
        self._config = config
        self._owner = owner
        self._make_bodies = make_bodies
        self._bodies: Bodies | None = None
        self._nursery: trio.Nursery | None = None
        self.commits = Committer(store, self._settle)
        self._timers: list[tuple[float, str, int]] = []
        self._timer_wake = trio.Event()
        self._awake: dict[str, RunHandle] = {}
        self._loads = trio.CapacityLimiter(LOADS_MAX)

    @property
    def runs_live(self) -> int:
        """Runs that have not ended, on this node."""
        return sum(len(partition.runs) for partition in self.partitions.values())

    @property
    def runs_awake(self) -> int:
        """Runs that are in memory."""
        return len(self._awake)

    def unix_s(self) -> float:
        """Wall time in seconds."""
        return self._clock.unix_ns() / 1e9

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled, then evict every run."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._bodies = self._make_bodies(nursery)
                nursery.start_soon(self.commits.run)
                nursery.start_soon(self._timer_loop)
                task_status.started()
        finally:
            self._nursery = None
            for number in list(self.partitions):
                self._abandon(self.partitions.pop(number))

    # Ownership.

    async def own(self, numbers: Sequence[int]) -> None:
        """Take partitions under new epochs and resume their runs."""
        wanted = [number for number in numbers if number not in self.partitions]
        if not wanted:
            return
        epochs = await self.store.acquire(wanted, self._owner)
        for number, epoch in epochs.items():
            self.partitions[number] = Partition(number, epoch)
            self.sealed.discard(number)
        before: tuple[int, str] | None = None
        while True:
            rows = await self.store.query(RunQuery(partitions=tuple(epochs), live_only=True, before=before))
            for row in rows:
                self._adopt(row)
            if len(rows) < RunQuery().limit:
                break
            before = (rows[-1].created_ns, rows[-1].id)

    def _adopt(self, row: RunRow) -> None:
        partition = self.partitions.get(row.partition)
        if partition is None or row.id in partition.runs:
            return
        meta = META.decode(row.meta)
        handle = RunHandle(row.id, partition, (meta.namespace, meta.name, meta.version), seq=row.seq, status=row.status)
        handle.stall = STATE.decode(row.state).error if row.status == "stalled" and row.state else None
        partition.runs[row.id] = handle
        self._set_timer(handle, row.wake_at_s)
        if row.status != "waiting":
            self._wake(handle)

    async def seal(self, number: int) -> None:
        """Stop a partition: later requests are refused as retryable, queued appends finish, no more follow."""
        self.sealed.add(number)
        partition = self.partitions.pop(number, None)
        if partition is None:
            return
        self._abandon(partition)
        while partition.in_flight:
            partition.idle = trio.Event()
            await partition.idle.wait()
        await self.store.release(number, partition.epoch)

    def _abandon(self, partition: Partition) -> None:
        for handle in list(partition.runs.values()):
            handle.is_dropped = True
            for body in handle.bodies.values():
                body.discard()
            handle.bodies.clear()
            self._clear_inbox(handle)
            self._evict(handle)
            if handle.ended is not None:
                handle.ended.set()
        partition.runs.clear()

    def partition(self, number: int) -> Partition:
        """Return an owned partition.

        Raises:
            Sealed: It is moving away.
            NotOwner: It is another node's.
        """
        if number in self.sealed:
            raise Sealed(f"workflow partition {number} is moving to another node: retry in a moment")
        try:
            return self.partitions[number]
        except KeyError:
            raise NotOwner(f"workflow partition {number} is not served here") from None

    # Requests.

    async def start(self, number: int, run: str, workflow: Workflow, data: bytes) -> None:
        """Start a run; returns once its start is durable.

        Raises:
            FrysError: With code ``storage.run_exists`` if the id is taken.
        """
        partition = self.partition(number)
        if self.runs_live >= self._config.runs_live_max or len(self.commits) >= COMMITS_QUEUED_MAX:
            raise Overloaded(f"{self.runs_live} runs are open on this node", hint="retry later, or raise runs_live_max")
        workflow.decode_input(data)
        if run in partition.runs:
            await self.commits.flush()
            raise RunExists(f"run {run} exists")
        handle = RunHandle(run, partition, workflow.key)
        now = self.unix_s()
        started = Started(now, run, workflow.namespace, workflow.name, workflow.version, data)
        host = self._make_host(handle, workflow, started)
        new = NewRun(
            label=f"{workflow.namespace}/{workflow.name}",
            created_ns=self._clock.unix_ns(),
            meta=META.encode(RunMeta(workflow.namespace, workflow.name, workflow.version)),
        )
        partition.runs[run] = handle
        handle.host = host
        host.apply(started)
        await self._queue(handle, [started], new=new).durable()

    async def signal(self, number: int, run: str, *, name: str, value: bytes, signal: str) -> None:
        """Deliver a signal once (by its id); returns when it is durable."""
        handle = self._live(number, run)
        if handle.stall is not None:
            raise Stalled(f"run {run} is stalled: {handle.stall.message}")

        def arrived(host: Host, at: float) -> Entry | None:
            if signal in host.ledger.signal_ids:
                return None
            if sum(map(len, host.ledger.signals.values())) >= SIGNALS_BUFFERED_MAX:
                raise Overloaded(f"run {run} has {SIGNALS_BUFFERED_MAX} signals that nobody has taken yet")
            return Signalled(at, signal, name, value)

        await self._submit(handle, arrived)

    async def cancel(self, number: int, run: str, reason: str) -> None:
        """Ask a run to cancel; returns when the request is durable. The run ends once its clean-up has."""
        handle = self._live(number, run)
        if handle.stall is not None:
            ended = Ended(self.unix_s(), "cancelled", type_name="Cancelled", message=reason)
            await self._queue_raw(handle, [ended], ended).durable()
            return
        await self._submit(handle, lambda _, at: CancelRequested(at, reason))

    def _live(self, number: int, run: str) -> RunHandle:
        handle = self.partition(number).runs.get(run)
        if handle is None:
            raise UnknownRun(f"run {run} is not open here", hint="see `frys-node workflow list`")
        return handle

    async def _submit(self, handle: RunHandle, make: Input) -> None:
        arrival = Arrival(make, trio.Event())
        handle.inbox.append(arrival)
        self._pump(handle)
        await arrival.taken.wait()
        if arrival.error is not None:
            raise arrival.error
        if arrival.commit is not None:
            await arrival.commit.durable()
        else:
            # It had arrived before: what it was recorded with may still be on its way to the disk.
            await self.commits.flush()

    async def wait(self, number: int, run: str) -> None:
        """Return when the run is not open here any more (ended, stalled, or its partition moved)."""
        handle = self.partition(number).runs.get(run)
        if handle is None or handle.stall is not None:
            return
        if handle.ended is None:
            handle.ended = trio.Event()
        await handle.ended.wait()

    # Activations.

    def _make_host(self, handle: RunHandle, workflow: Workflow, started: Started) -> Host:
        async def main() -> object:
            result: object = await workflow(host.context, workflow.decode_input(started.input))
            return result

        host = Host(handle.id, main)
        host.context = Run(host, run=handle.id, workflow=workflow, started_at=started.at)
        self._touch(handle)
        return host

    def _touch(self, handle: RunHandle) -> None:
        handle.used_s = self._clock.now_s()
        self._awake.pop(handle.id, None)
        self._awake[handle.id] = handle
        if len(self._awake) > self._config.awake_max:
            for idle in self._awake.values():
                if idle is not handle and self._may_sleep(idle):
                    self._evict(idle)
                    break
        if len(self._awake) == 1:
            self._timer_wake.set()

    def _may_sleep(self, handle: RunHandle) -> bool:
        return not handle.in_flight and not handle.inbox and not handle.is_loading

    def _evict(self, handle: RunHandle) -> None:
        self._awake.pop(handle.id, None)
        host, handle.host = handle.host, None
        if host is not None and not host.evict():
            message = f"run {handle.id} will not let go: its code catches BaseException and continues"
            _LOG.error("workflow.run_stuck", extra={"run": handle.id})
            if not handle.is_dropped and handle.stall is None and host.ended is None:
                self._stall(handle, error_of("workflow.stalled", message, "catch Exception instead"))

    def _pump(self, handle: RunHandle) -> None:
        while handle.inbox and not handle.is_dropped and handle.stall is None:
            host = handle.host
            if host is None:
                self._wake(handle)
                return
            arrival = handle.inbox.popleft()
            try:
                entry = arrival.make(host, max(host.now, self.unix_s()))
            except FrysError as error:
                arrival.refuse(error)
                continue
            if entry is not None:
                host.apply(entry)
                self._touch(handle)
                if host.failure is None and host.due(host.now):
                    handle.inbox.appendleft(Arrival(_tick))
                arrival.commit = self._queue(handle, [entry])
            if arrival.taken is not None:
                arrival.taken.set()

    def _clear_inbox(self, handle: RunHandle) -> None:
        while handle.inbox:
            handle.inbox.popleft().refuse(Sealed(f"run {handle.id} cannot take this now: retry in a moment"))

    def _queue(self, handle: RunHandle, entries: list[Entry], new: NewRun | None = None) -> Commit:
        """Queue what an activation did: its input, its notes, and the effects to release."""
        host: Host = handle.host
        if host.failure is not None:
            failure = host.failure
            return self._stall(handle, error_of(failure.code, failure.message, failure.hint), entries, new)
        return self._queue_raw(handle, [*entries, *host.notes], host.ended, host.take_effects(), new)

    def _queue_raw(
        self,
        handle: RunHandle,
        entries: list[Entry],
        ended: Ended | None,
        effects: Sequence[Effect] = (),
        new: NewRun | None = None,
    ) -> Commit:
        state, status, wake_at_s = RunState(), "stalled", None
        if ended is not None:
            status = ended.status
            error = RunError(type=ended.type_name, message=ended.message, detail=ended.detail)
            state = RunState(ended.value) if status == "completed" else RunState(error=error)
        elif handle.stall is not None:
            state = RunState(error=handle.stall)
        elif handle.host is not None:
            status, wake_at_s = handle.host.status, handle.host.wake_at_s
        partition: Partition = handle.partition
        append = Append(
            partition=partition.number,
            epoch=partition.epoch,
            run=handle.id,
            expect_seq=handle.seq,
            count=len(entries),
            data=encode_entries(entries) if entries else b"",
            status=status,
            live=ended is None,
            wake_at_s=wake_at_s,
            updated_ns=self._clock.unix_ns(),
            state=STATE.encode(state),
            new=new,
        )
        commit = Commit(handle, append, effects, trio.Event(), [])
        handle.seq += len(entries)
        handle.in_flight += 1
        partition.in_flight += 1
        self.commits.add(commit)
        return commit

    def _stall(
        self, handle: RunHandle, error: RunError, entries: list[Entry] | None = None, new: NewRun | None = None
    ) -> Commit:
        handle.stall = error
        self._clear_inbox(handle)
        _LOG.error("workflow.run_stalled", extra={"run": handle.id, "reason": error.message})
        for body in handle.bodies.values():
            body.discard()
        handle.bodies.clear()
        commit = self._queue_raw(handle, entries or [], None, (), new)
        self._evict(handle)
        return commit

    # Waking.

    def _wake(self, handle: RunHandle) -> None:
        if handle.is_loading or handle.is_dropped or self._nursery is None:
            return
        handle.is_loading = True
        self._nursery.start_soon(self._load, handle)

    async def _load(self, handle: RunHandle) -> None:
        entries: list[Entry] = []
        delay_s = RETRY_S[0]
        while not handle.is_dropped:
            try:
                async with self._loads:
                    chunks = await self.store.read(handle.id)
                entries = [entry for chunk in chunks for entry in decode_entries(chunk.data)]
                break
            except CorruptData as error:
                handle.is_loading = False
                self._stall(handle, error_of(error.code, error.message, error.hint))
                return
            except StorageError as error:
                self.commits.error = error
                await trio.sleep(delay_s)
                delay_s = min(delay_s * 2, RETRY_S[1])
        handle.is_loading = False
        if handle.is_dropped or handle.host is not None:
            return
        self._rebuild(handle, entries)

    def _rebuild(self, handle: RunHandle, entries: list[Entry]) -> None:
        workflow = self.workflows.get(handle.key)
        started = entries[0] if entries else None
        if workflow is None or not isinstance(started, Started):
            namespace, name, version = handle.key
            message = f"workflow {namespace}/{name} version {version} is not loaded on this node"
            self._keep_stalled(handle, error_of("workflow.unknown", message, "add its module and restart the node"))
            return
        host = self._make_host(handle, workflow, started)
        host.replay(entries)
        handle.host = host
        if host.failure is not None:
            failure = host.failure
            self._keep_stalled(handle, error_of(failure.code, failure.message, failure.hint))
            return
        was_stalled, handle.stall = handle.stall is not None, None
        if host.notes or was_stalled:
            self._queue(handle, [])
        else:
            for effect in host.take_effects():
                self._release_effect(handle, effect)
        if host.due(self.unix_s()):
            handle.inbox.appendleft(Arrival(_tick))
        self._pump(handle)

    def _keep_stalled(self, handle: RunHandle, error: RunError) -> None:
        if handle.stall == error:
            self._evict(handle)
            return
        self._stall(handle, error)

    # Committing.

    def _settle(self, commit: Commit, error: FrysError | None) -> None:
        handle = commit.handle
        partition: Partition = handle.partition
        handle.in_flight -= 1
        partition.in_flight -= 1
        if partition.in_flight == 0 and partition.idle is not None:
            partition.idle.set()
        if error is None:
            self._release(commit)
        else:
            commit.outcome.append(error)
            self._refused(commit, error)
        commit.done.set()

    def _refused(self, commit: Commit, error: FrysError) -> None:
        handle = commit.handle
        partition: Partition = handle.partition
        if commit.append.new is not None and error.code != "storage.fenced":
            handle.is_dropped = True
            if partition.runs.get(handle.id) is handle:
                del partition.runs[handle.id]
            self._evict(handle)
            return
        self.fenced_total += 1
        _LOG.error("workflow.partition_lost", extra={"partition": partition.number, "reason": error.message})
        if self.partitions.get(partition.number) is partition:
            del self.partitions[partition.number]
        handle.is_dropped = True
        self._evict(handle)
        self._abandon(partition)

    def _release(self, commit: Commit) -> None:
        handle, append = commit.handle, commit.append
        handle.status = append.status
        if handle.is_dropped:
            return
        if not append.live:
            self.runs_ended_total[append.status] = self.runs_ended_total.get(append.status, 0) + 1
            handle.is_dropped = True
            handle.partition.runs.pop(handle.id, None)
            for body in handle.bodies.values():
                body.discard()
            handle.bodies.clear()
            self._clear_inbox(handle)
            self._evict(handle)
        if handle.ended is not None and (not append.live or append.status == "stalled"):
            handle.ended.set()
            handle.ended = None
        if append.live:
            self._set_timer(handle, append.wake_at_s)
            for effect in commit.effects:
                self._release_effect(handle, effect)

    def _release_effect(self, handle: RunHandle, effect: Effect) -> None:
        assert self._bodies is not None
        body = handle.bodies.get(effect.id)
        if isinstance(effect, RunStep):
            if body is None:
                handle.bodies[effect.id] = self._bodies.start(
                    handle.id, effect, lambda entry: self._outcome(handle, entry)
                )
        elif body is not None:
            body.stop()
        else:
            # Its body died with an earlier process: there is nothing left to wait for.
            handle.inbox.append(Arrival(lambda host, at: _stopped(host, effect.id, at)))
            self._pump(handle)

    def _outcome(self, handle: RunHandle, entry: Entry) -> None:
        id_ = entry.id  # type: ignore[union-attr]
        handle.bodies.pop(id_, None)
        if handle.is_dropped:
            return
        fields = type(entry).__struct_fields__
        rest = [getattr(entry, name) for name in fields[1:]]
        handle.inbox.append(Arrival(lambda host, at: type(entry)(at, *rest) if host.is_open(id_) else None))
        self._pump(handle)

    # Time.

    def _set_timer(self, handle: RunHandle, wake_at_s: float | None) -> None:
        if wake_at_s == handle.wake_at_s:
            return
        handle.wake_at_s = wake_at_s
        if wake_at_s is not None:
            is_first = not self._timers or wake_at_s < self._timers[0][0]
            heapq.heappush(self._timers, (wake_at_s, handle.id, handle.partition.number))
            if is_first:
                self._timer_wake.set()

    async def _timer_loop(self) -> None:
        while True:
            now = self.unix_s()
            while self._timers and self._timers[0][0] <= now:
                at, run, number = heapq.heappop(self._timers)
                partition = self.partitions.get(number)
                handle = partition.runs.get(run) if partition else None
                if handle is not None and handle.wake_at_s == at:
                    handle.wake_at_s = None
                    handle.inbox.append(Arrival(_tick))
                    self._pump(handle)
            self._sweep()
            next_s = self._timers[0][0] - now if self._timers else math.inf
            if self._awake:
                next_s = min(next_s, self._config.awake_s)
            self._timer_wake = trio.Event()
            with trio.move_on_after(max(0.001, min(next_s, TIMER_SLEEP_MAX_S)) if next_s < math.inf else math.inf):
                await self._timer_wake.wait()

    def _sweep(self) -> None:
        idle_since = self._clock.now_s() - self._config.awake_s
        for handle in list(self._awake.values()):
            if handle.used_s > idle_since:
                break
            if self._may_sleep(handle):
                self._evict(handle)


def _tick(host: Host, at: float) -> Entry | None:
    due = host.due(at)
    return DeadlineFired(at, due[0]) if due else None


def _stopped(host: Host, id_: str, at: float) -> Entry | None:
    call = host.ledger.calls.get(id_.partition("/")[0])
    return StepStopped(at, id_, call.step.name) if call is not None and host.is_open(id_) else None


def catalogue(workflows: Iterable[Workflow]) -> dict[WorkflowKey, Workflow]:
    """Index workflows by namespace, name and version."""
    return {workflow.key: workflow for workflow in workflows}

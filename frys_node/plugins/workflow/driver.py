"""The engine: feeds runs, queues their journal entries, releases effects, keeps timers.

Apply early, release late: an input is applied to the run's host at once and its entry queued; whatever the code then
wants (bodies to run, answers, timers) is held back until the commit returned. Readers see committed state only. A
refused append means that this node does not own the partition any more: the hosts are evicted, their effects dropped,
and nothing is repaired here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import trio

from frys_node.base.errors import FrysError, NotOwner, NotReady, Overloaded, StorageError
from frys_node.base.ports import Clock
from frys_node.observe.log import get_logger
from frys_node.plugins.workflow.activation import Activations, Partition
from frys_node.plugins.workflow.api import Workflow
from frys_node.plugins.workflow.bodies import Bodies
from frys_node.plugins.workflow.commits import COMMITS_QUEUED_MAX, Commit
from frys_node.plugins.workflow.config import WorkflowConfig
from frys_node.plugins.workflow.errors import Sealed, Stalled, UnknownRun
from frys_node.plugins.workflow.journal import (
    CancelRequested,
    Ended,
    Entry,
    Signalled,
    Started,
)
from frys_node.plugins.workflow.machine import SIGNALS_BUFFERED_MAX
from frys_node.plugins.workflow.replay import Host
from frys_node.plugins.workflow.runs import (
    META,
    STATE,
    Arrival,
    Input,
    RunHandle,
    RunMeta,
    WorkflowKey,
)
from frys_node.storage.ports import QUERY_ROWS_MAX, JournalStore, NewRun, RunExists, RunQuery, RunRow

TIMER_SLEEP_MAX_S = 30.0
"""Longest sleep of the timer task: wall time may step."""
_LOG = get_logger(__name__)


class Engine(Activations):
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
        super().__init__(store=store, clock=clock, workflows=workflows, config=config)
        self.partitions: dict[int, Partition] = {}
        self._opened = trio.Event()
        self.sealed: set[int] = set()
        """Partitions that are on their way to another node."""
        self.fenced_total = 0
        self._prepared: dict[int, tuple[int, list[RunRow]]] = {}
        self._owner = owner
        self._make_bodies = make_bodies

    @property
    def runs_live(self) -> int:
        """Runs that have not ended, on this node."""
        return sum(len(partition.runs) for partition in self.partitions.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Work until cancelled, then evict every run."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._bodies = self._make_bodies(nursery)
                nursery.start_soon(self.commits.run)
                nursery.start_soon(self._timers.run)
                task_status.started()
        finally:
            self._nursery = None
            for number in list(self.partitions):
                self._abandon(self.partitions.pop(number))

    # Ownership.

    async def prepare(self, numbers: Sequence[int]) -> None:
        """Take new epochs for partitions and read their open runs, all at once; `own` then starts them one by one."""
        self._prepared = {number: (epoch, []) for number, epoch in (await self._acquire(numbers)).items()}
        for row in await self._live_rows(()):
            if row.partition in self._prepared:
                self._prepared[row.partition][1].append(row)

    async def own(self, numbers: Sequence[int]) -> None:
        """Serve partitions under new epochs and resume their runs. Those served already go on."""
        wanted = [number for number in numbers if number not in self.partitions]
        fresh = [number for number in wanted if number not in self._prepared]
        taken = {number: self._prepared.pop(number) for number in wanted if number in self._prepared}
        if fresh:
            epochs = await self._acquire(fresh)
            taken.update({number: (epoch, []) for number, epoch in epochs.items()})
            for row in await self._live_rows(tuple(epochs)):
                taken[row.partition][1].append(row)
        for number, (epoch, rows) in taken.items():
            self.partitions[number] = Partition(number, epoch)
            self.sealed.discard(number)
            for row in rows:
                self._adopt(row)
        self._opened.set()
        self._opened = trio.Event()

    async def _acquire(self, numbers: Sequence[int]) -> Mapping[int, int]:
        epochs = await self.store.acquire(numbers, self._owner)
        if len(epochs) < len(numbers):
            held = ", ".join(str(number) for number in numbers if number not in epochs)
            raise NotReady(f"another process holds workflow partitions {held}")
        return epochs

    async def _live_rows(self, numbers: tuple[int, ...]) -> list[RunRow]:
        found: list[RunRow] = []
        before: tuple[int, str] | None = None
        while True:
            rows = await self.store.query(RunQuery(partitions=numbers, live_only=True, before=before))
            found += rows
            if len(rows) < QUERY_ROWS_MAX:
                return found
            before = (rows[-1].created_ns, rows[-1].id)

    def _adopt(self, row: RunRow) -> None:
        partition = self.partitions.get(row.partition)
        if partition is None or row.id in partition.runs:
            return
        meta = META.decode(row.meta)
        handle = RunHandle(row.id, partition, (meta.namespace, meta.name, meta.version), seq=row.seq, status=row.status)
        handle.stall = STATE.decode(row.state).error if row.status == "stalled" and row.state else None
        partition.runs[row.id] = handle
        self._timers.set(handle, row.wake_at_s)
        if row.status != "waiting":
            self._wake(handle)

    async def opened(self) -> None:
        """Wait until partitions begin to be served here, whichever they are."""
        await self._opened.wait()

    async def seal(self, number: int) -> None:
        """Stop a partition: later requests are refused as retryable, queued appends finish, no more follow."""
        self.sealed.add(number)
        # What was read at the start is stale once the partition has moved.
        self._prepared.pop(number, None)
        partition = self.partitions.pop(number, None)
        if partition is None:
            return
        self._abandon(partition)
        while partition.in_flight:
            partition.idle = trio.Event()
            await partition.idle.wait()
        await self.store.release(number, partition.epoch)

    async def install(self, number: int, pieces: Iterable[bytes]) -> None:
        """Replace a partition that is not served here by exported bytes.

        Raises:
            StorageError: It is served here, or the copy is damaged. Nothing was changed.
        """
        if number in self.partitions:
            raise StorageError(f"workflow partition {number} is served here: it cannot be replaced while it runs")
        self._prepared.pop(number, None)
        await self.store.install(number, pieces)

    async def drop(self, number: int) -> None:
        """Forget a partition that lives elsewhere."""
        await self.seal(number)
        await self.store.drop(number)
        self.sealed.discard(number)

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
            raise UnknownRun(f"run {run} is not open here", hint="see `frys-node workflow runs`")
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
        if handle is None or (handle.stall is not None and not handle.is_loading):
            return
        if handle.ended is None:
            handle.ended = trio.Event()
        await handle.ended.wait()

    def _refused(self, commit: Commit, error: FrysError) -> None:
        handle = commit.handle
        partition: Partition = handle.partition
        if handle.is_dropped:
            return  # its start was refused, or its partition is lost: both were seen to
        if commit.append.new is not None and error.code != "storage.fenced":
            handle.is_dropped = True
            if partition.runs.get(handle.id) is handle:
                del partition.runs[handle.id]
            self._evict(handle)
            return
        self.fenced_total += 1
        _LOG.error("workflow.partition_lost", partition=partition.number, reason=error.message)
        if self.partitions.get(partition.number) is partition:
            del self.partitions[partition.number]
        handle.is_dropped = True
        self._evict(handle)
        self._abandon(partition)


def catalogue(workflows: Iterable[Workflow]) -> dict[WorkflowKey, Workflow]:
    """Index workflows by namespace, name and version."""
    return {workflow.key: workflow for workflow in workflows}

"""Activations: one input applied to one run, what it leads to, and the waking and forgetting of runs.

A run that nothing happens to is forgotten after a few seconds and rebuilt from its journal when something arrives.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice

import trio

from frys_node.base.errors import CorruptData, FrysError, StorageError
from frys_node.base.ports import Clock
from frys_node.observe.log import get_logger
from frys_node.plugins.workflow.api import Run, Workflow
from frys_node.plugins.workflow.bodies import Bodies
from frys_node.plugins.workflow.commits import RETRY_S, Commit, Committer
from frys_node.plugins.workflow.config import WorkflowConfig
from frys_node.plugins.workflow.errors import Sealed
from frys_node.plugins.workflow.journal import (
    DeadlineFired,
    Ended,
    Entry,
    RunError,
    Started,
    StepStopped,
    decode_entries,
    encode_entries,
)
from frys_node.plugins.workflow.machine import Effect, RunStep
from frys_node.plugins.workflow.replay import Host
from frys_node.plugins.workflow.runs import (
    STATE,
    Arrival,
    RunHandle,
    RunState,
    WorkflowKey,
    error_of,
)
from frys_node.plugins.workflow.timers import Timers
from frys_node.storage.ports import Append, JournalStore, NewRun

TIMER_SLEEP_MAX_S = 30.0
"""Longest sleep of the timer task: wall time may step."""
EVICT_SCAN_MAX = 16
"""Candidates looked at when too many runs are awake; busy ones stay."""
LOADS_MAX = 8
"""Runs rebuilt from the store at once."""

_LOG = get_logger(__name__)


class Partition:
    """One partition that this node serves."""

    __slots__ = ("epoch", "idle", "in_flight", "number", "runs")

    def __init__(self, number: int, epoch: int) -> None:
        self.number = number
        self.epoch = epoch
        self.runs: dict[str, RunHandle] = {}
        self.in_flight = 0
        self.idle: trio.Event | None = None


class Activations:
    """Feeds the hosts of runs. `Engine` adds ownership and requests."""

    def __init__(
        self,
        *,
        store: JournalStore,
        clock: Clock,
        workflows: Mapping[WorkflowKey, Workflow],
        config: WorkflowConfig,
    ) -> None:
        self.store = store
        self.workflows = workflows
        self.commits = Committer(store, self._settle)
        self.runs_ended_total: dict[str, int] = {}
        self._clock = clock
        self._config = config
        self._bodies: Bodies | None = None
        self._nursery: trio.Nursery | None = None
        self._timers = Timers(self.unix_s, self._due, self._sweep)
        self._awake: dict[str, RunHandle] = {}
        self._loads = trio.CapacityLimiter(LOADS_MAX)

    @property
    def runs_awake(self) -> int:
        """Runs that are in memory."""
        return len(self._awake)

    def unix_s(self) -> float:
        """Wall time in seconds."""
        return self._clock.unix_ns() / 1e9

    def _refused(self, commit: Commit, error: FrysError) -> None:
        raise NotImplementedError

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
            for idle in islice(self._awake.values(), EVICT_SCAN_MAX):
                if idle is not handle and self._may_sleep(idle):
                    self._evict(idle)
                    break
        if len(self._awake) == 1:
            self._timers.poke()

    def _may_sleep(self, handle: RunHandle) -> bool:
        return not handle.in_flight and not handle.inbox and not handle.is_loading

    def _evict(self, handle: RunHandle) -> None:
        self._awake.pop(handle.id, None)
        host, handle.host = handle.host, None
        if host is not None and not host.evict():
            message = f"run {handle.id} will not let go: its code catches BaseException and continues"
            _LOG.error("workflow.run_stuck", run=handle.id)
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
        _LOG.error("workflow.run_stalled", run=handle.id, reason=error.message)
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
        if handle.stall == error:  # nothing new: the row says so already
            self._evict(handle)
            self._tell_waiters(handle)
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
        if not append.live or append.status == "stalled":
            self._tell_waiters(handle)
        if append.live:
            self._timers.set(handle, append.wake_at_s)
            for effect in commit.effects:
                self._release_effect(handle, effect)

    def _tell_waiters(self, handle: RunHandle) -> None:
        if handle.ended is not None:
            handle.ended.set()
            handle.ended = None

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
        if handle.is_dropped:
            return
        id_ = entry.id  # type: ignore[union-attr]
        rest = [getattr(entry, name) for name in type(entry).__struct_fields__[1:]]

        def arrived(host: Host, at: float) -> Entry | None:
            # Until this moment the body counts as open: a run that is rebuilt for its outcome must not start it again.
            handle.bodies.pop(id_, None)
            return type(entry)(at, *rest) if host.is_open(id_) else None

        handle.inbox.append(Arrival(arrived))
        self._pump(handle)

    def _due(self, handle: RunHandle) -> None:
        handle.inbox.append(Arrival(_tick))
        self._pump(handle)

    def _sweep(self) -> float:
        """Forget runs that have been idle for long; return when to look again."""
        idle_since = self._clock.now_s() - self._config.awake_s
        for handle in list(self._awake.values()):
            if handle.used_s > idle_since:
                break
            if self._may_sleep(handle):
                self._evict(handle)
        return self._config.awake_s if self._awake else math.inf


def _tick(host: Host, at: float) -> Entry | None:
    due = host.due(at)
    return DeadlineFired(at, due[0]) if due else None


def _stopped(host: Host, id_: str, at: float) -> Entry | None:
    call = host.ledger.calls.get(id_.partition("/")[0])
    return StepStopped(at, id_, call.step.name) if call is not None and host.is_open(id_) else None

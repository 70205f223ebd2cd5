"""The host: trio's own primitives over a deterministic runner. The only file that imports `trio._core`.

Theory of operation. Workflow code uses the real trio: nurseries, cancel scopes, sleep, events, channels. The host is a
stand-in for trio's `Runner`, swapped in for the length of one synchronous activation. Its clock is the time of the
journal entry being applied, its deadlines are names instead of timers, and its schedule is the order in which tasks
were created. So everything that the code does is a function of the entries, and replaying them rebuilds the run.

What the host does not provide (threads, sockets, files, signals) does not exist for workflow code: the attribute is
missing, and asking for it raises `NonDurableOperation` at the guilty line and stalls the run.

trio keeps waiters in sets, so its wake order follows memory addresses; sorting each batch of runnable tasks by creation
order repairs that. A host is always evicted explicitly: a coroutine left to the garbage collector would run its
``finally`` blocks wherever the collector happens to run, even inside another run.

A host never awaits and needs no lock. It does no I/O, so it runs inside the simulator too.
"""

# This file exists to touch trio's internals; each name it touches is listed in the self-check.
# ruff: noqa: SLF001

from __future__ import annotations

import contextlib
import sys
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextvars import Context, copy_context
from typing import Any, NoReturn

import outcome
import trio
from trio._core._run import _NO_SEND, GLOBAL_RUN_CONTEXT, CancelReason, CancelStatus, Runner, Task
from trio._core._traps import CancelShieldedCheckpoint, WaitTaskRescheduled

from frys_node.plugins.workflow.commands import Commands
from frys_node.plugins.workflow.errors import (
    Evicted,
    Nondeterministic,
    NonDurableOperation,
    Stalled,
)
from frys_node.plugins.workflow.frames import ended_by, task_line, user_line
from frys_node.plugins.workflow.journal import (
    CancelRequested,
    DeadlineFired,
    Ended,
    Entry,
    Mark,
    Signalled,
    Started,
    StepDone,
    StepStopped,
)
from frys_node.plugins.workflow.journal import StepFailed as StepFailedEntry
from frys_node.plugins.workflow.machine import HERE, Branch, Effect, StopStep

TURNS_MAX = 100_000
"""Task steps without a durable wait before a run is taken for an endless loop."""
EVICT_ROUNDS_MAX = 64
"""How often an eviction is repeated before the code is taken to refuse it."""
EVICT_TURNS_MAX = 1_000
"""Task steps in one round of an eviction."""

STUCK: list[Host] = []
"""Hosts whose code refused to end. Kept for ever, so that the collector cannot run them inside another activation."""

_NAMES = {
    "current_trio_token": "threads (trio.to_thread, trio.from_thread)",
    "spawn_system_task": "a system task",
    "wait_all_tasks_blocked": "trio.testing.wait_all_tasks_blocked",
    "current_clock": "trio.lowlevel.current_clock",
    "io_manager": "a socket or file",
    "entry_queue": "a signal or thread",
}


class _Deadlines:
    """Deadlines of open cancel scopes, by name. What trio calls on its runner: `add` and `remove`."""

    def __init__(self) -> None:
        self.armed: dict[str, trio.CancelScope] = {}
        self._names: dict[trio.CancelScope, str] = {}

    def add(self, deadline: float, scope: trio.CancelScope) -> None:
        del deadline
        name = self._names.get(scope)
        if name is None:
            branch = HERE.get()
            assert branch is not None, "a scope is entered by workflow code only"
            branch.scopes += 1
            name = self._names[scope] = f"{branch.path}@{branch.scopes}"
        self.armed[name] = scope

    def remove(self, deadline: float, scope: trio.CancelScope) -> None:
        del deadline
        name = self._names.get(scope)
        if name is not None:
            self.armed.pop(name, None)
            if scope._cancel_status is None or scope._cancel_called:  # closed, not edited
                del self._names[scope]

    def next_deadline(self) -> float:
        return min((scope._registered_deadline for scope in self.armed.values()), default=float("inf"))


def _creation(task: Task) -> int:
    return task._counter


def _raise_evicted() -> NoReturn:
    raise Evicted


class Host(Commands):
    """One run in memory. To trio's primitives it looks like trio's runner."""

    is_guest = False
    strict_exception_groups = True
    instruments: tuple[str, ...] = ()
    ki_pending = False
    init_task: Task | None = None
    main_task: Task | None = None

    def __init__(self, run: str, main: Callable[[], Awaitable[object]]) -> None:
        super().__init__(run)
        self.tasks: set[Task] = set()
        self.deadlines = _Deadlines()
        self.ended: Ended | None = None
        self.context: Any = None
        """The run's `ctx`."""
        self._main = main
        self._locals: dict[Any, Any] = {}
        self._runq: list[Task] = []
        self._batch_left = 0
        self._turns_max = TURNS_MAX
        self._root: Task | None = None
        self._root_scope = trio.CancelScope()
        self._is_cancelled = False
        self._agens: dict[int, weakref.ref[AsyncGenerator[Any, Any]]] = {}

    # What trio asks of a runner.

    def current_time(self) -> float:
        """Unix time of the entry being applied; it stands still between awaits."""
        return self.now

    def reschedule(self, task: Task, next_send: Any = _NO_SEND) -> None:
        """Make a task runnable."""
        task._next_send_fn = task.coro.send
        task._next_send = outcome.Value(None) if next_send is _NO_SEND else next_send
        task._abort_func = None
        task.custom_sleep_data = None
        self._runq.append(task)

    def spawn_impl(
        self, async_fn: Any, args: Any, nursery: Any, name: object, *, system_task: bool = False, context: Any = None
    ) -> Task:
        """Name the branch, then spawn as trio does."""
        if system_task:
            raise self.fail(NonDurableOperation(f"run {self.run} started a system task: put it in a @step"))
        parent = HERE.get()
        assert parent is not None, "only workflow code spawns"
        context = copy_context() if context is None else context.copy()
        branch = self.ledger.child(self, parent)
        context.run(HERE.set, branch)
        return Runner.spawn_impl(self, async_fn, args, nursery, name, context=context)  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        what = _NAMES.get(name, name)
        raise self.fail(
            NonDurableOperation(
                f"run {self.run} used {what} at {user_line(sys._getframe(1))}, which cannot be replayed",
                hint="put it in a @step (a plain def step runs in a thread)",
            )
        )

    def fail(self, error: Stalled) -> Stalled:
        """Record why the run cannot go on (the first reason stands) and return the error to be raised."""
        if self.failure is None and not self.is_evicting:
            self.failure = error
        return error

    def is_busy(self) -> bool:
        """True if a task other than the running one can run."""
        return bool(self._runq or self._batch_left)

    # Feeding.

    def replay(self, entries: Sequence[Entry]) -> None:
        """Rebuild the run from its journal. Check `failure` afterwards; open bodies are in `take_effects`."""
        self._marks = {entry.key for entry in entries if isinstance(entry, Mark)}
        self._source = entries
        self.is_replaying = True
        saved = self._enter()
        try:
            while self._cursor < len(entries) and self.failure is None:
                entry = entries[self._cursor]
                self._cursor += 1
                self._apply(entry)
        finally:
            self._leave(saved)
            self.is_replaying = False
        self._source, self._cursor = (), 0
        self.notes = [self.ended] if self.ended and not any(isinstance(entry, Ended) for entry in entries) else []
        self._effects = {}
        for call, index in self.ledger.open_bodies():
            effect: Effect = StopStep(call.item_id(index)) if call.is_stopping else call.effect(index)
            self._effects[effect.id] = effect
        self._check_dead_end()

    def apply(self, entry: Entry) -> None:
        """Apply one new entry until nothing can run. Check `failure`, `notes`, `ended` and `take_effects`."""
        self.notes = []
        saved = self._enter()
        try:
            self._apply(entry)
        finally:
            self._leave(saved)
        self._check_dead_end()

    def take_effects(self) -> list[Effect]:
        """Return and forget what is to be done, in order."""
        effects, self._effects = list(self._effects.values()), {}
        return effects

    def is_open(self, id_: str) -> bool:
        """True if the run waits for an outcome of this name."""
        base, _, item = id_.partition("/")
        call = self.ledger.calls.get(base)
        return call is not None and int(item or 0) in call.open

    def due(self, now_s: float) -> list[str]:
        """Deadlines that have passed, by time, then name."""
        armed = self.deadlines.armed
        passed = [(scope._registered_deadline, name) for name, scope in armed.items()]
        return [name for at, name in sorted(passed) if at <= now_s]

    @property
    def wake_at_s(self) -> float | None:
        """Unix time of the earliest deadline, None if there is none."""
        at = self.deadlines.next_deadline()
        return None if at == float("inf") else at

    @property
    def status(self) -> str:
        """Where the run stands, as people see it."""
        if self.ended is not None:
            return self.ended.status
        if self.failure is not None:
            return "stalled"
        return "running" if self.ledger.calls else "waiting"

    def _enter(self) -> tuple[Any, Any, Any]:
        state = GLOBAL_RUN_CONTEXT.__dict__
        saved = (state.get("runner"), state.get("task"), sys.get_asyncgen_hooks())
        state["runner"] = self
        state.pop("task", None)
        sys.set_asyncgen_hooks(self._first_iteration, self._close_generator)
        return saved

    def _leave(self, saved: tuple[Any, Any, Any]) -> None:
        state = GLOBAL_RUN_CONTEXT.__dict__
        for name, value in (("runner", saved[0]), ("task", saved[1])):
            if value is None:
                state.pop(name, None)
            else:
                state[name] = value
        sys.set_asyncgen_hooks(*saved[2])

    def _apply(self, entry: Entry) -> None:
        self.now = max(self.now, entry.at)
        self.activation += 1
        self.turns = 0
        try:
            self._deliver(entry)
        except Stalled as error:
            self.fail(error)
            return
        self._drain()

    def _deliver(self, entry: Entry) -> None:
        if isinstance(entry, Mark):
            return
        self.ledger.entry_index += 1
        if isinstance(entry, StepDone | StepFailedEntry | StepStopped):
            if self.ended is not None and entry.id.partition("/")[0] not in self.ledger.calls:
                self._expect_late(entry)
            self._settle(entry)
        elif isinstance(entry, DeadlineFired):
            scope = self.deadlines.armed.get(entry.id)
            if scope is None:
                self.ledger.check_deadline(entry)
            else:
                scope._cancel(CancelReason(source="deadline"))
        elif isinstance(entry, Signalled):
            self._signal(entry)
        elif isinstance(entry, CancelRequested):
            self._is_cancelled = True
            self._root_scope._cancel(CancelReason(source="explicit", reason=entry.reason))
        elif isinstance(entry, Started):
            self._start()
        elif self.ended is None:
            raise Nondeterministic(f"run {self.run}: the journal says that the code has ended, but it goes on")

    def _expect_late(self, entry: StepDone | StepFailedEntry | StepStopped) -> None:
        path, _, number = entry.id.partition("/")[0].rpartition(":")
        if not number.isdigit() or not self.ledger.was_used(path, int(number)):
            raise Nondeterministic(
                f"run {self.run}: the code has returned, but the journal goes on with {entry.name} ({entry.id})",
                hint='guard the change with ctx.patched("..."), or start new runs under a new version',
            )

    def _start(self) -> None:
        context = Context()
        context.run(HERE.set, self.ledger.root(self))
        main: Any = self._main
        task = Runner.spawn_impl(self, main, (), None, f"run {self.run}", context=context)  # type: ignore[arg-type]
        status = CancelStatus(scope=self._root_scope, parent=None)
        self._root_scope._cancel_status = status
        task._activate_cancel_status(status)
        self._root = task

    # Scheduling.

    def _drain(self) -> None:
        while self._runq and (self.failure is None or self.is_evicting):
            batch = self._runq
            self._runq = []
            if len(batch) > 1:
                batch.sort(key=_creation)
            self._batch_left = len(batch)
            for position, task in enumerate(batch):
                if self.turns >= self._turns_max:
                    self._runq = batch[position:] + self._runq
                    self.fail(
                        Stalled(
                            f"run {self.run} made {self._turns_max} turns without waiting for anything durable",
                            hint="is there a loop around a checkpoint?",
                        )
                    )
                    return
                self._batch_left -= 1
                self._turn(task)

    def _turn(self, task: Task) -> None:
        self.turns += 1
        GLOBAL_RUN_CONTEXT.task = task
        resume, value = task._next_send_fn, task._next_send
        task._next_send_fn = task._next_send = None
        assert resume is not None
        result: outcome.Outcome[object] | None = None
        trap: object = None
        try:
            trap = task.context.run(resume, value)
        except StopIteration as stop:
            result = outcome.Value(stop.value)
        except BaseException as error:  # noqa: BLE001  the task's result, as in trio's own loop
            result = outcome.Error(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        if result is not None:
            self._exited(task, result)
        elif trap is CancelShieldedCheckpoint:
            self.reschedule(task)
        elif type(trap) is WaitTaskRescheduled:
            task._cancel_points += 1
            task._abort_func = trap.abort_func
            task._attempt_delivery_of_any_pending_cancel()
        else:
            error_ = NonDurableOperation(
                f"run {self.run} awaited {trap!r}, which is not trio's", hint="put other async libraries in a @step"
            )
            self.reschedule(task)
            task._next_send_fn, task._next_send = task.coro.throw, self.fail(error_)

    def _exited(self, task: Task, result: outcome.Outcome[object]) -> None:
        branch = task.context[HERE]
        if branch is not None:
            self.ledger.finish(branch)
        if task is not self._root:
            Runner.task_exited(self, task, result)  # type: ignore[arg-type]
            return
        task._activate_cancel_status(None)
        self.tasks.remove(task)
        if not self.is_evicting and self.failure is None:
            self.ended = ended_by(result, self.now, is_cancelled=self._is_cancelled)
            self.notes.append(self.ended)

    def _check_dead_end(self) -> None:
        if (
            self.ended is not None
            or self.failure is not None
            or self.ledger.calls
            or self.deadlines.armed
            or self.ledger.signal_waiters
        ):
            return
        waiting = "; ".join(f"{task.name} at {task_line(task)}" for task in sorted(self.tasks, key=_creation)[:5])
        self.fail(
            Stalled(
                f"run {self.run} can never continue: nothing that it waits for can happen ({waiting})",
                hint="a step, a sleep or ctx.signal wakes a run; events set by nobody do not",
            )
        )

    # Eviction.

    def evict(self) -> bool:
        """End every task without effects; True if all code let go, else the host is kept for ever in `STUCK`."""
        self.is_evicting = True
        self._turns_max = EVICT_TURNS_MAX
        saved = self._enter()
        try:
            for call in list(self.ledger.calls.values()):
                if call.raise_cancel is not None:  # its abort function is used up: only an outcome would wake it
                    self.reschedule(call.task, outcome.Error(Evicted()))
            self.ledger.calls.clear()
            for _ in range(EVICT_ROUNDS_MAX):
                if not self.tasks:
                    break
                self.turns = 0
                for task in sorted(self.tasks, key=_creation, reverse=True):
                    if task._next_send_fn is not None:
                        task._next_send_fn, task._next_send = task.coro.throw, Evicted()
                    elif task._abort_func is not None:
                        task._attempt_abort(_raise_evicted)
                self._drain()
        finally:
            self._leave(saved)
        for reference in list(self._agens.values()):
            generator = reference()
            if generator is not None:
                self._close_generator(generator)
        self._effects = {}
        self.notes = []
        if self.tasks:
            STUCK.append(self)
        return not self.tasks

    def _first_iteration(self, generator: AsyncGenerator[Any, Any]) -> None:
        self._agens[id(generator)] = weakref.ref(generator)

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        """Close an async generator that nobody will resume; durable calls in its cleanup raise `Evicted`."""
        self._agens.pop(id(generator), None)
        grave = Context()
        grave.run(HERE.set, Branch(self, "closed"))
        saved, was_evicting = self._enter(), self.is_evicting
        self.is_evicting = True
        closing = generator.aclose()
        # Whatever its cleanup raises has nobody left to go to: the run has ended or sleeps.
        with contextlib.suppress(BaseException):
            grave.run(closing.send, None)
        with contextlib.suppress(BaseException):
            grave.run(closing.close)
        self.is_evicting = was_evicting
        self._leave(saved)

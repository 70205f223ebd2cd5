"""What workflow code may ask of its run: calls of steps, maps, signals, marks.

The half of the host that needs only public trio. Checks happen wherever an outcome meets a call: when it is answered
inline, and when it wakes a waiting branch.
"""

from __future__ import annotations

import copy
import math
from collections import deque
from collections.abc import Sequence
from typing import Any

import outcome
import trio

from frys_node.plugins.workflow.errors import Evicted, Stalled, StepFailed
from frys_node.plugins.workflow.journal import Entry, Mark, Signalled, StepDone, StepStopped
from frys_node.plugins.workflow.journal import StepFailed as StepFailedEntry
from frys_node.plugins.workflow.machine import HERE, Call, Effect, Ledger, StopStep
from frys_node.plugins.workflow.values import arguments_crc, encode_value


class Commands:
    """Calls of one run. `Host` adds the scheduler."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.now = 0.0
        """Unix time of the entry being applied."""
        self.ledger: Ledger[trio.lowlevel.Task] = Ledger(run)
        self.failure: Stalled | None = None
        """Why the run cannot go on; the host must be evicted then."""
        self.notes: list[Entry] = []
        """Entries that the code's own decisions added during the last activation."""
        self.is_replaying = False
        self.is_evicting = False
        self.activation = 0
        self.turns = 0
        self._source: Sequence[Entry] = ()
        self._cursor = 0
        self._marks: set[str] = set()
        self._patches: dict[str, bool] = {}
        self._effects: dict[str, Effect] = {}

    def reschedule(self, task: trio.lowlevel.Task, next_send: Any = None) -> None:
        """Make a task runnable."""
        raise NotImplementedError

    def is_busy(self) -> bool:
        """True if a task other than the running one can run."""
        raise NotImplementedError

    def check_alive(self) -> None:
        """Refuse calls of a run that is being put to sleep or has stalled."""
        if self.is_evicting:
            raise Evicted
        if self.failure is not None:
            raise self.failure

    async def call(self, step: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a step; in replay an outcome that is next in the journal is answered without suspending."""
        self.check_alive()
        branch = HERE.get()
        assert branch is not None
        payload = self._encode(step, args, kwargs)
        crc = arguments_crc(step.name, payload)
        branch.calls += 1
        id_ = f"{branch.path}:{branch.calls}"
        answered = self._answer_inline(id_, step, crc)
        if answered is not None:
            return step.decode(answered.value)
        args, kwargs = copy.deepcopy((args, kwargs))
        task = trio.lowlevel.current_task()
        call = Call(id_, step, [args], kwargs, [crc], is_map=False, limit=1, task=task, activation=self.activation)
        return step.decode((await self._wait(call))[0])

    async def map(self, step: Any, items: Sequence[Any], limit: int) -> list[Any]:
        """Call a step for every item, at most `limit` at a time; one command, whatever the number of items."""
        self.check_alive()
        branch = HERE.get()
        assert branch is not None
        branch.calls += 1
        id_ = f"{branch.path}:{branch.calls}"
        calls = [(copy.deepcopy(item),) for item in items]
        crcs = [arguments_crc(step.name, self._encode(step, args, {})) for args in calls]
        if not calls:
            return []
        task = trio.lowlevel.current_task()
        call = Call(id_, step, calls, {}, crcs, is_map=True, limit=limit, task=task, activation=self.activation)
        return [step.decode(value) for value in await self._wait(call)]

    def _encode(self, step: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
        return encode_value([args, kwargs], f"the arguments of step {step.name}()")

    def _answer_inline(self, id_: str, step: Any, crc: int) -> StepDone | None:
        if not self.is_replaying or self.is_busy():
            return None
        while self._cursor < len(self._source) and isinstance(self._source[self._cursor], Mark):
            self._cursor += 1
        entry = self._source[self._cursor] if self._cursor < len(self._source) else None
        if not isinstance(entry, StepDone) or entry.id != id_:
            return None
        if trio.current_effective_deadline() == -math.inf or entry.name != step.name or entry.crc != crc:
            return None
        # Nothing else can run, so suspending and resuming would give this very order; it is only slower.
        self._cursor += 1
        self.ledger.entry_index += 1
        self.activation += 1
        self.turns = 0
        self.now = max(self.now, entry.at)
        return entry

    async def _wait(self, call: Call[trio.lowlevel.Task]) -> list[bytes]:
        self.ledger.calls[call.id] = call
        for effect in call.launch():
            self._effects[effect.id] = effect

        def abort(raise_cancel: Any) -> trio.lowlevel.Abort:
            return self._abort(call, raise_cancel)

        await trio.lowlevel.wait_task_rescheduled(abort)
        return [call.results[index] for index in range(len(call.args))]

    def _abort(self, call: Call[trio.lowlevel.Task], raise_cancel: Any) -> trio.lowlevel.Abort:
        is_new = call.activation == self.activation
        if self.is_evicting or is_new or not call.step.waits_when_cancelled:
            self.ledger.calls.pop(call.id, None)
            for index in call.open:
                id_ = call.item_id(index)
                if self._effects.pop(id_, None) is None:
                    self._effects[id_] = StopStep(id_)
            return trio.lowlevel.Abort.SUCCEEDED
        call.raise_cancel = raise_cancel
        self._stop(call)
        return trio.lowlevel.Abort.FAILED

    def _stop(self, call: Call[trio.lowlevel.Task]) -> None:
        for index in call.open:
            id_ = call.item_id(index)
            self._effects[id_] = StopStep(id_)

    def _settle(self, entry: StepDone | StepFailedEntry | StepStopped) -> None:
        had_failed = (
            known := self.ledger.calls.get(entry.id.partition("/")[0])
        ) is not None and known.failed is not None
        call = self.ledger.settle(entry)
        if call is None:
            return
        if not call.is_over:
            if call.failed is not None and not had_failed:
                self._stop(call)
            for effect in call.launch():
                self._effects[effect.id] = effect
        elif len(call.results) == len(call.args):
            self.reschedule(call.task)
        elif call.failed is not None:
            failed = call.failed
            error = StepFailed(
                f"step {failed.name} failed: {failed.type_name}: {failed.message}",
                type_name=failed.type_name,
                attempts=failed.attempts,
            )
            error.add_note(f"step {failed.name} ({failed.id}), {failed.attempts} attempts\n{failed.detail}".rstrip())
            self.reschedule(call.task, outcome.Error(error))
        else:
            self.reschedule(call.task, outcome.capture(call.raise_cancel))

    async def signal(self, name: str) -> bytes:
        """Wait for the next signal of a name and return its value."""
        self.check_alive()
        waiting = self.ledger.signals.get(name)
        if waiting:
            return waiting.popleft()
        task = trio.lowlevel.current_task()
        waiters = self.ledger.signal_waiters.setdefault(name, deque())
        waiters.append(task)

        def abort(_: Any) -> trio.lowlevel.Abort:
            waiters.remove(task)
            if not waiters:
                self.ledger.signal_waiters.pop(name, None)
            return trio.lowlevel.Abort.SUCCEEDED

        value: bytes = await trio.lowlevel.wait_task_rescheduled(abort)
        return value

    def _signal(self, entry: Signalled) -> None:
        self.ledger.signal_ids.add(entry.signal)
        waiters = self.ledger.signal_waiters.get(entry.name)
        if not waiters:
            self.ledger.signals.setdefault(entry.name, deque()).append(entry.value)
            return
        self.reschedule(waiters.popleft(), outcome.Value(entry.value))
        if not waiters:
            del self.ledger.signal_waiters[entry.name]

    def patched(self, key: str) -> bool:
        """True if this run has passed the change `key`; the answer is the same for the whole run."""
        self.check_alive()
        answer = self._patches.get(key)
        if answer is None:
            answer = key in self._marks or not self.is_replaying
            if answer and key not in self._marks:
                self._marks.add(key)
                self.notes.append(Mark(self.now, key))
            self._patches[key] = answer
        return answer

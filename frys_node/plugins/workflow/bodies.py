"""Running step bodies: coroutines on the node's loop, plain functions in threads, with retries and time limits.

A body runs at least once for each recorded outcome. Attempts are not journaled: after a crash the count of an
unfinished step starts again. Both kinds of body have their own limit; waiting bodies hold nothing.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import math
import random
from collections.abc import Callable
from typing import Any

import trio

from frys_node.plugins.workflow.api import STEP, Step, StepInfo
from frys_node.plugins.workflow.errors import NotJournalable
from frys_node.plugins.workflow.frames import describe_traceback, leaves
from frys_node.plugins.workflow.journal import Entry, StepDone, StepFailed, StepStopped
from frys_node.plugins.workflow.machine import RunStep
from frys_node.plugins.workflow.values import encode_value

MESSAGE_CHARS_MAX = 4_000
"""Longest error text of a step that is kept."""


class Body:
    """One open step of a run."""

    __slots__ = (
        "attempts",
        "deliver",
        "effect",
        "in_thread",
        "is_discarded",
        "is_running",
        "is_stopping",
        "run",
        "scope",
        "started_at",
    )

    def __init__(self, run: str, effect: RunStep, started_at: float, deliver: Callable[[Entry], None]) -> None:
        self.run = run
        self.effect = effect
        self.started_at = started_at
        self.deliver = deliver
        self.attempts = 0
        self.is_running = False
        """True while an attempt runs; False while it waits for a slot or for its next attempt."""
        self.in_thread = False
        """True while a plain function runs: it cannot be interrupted, only waited for or left behind."""
        self.is_stopping = False
        self.is_discarded = False
        self.scope = trio.CancelScope()

    def stop(self) -> None:
        """Ask the body to end; its end is delivered. A thread is waited for and not started again."""
        self.is_stopping = True
        if not self.in_thread:
            self.scope.cancel()

    def discard(self) -> None:
        """Ask the body to end; nothing is delivered any more."""
        self.is_discarded = True
        self.scope.cancel()


class Bodies:
    """Runs bodies in a nursery."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        steps_max: int,
        threads_max: int,
        rng: random.Random,
        unix_s: Callable[[], float],
        http_address: Callable[[], str],
    ) -> None:
        self._nursery = nursery
        self._slots = trio.CapacityLimiter(steps_max)
        self._threads = trio.CapacityLimiter(threads_max)
        self._unlimited = trio.CapacityLimiter(math.inf)
        self._rng = rng
        self._unix_s = unix_s
        self._http_address = http_address
        self.attempts_total = 0
        self.failures_total = 0

    @property
    def running(self) -> int:
        """Bodies that hold a slot."""
        return int(self._slots.borrowed_tokens + self._threads.borrowed_tokens)

    def start(self, run: str, effect: RunStep, deliver: Callable[[Entry], None]) -> Body:
        """Start a body; `deliver` is called once, with its outcome (``at`` is filled in by the caller)."""
        body = Body(run, effect, self._unix_s(), deliver)
        self._nursery.start_soon(self._run, body)
        return body

    async def _run(self, body: Body) -> None:
        effect = body.effect
        entry: Entry | None = None
        with body.scope:
            entry = await self._attempts(body)
        if entry is None:
            entry = StepStopped(0.0, effect.id, effect.step.name)
        if not body.is_discarded:
            body.deliver(entry)

    async def _attempts(self, body: Body) -> Entry:
        effect = body.effect
        step: Step = effect.step
        while True:
            body.attempts += 1
            try:
                value = await self._attempt(body, step)
                data = encode_value(value, f"the result of step {step.name}()")
            except NotJournalable as error:
                return self._failed(body, error, error.message)
            except (Exception, SystemExit) as error:  # noqa: BLE001  the step's outcome
                first = (leaves(error) or [error])[0]
                if body.is_stopping or body.attempts >= step.retry.max or isinstance(first, step.retry.give_up):
                    return self._failed(body, first, str(first))
                await trio.sleep(step.retry.delay_s(body.attempts, self._rng))
                continue
            return StepDone(0.0, effect.id, step.name, effect.crc, data, body.attempts, body.started_at)

    async def _attempt(self, body: Body, step: Step) -> Any:
        effect = body.effect
        self.attempts_total += 1
        info = StepInfo(body.run, effect.id, step.name, body.attempts, self._http_address())
        args, kwargs = effect.args, effect.kwargs
        if step.retry.max > 1:  # an attempt that changed its arguments must not spoil the next one
            args, kwargs = copy.deepcopy((args, kwargs))
        STEP.set(info)
        call = functools.partial(step.function, *args, **kwargs)
        # The time limit starts once there is a slot: waiting for one is not the step's fault.
        if not step.is_async:
            ticket = object()
            await self._threads.acquire_on_behalf_of(ticket)
            with trio.CancelScope(deadline=trio.current_time() + (step.timeout_s or math.inf)):
                return await self._in_thread(body, call, ticket)
        else:
            async with self._slots:
                with trio.CancelScope(deadline=trio.current_time() + (step.timeout_s or math.inf)):
                    body.is_running = True
                    try:
                        return await call()
                    finally:
                        body.is_running = False
        raise TimeoutError(f"the attempt took longer than {step.timeout_s:g} s")

    async def _in_thread(self, body: Body, call: Callable[[], Any], ticket: object) -> Any:
        """Run a plain function; over its time limit, or when the node stops, the thread is left behind.

        It keeps its slot until it ends, so that threads left behind cannot pile up.
        """
        token = trio.lowlevel.current_trio_token()
        held = [ticket]

        def release() -> None:
            if held:
                self._threads.release_on_behalf_of(held.pop())

        def work() -> Any:
            is_started.append(True)
            try:
                return call()
            finally:
                with contextlib.suppress(trio.RunFinishedError):
                    token.run_sync_soon(release)

        is_started: list[bool] = []
        body.in_thread = body.is_running = True
        try:
            return await trio.to_thread.run_sync(work, limiter=self._unlimited, abandon_on_cancel=True)
        finally:
            body.in_thread = body.is_running = False
            if not is_started:
                release()

    def _failed(self, body: Body, error: BaseException, message: str) -> StepFailed:
        self.failures_total += 1
        effect = body.effect
        return StepFailed(
            0.0,
            effect.id,
            effect.step.name,
            effect.crc,
            type(error).__name__,
            message[:MESSAGE_CHARS_MAX],
            body.attempts,
            body.started_at,
            describe_traceback(error)[:MESSAGE_CHARS_MAX],
        )

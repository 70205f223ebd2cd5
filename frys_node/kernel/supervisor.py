"""Supervision: one task, one handle and one cancel scope per component.

A component that raises (or returns unasked) is restarted after a pause, within its budget; past the budget it is
failed and the node is not ready, but the node goes on, unless the component is essential. `Exception` covers
`ExceptionGroup`; `KeyboardInterrupt`, `Cancelled` and groups that hold them always propagate (style.md 5).
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Protocol

import trio

from frys_node.base.errors import ConfigError, FrysError, PluginError
from frys_node.kernel.bus import Bus
from frys_node.kernel.lifecycle import ComponentChanged, RestartBudget, RestartPolicy, Signal, State, advance
from frys_node.observe.log import describe, get_logger
from frys_node.observe.metrics import Metrics

UNWIND_S = 2.0
"""How long a cancelled component may take for its (shielded) cleanup before `stop` stops waiting for it."""

log = get_logger(__name__)


class Component(Protocol):
    """Anything that runs for the life of the node. It may also have ``async def drain(self) -> None``.

    `run` calls `task_status.started()` once it is ready and runs until it is cancelled. After a crash it is called
    again, on the same object.
    """

    @property
    def name(self) -> str:
        """Unique within the node."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Live."""
        ...


class ComponentFailed(FrysError):
    """A component did not start or cannot be kept running. What it had acknowledged stays."""

    code = "kernel.component_failed"


class ComponentEnded(FrysError):
    """A component returned although nobody asked it to stop. It is treated as a crash."""

    code = "kernel.component_ended"


class _Started:
    """The `task_status` handed to a component."""

    __slots__ = ("_handle",)

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def started(self, value: object = None) -> None:
        """Mark the component ready."""
        assert value is None, "components start without a value"
        self._handle.mark_ready()


class Handle:
    """The supervisor's grip on one component."""

    def __init__(
        self,
        component: Component,
        *,
        essential: bool,
        budget: RestartBudget,
        on_change: Callable[[Handle, State], None],
    ) -> None:
        self.component = component
        self.essential = essential
        self.state = State.RESOLVED
        self.error: Exception | None = None
        """The last crash, None while all is well."""
        self.restarts = 0
        self.since_s = trio.current_time()
        """When the state last changed, monotonic seconds."""
        self.done = trio.Event()
        self.settled = trio.Event()
        """Set when the first start is over: ready, crashed or stopped."""
        self._budget = budget
        self._on_change = on_change
        self._stop = trio.Event()
        self._recycling = False
        self._scope: trio.CancelScope | None = None

    @property
    def name(self) -> str:
        """The component's name."""
        return self.component.name

    def mark_ready(self) -> None:
        """Take note that the component serves."""
        if self.state is State.STARTING:
            self.error = None
            self._signal(Signal.STARTED)
            self.settled.set()

    def request_stop(self) -> None:
        """Cancel the component without draining it; `done` follows."""
        self._stop.set()
        if self._scope is not None:
            self._scope.cancel()

    def recycle(self) -> None:
        """Restart the component without charging its budget: something that it builds on has restarted."""
        if self._scope is not None and self.state in (State.STARTING, State.READY):
            self._recycling = True
            self._scope.cancel()

    async def stop(self, grace_s: float) -> None:
        """Drain the component for up to `grace_s`, then cut it, and wait for its end (at most `UNWIND_S` more)."""
        if self.state is State.READY:
            self._signal(Signal.DRAIN)
            await self._drain(grace_s)
        self.request_stop()
        with trio.move_on_after(UNWIND_S) as unwinding:
            await self.done.wait()
        if unwinding.cancelled_caught:
            log.error("kernel.component_stuck", component=self.name, waited_s=UNWIND_S)

    async def _drain(self, grace_s: float) -> None:
        drain = getattr(self.component, "drain", None)
        if drain is None:
            return
        with trio.move_on_after(grace_s) as scope:
            try:
                await drain()
            except Exception as error:  # noqa: BLE001 (a component that cannot drain is still stopped)
                log.failed("kernel.drain_failed", error, component=self.name)
        if scope.cancelled_caught:
            log.warning("kernel.drain_cut", component=self.name, grace_s=round(grace_s, 3))

    async def supervise(self) -> None:
        """Run the component until it is stopped or its budget is spent; the supervisor starts this as a task."""
        try:
            while not self._stop.is_set():
                self._signal(Signal.START)
                error = await self._run_once()
                if self._stop.is_set():
                    break
                pause_s = self._after(error)
                self.settled.set()
                if pause_s is None:
                    return
                with trio.move_on_after(pause_s):
                    await self._stop.wait()
            self._signal(Signal.STOPPED)
        finally:
            if self.state not in (State.STOPPED, State.FAILED):
                self._signal(Signal.STOPPED)
            self.settled.set()
            self.done.set()

    async def _run_once(self) -> Exception | None:
        """Run until the end; returns why, None when the handle's own scope was cancelled."""
        try:
            with trio.CancelScope() as self._scope:
                await self.component.run(task_status=_Started(self))
            if not self._scope.cancelled_caught and not self._recycling and not self._stop.is_set():
                return ComponentEnded(f"component '{self.name}' returned without being asked to")
        except Exception as error:  # noqa: BLE001 (this is the place that turns a crash into a restart)
            if self._stop.is_set():
                log.failed("kernel.stop_failed", error, component=self.name)
            return error
        finally:
            self._scope = None
        return None

    def _after(self, error: Exception | None) -> float | None:
        """Settle a run's end: the pause before the next try, or None when there is none."""
        if error is None and self._recycling:
            self._recycling = False
            self._signal(Signal.RECYCLED)
            return 0.0
        self._recycling = False
        assert error is not None
        self.error = error
        never_started = not self.settled.is_set()
        refused = never_started and (self.essential or isinstance(error, ConfigError))
        pause_s = None if refused else self._budget.crashed(trio.current_time())
        self._signal(Signal.CRASHED)
        if pause_s is None:
            self._signal(Signal.GAVE_UP)
            return None
        self.restarts += 1
        log.failed("kernel.component_crashed", error, component=self.name, pause_s=round(pause_s, 3))
        return pause_s

    def _signal(self, signal: Signal) -> None:
        old = self.state
        self.state = advance(old, signal)
        self.since_s = trio.current_time()
        self._on_change(self, old)


class Supervisor:
    """Starts components in a nursery and knows the state of each."""

    def __init__(
        self,
        nursery: trio.Nursery,
        *,
        bus: Bus,
        metrics: Metrics,
        rng: random.Random,
        on_fatal: Callable[[ComponentFailed], None],
    ) -> None:
        self._nursery = nursery
        self._bus = bus
        self._rng = rng
        self._on_fatal = on_fatal
        self._handles: dict[str, Handle] = {}
        self._restarts = metrics.counter(
            "frys_kernel_component_restarts_total", "Restarts of crashed components", ("component",)
        )
        self._states = metrics.gauge(
            "frys_kernel_component_ready", "1 while the component is ready, else 0", ("component",)
        )

    @property
    def handles(self) -> list[Handle]:
        """Every component that was started and not forgotten, in start order."""
        return list(self._handles.values())

    def get(self, name: str) -> Handle | None:
        """One component's handle."""
        return self._handles.get(name)

    async def start(
        self, component: Component, *, essential: bool = False, policy: RestartPolicy | None = None
    ) -> Handle:
        """Start a component; return when it is ready, or when its first try crashed and it will be tried again.

        Raises:
            ConfigError: What the component raised when its settings are wrong. It is failed and not tried again.
            ComponentFailed: An essential component crashed before it was ready (or the `FrysError` that it raised).
            PluginError: A component of that name runs. Nothing was started.
        """
        present = self._handles.get(component.name)
        if present is not None and not present.done.is_set():
            raise PluginError(f"a component named '{component.name}' runs already")
        budget = RestartBudget(policy or RestartPolicy(), self._rng)
        handle = Handle(component, essential=essential, budget=budget, on_change=self._changed)
        self._handles.pop(component.name, None)
        self._handles[component.name] = handle
        self._nursery.start_soon(handle.supervise, name=f"component {component.name}")
        try:
            await handle.settled.wait()
        except BaseException:
            handle.request_stop()
            raise
        if handle.state is State.FAILED and handle.error is not None:
            if isinstance(handle.error, FrysError):
                raise handle.error
            raise ComponentFailed(f"'{handle.name}' did not start: {describe(handle.error)}") from handle.error
        return handle

    def forget(self, name: str) -> None:
        """Drop a stopped component from the list."""
        handle = self._handles.get(name)
        if handle is not None and handle.done.is_set():
            del self._handles[name]

    def _changed(self, handle: Handle, old: State) -> None:
        text = describe(handle.error) if handle.error is not None else ""
        self._states.set(1 if handle.state is State.READY else 0, handle.name)
        if old is not State.RESOLVED and handle.state is State.RESOLVED:
            self._restarts.inc(handle.name)
        log.debug("kernel.component_changed", component=handle.name, old=old, new=handle.state)
        self._bus.publish(ComponentChanged(name=handle.name, old=old, new=handle.state, error=text))
        if handle.state is State.FAILED:
            log.error("kernel.component_failed", component=handle.name, error=text, essential=handle.essential)
            if handle.essential and handle.settled.is_set():
                failed = f"essential component '{handle.name}' failed: {text}"
                self._on_fatal(ComponentFailed(failed, hint=_fix_of(handle.error)))


def _fix_of(error: BaseException | None) -> str:
    """Return the way out that an error names; that of its first member for a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error.hint if isinstance(error, FrysError) else ""

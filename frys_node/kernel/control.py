"""What the node says of itself: component states, liveness, readiness and status sections; and its loop's pulse."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import trio

from frys_node.base.errors import NotReady
from frys_node.kernel.rhythm import beat_s
from frys_node.kernel.services.node import Check, ComponentView
from frys_node.kernel.supervisor import Handle
from frys_node.observe.health import component_checks, loop_check
from frys_node.observe.log import describe, get_logger
from frys_node.observe.metrics import Metrics

if TYPE_CHECKING:
    from frys_node.kernel.plugins import PluginSet
    from frys_node.kernel.supervisor import Supervisor

BEAT_S = 1.0
"""Period of the pulse. It shares its turns of the loop with whatever else looks around now and then."""

CHECKS_MAX = 64
SECTIONS_MAX = 64

log = get_logger(__name__)


class Pulse:
    """A component that wakes on time, so that lateness shows how long the event loop was held."""

    name = "pulse"

    def __init__(self, metrics: Metrics) -> None:
        self.last_turn_s = trio.current_time()
        self.lag_s = 0.0
        self.lag_max_s = 0.0
        """Largest lag since the start."""
        metrics.gauge(
            "frys_kernel_loop_lag_seconds", "How late the event loop woke at its last beat", source=lambda: self.lag_s
        )

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Beat until cancelled."""
        task_status.started()
        while True:
            due_s = beat_s(BEAT_S)
            await trio.sleep_until(due_s)
            self.last_turn_s = trio.current_time()
            self.lag_s = max(0.0, self.last_turn_s - due_s)
            self.lag_max_s = max(self.lag_max_s, self.lag_s)


class Control:
    """`NodeControl` over the supervisor and the plugins."""

    def __init__(self, name: str, metrics: Metrics) -> None:
        self._name = name
        self._started_s = trio.current_time()
        self.pulse = Pulse(metrics)
        self.supervisor: Supervisor | None = None
        self.plugins: PluginSet | None = None
        self.is_started = False
        self.stop_reason = ""
        """Why the node stops; empty while it does not."""
        self._checks: dict[str, Callable[[], str | None]] = {}
        self._sections: dict[str, Callable[[], Any]] = {}
        self._doors: dict[str, Callable[[], Awaitable[None]]] = {}
        metrics.gauge("frys_node_ready", "1 while this node is ready for traffic", source=self._ready_value)

    @property
    def name(self) -> str:
        """The node's name."""
        return self._name

    @property
    def uptime_s(self) -> float:
        """Seconds since the kernel was made."""
        return trio.current_time() - self._started_s

    @property
    def loop_lag_s(self) -> float:
        """How late the event loop woke at its last beat, or is late now."""
        return max(self.pulse.lag_s, trio.current_time() - self.pulse.last_turn_s - BEAT_S)

    def components(self) -> Sequence[ComponentView]:
        """Every component in start order."""
        versions = {spec.name: spec.manifest.version for spec in self.plugins.specs} if self.plugins else {}
        return [self._view(handle, versions) for handle in self._handles()]

    def _view(self, handle: Handle, versions: Mapping[str, str]) -> ComponentView:
        return ComponentView(
            name=handle.name,
            state=handle.state.value,
            error=describe(handle.error) if handle.error is not None else "",
            restarts=handle.restarts,
            for_s=round(trio.current_time() - handle.since_s, 3),
            essential=handle.essential,
            version=versions.get(handle.name, ""),
        )

    def _handles(self) -> list[Handle]:
        return self.supervisor.handles if self.supervisor is not None else []

    def liveness(self) -> Sequence[Check]:
        """Whether this process turns."""
        verdict = loop_check(self.pulse.last_turn_s, trio.current_time())
        return [Check(name=verdict.name, ok=verdict.ok, detail=verdict.detail)]

    def readiness(self) -> Sequence[Check]:
        """Whether this node should get traffic: started, not stopping, every component up, every check content."""
        detail = f"stopping: {self.stop_reason}" if self.stop_reason else "" if self.is_started else "starting"
        checks = [Check(name="node", ok=not detail, detail=detail)]
        views = [(view.name, view.state, view.error) for view in self.components()]
        checks += [Check(name=v.name, ok=v.ok, detail=v.detail) for v in component_checks(views)]
        for name, check in self._checks.items():
            wrong = check()
            checks.append(Check(name=name, ok=not wrong, detail=wrong or ""))
        return checks

    def is_ready(self) -> bool:
        """True if every readiness check passes."""
        return all(check.ok for check in self.readiness())

    def _ready_value(self) -> float:
        return 1.0 if self.is_ready() else 0.0

    def add_check(self, name: str, check: Callable[[], str | None]) -> None:
        """Add a condition of readiness; it returns what is wrong."""
        assert len(self._checks) < CHECKS_MAX
        self._checks[name] = check

    def add_door(self, name: str, close: Callable[[], Awaitable[None]]) -> None:
        """Add a door; see `NodeControl.add_door`."""
        assert len(self._doors) < CHECKS_MAX
        self._doors[name] = close

    def remove_door(self, name: str) -> None:
        """Remove a door."""
        self._doors.pop(name, None)

    async def close_doors(self) -> None:
        """Close all doors at once, and wait until what was inside is done; the caller's scope bounds it."""
        async with trio.open_nursery() as nursery:
            for name, close in self._doors.items():
                nursery.start_soon(self._close_door, name, close)

    async def _close_door(self, name: str, close: Callable[[], Awaitable[None]]) -> None:
        try:
            await close()
        except Exception as error:  # noqa: BLE001 (a door that is stuck must not keep the node from stopping)
            log.failed("kernel.door_failed", error, door=name)

    def add_status(self, name: str, source: Callable[[], Any]) -> None:
        """Add a section to ``/v1/status``."""
        assert len(self._sections) < SECTIONS_MAX
        self._sections[name] = source

    def remove_status(self, name: str) -> None:
        """Remove a section."""
        self._sections.pop(name, None)

    def status(self) -> Mapping[str, Any]:
        """Every contributed section; one that raises shows its error instead of taking the page down."""
        sections: dict[str, Any] = {}
        for name, source in self._sections.items():
            try:
                sections[name] = source()
            except Exception as error:  # noqa: BLE001 (a broken section must not hide the others)
                sections[name] = {"error": describe(error)}
        return sections

    async def load(self, name: str) -> None:
        """Load a plugin; see `PluginSet.load`."""
        await self._plugins().load(name)

    async def unload(self, name: str) -> None:
        """Unload a plugin; see `PluginSet.unload`."""
        await self._plugins().unload(name)

    async def reload(self, name: str) -> None:
        """Reload a plugin; see `PluginSet.reload`."""
        await self._plugins().reload(name)

    def _plugins(self) -> PluginSet:
        if self.plugins is None or self.stop_reason:
            raise NotReady(f"the node is {'stopping' if self.stop_reason else 'starting'}")
        return self.plugins

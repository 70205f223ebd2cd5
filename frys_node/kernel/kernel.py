"""The kernel: starts components and plugins in order, keeps them running, stops them in reverse.

    async with Kernel(...).running() as kernel:
        await kernel.start(channel, essential=True)      # returns when it is ready
        await kernel.load_plugins(specs, configs)
        kernel.mark_started()
        await kernel.wait_stop()                         # a signal handler calls request_stop()

Leaving the block closes the doors by which work comes in, then drains and stops everything in reverse order, all within
the grace. Cancelling it from outside (a
second signal) cuts everything at once; plugins still get their bounded `cleanup`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio

from frys_node.base.errors import NotReady
from frys_node.base.ports import Clock, Disk, Entropy, Executor
from frys_node.base.types import NodeId
from frys_node.kernel.bus import Bus
from frys_node.kernel.cell import Change
from frys_node.kernel.context import PluginContext, Services, ServiceScope
from frys_node.kernel.control import Control
from frys_node.kernel.lifecycle import RestartPolicy
from frys_node.kernel.plugins import PluginSet
from frys_node.kernel.registry import PluginSpec
from frys_node.kernel.services.node import NODE
from frys_node.kernel.supervisor import Component, ComponentFailed, Handle, Supervisor
from frys_node.observe.log import get_logger
from frys_node.observe.metrics import Metrics

GRACE_S = 25.0
"""Everything must have stopped by then: 5 s less than the 30 s after which an orchestrator kills."""

DRAIN_S = 5.0
"""One component's share of the grace, unless it has an attribute `drain_grace_s`."""

log = get_logger(__name__)


class Kernel:
    """One node's components, plugins, bus and services."""

    def __init__(
        self,
        *,
        node: NodeId,
        name: str,
        boot: int,
        data_dir: Path,
        clock: Clock,
        entropy: Entropy,
        disk: Disk,
        executor: Executor,
        metrics: Metrics | None = None,
        grace_s: float = GRACE_S,
    ) -> None:
        self.node, self.name, self.boot, self.data_dir = node, name, boot, data_dir
        self.clock, self.entropy, self.disk, self.executor = clock, entropy, disk, executor
        self.metrics = metrics or Metrics()
        self.bus = Bus(self._handler_failed, self.metrics)
        self.services = Services()
        self.control = Control(name, self.metrics)
        self.services.provide(NODE, self.control)
        self._grace_s = grace_s
        self._handler_errors = self.metrics.counter(
            "frys_kernel_bus_handler_errors_total", "Bus handlers that raised, by topic", ("topic",)
        )
        self._chosen: set[str] = set()
        self._stop = trio.Event()
        self._body: trio.CancelScope | None = None
        self._fatal: ComponentFailed | None = None
        self._supervisor: Supervisor | None = None
        self._plugins: PluginSet | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Kernel]:
        """Open the kernel; leaving the block stops everything.

        Raises:
            ComponentFailed: An essential component is past its budget; the rest was stopped in order.
        """
        failure: Exception | None = None
        async with trio.open_nursery() as nursery:
            self._open(nursery)
            try:
                with trio.CancelScope() as self._body:
                    await self._running_supervisor().start(self.control.pulse)
                    yield self
            except Exception as error:  # noqa: BLE001 (raised again once everything has stopped in order)
                failure = error
            await self.stop()
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if self._fatal is not None:
            raise self._fatal

    def _open(self, nursery: trio.Nursery) -> None:
        assert self._supervisor is None, "a kernel runs once"
        self._supervisor = Supervisor(
            nursery,
            bus=self.bus,
            metrics=self.metrics,
            rng=self.entropy.rng("kernel.supervisor"),
            on_fatal=self._essential_failed,
        )
        self._plugins = PluginSet(
            supervisor=self._supervisor, services=self.services, bus=self.bus, make_context=self._context
        )
        self.control.supervisor = self._supervisor
        self.control.plugins = self._plugins

    async def start(
        self, component: Component, *, essential: bool = False, policy: RestartPolicy | None = None
    ) -> Handle:
        """Start a component and return when it is ready; see `Supervisor.start`."""
        if self._stop.is_set():
            raise NotReady("the node is stopping")
        return await self._running_supervisor().start(component, essential=essential, policy=policy)

    async def load_plugins(
        self,
        specs: Iterable[PluginSpec],
        configs: Mapping[str, Any],
        modules: Mapping[str, str] | None = None,
        *,
        chosen: Iterable[str] = (),
    ) -> None:
        """Load the plugins of the config in dependency order; see `PluginSet.load_all`.

        Args:
            specs: What to load now.
            configs: Config of each plugin by name, of those not loaded now too (for a later `load`).
            modules: Modules that the config names for plugins that are not built in.
            chosen: Dotted keys that the operator set, such as ``plugins.network.http``.
        """
        assert self._plugins is not None
        self._plugins.know(configs, modules or {})
        self._chosen.update(chosen)
        await self._plugins.load_all(specs)

    async def reconfigure(self, configs: Mapping[str, Any]) -> list[Change]:
        """Apply changed plugin configs live, all or none; see `PluginSet.reconfigure`."""
        assert self._plugins is not None
        return await self._plugins.reconfigure(configs)

    def component(self, name: str) -> Any:
        """Return the running component of that name, None if there is none."""
        handle = self._running_supervisor().get(name)
        return handle.component if handle is not None else None

    def mark_started(self) -> None:
        """Everything that the node starts with has been started: readiness may turn on."""
        self.control.is_started = True
        log.info("kernel.node_started", components=len(self._running_supervisor().handles))

    def request_stop(self, reason: str) -> None:
        """Ask for an orderly stop: readiness turns off at once and `wait_stop` returns."""
        if not self._stop.is_set():
            self.control.stop_reason = reason
            log.info("kernel.stop_requested", reason=reason)
            self._stop.set()

    async def wait_stop(self) -> None:
        """Wait until somebody asks the node to stop."""
        await self._stop.wait()

    async def stop(self) -> None:
        """Close the doors, then drain and stop every component in reverse order of start, within the grace.

        Safe to call twice.
        """
        self.request_stop("the node is done")
        deadline_s = trio.current_time() + self._grace_s
        with trio.move_on_after(min(DRAIN_S, self._grace_s)):
            await self.control.close_doors()
        for handle in reversed(self._running_supervisor().handles):
            if handle.done.is_set():
                continue
            own_s = float(getattr(handle.component, "drain_grace_s", DRAIN_S))
            await handle.stop(max(0.0, min(own_s, deadline_s - trio.current_time())))

    def _running_supervisor(self) -> Supervisor:
        assert self._supervisor is not None, "use `async with kernel.running()`"
        return self._supervisor

    def _context(self, name: str, config: Any, services: ServiceScope, nursery: trio.Nursery) -> PluginContext:
        return PluginContext(
            node=self.node,
            name=self.name,
            boot=self.boot,
            data_dir=self.data_dir,
            clock=self.clock,
            entropy=self.entropy,
            disk=self.disk,
            executor=self.executor,
            bus=self.bus,
            services=services,
            metrics=self.metrics,
            config=config,
            nursery=nursery,
            chosen=frozenset(
                key.removeprefix(f"plugins.{name}.") for key in self._chosen if key.startswith(f"plugins.{name}.")
            ),
        )

    def _essential_failed(self, error: ComponentFailed) -> None:
        self._fatal = self._fatal or error
        self.request_stop(error.message)
        if self._body is not None:
            self._body.cancel()

    def _handler_failed(self, topic: type, error: BaseException) -> None:
        self._handler_errors.inc(topic.__name__)
        log.failed("kernel.bus_handler_failed", error, topic=topic.__name__)

"""The plugins of a running node: load, unload, reload and reconfigure, one change at a time.

An operator's change is all or nothing: what cannot be loaded is taken out again and the error says why; what cannot
be re-read is refused before the running plugin is touched.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import trio

from frys_node.base.errors import AlreadyExists, ConfigError, FrysError, NotFound, PluginError
from frys_node.kernel.bus import Bus
from frys_node.kernel.cell import Change, diff, refuse_restart
from frys_node.kernel.context import Services
from frys_node.kernel.hosts.native import ContextMaker, NativePlugin
from frys_node.kernel.lifecycle import State
from frys_node.kernel.registry import PluginSpec, dependents, find, fresh, order
from frys_node.kernel.supervisor import Handle, Supervisor
from frys_node.observe.log import describe, get_logger

GRACE_S = 5.0
"""How long one plugin may drain when an operator unloads or reloads it."""

log = get_logger(__name__)


class ConfigChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Published on the bus after a live config change was applied."""

    section: str
    fields: tuple[str, ...]


class PluginInUse(PluginError):
    """Other plugins build on this one. It keeps running."""

    code = "plugin.in_use"
    status = 409


class PluginSet:
    """Every plugin that this node has loaded."""

    def __init__(
        self,
        *,
        supervisor: Supervisor,
        services: Services,
        bus: Bus,
        make_context: ContextMaker,
    ) -> None:
        self._supervisor = supervisor
        self._services = services
        self._bus = bus
        self._make_context = make_context
        self._running: dict[str, NativePlugin] = {}
        self._configs: dict[str, Any] = {}
        self._modules: dict[str, str] = {}
        self._change = trio.Lock()

    @property
    def specs(self) -> list[PluginSpec]:
        """Specs of the loaded plugins, in load order."""
        return [plugin.spec for plugin in self._running.values()]

    def know(self, configs: Mapping[str, Any], modules: Mapping[str, str]) -> None:
        """Keep the configs and modules by which plugins are loaded by name later."""
        self._configs.update(configs)
        self._modules.update(modules)

    async def load_all(self, specs: Iterable[PluginSpec]) -> None:
        """Load plugins in dependency order at boot; one that crashes is tried again while the node goes on.

        Raises:
            DependencyError: They cannot be ordered. None was loaded.
            ConfigError: A plugin's settings are wrong (such as a busy port that was chosen).
        """
        async with self._change:
            for spec in order(specs, self._services.names()):
                await self._start(spec)

    async def load(self, name: str) -> None:
        """Find and load one plugin.

        Raises:
            AlreadyExists: It is loaded.
            PluginError: It is not acceptable, lacks a service, or did not start. It is not loaded.
        """
        async with self._change:
            if name in self._running:
                raise AlreadyExists(f"plugin '{name}' is loaded", hint=f"replace it: POST /v1/plugins/{name}/reload")
            spec = find(name, self._modules.get(name, ""))
            order([spec], self._services.names())
            await self._start_or_drop(spec)
        log.info("kernel.plugin_loaded", plugin=name, version=spec.manifest.version)

    async def unload(self, name: str) -> None:
        """Drain and stop one plugin.

        Raises:
            NotFound: It is not loaded.
            PluginInUse: Others build on it; it keeps running.
        """
        async with self._change:
            self._need(name)
            above = [spec.name for spec in dependents(name, self.specs)]
            if above:
                raise PluginInUse(
                    f"plugin '{name}' is needed by {', '.join(above)}", hint=f"unload {', '.join(above)} first"
                )
            await self._stop(name)
        log.info("kernel.plugin_unloaded", plugin=name)

    async def reload(self, name: str) -> None:
        """Replace one plugin by a fresh instance (and fresh code, if it is not built in), with all that build on it.

        Raises:
            NotFound: It is not loaded.
            PluginRejected: Its new code is not acceptable. The running instance was not touched.
            PluginError: The new instance did not start; the plugins named in the message are not loaded.
        """
        async with self._change:
            self._need(name)
            replaced = fresh(self._running[name].spec)
            others = [spec for spec in self.specs if spec.name != name]
            order([replaced, *others], self._foreign_services())
            group = [replaced, *dependents(name, self.specs)]
            for spec in reversed(group):
                await self._stop(spec.name)
            await self._start_group(group)
        log.info("kernel.plugin_reloaded", plugin=name, version=replaced.manifest.version)

    async def reconfigure(self, configs: Mapping[str, Any]) -> list[Change]:
        """Apply new validated configs of plugins, all of them or none.

        Raises:
            ReloadRefused: A changed field needs a restart, or a plugin refused. All run with their old config.
        """
        async with self._change:
            changed: dict[str, list[Change]] = {}
            for name, new in configs.items():
                old = self._configs.get(name)
                if old is not None and old != new:
                    changed[name] = diff(old, new, f"plugins.{name}.")
            refuse_restart(change for changes in changed.values() for change in changes)
            applied: list[str] = []
            try:
                for name in changed:
                    if name in self._running:
                        await self._running[name].reconfigure(configs[name])
                    applied.append(name)
            except FrysError:
                for name in reversed(applied):
                    if name in self._running:
                        await self._running[name].reconfigure(self._configs[name])
                raise
            self._configs.update(configs)
        for name, changes in changed.items():
            fields = tuple(change.path for change in changes)
            log.info("kernel.config_changed", section=f"plugins.{name}", fields=",".join(fields))
            self._bus.publish(ConfigChanged(section=f"plugins.{name}", fields=fields))
        return [change for changes in changed.values() for change in changes]

    def went_down(self, name: str) -> None:
        """Recycle what builds on a plugin whose run has just ended: it holds services that are gone."""
        for spec in dependents(name, self.specs):
            handle = self._supervisor.get(spec.name)
            if handle is not None:
                handle.recycle()

    def _need(self, name: str) -> None:
        if name not in self._running:
            raise NotFound(f"plugin '{name}' is not loaded", hint="GET /v1/plugins shows what is")

    def _foreign_services(self) -> set[str]:
        """Services that no plugin provides."""
        return set(self._services.names()) - {s for spec in self.specs for s in spec.manifest.provides}

    async def _start(self, spec: PluginSpec) -> Handle:
        plugin = NativePlugin(
            spec,
            self._configs.get(spec.name),
            services=self._services,
            bus=self._bus,
            make_context=self._make_context,
            on_down=self.went_down,
        )
        self._running[spec.name] = plugin
        return await self._supervisor.start(plugin)

    async def _start_or_drop(self, spec: PluginSpec) -> None:
        """Start a plugin; take it out again if its first try does not end in ready."""
        started = False
        try:
            handle = await self._start(spec)
            started = handle.state is State.READY
        finally:
            if not started:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + GRACE_S):
                    await self._stop(spec.name)
        if not started:
            cause = describe(handle.error) if handle.error is not None else "it was stopped"
            raise PluginError(f"plugin '{spec.name}' did not start: {cause}", hint="it is not loaded") from handle.error

    async def _start_group(self, group: Sequence[PluginSpec]) -> None:
        failed: list[str] = []
        for spec in group:
            try:
                await self._start_or_drop(spec)
            except (PluginError, ConfigError) as error:
                failed.append(error.message)
        if failed:
            raise PluginError("; ".join(failed))

    async def _stop(self, name: str) -> None:
        handle = self._supervisor.get(name)
        if handle is not None:
            await handle.stop(GRACE_S)
            self._supervisor.forget(name)
        self._running.pop(name, None)

"""Runs a plugin in this process, as a component under the supervisor.

Native means trusted: this host isolates faults (an exception fails the plugin, not the node), it is no sandbox.
Each run makes a fresh instance, so a restarted plugin starts from its durable state and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio

from frys_node.base.errors import PluginError
from frys_node.kernel.bus import Bus
from frys_node.kernel.context import PluginContext, Services, ServiceScope
from frys_node.kernel.plugin import Plugin
from frys_node.kernel.registry import PluginSpec
from frys_node.observe.log import get_logger

CLEANUP_S = 5.0
"""How long `cleanup` may take, even when the node is being cancelled."""

ContextMaker = Callable[[str, Any, ServiceScope, trio.Nursery], PluginContext]

log = get_logger(__name__)


class NativePlugin:
    """One plugin as a component: init, load, run, and always clean up."""

    def __init__(
        self,
        spec: PluginSpec,
        config: Any,
        *,
        services: Services,
        bus: Bus,
        make_context: ContextMaker,
        on_down: Callable[[str], None],
    ) -> None:
        self.spec = spec
        self.config = config
        self._services = services
        self._bus = bus
        self._make_context = make_context
        self._on_down = on_down
        self._plugin: Plugin | None = None

    @property
    def name(self) -> str:
        """The component's name: the plugin's."""
        return self.spec.name

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Live through one load of the plugin."""
        self._check_required()
        plugin = self.spec.factory()
        scope = self._services.scope()
        offs: list[Callable[[], None]] = []
        try:
            failure: Exception | None = None
            async with trio.open_nursery() as nursery:
                try:
                    await plugin.init(self._make_context(self.name, self.config, scope, nursery))
                    self._check_provided(scope)
                    offs += [self._bus.on(topic, plugin.handle_message) for topic in self.spec.manifest.topics]
                    await plugin.on_load()
                except Exception as error:  # noqa: BLE001 (raised below, as itself: a ConfigError must be known as one)
                    failure = error
                    nursery.cancel_scope.cancel()
                else:
                    self._plugin = plugin
                    task_status.started()
                    await trio.sleep_forever()
            if failure is not None:
                raise failure
        finally:
            self._plugin = None
            for off in offs:
                off()
            try:
                with trio.move_on_after(CLEANUP_S, shield=True) as cleaning:
                    await plugin.cleanup()
                if cleaning.cancelled_caught:
                    log.error("kernel.plugin_cleanup_cut", plugin=self.name, after_s=CLEANUP_S)
            finally:
                scope.withdraw_all()
                self._on_down(self.name)

    async def drain(self) -> None:
        """Ask the plugin to stop taking work and to finish what is in flight."""
        if self._plugin is not None:
            await self._plugin.on_unload()

    async def reconfigure(self, new: Any) -> None:
        """Hand a changed config to the running plugin; one that does not run gets it at its next start.

        Raises:
            ReloadRefused: The plugin refused. The old config stands.
        """
        if self._plugin is not None:
            await self._plugin.on_config_change(self.config, new)
        self.config = new

    def _check_required(self) -> None:
        missing = [name for name in self.spec.manifest.requires if name not in self._services.names()]
        if missing:
            raise PluginError(
                f"plugin '{self.name}' requires {', '.join(missing)}, which nobody provides now",
                hint="see the state of the plugin that provides it: frys-node status",
            )

    def _check_provided(self, scope: ServiceScope) -> None:
        declared, provided = set(self.spec.manifest.provides), set(scope.provided)
        if declared != provided:
            raise PluginError(
                f"plugin '{self.name}' declares {sorted(declared)} and provides {sorted(provided)}",
                hint="`provides` in the manifest and the calls of provide() in init must agree",
            )

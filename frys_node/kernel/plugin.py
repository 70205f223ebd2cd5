"""The plugin protocol: what a service implements so that the kernel can load, reload and unload it.

Order of calls: ``metadata`` -> ``init`` -> ``on_load`` -> (``handle_message`` | ``on_config_change``)* ->
``on_unload`` -> ``cleanup``. A plugin's background tasks live in ``context.nursery`` and are cancelled after
``on_unload`` returned. An exception in one of them fails the plugin, never the node.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from frys_node.kernel.context import PluginContext


class PluginManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin is, offers and needs."""

    name: str
    version: str
    provides: tuple[str, ...] = ()
    """Names of the service keys that it sets in `init`."""
    requires: tuple[str, ...] = ()
    """Names of the service keys that must be provided before its `init`."""
    topics: tuple[type, ...] = ()
    """Bus topics (event types) delivered to `handle_message`."""
    config: type | None = None
    """The Struct of ``[plugins.<name>]``."""


class Plugin(Protocol):
    """A service of the node."""

    def metadata(self) -> PluginManifest:
        """Say what this plugin is; called before anything else, without side effects."""
        ...

    async def init(self, context: PluginContext) -> None:
        """Build state and provide services; open nothing that serves others yet."""
        ...

    async def on_load(self) -> None:
        """Go live: replay journals, register routes and RPC methods, start tasks; return when ready."""
        ...

    def handle_message(self, message: Any) -> None:
        """Take one bus event; must not block."""
        ...

    async def on_config_change(self, old: Any, new: Any) -> None:
        """Apply a validated new config or raise `ReloadRefused`, then the old one stands."""
        ...

    async def on_unload(self) -> None:
        """Drain: stop taking work, finish what is in flight, flush. Bounded by the kernel's grace."""
        ...

    async def cleanup(self) -> None:
        """Release everything; called even after a failed start."""
        ...

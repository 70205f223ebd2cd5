"""A plugin for tests: blocks its node's event loop between the appearance of two files, as a long computation does."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import trio

from frys_node.kernel.context import PluginContext
from frys_node.kernel.plugin import PluginManifest

BEGIN, END = Path("hang"), Path("go-on")
"""In the node's working directory."""

HANG_S_MAX = 25.0
"""Less than `stall_max_s`: if the test dies the node does not stand still for ever."""


def _is_there(path: Path) -> bool:
    return path.exists()


class HangingPlugin:
    """Hangs once."""

    def metadata(self) -> PluginManifest:
        """Say what this is."""
        return PluginManifest(name="hanging", version="1")

    async def init(self, context: PluginContext) -> None:
        """Keep the nursery."""
        self._nursery = context.nursery
        await trio.lowlevel.checkpoint()

    async def on_load(self) -> None:
        """Wait for the order in the background."""
        self._nursery.start_soon(self._hang)
        await trio.lowlevel.checkpoint()

    async def _hang(self) -> None:
        while not _is_there(BEGIN):  # noqa: ASYNC110 (a file has no event)
            await trio.sleep(0.05)
        end_s = time.monotonic() + HANG_S_MAX
        while not _is_there(END) and time.monotonic() < end_s:
            time.sleep(0.01)  # noqa: ASYNC251 (this is the hang)

    def handle_message(self, message: Any) -> None:
        """Take nothing: no topic is subscribed to."""

    async def on_config_change(self, old: Any, new: Any) -> None:
        """Take nothing: there are no settings."""
        await trio.lowlevel.checkpoint()

    async def on_unload(self) -> None:
        """The nursery ends the task."""
        await trio.lowlevel.checkpoint()

    async def cleanup(self) -> None:
        """Nothing is held."""
        await trio.lowlevel.checkpoint()

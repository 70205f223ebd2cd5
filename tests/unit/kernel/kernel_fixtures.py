"""Components and plugins whose every step the kernel's tests can see and steer."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import trio

from frys_node.base.types import NodeId
from frys_node.kernel.context import PluginContext
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.plugin import PluginManifest
from frys_node.kernel.registry import PluginSpec
from frys_node.kernel.services import ServiceKey


class SeededEntropy:
    """Entropy that repeats."""

    def token_bytes(self, count: int) -> bytes:
        """Return fixed bytes."""
        return b"e" * count

    def rng(self, name: str) -> Random:
        """Return a generator seeded by the name."""
        return Random(name)


class TrioClock:
    """trio's clock, so that the test clock reaches the kernel."""

    def now_s(self) -> float:
        """Monotonic seconds."""
        return trio.current_time()

    def unix_ns(self) -> int:
        """Wall time derived from it."""
        return int(trio.current_time() * 1e9)


class NoDisk:
    """A disk that these tests never touch; using it is an AttributeError."""


class Part:
    """A component that writes down what happens to it."""

    def __init__(self, name: str, diary: list[str], *, drain_s: float = 0.0, start_s: float = 0.0) -> None:
        self.name = name
        self.diary = diary
        self.drain_s, self.start_s = drain_s, start_s
        self.crash_before_ready = 0
        self.runs = 0
        self.explode = trio.Event()
        self.error: BaseException = RuntimeError("boom")

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Start, then wait to be cancelled or told to crash."""
        self.runs += 1
        self.diary.append(f"{self.name} starts")
        try:
            await trio.sleep(self.start_s)
            if self.runs <= self.crash_before_ready:
                raise self.error
            task_status.started()
            self.diary.append(f"{self.name} ready")
            await self.explode.wait()
            self.explode = trio.Event()
            raise self.error
        finally:
            self.diary.append(f"{self.name} ends")

    async def drain(self) -> None:
        """Take `drain_s` to finish."""
        self.diary.append(f"{self.name} drains")
        await trio.sleep(self.drain_s)
        self.diary.append(f"{self.name} drained")


class ToyConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A plugin's config."""

    volume: int = 1


class Toy:
    """A plugin that writes down its calls and provides what its manifest says."""

    def __init__(self, manifest: PluginManifest, diary: list[str], hooks: dict[str, Callable[[Toy], Any]]) -> None:
        self.manifest, self.diary, self.hooks = manifest, diary, hooks
        self.context: PluginContext | None = None
        self.seen: list[Any] = []

    def metadata(self) -> PluginManifest:
        """Return the manifest."""
        return self.manifest

    async def init(self, context: PluginContext) -> None:
        """Provide the declared services."""
        self.context = context
        await self._step("init")
        for name in self.manifest.provides:
            context.provide(ServiceKey(name), self)

    async def on_load(self) -> None:
        """Go live."""
        await self._step("load")

    def handle_message(self, message: Any) -> None:
        """Keep the event."""
        self.seen.append(message)

    async def on_config_change(self, old: Any, new: Any) -> None:
        """Take the new config."""
        await self._step("config", f" {old.volume}->{new.volume}")

    async def on_unload(self) -> None:
        """Drain."""
        await self._step("unload")

    async def cleanup(self) -> None:
        """Release."""
        await self._step("cleanup")

    async def _step(self, step: str, detail: str = "") -> None:
        self.diary.append(f"{self.manifest.name} {step}{detail}")
        hook = self.hooks.get(step)
        if hook is not None:
            hook(self)
        await trio.lowlevel.checkpoint()


def toy(
    name: str,
    diary: list[str],
    *,
    provides: tuple[str, ...] = (),
    requires: tuple[str, ...] = (),
    topics: tuple[type, ...] = (),
    made: list[Toy] | None = None,
    **hooks: Callable[[Toy], Any],
) -> PluginSpec:
    """Return the spec of a toy plugin; `made` collects its instances."""
    manifest = PluginManifest(
        name=name, version="1", provides=provides, requires=requires, topics=topics, config=ToyConfig
    )

    def create() -> Toy:
        plugin = Toy(manifest, diary, hooks)
        if made is not None:
            made.append(plugin)
        return plugin

    return PluginSpec(manifest=manifest, factory=create, source="built-in", module=__name__)


def make_kernel(**settings: Any) -> Kernel:
    """Return a kernel over the fakes of this file."""
    return Kernel(
        node=NodeId("0" * 32),
        name="toy",
        boot=1,
        data_dir=Path("/nowhere"),
        clock=TrioClock(),
        entropy=SeededEntropy(),
        disk=NoDisk(),  # type: ignore[arg-type]
        executor=NoDisk(),  # type: ignore[arg-type]
        **settings,
    )


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Kernel]:
    """Run a kernel for the length of the block."""
    async with make_kernel(**settings).running() as kernel:
        yield kernel

"""What the node says of itself, and its plugins' switchboard. Provided by `frys_node.kernel`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from frys_node.kernel.services import ServiceKey


class ComponentView(msgspec.Struct, frozen=True, kw_only=True):
    """One component's state."""

    name: str
    state: str
    """``resolved starting ready draining stopped failed`` (`frys_node.kernel.lifecycle`)."""
    error: str = ""
    restarts: int = 0
    for_s: float = 0.0
    """Seconds in this state."""
    essential: bool = False
    version: str = ""
    """Of a plugin; empty for other components."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One condition of readiness or liveness."""

    name: str
    ok: bool
    detail: str = ""


class NodeControl(Protocol):
    """The kernel, as components see it."""

    @property
    def name(self) -> str:
        """The node's name."""
        ...

    @property
    def uptime_s(self) -> float:
        """Seconds since the kernel was made."""
        ...

    @property
    def loop_lag_s(self) -> float:
        """How late the event loop woke at its last beat."""
        ...

    def components(self) -> Sequence[ComponentView]:
        """Every component in start order."""
        ...

    def liveness(self) -> Sequence[Check]:
        """Whether this process turns; never depends on peers."""
        ...

    def readiness(self) -> Sequence[Check]:
        """Whether this node should get traffic."""
        ...

    def add_check(self, name: str, check: Callable[[], str | None]) -> None:
        """Add a condition of readiness; it returns what is wrong, None when nothing is. Same name replaces."""
        ...

    def is_ready(self) -> bool:
        """True if every condition of readiness holds."""
        ...

    def add_door(self, name: str, close: Callable[[], Awaitable[None]]) -> None:
        """Call `close` when the node begins to stop, before any component is drained; same name replaces.

        A door is where work comes in from outside: closing it lets in no more and waits for what is inside.
        """
        ...

    def remove_door(self, name: str) -> None:
        """Remove a door."""
        ...

    def add_status(self, name: str, source: Callable[[], Any]) -> None:
        """Add a section to ``/v1/status``; the value must encode as JSON. Same name replaces."""
        ...

    def remove_status(self, name: str) -> None:
        """Remove a section."""
        ...

    def status(self) -> Mapping[str, Any]:
        """Every contributed section, by name."""
        ...

    async def load(self, name: str) -> None:
        """Load a plugin with the config that the node holds for it."""
        ...

    async def unload(self, name: str) -> None:
        """Drain and unload a plugin; refused while others build on it."""
        ...

    async def reload(self, name: str) -> None:
        """Unload a plugin and what builds on it, and load them all again."""
        ...


NODE: ServiceKey[NodeControl] = ServiceKey("node")

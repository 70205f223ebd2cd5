"""Handing single-owner units over between nodes. Implemented by the plugins that own such units (workflow).

Replicated kinds (cache, vector) need none of this: their copies are complete on both sides. A unit with one owner
must stop on the old side before it starts on the new one; the phases of the topology record order that:

``joining``  the new owner calls `pull` (a bulk copy while the old owner goes on)
``joint``    the old owner calls `seal`; then the new owner calls `pull` once more, now of a state that stands still
``stable``   the new owner calls `start`, the old one `drop`

An abort (back to ``stable`` with the old set) is `unseal` on the old owner and `drop` on the new one. Every verb may be
repeated, after a crash too.
"""

from __future__ import annotations

from typing import Protocol

from frys_node.base.errors import PluginError
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services import ServiceKey


class UnitMover(Protocol):
    """Moves the units of one kind."""

    async def seal(self, unit: UnitId) -> None:
        """Stop the unit here: once this returns no write to it is acknowledged any more, and all earlier ones stand."""
        ...

    async def unseal(self, unit: UnitId) -> None:
        """The move was called off: serve the unit again."""
        ...

    async def pull(self, unit: UnitId, source: NodeId) -> int:
        """Copy the unit's state from its holder, replacing what is here; return the bytes transferred."""
        ...

    async def start(self, unit: UnitId) -> None:
        """This node owns the unit now: take a new epoch and serve it."""
        ...

    async def drop(self, unit: UnitId) -> None:
        """The unit lives elsewhere: forget its state."""
        ...


class Movers:
    """The movers of a node, by kind (the first part of a unit id)."""

    __slots__ = ("_movers",)

    def __init__(self) -> None:
        self._movers: dict[str, UnitMover] = {}

    def register(self, kind: str, mover: UnitMover) -> None:
        """Declare the mover of a kind.

        Raises:
            PluginError: The kind has one. The first one stands.
        """
        if kind in self._movers:
            raise PluginError(f"units of kind '{kind}' have a mover already")
        self._movers[kind] = mover

    def withdraw(self, kind: str) -> None:
        """Forget the mover of a kind (its plugin unloads)."""
        self._movers.pop(kind, None)

    def find(self, unit: UnitId) -> UnitMover | None:
        """Return the mover of the unit's kind, or None if units of this kind need none."""
        return self._movers.get(unit.partition("/")[0])

    def kinds(self) -> list[str]:
        """Kinds that have a mover."""
        return sorted(self._movers)


MOVERS: ServiceKey[Movers] = ServiceKey("movers")

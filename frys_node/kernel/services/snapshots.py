"""Capturing and restoring units as manifests and chunks. Provided by `snapshots`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services import ServiceKey


class Captured(Protocol):
    """A point-in-time state of a unit; it does not change while it is read."""

    def parts(self) -> AsyncIterator[bytes]:
        """The state's bytes in order, deterministic for equal state; pieces of any size up to 1 MiB."""
        ...


class Snapshottable(Protocol):
    """What a kind of unit offers so that its units can move and be saved."""

    def units(self) -> Sequence[UnitId]:
        """Units held here."""
        ...

    async def sizes(self) -> Mapping[UnitId, int]:
        """About how many bytes a copy of each unit held here takes, for plans and pictures."""
        ...

    async def capture(self, unit: UnitId) -> Captured:
        """Fix the state now and return it."""
        ...

    async def restore(self, unit: UnitId, parts: AsyncIterator[bytes]) -> None:
        """Merge (replicated kinds: newer versions win) or install (workflow partitions) verified bytes, durably."""
        ...


class MoveProgress(msgspec.Struct, frozen=True, kw_only=True):
    """A unit on its way to this node."""

    unit: UnitId
    source: NodeId
    state: str
    bytes_done: int
    bytes_total: int
    rate_bytes_s: float
    eta_s: float | None
    started_unix_ns: int
    held_back: str = ""
    """Why it is slow or stands still, for people; empty when nothing holds it back."""


class Snapshots(Protocol):
    """The snapshot component."""

    def register(self, kind: str, source: Snapshottable, *, replaces: bool = False) -> None:
        """Declare how units of a kind are captured and restored, and whether restoring loses what came since."""
        ...

    async def pull(self, unit: UnitId, source: NodeId, progress: Callable[[MoveProgress], None] | None = None) -> int:
        """Copy a unit's state from a node: offer, missing chunks only, each digest checked, then restore.

        Returns the bytes transferred. Resumable: chunks already here are not asked for again.
        """
        ...

    def may_give(self) -> bool:
        """False while moves from this node have to wait: they stand still, or are at their rate."""
        ...

    def gave(self, receiver: NodeId, size_bytes: int) -> None:
        """Count bytes that went to another node beside a snapshot: they are part of the rate of moves."""
        ...

    def moves(self) -> Sequence[MoveProgress]:
        """Moves under way and the last finished ones."""
        ...


SNAPSHOTS: ServiceKey[Snapshots] = ServiceKey("snapshots")

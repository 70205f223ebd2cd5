"""Capturing and restoring units as manifests and chunks. Provided by `snapshots`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import msgspec

from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services import ServiceKey


class Captured(Protocol):
    """A point-in-time state of a unit; it does not change while it is read."""

    def parts(self) -> AsyncIterator[bytes]:
        """The state's bytes in order, deterministic for equal state; pieces of any size up to 1 MiB."""
        ...


class SavedState(NamedTuple):
    """A unit's state as it was saved."""

    unit: UnitId
    parts: AsyncIterator[bytes]


class Piece(NamedTuple):
    """Bytes that a unit can restore by themselves; `items` is how many keys or runs they hold, without deletions."""

    unit: UnitId
    data: bytes
    items: int
    keys: Sequence[bytes] = ()
    """Which ones; told by kinds whose `restore` replaces."""


class Rerouting(Protocol):
    """Where the keys of saved units belong under the record of now."""

    def is_same(self, kind: str) -> bool:
        """True if each key of that kind belongs to the unit that it was saved from."""
        ...

    def unit_of(self, unit: UnitId, key: bytes) -> UnitId | None:
        """The unit of a key that was saved from `unit`; None if what it belonged to is gone."""
        ...


class Snapshottable(Protocol):
    """What a kind of unit offers so that its units can move and be saved."""

    def units(self) -> Sequence[UnitId]:
        """Units held here."""
        ...

    async def sizes(self) -> Mapping[UnitId, int]:
        """About how many bytes a copy of each unit held here takes, for plans and pictures."""
        ...

    def is_whole(self, unit: UnitId) -> bool:
        """False if the unit is not here, or not all of it yet: a save of it would lack data."""
        ...

    async def capture(self, unit: UnitId) -> Captured:
        """Fix the state now and return it."""
        ...

    async def restore(self, unit: UnitId, parts: AsyncIterator[bytes], *, only_empty: bool = False) -> int | None:
        """Merge (replicated kinds: newer versions win) or install (workflow partitions) verified bytes, durably.

        With `only_empty` a kind that replaces refuses (`AlreadyExists`) a unit that has something by now. Returns how
        many items were new here, for people; None: all of them.
        """
        ...

    def regroup(self, states: AsyncIterator[SavedState], routing: Rerouting) -> AsyncIterator[Piece]:
        """Yield saved states, perhaps of another cluster, in pieces for the units that their keys belong to now.

        A kind whose `restore` replaces yields one piece for each unit.
        """
        ...

    async def has_data(self, unit: UnitId) -> bool:
        """True if replacing the unit would lose something."""
        ...

    async def has_keys(self, unit: UnitId, keys: Sequence[bytes]) -> bool:
        """True if the unit has every one of these: then a saved state brings it nothing that it lacks."""
        ...

    async def restored(self, unit: UnitId) -> None:
        """All that a snapshot holds of the unit is in, by however many pieces; called at the only member of its set."""
        ...

    async def revive(self, piece: Piece) -> int | None:
        """Bring a piece back by writes of this node; returns how many items were written.

        None, and nothing was done, if the piece is to be given to the unit's members, who `restore` it.
        """
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

    def may_take(self) -> bool:
        """False while moves to this node have to wait: they stand still, or are at their rate."""
        ...

    def took(self, size_bytes: int) -> None:
        """Count bytes that came from another node beside a snapshot."""
        ...

    def asked(self) -> None:
        """Count a question of another node behind which one of its clients waits: moves begin slowly here as well."""
        ...

    def moves(self) -> Sequence[MoveProgress]:
        """Moves under way and the last finished ones."""
        ...


SNAPSHOTS: ServiceKey[Snapshots] = ServiceKey("snapshots")

"""Leaderless, versioned, replicated data by unit (D6). Provided by `frys_node.replication`.

A plugin registers a *kind* (the first part of a unit id) with a factory of in-memory stores. The engine owns
versions, quorums, the log on disk (for durable kinds), repair and moves; the store only applies and answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import msgspec

from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.services import ServiceKey


class Version(msgspec.Struct, frozen=True, order=True, array_like=True, gc=False):
    """Order of writes: hybrid logical clock, then coordinator, then its boot (replication rule 3).

    Not a tuple: the collector of cycles would walk over one for each entry that is held, 35 ms for 200,000.
    """

    hlc_ms: int
    counter: int
    node: NodeId
    boot: int


ENTRY_BYTES = 56
"""What an entry takes beside its key and value when it travels: its version, and lengths."""


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One versioned key of a unit. `value` None is a tombstone."""

    key: bytes
    version: Version
    value: bytes | None

    @property
    def size_bytes(self) -> int:
        """About what it takes when it travels."""
        return ENTRY_BYTES + len(self.key) + len(self.value or b"")


class Stamp(NamedTuple):
    """The version that a replica holds of a key, without the value."""

    version: Version
    is_deleted: bool


class Changes(NamedTuple):
    """What was held, and what is held now, under some keys of a unit; None is nothing."""

    is_all: bool
    """These are all keys held, and nothing is said to have been held before."""
    pairs: Iterable[tuple[Entry | None, Entry | None]]


class UnitStore(Protocol):
    """A unit's data in memory. Called on the node's thread, synchronously, one call at a time."""

    def get(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """The entries held, tombstones included, in the order of the keys."""
        ...

    def put(self, entries: Sequence[Entry]) -> None:
        """Apply entries. The engine has dropped those that are not newer than what is held."""
        ...

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget entries as if they had never been here: their tombstones are needed no more (rule 16)."""
        ...

    def entries(self) -> Iterable[Entry]:
        """Every entry held, tombstones included, in a stable order."""
        ...

    def keys(self) -> Iterable[bytes]:
        """The key of every entry held, tombstones included, in any order; much cheaper than the entries."""
        ...

    def changed(self) -> Changes:
        """What changed since the last call, whoever changed it, or all that is held if that is not known.

        Asked of stores of a kind in memory, which evict and expire by themselves: their hash tree follows from it.
        """
        ...

    def size_bytes(self) -> int:
        """About how many bytes the entries take when they travel; cheap, for plans and pictures."""
        ...

    def clear(self) -> None:
        """Forget everything (a joiner wipes first, rule 12)."""
        ...


@runtime_checkable
class Freezable(Protocol):
    """A `UnitStore` whose entries take long to make: a capture of all of them at once would hold the event loop."""

    def freeze(self) -> Iterator[Entry]:
        """Return the entries as they are now, tombstones included, sorted by key; each is made when it is asked for."""
        ...


@runtime_checkable
class Dated(Protocol):
    """A `UnitStore` that tells what was written lately without making its entries."""

    def since(self, version: Version) -> Iterable[bytes]:
        """Return the keys whose entries, tombstones included, are not below a version, in any order."""
        ...


@runtime_checkable
class Evicting(Protocol):
    """A `UnitStore` that forgets what it has no room for: what it does not hold reads as a tombstone at its floor."""

    evict_floor: Version | None
    """Above every version that was forgotten; None: none was."""

    def raise_evict_floor(self, floor: Version) -> None:
        """Let nothing come that is below a version and not held; what is held stays."""
        ...


class Replication(Protocol):
    """Quorum writes and reads of units."""

    def register(self, kind: str, factory: Callable[[UnitId], UnitStore], *, durable: bool) -> None:
        """Declare a kind. Durable kinds are logged and fsynced before a write is acknowledged."""
        ...

    async def write(
        self,
        unit: UnitId,
        items: Sequence[tuple[bytes, bytes | None]],
        consistency: Consistency = Consistency.QUORUM,
    ) -> Version:
        """Write keys (None deletes) under one version; returns once enough replicas acknowledged (both sets in joint).

        Raises:
            NoReplica: Not enough answered before the caller's deadline; the write may still appear.
        """
        ...

    async def write_units(
        self,
        parts: Mapping[UnitId, Sequence[tuple[bytes, bytes | None]]],
        consistency: Consistency = Consistency.QUORUM,
    ) -> dict[UnitId, Version]:
        """Write keys of many units side by side, each unit under a version; raises as `write` does.

        What goes to one replica goes in one message. After a failure some units may be written.
        """
        ...

    def stamp_alone(self, kind: str) -> Version | None:
        """Return a version above everything held of a kind that lives in memory and on this node alone; else None.

        Then a write is done once its entries, under this version, are put into the stores of their units.
        """
        ...

    async def read(
        self, unit: UnitId, keys: Sequence[bytes], consistency: Consistency = Consistency.ONE
    ) -> list[Entry | None]:
        """Newest entries of the keys among the replicas asked, tombstones included."""
        ...

    async def versions(
        self, unit: UnitId, keys: Sequence[bytes], consistency: Consistency = Consistency.QUORUM
    ) -> list[Stamp | None]:
        """Newest versions of the keys, tombstones included: the verify round of searches and scans (rule 7)."""
        ...

    def local(self, unit: UnitId) -> UnitStore | None:
        """This node's store of the unit if it is a complete replica under the adopted record, else None."""
        ...

    def replicas(self, unit: UnitId) -> Sequence[NodeId]:
        """Members of the current set that look usable, the best one to read from first."""
        ...


REPLICATION: ServiceKey[Replication] = ServiceKey("replication")

"""The store interface: seven verbs with epochs. Sans-I/O: values and Protocols only.

A store keeps, by partition, one row and one journal per run. Its promise:

1. Every write names the partition's epoch, and the epoch is checked inside the same atomic operation.
2. `append` returns after the bytes are durable (fsync), never before.
3. An append names the length of the journal that it extends; any other length is a `Conflict`, so a broken fence
   still ends in a refused write instead of a forked history.
4. An append is atomic: row, journal and state change together or not at all.

The seven verbs: `acquire`, `renew`/`release`, `append`, `read`, `export`/`install`/`drop`, `query`/`sizes`,
`caps`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from frys_node.base.errors import FrysError, StorageError

APPEND_BYTES_MAX = 16 << 20
"""Largest journal piece, meta or state of one append; larger ones are refused before they reach the disk."""

QUERY_ROWS_MAX = 10_000
"""Most rows that one `query` returns; ask again with `before` for more."""


class Fenced(StorageError):
    """The partition has a newer owner or is sealed. Nothing was written."""

    code = "storage.fenced"
    retryable = True
    status = 503


class Conflict(StorageError):
    """The journal has another length than the writer believes. Nothing was written."""

    code = "storage.conflict"
    retryable = True
    status = 409


class RunExists(StorageError):
    """A run with this id exists. Nothing was written."""

    code = "storage.run_exists"
    status = 409


class NewRun(msgspec.Struct, frozen=True, kw_only=True):
    """What is fixed when a run is created."""

    label: str
    """What lists are filtered by: ``namespace/name``."""
    created_ns: int
    meta: bytes
    """Immutable description; the store does not look inside."""


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """One atomic change of one run: its journal grows by `count` entries and its row is rewritten."""

    partition: int
    epoch: int
    run: str
    expect_seq: int
    """Entries in the journal before this append; 0 together with `new` creates the run."""
    count: int
    data: bytes
    """The entries, encoded together; empty when `count` is 0."""
    status: str
    live: bool
    """False once the run can never change again by itself."""
    wake_at_s: float | None
    """Unix seconds of the earliest timer, None if there is none."""
    updated_ns: int
    state: bytes = b""
    """Output or error, replaced by each append; the store does not look inside."""
    new: NewRun | None = None


class RunRow(msgspec.Struct, frozen=True, kw_only=True):
    """The committed row of a run."""

    id: str
    partition: int
    seq: int
    status: str
    live: bool
    label: str
    wake_at_s: float | None
    created_ns: int
    updated_ns: int
    meta: bytes
    state: bytes


class Chunk(msgspec.Struct, frozen=True):
    """Consecutive entries of a journal, as one append wrote them."""

    seq: int
    """Index of the first entry."""
    count: int
    data: bytes


class RunQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which rows, newest first. Empty fields do not restrict."""

    run: str = ""
    partitions: tuple[int, ...] = ()
    label: str = ""
    status: str = ""
    live_only: bool = False
    before: tuple[int, str] | None = None
    """Only rows older than this (created_ns, id): where the page before ended."""
    limit: int = QUERY_ROWS_MAX


class StoreCaps(msgspec.Struct, frozen=True, kw_only=True):
    """What a store can do."""

    name: str
    is_durable: bool
    """Acknowledged appends survive a crash of the process and of the machine."""
    is_shared: bool
    """Other nodes can open the same store and take partitions over."""


class JournalStore(Protocol):
    """Journals of runs by partition."""

    async def acquire(self, partitions: Sequence[int], owner: str, ttl_s: float = 0.0) -> Mapping[int, int]:
        """Take partitions whose lease is over, is the owner's own, or was released; all in one atomic step.

        Each one taken gets a new, higher epoch, which fences every earlier holder. With ``ttl_s=0`` no lease is left
        behind and the next acquire succeeds at once (an embedded store has one process at a time).

        Returns:
            The epochs of those taken; a partition that another owner's lease protects is missing.
        """
        ...

    async def renew(self, partition: int, epoch: int, ttl_s: float) -> None:
        """Extend the lease. `Fenced` when the epoch is not the partition's any more."""
        ...

    async def release(self, partition: int, epoch: int) -> None:
        """Give the partition up: from now on appends under this epoch are `Fenced`. Repeating it is harmless."""
        ...

    async def append(self, appends: Sequence[Append]) -> list[FrysError | None]:
        """Apply the appends in order and return, once they are durable, what became of each.

        None means durable; `Fenced`, `Conflict` or `RunExists` means that one was refused and left nothing behind.

        Raises:
            StorageError: The disk refused. None of the appends was written.
        """
        ...

    async def read(self, run: str, from_seq: int = 0) -> list[Chunk]:
        """Return the journal pieces that hold entries from `from_seq` on, in order; empty for an unknown run."""
        ...

    async def query(self, query: RunQuery) -> list[RunRow]:
        """Return committed rows, newest first (by creation, then id)."""
        ...

    async def sizes(self) -> Mapping[int, int]:
        """Return the bytes of runs and journals by partition; partitions without any may be missing."""
        ...

    async def export(self, partition: int) -> AsyncIterator[bytes]:
        """Fix the partition's state now and return its bytes, equal for equal state, in pieces up to 256 KiB."""
        ...

    async def install(self, partition: int, pieces: Iterable[bytes]) -> int:
        """Replace the partition's content by exported bytes, atomically and durably; return the number of runs.

        Raises:
            CorruptData: Not a whole export of this partition. The old content stands.
        """
        ...

    async def drop(self, partition: int) -> None:
        """Forget the partition's runs, durably; its epoch stays, so that old holders remain fenced."""
        ...

    def caps(self) -> StoreCaps:
        """Say what this store can do."""
        ...

    async def aclose(self) -> None:
        """Finish what was accepted and close; later calls raise `StorageError`."""
        ...

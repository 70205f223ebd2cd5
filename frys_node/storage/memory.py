"""A store in memory, for tests and simulations: the same contract as the durable ones, minus the disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence

import msgspec
import trio

from frys_node.base.errors import FrysError, StorageError
from frys_node.base.ports import Clock
from frys_node.storage.exchange import decode_partition, encode_partition, in_pieces
from frys_node.storage.ports import Append, Chunk, Conflict, Fenced, RunExists, RunQuery, RunRow, StoreCaps


class _Holder(msgspec.Struct):
    epoch: int = 0
    owner: str = ""
    expires_ns: int = 0


class MemoryStore:
    """A `JournalStore` in dictionaries. `fail_with` makes every append raise that error (a full disk, for tests)."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._holders: dict[int, _Holder] = {}
        self._rows: dict[str, RunRow] = {}
        self._chunks: dict[str, list[Chunk]] = {}
        self._is_closed = False
        self.fail_with: StorageError | None = None
        self.appends_total = 0

    def _check_open(self) -> None:
        if self._is_closed:
            raise StorageError("the store is closed")

    async def acquire(self, partitions: Sequence[int], owner: str, ttl_s: float = 0.0) -> Mapping[int, int]:
        """Take partitions; see `JournalStore.acquire`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        now_ns = self._clock.unix_ns()
        taken = {}
        for partition in partitions:
            holder = self._holders.setdefault(partition, _Holder())
            if holder.owner in ("", owner) or holder.expires_ns <= now_ns:
                holder.epoch += 1
                holder.owner = owner
                holder.expires_ns = now_ns + int(ttl_s * 1e9)
                taken[partition] = holder.epoch
        return taken

    def _fence(self, partition: int, epoch: int) -> Fenced | None:
        holder = self._holders.get(partition)
        if holder is None or holder.epoch != epoch or not holder.owner:
            current = holder.epoch if holder else 0
            return Fenced(f"partition {partition} is at epoch {current}, not {epoch}: another owner took it")
        return None

    async def renew(self, partition: int, epoch: int, ttl_s: float) -> None:
        """Extend a lease; see `JournalStore.renew`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        if fenced := self._fence(partition, epoch):
            raise fenced
        self._holders[partition].expires_ns = self._clock.unix_ns() + int(ttl_s * 1e9)

    async def release(self, partition: int, epoch: int) -> None:
        """Give a partition up; see `JournalStore.release`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        if self._fence(partition, epoch) is None:
            self._holders[partition].owner = ""

    async def append(self, appends: Sequence[Append]) -> list[FrysError | None]:
        """Apply appends; see `JournalStore.append`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        if self.fail_with is not None:
            raise self.fail_with
        self.appends_total += 1
        return [self._apply(append) for append in appends]

    def _apply(self, append: Append) -> FrysError | None:
        if fenced := self._fence(append.partition, append.epoch):
            return fenced
        old = self._rows.get(append.run)
        if append.new is not None:
            if old is not None:
                return RunExists(f"run {append.run} exists")
            label, created_ns, meta = append.new.label, append.new.created_ns, append.new.meta
        else:
            if old is None or old.seq != append.expect_seq or old.partition != append.partition:
                return Conflict(f"the journal of run {append.run} is not at entry {append.expect_seq}")
            label, created_ns, meta = old.label, old.created_ns, old.meta
        self._rows[append.run] = RunRow(
            id=append.run,
            partition=append.partition,
            seq=append.expect_seq + append.count,
            status=append.status,
            live=append.live,
            label=label,
            wake_at_s=append.wake_at_s,
            created_ns=created_ns,
            updated_ns=append.updated_ns,
            meta=meta,
            state=append.state,
        )
        if append.count:
            self._chunks.setdefault(append.run, []).append(Chunk(append.expect_seq, append.count, append.data))
        return None

    async def read(self, run: str, from_seq: int = 0) -> list[Chunk]:
        """Return journal pieces; see `JournalStore.read`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        return [chunk for chunk in self._chunks.get(run, ()) if chunk.seq + chunk.count > from_seq]

    async def query(self, query: RunQuery) -> list[RunRow]:
        """Return rows; see `JournalStore.query`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        rows = [
            row
            for row in self._rows.values()
            if (not query.run or row.id == query.run)
            and (not query.partitions or row.partition in query.partitions)
            and (not query.label or row.label == query.label)
            and (not query.status or row.status == query.status)
            and (not query.live_only or row.live)
            and (query.before is None or (row.created_ns, row.id) < query.before)
        ]
        rows.sort(key=lambda row: (row.created_ns, row.id), reverse=True)
        return rows[: query.limit]

    async def sizes(self) -> Mapping[int, int]:
        """Return bytes by partition; see `JournalStore.sizes`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        sizes: dict[int, int] = {}
        for row in self._rows.values():
            journal = sum(len(chunk.data) for chunk in self._chunks.get(row.id, ()))
            sizes[row.partition] = sizes.get(row.partition, 0) + len(row.meta) + len(row.state) + journal
        return sizes

    async def export(self, partition: int) -> AsyncIterator[bytes]:
        """Return the bytes of a partition; see `JournalStore.export`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        rows = sorted((row for row in self._rows.values() if row.partition == partition), key=lambda row: row.id)
        pieces = list(in_pieces(encode_partition(partition, [(row, list(self._chunks[row.id])) for row in rows])))
        return _each(pieces)

    async def install(self, partition: int, pieces: Iterable[bytes]) -> int:
        """Replace a partition; see `JournalStore.install`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        content = decode_partition(partition, pieces)
        self._forget(partition)
        for row, chunks in content.runs:
            self._rows[row.id] = row
            self._chunks[row.id] = chunks
        return len(content.runs)

    async def drop(self, partition: int) -> None:
        """Forget a partition's runs; see `JournalStore.drop`."""
        await trio.lowlevel.checkpoint()
        self._check_open()
        self._forget(partition)

    def _forget(self, partition: int) -> None:
        for run in [row.id for row in self._rows.values() if row.partition == partition]:
            del self._rows[run]
            self._chunks.pop(run, None)

    def caps(self) -> StoreCaps:
        """Say what this store can do: nothing survives the process."""
        return StoreCaps(name="memory", is_durable=False, is_shared=False)

    async def aclose(self) -> None:
        """Close; the content stays readable by nobody."""
        await trio.lowlevel.checkpoint()
        self._is_closed = True


async def _each(pieces: Sequence[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        await trio.lowlevel.checkpoint()
        yield piece

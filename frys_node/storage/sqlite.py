"""The embedded store: SQLite in WAL mode with ``synchronous=FULL``, and group commit.

One writer thread owns the connection. It takes everything that is queued, applies it in one ``BEGIN IMMEDIATE``
transaction, and answers after the commit, which fsyncs the log: under load many appends share one fsync, alone an
append pays for its own. The epoch is read inside that transaction, so two processes on one file cannot both write.

A commit that fails for lack of space or rights is rolled back and may be tried again. After an I/O error the kernel
may have dropped dirty pages (a repeated fsync would lie), so the store refuses everything until it is opened again.
"""

from __future__ import annotations

import queue
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import trio

from frys_node.base.errors import CorruptData, FrysError, StorageError
from frys_node.base.ports import Clock
from frys_node.storage.exchange import decode_partition, encode_partition, in_pieces
from frys_node.storage.ports import (
    APPEND_BYTES_MAX,
    QUERY_ROWS_MAX,
    Append,
    Chunk,
    Conflict,
    Fenced,
    RunExists,
    RunQuery,
    RunRow,
    StoreCaps,
)

T = TypeVar("T")

SCHEMA_VERSION = 1
GROUP_APPENDS_MAX = 4_096
"""Most queued jobs that share one transaction."""

_SCHEMA = """
CREATE TABLE IF NOT EXISTS part (id INTEGER PRIMARY KEY, epoch INTEGER NOT NULL, owner TEXT NOT NULL,
  expires_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS run (id TEXT PRIMARY KEY, part INTEGER NOT NULL, seq INTEGER NOT NULL,
  status TEXT NOT NULL, live INTEGER NOT NULL, label TEXT NOT NULL, wake_at_s REAL, created_ns INTEGER NOT NULL,
  updated_ns INTEGER NOT NULL, meta BLOB NOT NULL, state BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS journal (run TEXT NOT NULL, seq INTEGER NOT NULL, count INTEGER NOT NULL,
  data BLOB NOT NULL, PRIMARY KEY (run, seq)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS run_live ON run (part) WHERE live = 1;
CREATE INDEX IF NOT EXISTS run_created ON run (created_ns, id);
CREATE INDEX IF NOT EXISTS run_part ON run (part, id);
"""
_ROW = "id, part, seq, status, live, label, wake_at_s, created_ns, updated_ns, meta, state"
_RUN_BYTES = "SELECT part, SUM(LENGTH(meta) + LENGTH(state)) FROM run GROUP BY part"
_JOURNAL_BYTES = (
    "SELECT run.part, SUM(LENGTH(journal.data)) FROM journal JOIN run ON run.id = journal.run GROUP BY run.part"
)
_INSERT_RUN = f"INSERT OR IGNORE INTO run ({_ROW}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"  # noqa: S608
_UPDATE_RUN = (
    "UPDATE run SET seq = ?, status = ?, live = ?, wake_at_s = ?, updated_ns = ?, state = ? "
    "WHERE id = ? AND seq = ? AND part = ?"
)
_INSERT_JOURNAL = "INSERT INTO journal (run, seq, count, data) VALUES (?, ?, ?, ?)"


class _Job:
    """Work for the writer thread: appends (grouped) or any other call (alone)."""

    __slots__ = ("appends", "call", "done", "error", "result")

    def __init__(self, call: Callable[[], Any] | None, appends: Sequence[Append] = ()) -> None:
        self.call = call
        self.appends = appends
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = trio.Event()


class SqliteStore:
    """A `JournalStore` in one SQLite file. Make it with `open`."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._is_closed = False
        self._broken: StorageError | None = None
        self._db: sqlite3.Connection | None = None
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._serve, name="frys-journal", daemon=True)
        self.commits_total = 0
        """Transactions so far; appends per commit is what group commit gained."""

    @classmethod
    async def open(cls, path: Path, clock: Clock) -> SqliteStore:
        """Open or create the file.

        Raises:
            StorageError: The directory is read-only or full, or the file is of a newer version. Nothing was changed.
            CorruptData: The file is not a database.
        """
        store = cls(path, clock)
        store._thread.start()
        try:
            await store._run(store._open_file)
        except BaseException:
            with trio.CancelScope(shield=True):
                await store.aclose()
            raise
        return store

    # On the writer thread.

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=5.0)
        db.execute("PRAGMA busy_timeout = 5000")
        return db

    def _open_file(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._keep_private()
        db = self._db = self._connect()
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise StorageError(
                f"{self._path.name} has format {version}, this node writes {SCHEMA_VERSION}",
                hint="start the newer frys-node that wrote it",
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        if version < SCHEMA_VERSION:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def _keep_private(self) -> None:
        """Make the file, which SQLite would let everybody read; its companions take their rights from it."""
        self._path.touch(mode=0o600)
        for suffix in ("", "-wal", "-shm"):
            path = self._path.with_name(self._path.name + suffix)
            # Versions until November 2026 left them to the umask.
            if path.is_file() and path.stat().st_mode & 0o077:
                with suppress(PermissionError):
                    path.chmod(0o600)

    def _serve(self) -> None:
        while True:
            job = self._queue.get()
            if job is None:
                break
            jobs = [job]
            is_last = False
            while len(jobs) < GROUP_APPENDS_MAX and not self._queue.empty():
                following = self._queue.get()
                if following is None:
                    is_last = True
                    break
                jobs.append(following)
            for group in _groups(jobs):
                self._perform(group)
                try:
                    self._token.run_sync_soon(_resolve, group)
                except trio.RunFinishedError:
                    is_last = True
            if is_last:
                break
        if self._db is not None:
            self._db.close()

    def _perform(self, group: list[_Job]) -> None:
        try:
            if self._broken is not None:
                raise self._broken
            if group[0].call is not None:
                group[0].result = group[0].call()
            else:
                self._commit(group)
        except Exception as raised:  # noqa: BLE001  each waiting caller gets it
            error = self._translate(raised) if isinstance(raised, sqlite3.Error | OSError) else raised
            for job in group:
                job.error = error

    def _translate(self, error: sqlite3.Error | OSError) -> StorageError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        name = self._path.name
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return CorruptData(f"{name} is damaged: {error}", hint="restore it from a snapshot")
        if code == sqlite3.SQLITE_FULL:
            return StorageError(f"the disk is full: {name} cannot grow", hint="free space; nothing was lost")
        if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM) or isinstance(
            error, OSError
        ):
            return StorageError(f"{self._path} cannot be written: {error}", hint="check the directory and its rights")
        if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return StorageError(f"{name} is locked by another process", hint="stop the other node on this directory")
        if code == sqlite3.SQLITE_IOERR:
            self._broken = StorageError(
                f"the disk failed while {name} was written: {error}",
                hint="restart the node after checking the disk; unacknowledged writes are not trusted",
            )
            return self._broken
        return StorageError(f"{name}: {error}")

    def _transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        assert self._db is not None
        self._db.execute("BEGIN IMMEDIATE")
        try:
            result = work(self._db)
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise
        self.commits_total += 1
        return result

    def _commit(self, group: list[_Job]) -> None:
        def work(db: sqlite3.Connection) -> list[list[FrysError | None]]:
            holders: dict[int, tuple[int, str]] = {}
            return [[self._apply(db, append, holders) for append in job.appends] for job in group]

        for job, result in zip(group, self._transaction(work), strict=True):
            job.result = result

    def _apply(self, db: sqlite3.Connection, append: Append, holders: dict[int, tuple[int, str]]) -> FrysError | None:
        partition = append.partition
        holder = holders.get(partition)
        if holder is None:
            holder = db.execute("SELECT epoch, owner FROM part WHERE id = ?", (partition,)).fetchone() or (0, "")
            holders[partition] = holder
        if holder[0] != append.epoch or not holder[1]:
            return _fenced(partition, holder[0], append.epoch)
        seq, run = append.expect_seq + append.count, append.run
        if append.new is not None:
            new = append.new
            values = (run, partition, seq, append.status, int(append.live), new.label, append.wake_at_s)
            cursor = db.execute(_INSERT_RUN, (*values, new.created_ns, append.updated_ns, new.meta, append.state))
            if cursor.rowcount != 1:
                return RunExists(f"run {run} exists")
        else:
            values_ = (seq, append.status, int(append.live), append.wake_at_s, append.updated_ns, append.state)
            if db.execute(_UPDATE_RUN, (*values_, run, append.expect_seq, partition)).rowcount != 1:
                return Conflict(f"the journal of run {run} is not at entry {append.expect_seq}")
        if append.count:
            db.execute(_INSERT_JOURNAL, (run, append.expect_seq, append.count, append.data))
        return None

    # On the event loop.

    async def _submit(self, job: _Job) -> Any:
        if self._is_closed:
            raise StorageError("the store is closed")
        self._queue.put(job)
        with trio.CancelScope(shield=True):
            # What was queued will happen: leaving early would leave the caller ignorant of a durable write.
            await job.done.wait()
        if job.error is not None:
            raise job.error
        return job.result

    async def _run(self, call: Callable[[], T]) -> T:
        result: T = await self._submit(_Job(call))
        return result

    async def acquire(self, partitions: Sequence[int], owner: str, ttl_s: float = 0.0) -> Mapping[int, int]:
        """Take partitions; see `JournalStore.acquire`."""
        now_ns = self._clock.unix_ns()
        expires_ns = now_ns + int(ttl_s * 1e9)

        def work(db: sqlite3.Connection) -> dict[int, int]:
            taken = {}
            for partition in partitions:
                row = db.execute("SELECT epoch, owner, expires_ns FROM part WHERE id = ?", (partition,)).fetchone()
                epoch, holder, until_ns = row or (0, "", 0)
                if holder not in ("", owner) and until_ns > now_ns:
                    continue
                db.execute("INSERT OR REPLACE INTO part VALUES (?, ?, ?, ?)", (partition, epoch + 1, owner, expires_ns))
                taken[partition] = epoch + 1
            return taken

        return await self._run(lambda: self._transaction(work))

    async def renew(self, partition: int, epoch: int, ttl_s: float) -> None:
        """Extend a lease; see `JournalStore.renew`."""
        expires_ns = self._clock.unix_ns() + int(ttl_s * 1e9)

        def work(db: sqlite3.Connection) -> None:
            query = "UPDATE part SET expires_ns = ? WHERE id = ? AND epoch = ? AND owner != ''"
            if db.execute(query, (expires_ns, partition, epoch)).rowcount != 1:
                raise _fenced(partition, None, epoch)

        await self._run(lambda: self._transaction(work))

    async def release(self, partition: int, epoch: int) -> None:
        """Give a partition up; see `JournalStore.release`."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("UPDATE part SET owner = '' WHERE id = ? AND epoch = ?", (partition, epoch))

        await self._run(lambda: self._transaction(work))

    async def append(self, appends: Sequence[Append]) -> list[FrysError | None]:
        """Apply appends in one shared transaction; see `JournalStore.append`."""
        for append in appends:
            if len(append.data) > APPEND_BYTES_MAX or len(append.state) > APPEND_BYTES_MAX:
                raise StorageError(f"run {append.run} wants to append more than {APPEND_BYTES_MAX} bytes at once")
        result: list[FrysError | None] = await self._submit(_Job(None, appends))
        return result

    async def read(self, run: str, from_seq: int = 0) -> list[Chunk]:
        """Return journal pieces; see `JournalStore.read`."""
        query = "SELECT seq, count, data FROM journal WHERE run = ? AND seq + count > ? ORDER BY seq"

        def work() -> list[Chunk]:
            assert self._db is not None
            return [Chunk(*row) for row in self._db.execute(query, (run, from_seq))]

        return await self._run(work)

    async def query(self, query: RunQuery) -> list[RunRow]:
        """Return rows; see `JournalStore.query`."""
        clauses: list[tuple[str, Sequence[object]]] = []
        if query.run:
            clauses.append(("id = ?", (query.run,)))
        if query.partitions:
            clauses.append((f"part IN ({','.join('?' * len(query.partitions))})", query.partitions))
        if query.label:
            clauses.append(("label = ?", (query.label,)))
        if query.status:
            clauses.append(("status = ?", (query.status,)))
        if query.live_only:
            clauses.append(("live = 1", ()))
        if query.before is not None:
            clauses.append(("(created_ns, id) < (?, ?)", query.before))
        where = " AND ".join(text for text, _ in clauses) or "1"
        values = [value for _, of_clause in clauses for value in of_clause]
        statement = f"SELECT {_ROW} FROM run WHERE {where} ORDER BY created_ns DESC, id DESC LIMIT ?"  # noqa: S608
        limit = min(query.limit, QUERY_ROWS_MAX)

        def work() -> list[RunRow]:
            assert self._db is not None
            return [_row(row) for row in self._db.execute(statement, (*values, limit))]

        return await self._run(work)

    async def sizes(self) -> Mapping[int, int]:
        """Return bytes by partition; see `JournalStore.sizes`."""

        def work() -> dict[int, int]:
            assert self._db is not None
            sizes: dict[int, int] = {}
            for statement in (_RUN_BYTES, _JOURNAL_BYTES):
                for part, size_bytes in self._db.execute(statement):
                    sizes[part] = sizes.get(part, 0) + size_bytes
            return sizes

        return await self._run(work)

    async def export(self, partition: int) -> AsyncIterator[bytes]:
        """Return the bytes of a partition as of now; see `JournalStore.export`."""

        def begin() -> sqlite3.Connection:
            reader = self._connect()
            reader.execute("BEGIN")
            # A read transaction starts with its first read; from here on later commits are invisible to it.
            reader.execute("SELECT 1 FROM part LIMIT 1").fetchone()
            return reader

        return self._export_pieces(partition, await self._run(begin))

    async def _export_pieces(self, partition: int, reader: sqlite3.Connection) -> AsyncIterator[bytes]:
        pieces = in_pieces(encode_partition(partition, _partition_runs(reader, partition)))
        try:
            while (piece := await self._run(lambda: next(pieces, None))) is not None:
                yield piece
        finally:
            reader.close()

    async def install(self, partition: int, pieces: Iterable[bytes]) -> int:
        """Replace a partition; see `JournalStore.install`."""

        def work(db: sqlite3.Connection) -> int:
            content = decode_partition(partition, pieces)
            _forget(db, partition)
            for row, chunks in content.runs:
                fixed = (row.id, partition, row.seq, row.status, int(row.live), row.label, row.wake_at_s)
                db.execute(_INSERT_RUN, (*fixed, row.created_ns, row.updated_ns, row.meta, row.state))
                db.executemany(_INSERT_JOURNAL, [(row.id, chunk.seq, chunk.count, chunk.data) for chunk in chunks])
            return len(content.runs)

        return await self._run(lambda: self._transaction(work))

    async def drop(self, partition: int) -> None:
        """Forget a partition's runs; see `JournalStore.drop`."""
        await self._run(lambda: self._transaction(lambda db: _forget(db, partition)))

    def caps(self) -> StoreCaps:
        """Say what this store can do: durable, on one machine."""
        return StoreCaps(name="sqlite", is_durable=True, is_shared=False)

    async def aclose(self) -> None:
        """Finish what is queued, then close the file."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)
        await trio.to_thread.run_sync(self._thread.join)


def _resolve(group: list[_Job]) -> None:
    for job in group:
        job.done.set()


def _groups(jobs: list[_Job]) -> Iterator[list[_Job]]:
    """Split into runs of appends, which share a transaction, and single calls; the order stays."""
    group: list[_Job] = []
    for job in jobs:
        if job.call is None:
            group.append(job)
            continue
        if group:
            yield group
            group = []
        yield [job]
    if group:
        yield group


def _fenced(partition: int, current: int | None, epoch: int) -> Fenced:
    where = "has another epoch" if current is None else f"is at epoch {current}"
    return Fenced(f"partition {partition} {where}, not {epoch}, or was released: another owner took it")


def _row(row: Sequence[Any]) -> RunRow:
    return RunRow(
        id=row[0],
        partition=row[1],
        seq=row[2],
        status=row[3],
        live=bool(row[4]),
        label=row[5],
        wake_at_s=row[6],
        created_ns=row[7],
        updated_ns=row[8],
        meta=row[9],
        state=row[10],
    )


def _partition_runs(reader: sqlite3.Connection, partition: int) -> Iterator[tuple[RunRow, list[Chunk]]]:
    rows = reader.execute(f"SELECT {_ROW} FROM run WHERE part = ? ORDER BY id", (partition,))  # noqa: S608
    for values in rows:
        row = _row(values)
        chunks = reader.execute("SELECT seq, count, data FROM journal WHERE run = ? ORDER BY seq", (row.id,))
        yield row, [Chunk(*chunk) for chunk in chunks]


def _forget(db: sqlite3.Connection, partition: int) -> None:
    db.execute("DELETE FROM journal WHERE run IN (SELECT id FROM run WHERE part = ?)", (partition,))
    db.execute("DELETE FROM run WHERE part = ?", (partition,))

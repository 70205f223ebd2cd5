"""One suite for every store: what `JournalStore` promises."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from frys_node.base.errors import CorruptData, StorageError
from frys_node.storage.memory import MemoryStore
from frys_node.storage.ports import Append, JournalStore, NewRun, RunQuery
from frys_node.storage.sqlite import SqliteStore
from tests.unit.workflow.workflow_kit import TrioClock

NEW = NewRun(label="default/demo", created_ns=1, meta=b"meta")


@pytest.fixture(params=["memory", "sqlite"])
def open_store(request, tmp_path):
    """Opens a fresh store of each kind."""

    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[JournalStore]:
        if request.param == "memory":
            store: JournalStore = MemoryStore(TrioClock())
        else:
            store = await SqliteStore.open(tmp_path / "journal.sqlite", TrioClock())
        try:
            yield store
        finally:
            await store.aclose()

    return opened


def change(run="r", seq=0, *, epoch=1, partition=0, new=None, data=b"x", count=1, **fields) -> Append:
    """An append; by default one entry for a run that exists."""
    values = {"status": "running", "live": True, "wake_at_s": None, "updated_ns": 5, "state": b"s", **fields}
    return Append(partition=partition, epoch=epoch, run=run, expect_seq=seq, count=count, data=data, new=new, **values)


def codes(results) -> list[str]:
    """Codes of refused appends, "" for those written."""
    return ["" if result is None else result.code for result in results]


async def test_the_bytes_of_a_partition_are_those_of_its_rows_and_journals(open_store):
    """What a copy of a partition takes is told without copying it; what was dropped takes nothing."""
    async with open_store() as store:
        await store.acquire([0, 1], "me")
        await store.append([change(new=NEW, data=b"12345"), change(seq=1, data=b"678")])
        await store.append([change("other", partition=1, new=NEW, data=b"", count=0)])
        assert await store.sizes() == {0: len(b"metas12345678"), 1: len(b"metas")}
        await store.drop(0)
        assert await store.sizes() == {1: len(b"metas")}


async def test_what_was_appended_is_read_back_in_order(open_store):
    """Rows and journal pieces are as written."""
    async with open_store() as store:
        assert await store.acquire([0], "me") == {0: 1}
        assert codes(await store.append([change(new=NEW), change(seq=1, data=b"yy", count=2, wake_at_s=9.5)])) == [
            "",
            "",
        ]
        assert [(c.seq, c.count, c.data) for c in await store.read("r")] == [(0, 1, b"x"), (1, 2, b"yy")]
        assert [c.seq for c in await store.read("r", 2)] == [1]
        [row] = await store.query(RunQuery(run="r"))
        assert (row.seq, row.status, row.wake_at_s, row.meta, row.state) == (3, "running", 9.5, b"meta", b"s")
        assert await store.read("unknown") == []


async def test_a_stale_epoch_is_fenced_inside_the_append(open_store):
    """After a second acquire the first holder writes nothing."""
    async with open_store() as store:
        await store.acquire([0, 1], "me")
        await store.append([change(new=NEW)])
        assert await store.acquire([0], "other") == {0: 2}
        refused = await store.append([change(seq=1), change(run="q", partition=1, new=NEW)])
        assert codes(refused) == ["storage.fenced", ""]
        assert len(await store.read("r")) == 1
        assert codes(await store.append([change(seq=1, epoch=2)])) == [""]


async def test_a_released_partition_refuses_until_it_is_acquired_again(open_store):
    """Sealing is a release."""
    async with open_store() as store:
        await store.acquire([0], "me")
        await store.release(0, 1)
        await store.release(0, 1)
        assert codes(await store.append([change(new=NEW)])) == ["storage.fenced"]
        assert await store.acquire([0], "me") == {0: 2}
        assert codes(await store.append([change(new=NEW, epoch=2)])) == [""]


async def test_a_partition_never_acquired_takes_no_append(open_store):
    """Epoch 0 is nobody's."""
    async with open_store() as store:
        assert codes(await store.append([change(new=NEW, epoch=0)])) == ["storage.fenced"]


async def test_a_lease_protects_until_it_expires(open_store, autojump_clock):
    """Another owner gets nothing before; renewing extends; an old epoch cannot renew."""
    async with open_store() as store:
        await store.acquire([0], "me", ttl_s=10)
        assert await store.acquire([0], "other", ttl_s=10) == {}
        await store.renew(0, 1, 100)
        await trio.sleep(50)
        assert await store.acquire([0], "other") == {}
        await trio.sleep(60)
        assert await store.acquire([0], "other") == {0: 2}
        with pytest.raises(StorageError, match="epoch"):
            await store.renew(0, 1, 100)


async def test_a_wrong_journal_length_is_a_conflict_and_writes_nothing(open_store):
    """Neither behind nor ahead; and a run is created once."""
    async with open_store() as store:
        await store.acquire([0], "me")
        await store.append([change(new=NEW)])
        results = await store.append([change(seq=0), change(seq=2), change(new=NEW), change(run="none", seq=1)])
        assert codes(results) == ["storage.conflict", "storage.conflict", "storage.run_exists", "storage.conflict"]
        assert len(await store.read("r")) == 1


async def test_queries_filter_page_and_order(open_store):
    """Newest first; by partition, label, status, liveness; page by page."""
    async with open_store() as store:
        await store.acquire([0, 1], "me")
        for n in range(6):
            new = NewRun(label=f"default/{'even' if n % 2 == 0 else 'odd'}", created_ns=n, meta=b"")
            status, live = ("running", True) if n < 4 else ("completed", False)
            await store.append([change(run=f"r{n}", partition=n % 2, new=new, status=status, live=live)])

        async def ids(**fields):
            return [row.id for row in await store.query(RunQuery(**fields))]

        assert await ids() == ["r5", "r4", "r3", "r2", "r1", "r0"]
        assert await ids(partitions=(1,), live_only=True) == ["r3", "r1"]
        assert await ids(label="default/even", status="completed") == ["r4"]
        assert await ids(limit=2) == ["r5", "r4"]
        assert await ids(limit=2, before=(4, "r4")) == ["r3", "r2"]


async def collect(pieces: AsyncIterator[bytes]) -> list[bytes]:
    """All pieces of an export."""
    return [piece async for piece in pieces]


async def test_a_partition_moves_by_export_and_install(open_store):
    """Equal bytes for equal state; the copy replaces what was there; the source can be dropped."""
    async with open_store() as store:
        await store.acquire([3, 4], "me")
        for n in range(20):
            await store.append([change(run=f"r{n}", partition=3, new=NEW, data=bytes(40_000))])
            await store.append([change(run=f"r{n}", seq=1, partition=3)])
        await store.append([change(run="other", partition=4, new=NEW)])
        first = await collect(await store.export(3))
        assert len(first) > 1
        assert b"".join(await collect(await store.export(3))) == b"".join(first)
        target = MemoryStore(TrioClock())
        await target.acquire([3], "you")
        await target.append([change(run="stale", partition=3, new=NEW)])
        odd_sizes = [b"".join(first)[at : at + 7_001] for at in range(0, sum(map(len, first)), 7_001)]
        assert await target.install(3, odd_sizes) == 20
        assert b"".join(await collect(await target.export(3))) == b"".join(first)
        await store.drop(3)
        assert [row.id for row in await store.query(RunQuery())] == ["other"]
        assert await store.install(3, first) == 20
        assert len(await store.read("r7")) == 2
        assert codes(await store.append([change(run="r7", seq=2, partition=3)])) == [""]


async def test_a_damaged_copy_is_refused_and_the_old_content_stands(open_store):
    """Cut off, flipped, of another partition: `CorruptData`."""
    async with open_store() as store:
        await store.acquire([3], "me")
        await store.append([change(partition=3, new=NEW)])
        whole = b"".join(await collect(await store.export(3)))
        bad = [whole[:-3], whole[:60], b"", whole.replace(b"frys", b"fryz"), b"\xff" * 100, whole[:40] + whole[41:]]
        for data in bad:
            with pytest.raises(CorruptData):
                await store.install(3, [data])
        with pytest.raises(CorruptData):
            await store.install(5, [whole])
        assert len(await store.read("r")) == 1


async def test_an_export_is_of_one_instant(open_store):
    """Appends after `export` returned are not in it."""
    async with open_store() as store:
        await store.acquire([0], "me")
        await store.append([change(new=NEW)])
        pieces = await store.export(0)
        await store.append([change(seq=1, data=b"later")])
        assert b"later" not in b"".join(await collect(pieces))


async def test_a_closed_store_refuses(open_store):
    """Nothing hangs, nothing is lost in silence."""
    async with open_store() as store:
        await store.aclose()
        with pytest.raises(StorageError, match="closed"):
            await store.append([change(new=NEW)])


async def test_sqlite_keeps_everything_over_a_restart(tmp_path):
    """Epochs too: an old holder stays fenced."""
    path = tmp_path / "journal.sqlite"
    store = await SqliteStore.open(path, TrioClock())
    await store.acquire([0], "me")
    await store.append([change(new=NEW)])
    await store.aclose()
    store = await SqliteStore.open(path, TrioClock())
    assert await store.acquire([0], "next boot") == {0: 2}
    assert codes(await store.append([change(seq=1)])) == ["storage.fenced"]
    assert len(await store.read("r")) == 1
    await store.aclose()


async def test_sqlite_groups_concurrent_appends_into_few_commits(tmp_path):
    """A hundred waiting appends share their fsyncs."""
    store = await SqliteStore.open(tmp_path / "journal.sqlite", TrioClock())
    await store.acquire([0], "me")
    before = store.commits_total

    async def one(n: int) -> None:
        assert codes(await store.append([change(run=f"r{n}", new=NEW)])) == [""]

    async with trio.open_nursery() as nursery:
        for n in range(100):
            nursery.start_soon(one, n)
    assert store.commits_total - before < 50
    await store.aclose()


async def test_two_processes_on_one_file_cannot_both_write(tmp_path):
    """The epoch row is checked inside the transaction."""
    one = await SqliteStore.open(tmp_path / "journal.sqlite", TrioClock())
    two = await SqliteStore.open(tmp_path / "journal.sqlite", TrioClock())
    await one.acquire([0], "one")
    await one.append([change(new=NEW)])
    await two.acquire([0], "two")
    assert codes(await one.append([change(seq=1)])) == ["storage.fenced"]
    assert codes(await two.append([change(seq=1, epoch=2)])) == [""]
    await one.aclose()
    await two.aclose()


async def test_a_full_disk_refuses_and_keeps_what_was_written(tmp_path):
    """`StorageError` names the cause; with room again the same append goes through."""
    store = await SqliteStore.open(tmp_path / "journal.sqlite", TrioClock())
    await store.acquire([0], "me")
    await store.append([change(new=NEW)])
    assert store._db is not None
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StorageError, match="disk is full"):
        await store.append([change(seq=1, data=bytes(100_000))])
    store._db.execute("PRAGMA max_page_count = 100000")
    assert codes(await store.append([change(seq=1, data=bytes(100_000))])) == [""]
    await store.aclose()


async def test_a_file_that_cannot_be_used_is_refused_at_open(tmp_path):
    """Not a database, a newer format, a directory in the way."""
    garbage = tmp_path / "garbage.sqlite"
    garbage.write_bytes(b"not a database at all" * 100)
    with pytest.raises(CorruptData, match="damaged"):
        await SqliteStore.open(garbage, TrioClock())
    newer = tmp_path / "newer.sqlite"
    with contextlib.closing(sqlite3.connect(newer)) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="format 99"):
        await SqliteStore.open(newer, TrioClock())
    (tmp_path / "directory").mkdir()
    with pytest.raises(StorageError):
        await SqliteStore.open(tmp_path / "directory", TrioClock())


async def test_a_directory_that_cannot_be_written_is_refused_at_open():
    """The message names the path; this one is read-only for root too."""
    with pytest.raises(StorageError, match="cannot be written"):
        await SqliteStore.open(Path("/proc/frys/journal.sqlite"), TrioClock())


async def test_the_files_are_their_users_alone(tmp_path: Path):
    """New ones under a umask that hides nothing, and those that an earlier version left readable."""
    path = tmp_path / "journal.sqlite"
    umask = os.umask(0)
    try:
        async with contextlib.AsyncExitStack() as stack:
            store = await SqliteStore.open(path, TrioClock())
            stack.push_async_callback(store.aclose)
            await store.acquire([0], "a")
            assert [_mode(path.with_name(path.name + suffix)) for suffix in ("", "-wal", "-shm")] == [0o600] * 3
        path.chmod(0o644)
        store = await SqliteStore.open(path, TrioClock())
        assert _mode(path) == 0o600
        await store.aclose()
    finally:
        os.umask(umask)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)

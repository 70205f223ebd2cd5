"""Saved snapshots: whole or invisible, checked before anything changes."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Collection, Sequence
from pathlib import Path

import pytest
import trio

from frys_node.base.errors import AlreadyExists, NotFound, StorageError, UsageError
from frys_node.base.ports import Disk
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.snapshots import Captured
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import Failure, FakeDisk, Tear
from frys_node.testing.executor import InlineExecutor
from frys_node.transport.disk import DirectoryDisk
from snapshots.errors import CorruptChunk, CorruptManifest, UnknownFormat, WouldReplace
from snapshots.library import Library


class Dump:
    """A captured state in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def parts(self) -> AsyncIterator[bytes]:
        await trio.lowlevel.checkpoint()
        yield self._data


class Tables:
    """Units that are byte strings."""

    def __init__(self, held: dict[UnitId, bytes]) -> None:
        self.held = held

    def units(self) -> Sequence[UnitId]:
        return sorted(self.held)

    async def capture(self, unit: UnitId) -> Captured:
        await trio.lowlevel.checkpoint()
        return Dump(self.held[unit])

    async def restore(self, unit: UnitId, parts: AsyncIterator[bytes]) -> None:
        self.held[unit] = b"".join([part async for part in parts])


def _held() -> dict[UnitId, bytes]:
    rng = random.Random(2)
    return {UnitId(f"t/{number}"): rng.randbytes(size) for number, size in enumerate((0, 10, 300_000, 700_000))}


def _library(disk: Disk, tables: Tables, replacing: Collection[str] = ()) -> Library:
    return Library(
        disk,
        executor=InlineExecutor(),
        clock=FakeClock(),
        providers={"t": tables},
        replacing=replacing,
        node=NodeId("a"),
    )


@pytest.mark.parametrize("kind", ["real", "fake"])
async def test_a_saved_snapshot_restores_what_was_captured(kind: str, tmp_path: Path) -> None:
    """S1: restore of snapshot of s is s, from a real directory and in memory."""
    disk: Disk = DirectoryDisk(tmp_path / "backup") if kind == "real" else FakeDisk()
    tables = Tables(_held())
    library = _library(disk, tables)
    saved = await library.create("before-upgrade")
    assert [unit.unit for unit in saved.units] == tables.units()
    assert saved.size_bytes == 1_000_010
    assert await library.list() == [saved]
    report = await library.verify("before-upgrade")
    assert (report.units, report.problems) == (4, ())
    tables.held = dict.fromkeys(_held(), b"lost")
    assert (await library.restore("before-upgrade", [UnitId("t/2")])).size_bytes == 300_000
    assert [unit for unit, data in tables.held.items() if data != b"lost"] == ["t/2"]
    assert (await library.restore("before-upgrade")).size_bytes == 1_000_010
    assert tables.held == _held()
    await library.delete("before-upgrade")
    assert await library.list() == []
    assert list(disk.list("before-upgrade")) == []


async def test_equal_states_give_equal_bytes() -> None:
    """S2: two saves of one state differ in nothing but name and time."""
    disks = [FakeDisk(), FakeDisk()]
    for disk in disks:
        await _library(disk, Tables(_held())).create("s")
    trees = [{f"{d}/{n}": disk.read(f"s/{d}/{n}") for d in ("chunks", "manifests") for n in disk.list(f"s/{d}")}
             for disk in disks]  # fmt: skip
    assert trees[0] == trees[1]
    assert len(trees[0]) == 10


async def test_a_crash_at_any_call_leaves_the_old_or_the_new_snapshot_whole() -> None:
    """S3: every disk call of create and of delete fails once, then the machine crashes."""
    tables = Tables({UnitId("t/1"): b"one", UnitId("t/2"): b"two" * 200_000})
    clean = FakeDisk()
    await _library(clean, tables).create("old")
    before = clean.calls
    await _library(clean, tables).create("new")
    calls = clean.calls - before
    assert calls > 5
    for number in range(1, calls + 1):
        disk = FakeDisk()
        library = _library(disk, tables)
        await library.create("old")
        disk.fail_call(disk.calls + number, Failure.IO)
        with pytest.raises(StorageError):
            await library.create("new")
        disk.crash(Tear.TORN, random.Random(number))
        assert [saved.name for saved in await library.list()] == ["old"]
        assert (await library.verify("old")).problems == ()
        await library.create("new")
        assert (await library.verify("new")).problems == ()
        disk.fail_call(disk.calls + 2, Failure.IO)
        with pytest.raises(StorageError):
            await library.delete("new")
        assert [saved.name for saved in await library.list()] == ["old"]


async def test_damage_is_refused_before_any_state_changes() -> None:
    """S4: one flipped bit or one missing file anywhere, and no unit is touched."""
    tables = Tables(_held())
    disk = FakeDisk()
    await _library(disk, tables).create("s")
    files = [f"s/{d}/{n}" for d in ("chunks", "manifests") for n in disk.list(f"s/{d}")]
    for path in files:
        data = disk.read(path)
        assert data
        for damage in (data[:-1], bytes([data[0] ^ 1]) + data[1:], None):
            if damage is None:
                disk.remove(path)
            else:
                disk.write(path, damage)
            victim = Tables(dict.fromkeys(_held(), b"untouched"))
            with pytest.raises((CorruptChunk, CorruptManifest)):
                await _library(disk, victim).restore("s")
            assert set(victim.held.values()) == {b"untouched"}
            assert len((await _library(disk, victim).verify("s")).problems) >= 1
        disk.write(path, data)
    assert (await _library(disk, tables).verify("s")).problems == ()


async def test_units_that_other_nodes_hold_now_are_left_alone_and_named() -> None:
    """All means all that are here; one that was asked for by name and is not here is refused before any other."""
    disk = FakeDisk()
    await _library(disk, Tables(_held())).create("s")
    here = Tables({UnitId("t/1"): b"old", UnitId("t/9"): b"other"})
    report = await _library(disk, here).restore("s")
    assert (report.units, report.size_bytes, report.elsewhere) == (1, 10, ("t/0", "t/2", "t/3"))
    assert here.held == {"t/1": _held()[UnitId("t/1")], "t/9": b"other"}
    with pytest.raises(NotFound, match="'t/2' of snapshot 's' is not held"):
        await _library(disk, here).restore("s", [UnitId("t/1"), UnitId("t/2")])
    with pytest.raises(NotFound, match="is not held"):
        await _library(disk, Tables({})).restore("s")


async def test_what_a_restore_would_lose_is_lost_only_when_that_is_asked_for() -> None:
    """A kind that is replaced instead of merged is refused whole without `replace`."""
    disk, tables = FakeDisk(), Tables(_held())
    library = _library(disk, tables, replacing=["t"])
    await library.create("s")
    tables.held[UnitId("t/1")] = b"since"
    with pytest.raises(WouldReplace, match="4 units such as t/0"):
        await library.restore("s")
    assert tables.held[UnitId("t/1")] == b"since"
    await library.restore("s", replace=True)
    assert tables.held == _held()


async def test_bad_requests_are_refused_with_their_fix() -> None:
    """Names, units, kinds, repeated saves, foreign indexes."""
    disk, tables = FakeDisk(), Tables(_held())
    library = _library(disk, tables)
    for name in ("", "../x", "A", ".hidden", "a/b", "x" * 64):
        with pytest.raises(UsageError):
            await library.create(name)
    await library.create("s", [UnitId("t/1")])
    with pytest.raises(AlreadyExists):
        await library.create("s")
    with pytest.raises(NotFound):
        await library.create("s2", [UnitId("t/99")])
    with pytest.raises(NotFound):
        await library.create("s2", [UnitId("other/1")])
    with pytest.raises(NotFound):
        await library.restore("s", [UnitId("t/2")])
    with pytest.raises(NotFound):
        await library.verify("none")
    disk.write("junk/index.json", b"{}")
    with pytest.raises(CorruptManifest):
        await library.get("junk")
    index = disk.read("s/index.json")
    assert index is not None
    disk.write("s/index.json", index.replace(b'"format":1', b'"format":2'))
    with pytest.raises(UnknownFormat):
        await library.restore("s")
    assert await library.list() == []

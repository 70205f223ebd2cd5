"""A saved snapshot leaves one place sealed, whole also if it was written incrementally, and comes to another."""

from __future__ import annotations

import gc
import random
from collections.abc import AsyncIterator

import pytest
import trio

from frys_node.base.errors import AlreadyExists, FrysError, UsageError
from frys_node.base.types import NodeId, UnitId
from frys_node.secure.kem import load_kem
from frys_node.secure.recipient import Recipient, SealKey
from frys_node.secure.sealed import Opener
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.saved import MemoryObjects, SavedNode, open_saved_cluster
from snapshots.archive import ITEMS_MAX, ArchiveReader, Inventory, Item, Kind, item_of
from snapshots.bundle import SMALL_BYTES, Bundle
from snapshots.errors import CorruptChunk, CorruptExport
from snapshots.export import PUTS_MAX, put_objects
from snapshots.index import BUNDLES, CHUNKS, SavedSnapshot, SavedUnit
from snapshots.locks import COLLECT
from snapshots.manifest import FORMAT, PART_BYTES_MAX, ChunkRef, Manifest, build_manifest, digest_of
from snapshots.shelf import Shelf
from snapshots.verify import PROBLEMS_MAX, verify

KEM = load_kem()
KEY = SealKey.of("cryptography", KEM.generate())
MARKER = b"a marker that nobody may see "
HELD = {
    UnitId("t/0"): b"",
    UnitId("t/1"): MARKER,
    UnitId("t/2"): MARKER * 10_000,
    UnitId("t/3"): random.Random(1).randbytes(900_000),
}


async def _exported(node: SavedNode, name: str) -> bytes:
    export = await node.desk.export(name, [KEY.recipient])
    data = b"".join([piece async for piece in export.stream])
    assert len(data) == export.size_bytes
    return data


def _opened(data: bytes) -> list[Item]:
    opener, reader, inventory = Opener(KEY, kem=KEM), ArchiveReader(), Inventory()
    items = reader.push(opener.push(data) + opener.finish())
    reader.finish()
    for item in items:
        inventory.take(item)
    inventory.finish()
    return items


def _body(items: list[Item]) -> bytes:
    return b"".join(item.encode() for item in items if item.kind is not Kind.INDEX)


async def test_an_export_comes_back_in_another_cluster() -> None:
    """Of the second snapshot in a place, which wrote only what had changed; restored by nodes that never had it."""
    async with open_saved_cluster({"a": dict(HELD)}) as cluster:
        await cluster["a"].desk.create("one")
        changed = cluster["a"].units["t"].held
        changed[UnitId("t/1")] += b"and more"
        wanted = dict(changed)
        second = await cluster["a"].desk.create("two")
        assert second.reused_bytes > second.new_bytes
        data = await _exported(cluster["a"], "two")
        assert MARKER[:12] not in data
    items = _opened(data)
    empty = dict.fromkeys(HELD, b"")
    async with open_saved_cluster({"x": dict(empty), "y": dict(empty)}) as cluster:
        desk = cluster["x"].desk
        assert await desk.put_objects(_body(items)) == len(items) - 1
        assert await desk.list() == ([], [])
        report = await desk.adopt(items[0].data, name="theirs")
        assert (report.name, report.problems, report.units) == ("theirs", (), 4)
        assert [index.name for index in (await desk.list())[0]] == ["theirs"]
        await desk.restore("theirs")
        assert cluster["x"].units["t"].held == cluster["y"].units["t"].held == wanted
        with pytest.raises(AlreadyExists):
            await desk.adopt(items[0].data, name="theirs")


async def test_an_import_that_lacks_an_object_is_never_visible() -> None:
    """Each object left out in turn: the index is refused, no snapshot is there, and the next try makes it whole."""
    async with open_saved_cluster({"a": dict(HELD)}) as cluster:
        await cluster["a"].desk.create("one")
        items = _opened(await _exported(cluster["a"], "one"))
    for missing in range(1, len(items)):
        async with open_saved_cluster({"x": {}}) as cluster:
            desk = cluster["x"].desk
            await desk.put_objects(_body(items[:missing] + items[missing + 1 :]))
            with pytest.raises(CorruptExport) as caught:
                await desk.adopt(items[0].data)
            assert "import it again" in caught.value.hint
            assert await desk.list() == ([], [])
            await desk.put_objects(_body([items[missing]]))
            assert (await desk.adopt(items[0].data)).problems == ()


async def test_an_import_writes_damaged_chunks_again_and_leaves_whole_ones_alone() -> None:
    """A place has the snapshot already, with one chunk changed: importing it beside heals both."""
    async with open_saved_cluster({"a": dict(HELD)}) as cluster:
        node = cluster["a"]
        await node.desk.create("one")
        items = _opened(await _exported(node, "one"))
        chunk = f"snapshots/saved/_chunks/{items[-1].digest.hex()}"
        node.disk.flip_bit(chunk, 7)
        assert (await node.desk.verify("one")).problems != ()
        await node.desk.put_objects(_body(items))
        await node.desk.adopt(items[0].data, name="two")
        assert (await node.desk.verify("one")).problems == ()


async def test_objects_that_are_not_what_they_are_called_are_not_written() -> None:
    """A changed byte, an index among them, a path for a name: nothing of the request is kept."""
    async with open_saved_cluster({"a": dict(HELD)}) as cluster:
        await cluster["a"].desk.create("one")
        items = _opened(await _exported(cluster["a"], "one"))
    async with open_saved_cluster({"x": {}}) as cluster:
        node = cluster["x"]
        body = bytearray(_body(items))
        body[-1] ^= 1
        with pytest.raises(CorruptExport):
            await node.desk.put_objects(bytes(body))
        with pytest.raises(UsageError):
            await node.desk.put_objects(_body(items) + items[0].encode())
        with pytest.raises(CorruptExport):
            await node.desk.put_objects(b"\x03../../identity/identity.json")
        assert node.disk.list("snapshots/saved/_chunks") == []
        for name in ("../x", "A", "_chunks"):
            with pytest.raises(UsageError):
                await node.desk.adopt(items[0].data, name=name)


class _Watched(MemoryObjects):
    """Counts tasks while objects are written, and manifests that are alive while bundles are read."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks = 0
        self.manifests = 0

    async def create(self, key: str, data: bytes) -> bool:
        self.tasks = max(self.tasks, trio.lowlevel.current_statistics().tasks_living)
        await trio.lowlevel.checkpoint()
        return await super().create(key, data)

    async def get(self, key: str) -> bytes | None:
        if key.startswith(BUNDLES):
            self.manifests = max(self.manifests, sum(type(one) is Manifest for one in gc.get_objects()))
        return await super().get(key)


async def test_many_objects_are_written_by_few_tasks() -> None:
    """Thousands in one request are no thousands of tasks; all of them are written."""
    objects = _Watched()
    body = b"".join(item_of(Kind.BUNDLE, number.to_bytes(4)).encode() for number in range(ITEMS_MAX))
    before = trio.lowlevel.current_statistics().tasks_living
    assert await put_objects(objects, InlineExecutor(), body) == len(objects.held) == ITEMS_MAX
    assert objects.tasks <= before + PUTS_MAX


async def test_a_snapshot_is_checked_one_list_of_units_after_another() -> None:
    """Of twenty lists with ten units each, no more than one is held; what they share is counted once."""
    gc.collect()
    before = sum(type(one) is Manifest for one in gc.get_objects())
    objects, big = _Watched(), b"b" * (SMALL_BYTES + 1)
    await objects.put(f"{CHUNKS}/{digest_of(big).hex()}", big)
    units: list[SavedUnit] = []
    names: list[str] = []
    for number in range(20):
        made = [
            build_manifest(
                UnitId(f"t/{number}-{unit}"),
                [ChunkRef(digest_of(big), len(big)), ChunkRef(digest_of(b"s"), 1)],
                PART_BYTES_MAX,
                FORMAT,
            )
            for unit in range(10)
        ]
        units += [SavedUnit(unit=one.unit, root=one.root.hex(), size_bytes=one.size_bytes, chunks=2) for one in made]
        data = Bundle(tuple(made), (b"s",)).encode()
        names.append(digest_of(data).hex())
        await objects.put(f"{BUNDLES}/{names[-1]}", data)
        del made
    index = SavedSnapshot(name="s", node=NodeId("a"), created_unix_ns=1, units=tuple(units), bundles=tuple(names))
    report = await verify(Shelf(objects, InlineExecutor()), index)
    assert (report.units, report.chunks, report.problems) == (200, 1 + 20, ())
    assert objects.manifests - before <= 10


async def test_a_check_ends_where_nothing_is_left_to_save() -> None:
    """An index of units without a state is not one problem for each of a million."""
    units = [
        SavedUnit(unit=UnitId(f"t/{number}"), root=f"{number:064x}", size_bytes=0, chunks=0)
        for number in range(PROBLEMS_MAX + 50)
    ]
    index = SavedSnapshot(name="s", node=NodeId("a"), created_unix_ns=1, units=tuple(units))
    report = await verify(Shelf(MemoryObjects(), InlineExecutor()), index)
    assert len(report.problems) == PROBLEMS_MAX


async def test_an_export_of_a_damaged_snapshot_never_ends_as_a_whole_file() -> None:
    """A chunk that is missing or changed breaks the stream; what came of it opens to nothing whole."""
    for is_gone in (True, False):
        async with open_saved_cluster({"a": dict(HELD)}) as cluster:
            node = cluster["a"]
            await node.desk.create("one")
            chunk = max(
                node.disk.list("snapshots/saved/_chunks"),
                key=lambda name: node.disk.size_bytes(f"snapshots/saved/_chunks/{name}"),
            )
            if is_gone:
                node.disk.remove(f"snapshots/saved/_chunks/{chunk}")
            else:
                node.disk.flip_bit(f"snapshots/saved/_chunks/{chunk}", 7)
            export = await node.desk.export("one", [KEY.recipient])
            pieces: list[bytes] = []
            with pytest.raises(CorruptChunk):
                await _collect(export.stream, pieces)
            with pytest.raises(FrysError):
                _opened(b"".join(pieces))
            # The broken stream gave its job back, and its lock.
            assert (await node.desk.verify("one")).problems != ()
            assert node.disk.list("snapshots/saved/_locks") == []


async def _collect(stream: AsyncIterator[bytes], pieces: list[bytes]) -> None:
    async for piece in stream:
        pieces += [piece]


async def test_nothing_is_collected_under_an_export() -> None:
    """A prune while the file is being read deletes the snapshot's name and leaves its chunks to the next prune."""
    async with open_saved_cluster({"a": dict(HELD)}) as cluster:
        node = cluster["a"]
        await node.desk.create("one")
        export = await node.desk.export("one", [KEY.recipient])
        pieces: list[bytes] = []
        async for piece in export.stream:
            if not pieces:
                report = await node.desk.prune(keep=0, older_than_s=None)
                assert report.chunks == 0
                assert "export one" in report.waits_for
            pieces.append(piece)
        _opened(b"".join(pieces))
        assert COLLECT not in " ".join(node.disk.list("snapshots/saved/_locks"))
        assert (await node.desk.prune(keep=0, older_than_s=None)).chunks > 0


async def test_an_export_that_nobody_reads_to_its_end_gives_everything_back() -> None:
    """Closed before it began, and after the first piece: jobs and locks are free again."""
    async with open_saved_cluster({"a": dict(HELD)}) as cluster:
        node = cluster["a"]
        await node.desk.create("one")
        for pieces in (0, 1, 0, 1, 1):
            stream = (await node.desk.export("one", [KEY.recipient])).stream
            for _ in range(pieces):
                await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
        assert node.disk.list("snapshots/saved/_locks") == []
        await _exported(node, "one")
        counted = node.metrics.counter("frys_snapshots_exports_total", "", ("result",)).values
        assert counted == {("broken",): 3, ("whole",): 1}


async def test_recipients_that_are_no_keys_are_refused_before_anything_is_read() -> None:
    """None, and one that is not canonical: the answer is an error, not a file."""
    async with open_saved_cluster({"a": dict(HELD)}) as cluster:
        await cluster["a"].desk.create("one")
        for recipients in ([], [Recipient(b"\xff" * 1_184)]):
            with pytest.raises(FrysError):
                await cluster["a"].desk.export("one", recipients)

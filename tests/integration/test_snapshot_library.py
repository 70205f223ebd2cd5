"""Saved snapshots: whole or invisible, incremental, checked before anything changes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
import trio

from frys_node.base.errors import AlreadyExists, NotFound, NotReady, UsageError
from frys_node.base.ports import Disk
from frys_node.base.types import Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.snapshots import Captured
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.saved import ByteUnits, MemoryObjects, open_saved_cluster
from frys_node.transport.disk import DirectoryDisk
from snapshots.bundle import Bundle, decode_bundle
from snapshots.errors import CorruptChunk, CorruptManifest, RingMoved, UnknownFormat, WouldReplace
from snapshots.library import Library
from snapshots.objects import DirectoryObjects, Objects

NAME = "before-upgrade"


def _held() -> dict[UnitId, bytes]:
    rng = random.Random(2)
    return {UnitId(f"t/{number}"): rng.randbytes(size) for number, size in enumerate((0, 10, 300_000, 700_000))}


def _library(objects: Objects | Disk, tables: ByteUnits) -> Library:
    if not hasattr(objects, "place"):
        objects = DirectoryObjects(objects, InlineExecutor(), place="there")  # type: ignore[arg-type]
    return Library(objects, executor=InlineExecutor(), clock=FakeClock(), providers={"t": tables}, node=NodeId("a"))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["real", "fake", "objects"])
async def test_a_saved_snapshot_is_read_back_as_it_was(kind: str, tmp_path: Path) -> None:
    """S1: from a real directory, one in memory and an object store; and nothing is left of what is deleted."""
    places: dict[str, Objects | Disk] = {
        "real": DirectoryDisk(tmp_path / "backup"),
        "fake": FakeDisk(),
        "objects": MemoryObjects(),
    }
    tables = ByteUnits(_held())
    library = _library(places[kind], tables)
    saved = await library.create(NAME)
    assert [unit.unit for unit in saved.units] == tables.units()
    assert saved.size_bytes == 1_000_010
    assert await library.shelf.list() == ([saved], [])
    report = await library.verify(NAME)
    assert (report.units, report.size_bytes, report.problems) == (4, 1_000_010, ())
    contents = await library.shelf.open(saved)
    for unit in saved.units:
        manifest = await contents.manifest(unit)
        assert b"".join([part async for part in contents.parts(manifest)]) == _held()[unit.unit]
    pruned = await library.delete(NAME)
    assert (pruned.deleted, pruned.kept, pruned.waits_for) == ((NAME,), 0, "")
    for folder in ("_chunks", "_bundles", "_snapshots", "_locks"):
        assert await library.shelf.objects.list(folder) == {}


async def test_equal_states_give_equal_bytes() -> None:
    """S2: saved by another node, at another time, from units in another order, only the index differs."""
    stores = [MemoryObjects(), MemoryObjects()]
    clock = FakeClock()
    clock.step(86_400.0)
    libraries = [
        _library(stores[0], ByteUnits(_held())),
        Library(
            stores[1],
            executor=InlineExecutor(),
            clock=clock,
            providers={"t": ByteUnits(dict(reversed(_held().items())))},
            node=NodeId("b"),
            process="another",
        ),
    ]
    indexes = [await library.create("s") for library in libraries]
    bytes_of = [{key: data for key, data in store.held.items() if key != "_snapshots/s.json"} for store in stores]
    assert bytes_of[0] == bytes_of[1]
    assert len(bytes_of[0]) == 11
    assert indexes[1].created_unix_ns != indexes[0].created_unix_ns
    assert [one.root for one in indexes[1].units] == [one.root for one in indexes[0].units]
    assert indexes[1].bundles == indexes[0].bundles
    again = await _library(stores[0], ByteUnits(_held())).create("s2")
    assert (again.new_bytes, again.reused_bytes) == (0, indexes[0].new_bytes)
    assert stores[0].held.keys() - stores[1].held.keys() == {"_snapshots/s2.json"}


async def test_a_second_snapshot_writes_only_what_changed() -> None:
    """One byte in the middle costs the part that it is in, and the list of units."""
    tables, store = ByteUnits(_held()), MemoryObjects()
    await _library(store, tables).create("s1")
    data = bytearray(tables.held[UnitId("t/3")])
    data[350_000] ^= 1
    tables.held[UnitId("t/3")] = bytes(data)
    second = await _library(store, tables).create("s2")
    assert 100_000 <= second.new_bytes < 102_000
    assert second.reused_bytes == 900_000
    assert (await _library(store, tables).verify("s1")).problems == ()
    assert (await _library(store, tables).verify("s2")).problems == ()


async def test_a_chunk_that_is_short_is_written_again() -> None:
    """A save does not build on half an object that somebody left: its size is looked at."""
    tables, store = ByteUnits(_held()), MemoryObjects()
    await _library(store, tables).create("s1")
    for key in [key for key in store.held if key.startswith("_chunks/")]:
        store.held[key] = store.held[key][:-1]
    assert len((await _library(store, tables).verify("s1")).problems) == 10
    await _library(store, tables).create("s2")
    assert (await _library(store, tables).verify("s1")).problems == ()


async def test_damage_is_refused_before_any_state_changes() -> None:
    """S4: one flipped bit, a cut or a missing object anywhere, and no unit is touched."""
    async with open_saved_cluster({"a": _held()}) as cluster:
        node = cluster["a"]
        await node.desk.create("s")
        node.units["t"].held = dict.fromkeys(_held(), b"untouched")
        folder = "snapshots/saved"
        files = [f"{folder}/{d}/{n}" for d in ("_chunks", "_bundles") for n in node.disk.list(f"{folder}/{d}")]
        assert len(files) == 11
        for path in files:
            data = node.disk.read(path)
            assert data
            for damage in (data[:-1], bytes([data[0] ^ 1]) + data[1:], None):
                node.disk.remove(path)
                if damage is not None:
                    node.disk.write(path, damage)
                with pytest.raises((CorruptChunk, CorruptManifest)):
                    await node.desk.restore("s")
                assert set(node.units["t"].held.values()) == {b"untouched"}
                assert len((await node.desk.verify("s")).problems) >= 1
            node.disk.write(path, data)
        assert (await node.desk.verify("s")).problems == ()
        report = await node.desk.restore("s")
        assert (report.units, report.items, report.size_bytes) == (4, 3, 1_000_010)
        assert node.units["t"].held == _held()


async def test_what_a_restore_would_lose_is_lost_only_when_that_is_asked_for() -> None:
    """A kind that is replaced is refused whole if a unit has something; one that is empty is filled without asking."""
    async with open_saved_cluster({"a": _held()}, replacing=["t"]) as cluster:
        node = cluster["a"]
        await node.desk.create("s")
        node.units["t"].held |= dict.fromkeys(_held(), b"")
        node.units["t"].held[UnitId("t/1")] = b"since"
        with pytest.raises(WouldReplace, match="1 workflow partitions that have runs, such as t/1"):
            await node.desk.restore("s")
        assert sorted(node.units["t"].held.values()) == [b"", b"", b"", b"since"]
        await node.desk.restore("s", units=[UnitId("t/0"), UnitId("t/2")])
        assert node.units["t"].held[UnitId("t/2")] == _held()[UnitId("t/2")]
        await node.desk.restore("s", replace=True)
        assert node.units["t"].held == _held()


async def test_bad_requests_are_refused_with_their_fix() -> None:
    """Names, units, kinds, repeated saves, foreign indexes, places."""
    async with open_saved_cluster({"a": _held()}) as cluster:
        desk = cluster["a"].desk
        for name in ("", "../x", "A", ".hidden", "a/b", "_chunks", "x" * 64):
            with pytest.raises(UsageError):
                await desk.create(name)
        await desk.create("s", units=[UnitId("t/1")])
        with pytest.raises(AlreadyExists):
            await desk.create("s")
        for unit in ("t/99", "other/1"):
            with pytest.raises(NotFound):
                await desk.create("s2", units=[UnitId(unit)])
        with pytest.raises(NotFound, match="has no unit 't/2'"):
            await desk.restore("s", units=[UnitId("t/2")])
        with pytest.raises(NotFound, match="there is no snapshot 'none' in"):
            await desk.verify("none")
        with pytest.raises(NotFound):
            await desk.delete("none")
        for place in ("relative", "http://x", "s3://X", "s3://bucket/../up"):
            with pytest.raises(UsageError):
                await desk.list(place)
        with pytest.raises(UsageError):
            await desk.create("s2", units=[UnitId("t/1")], is_cluster=True)


async def test_what_cannot_be_read_is_named_and_can_be_deleted() -> None:
    """A broken index and one of a newer version are told in the list, and not taken over by a save."""
    store, tables = MemoryObjects(), ByteUnits(_held())
    library = _library(store, tables)
    await library.create("s")
    store.held["_snapshots/junk.json"] = b"{}"
    store.held["_snapshots/newer.json"] = store.held["_snapshots/s.json"].replace(b'"format":2', b'"format":3')
    found, problems = await library.shelf.list()
    assert [index.name for index in found] == ["s"]
    assert len(problems) == 2
    with pytest.raises(CorruptManifest):
        await library.verify("junk")
    with pytest.raises(UnknownFormat):
        await library.verify("newer")
    with pytest.raises(AlreadyExists):
        await library.create("newer")
    for name in ("junk", "newer"):
        await library.delete(name)
    assert await library.shelf.names() == ["s"]


class _Moving(ByteUnits):
    """Units that move while they are captured."""

    def __init__(self, held: dict[UnitId, bytes], moves: int) -> None:
        super().__init__(held)
        self.seq = 0
        self.moves = moves

    async def capture(self, unit: UnitId) -> Captured:
        if self.moves:
            self.moves -= 1
            self.seq += 1
            # One unit has left with that move, and another has come.
            if self.held.pop(UnitId("t/1"), None) is not None:
                self.held[UnitId("t/9")] = b"came meanwhile"
        return await super().capture(unit)

    def epoch(self) -> Epoch:
        return Epoch(Term(1, NodeId("a")), self.seq)


async def test_a_snapshot_is_of_one_epoch_of_the_ring() -> None:
    """A move meanwhile has the units saved anew; a ring that does not come to rest is an error."""
    for moves, seq in ((1, 1), (100, None)):
        tables, store = _Moving(_held(), moves), MemoryObjects()
        library = Library(
            store,
            executor=InlineExecutor(),
            clock=FakeClock(),
            providers={"t": tables},
            node=NodeId("a"),
            epoch=tables.epoch,
        )
        if seq is None:
            with pytest.raises(RingMoved):
                await library.create("s")
            assert await library.shelf.names() == []
            continue
        saved = await library.create("s")
        assert saved.epoch is not None
        assert saved.epoch.seq == seq
        assert [one.unit for one in saved.units] == ["t/0", "t/2", "t/3", "t/9"]
        assert saved.new_bytes > 1_000_000
        assert (await library.verify("s")).problems == ()


async def test_a_unit_that_is_on_its_way_here_is_named_and_not_saved_empty() -> None:
    """What is not whole would be restored as less than it was; asked for by name, it is refused."""
    tables, store = ByteUnits(_held()), MemoryObjects()
    tables.incomplete.add(UnitId("t/2"))
    saved = await _library(store, tables).create("s")
    assert [one.unit for one in saved.missing] == ["t/2"]
    assert [one.unit for one in saved.units] == ["t/0", "t/1", "t/3"]
    with pytest.raises(NotReady):
        await _library(store, tables).create("s2", [UnitId("t/2")])


async def test_an_index_says_where_it_is_from_and_keeps_no_secret() -> None:
    """Cluster, node, epoch, time, units and settings are there; what looks like a secret is not."""
    async with open_saved_cluster({"a": _held()}) as cluster:
        saved = await cluster["a"].desk.create("s")
        assert (saved.cluster, saved.nodes, saved.scope, saved.partitions) == ("frys", {"a": "A"}, "node", 4)
        assert str(saved.epoch) == "1.1"
        assert saved.created_unix_ns > 0
        assert saved.settings == {"system.name": "a", "plugins.own.api_key": "(left out)"}
        index = cluster["a"].disk.read("snapshots/saved/_snapshots/s.json")
        assert index is not None
        assert b"hush" not in index
        assert msgspec.json.decode(index)["format"] == 2


async def test_requests_go_on_while_a_snapshot_is_made() -> None:
    """The state is that of the capture: what a client writes while it is being written out is not in it."""

    class Changing(ByteUnits):
        async def capture(self, unit: UnitId) -> Captured:
            captured = await super().capture(unit)
            self.held[unit] = b"changed by a client"
            return captured

    tables, store = Changing(_held()), MemoryObjects()
    saved = await _library(store, tables).create("s")
    contents = await _library(store, tables).shelf.open(saved)
    for unit in saved.units:
        manifest = await contents.manifest(unit)
        assert b"".join([part async for part in contents.parts(manifest)]) == _held()[unit.unit]


def _bundles(store: MemoryObjects) -> Sequence[Bundle]:
    return [
        decode_bundle(data, key.removeprefix("_bundles/"))
        for key, data in store.held.items()
        if key.startswith("_bundles/")
    ]


async def test_small_units_cost_no_objects_of_their_own() -> None:
    """A thousand small units are one object and the index."""
    tables, store = ByteUnits({UnitId(f"t/{number}"): b"x" * number for number in range(1_000)}), MemoryObjects()
    await _library(store, tables).create("s")
    assert sorted(key.partition("/")[0] for key in store.held) == ["_bundles", "_snapshots"]
    assert [len(bundle.manifests) for bundle in _bundles(store)] == [1_000]
    assert (await _library(store, tables).verify("s")).problems == ()


async def test_large_lists_of_units_are_cut_into_several() -> None:
    """A bundle ends when it is full, and the units of all of them are found."""
    rng = random.Random(1)
    held = {UnitId(f"t/{number}"): rng.randbytes(8_000) for number in range(1_000)}
    store = MemoryObjects()
    saved = await _library(store, ByteUnits(held)).create("s")
    assert len(saved.bundles) == 2
    assert (await _library(store, ByteUnits(held)).verify("s")).chunks == 1_000
    await trio.lowlevel.checkpoint()

"""S3: a crash at any request that changes a place leaves the old or the new snapshot, whole."""

from __future__ import annotations

import functools
import random
from collections.abc import Awaitable, Callable

import pytest

from frys_node.base.errors import FrysError
from frys_node.base.types import NodeId, UnitId
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import Failure, FakeDisk, PowerLost, Tear
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.saved import ByteUnits, Fault, MemoryObjects, ProcessDied, open_saved_cluster
from snapshots.archive import Kind, index_of, item_of
from snapshots.export import put_objects
from snapshots.library import Library
from snapshots.objects import DirectoryObjects, Objects

Job = Callable[[Library], Awaitable[object]]


@functools.cache
def _old() -> dict[UnitId, bytes]:
    rng = random.Random(3)
    return {UnitId("t/1"): b"one", UnitId("t/2"): rng.randbytes(250_000), UnitId("t/3"): rng.randbytes(40_000)}


@functools.cache
def _new() -> dict[UnitId, bytes]:
    return _old() | {UnitId("t/2"): random.Random(4).randbytes(150_000) + _old()[UnitId("t/2")][150_000:]}


def _library(objects: Objects, held: dict[UnitId, bytes], process: str) -> Library:
    clock = FakeClock()
    # Of two snapshots, the one of the new state is the younger.
    clock.step(60.0 if held == _new() else 0.0)
    return Library(
        objects,
        executor=InlineExecutor(),
        clock=clock,
        providers={"t": ByteUnits(dict(held), part_bytes=50_000)},
        node=NodeId("a"),
        process=process,
    )


def _on(disk: FakeDisk) -> Objects:
    return DirectoryObjects(disk, InlineExecutor(), place="disk", directory="saved")


async def _create(library: Library) -> object:
    return await library.create("new")


async def _prune(library: Library) -> object:
    return await library.prune(keep=1)


async def _delete(library: Library) -> object:
    return await library.delete("old")


async def _verify(library: Library) -> object:
    return await library.verify("old")


async def _import(library: Library) -> object:
    """Bring what an export of the new snapshot holds, in two requests, then its index."""
    elsewhere = MemoryObjects()
    await _library(elsewhere, _new(), "0").create("new")
    parts = [(Kind.BUNDLE, "_bundles/"), (Kind.CHUNK, "_chunks/")]
    for kind, folder in parts:
        items = [item_of(kind, data) for key, data in sorted(elsewhere.held.items()) if key.startswith(folder)]
        await put_objects(library.shelf.objects, InlineExecutor(), b"".join(item.encode() for item in items))
    return await library.adopt(index_of(elsewhere.held["_snapshots/new.json"]))


JOBS: dict[str, Job] = {
    "create": _create,
    "prune": _prune,
    "delete": _delete,
    "verify": _verify,
    "import": _import,
}


async def _prepare(objects: Objects, job: str) -> None:
    await _library(objects, _old(), "0").create("old")
    if job in ("prune", "delete"):
        await _library(objects, _new(), "0").create("new")


async def _check(objects: Objects, job: str) -> set[str]:
    """Everything that is visible is whole and right; the job can be done again, and leaves nothing behind."""
    after = _library(objects, _new(), "2")
    found, problems = await after.shelf.list()
    names = {index.name for index in found}
    assert problems == []
    assert names in ({"old"}, {"old", "new"}, {"new"})
    assert ("old" in names) or job in ("prune", "delete")
    assert ("new" in names) or job in ("create", "verify", "import")
    await _all_whole(after)
    if "new" not in names:
        await JOBS["import" if job == "import" else "create"](after)
    elif "old" in names and job in ("prune", "delete"):
        await JOBS[job](after)
    report = await after.prune()
    assert report.waits_for == ""
    await _all_whole(after)
    fresh = MemoryObjects()
    for name in sorted((await after.shelf.names()), reverse=True):
        await _library(fresh, _old() if name == "old" else _new(), "0").create(name)
    for folder in ("_chunks", "_bundles", "_locks"):
        assert await objects.list(folder) == await fresh.list(folder)
    return names


async def _all_whole(library: Library) -> None:
    for index in (await library.shelf.list())[0]:
        assert (await library.verify(index.name)).problems == ()
        contents = await library.shelf.open(index)
        expected = _old() if index.name == "old" else _new()
        for saved in index.units:
            manifest = await contents.manifest(saved)
            assert b"".join([part async for part in contents.parts(manifest)]) == expected[saved.unit]


async def _run_until_death(job: Job, library: Library) -> bool:
    """Run a job; returns True if the process died in it."""
    try:
        await job(library)
    except (FrysError, PowerLost, ProcessDied):
        return True
    except BaseExceptionGroup as group:
        _, other = group.split((FrysError, PowerLost, ProcessDied))
        assert other is None
        return True
    return False


@pytest.mark.parametrize("job", list(JOBS))
async def test_a_crash_at_any_disk_call_leaves_whole_snapshots(job: str) -> None:
    """Power is lost before, and so after, each call; what was not synced is lost, torn or kept."""
    clean = FakeDisk()
    await _prepare(_on(clean), job)
    before = clean.calls
    await JOBS[job](_library(_on(clean), _new(), "1"))
    calls = clean.calls - before
    assert calls >= {"create": 7, "prune": 7, "delete": 7, "verify": 2, "import": 7}[job]
    seen: set[frozenset[str]] = set()
    for number in range(1, calls + 2):
        for tear in Tear:
            disk = FakeDisk()
            await _prepare(_on(disk), job)
            disk.crash_call(disk.calls + number)
            died = await _run_until_death(JOBS[job], _library(_on(disk), _new(), "1"))
            assert died == (number <= calls)
            disk.crash(tear, random.Random(number))
            seen.add(frozenset(await _check(_on(disk), job)))
    assert len(seen) == (1 if job == "verify" else 2), "both the old and the new state were met"


@pytest.mark.parametrize("job", list(JOBS))
@pytest.mark.parametrize("failure", list(Failure))
async def test_a_disk_that_refuses_any_call_loses_nothing(job: str, failure: Failure) -> None:
    """An error, a full disk, a read-only one: at each call in turn."""
    number = 0
    while True:
        number += 1
        disk = FakeDisk()
        await _prepare(_on(disk), job)
        disk.fail_call(disk.calls + number, failure)
        await _run_until_death(JOBS[job], _library(_on(disk), _new(), "1"))
        if not disk.failures_met:
            break
        disk.calm()
        await _check(_on(disk), job)
    assert number > 2


@pytest.mark.parametrize("job", list(JOBS))
@pytest.mark.parametrize("fault", list(Fault))
async def test_a_fault_at_any_request_to_an_object_store_leaves_whole_snapshots(job: str, fault: Fault) -> None:
    """The process dies before, after or in the middle of each request, or is told an error, done or not."""
    clean = MemoryObjects()
    await _prepare(clean, job)
    before = clean.calls
    await JOBS[job](_library(clean, _new(), "1"))
    for number in range(1, clean.calls - before + 1):
        store = MemoryObjects()
        await _prepare(store, job)
        store.plan(store.calls + number, fault)
        await _run_until_death(JOBS[job], _library(store, _new(), "1"))
        store.reboot()
        await _check(store, job)


@pytest.mark.parametrize("fault", [Fault.BEFORE, Fault.AFTER])
async def test_a_crash_while_restoring_harms_neither_the_snapshot_nor_a_unit(fault: Fault) -> None:
    """Each unit is as it was or as it was saved, and restoring again brings the rest."""
    number = 0
    while True:
        number += 1
        async with open_saved_cluster({"a": dict(_old())}) as cluster:
            node = cluster["a"]
            await node.desk.create("old")
            node.units["t"].held = dict.fromkeys(_old(), b"before")
            node.disk.crash_call(node.disk.calls + number + (fault is Fault.AFTER))
            died = False
            try:
                await node.desk.restore("old")
            except PowerLost:
                died = True
            node.disk.crash(Tear.LOST)
            assert all(data in (b"before", _old()[unit]) for unit, data in node.units["t"].held.items())
            assert (await node.desk.verify("old")).problems == ()
            await node.desk.restore("old")
            assert node.units["t"].held == _old()
        if not died:
            break
    assert number >= 2

"""Saved snapshots through the real replication: nothing newer is undone, and other clusters take every key."""

from __future__ import annotations

import random

import pytest
import trio
import trio.testing

from frys_node.base.types import Consistency, NodeId
from frys_node.base.units import cache_unit_of, shard_of, vector_unit
from frys_node.kernel.services.topology import Collection
from frys_node.observe.metrics import Metrics
from frys_node.testing.clock import FakeClock
from frys_node.testing.data_cluster import ClusterMembers, DataCluster, open_data_cluster
from frys_node.testing.disk import FakeDisk, PowerLost, Tear
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.executor import InlineExecutor
from snapshots.desk import Desk
from snapshots.messages import HAS, SHARE, SURVEY, TAKE
from snapshots.places import Places
from snapshots.reception import Reception

PLACE = "/shared"
NAMES = {"n1", "n2", "n3"}
SOLE = {"durable_kinds": ("vector",), "with_snapshots": True}


def _desk(cluster: DataCluster, name: str, shared: FakeDisk) -> Desk:
    node = cluster[name]
    assert node.snapshots is not None
    executor, rpc = InlineExecutor(), cluster.network.node(name)
    for method in (SHARE, TAKE, SURVEY, HAS):
        rpc.unserve(method)
    desk = Desk(
        node.snapshots,
        rpc=rpc,
        topology=node.balancer,  # type: ignore[arg-type]  # its placement is there once a record is
        members=ClusterMembers(cluster, NodeId(name)),
        clock=FakeClock(),
        entropy=FakeEntropy(f"desk of {name}"),
        executor=executor,
        metrics=Metrics(),
        places=Places(
            disk=node.disk,
            executor=executor,
            environ={},
            open_directory=lambda _path: shared,
            read_file=lambda _path, _size: None,
        ),
        cluster_name="frys",
        settings=list,
    )
    Reception(rpc=rpc, executor=executor, metrics=Metrics(), load=lambda: lambda: desk)
    return desk


def _cache_key(number: int) -> bytes:
    return b"default\x00key-%d" % number


def _point(number: int) -> bytes:
    return b"\x00" + number.to_bytes(8, "big")


async def _fill(cluster: DataCluster, name: str, count: int) -> Collection:
    node = cluster[name]
    collection = Collection(name="c", id="one", dimension=2, distance="Dot", shard_number=3)
    await node.balancer.create_collection(collection)
    await cluster.settle()
    for number in range(count):
        key = _cache_key(number)
        unit = cache_unit_of(key[key.index(0) + 1 :], cluster.partitions)
        await node.replication.write(unit, [(key, b"value %d" % number)])
        point = _point(number)
        await node.replication.write(vector_unit("one", shard_of(point, 3)), [(point, b"point %d" % number)])
    return collection


async def _read(cluster: DataCluster, name: str, count: int) -> tuple[dict[int, bytes | None], dict[int, bytes | None]]:
    """Return what a quorum says of every key and point."""
    node = cluster[name]
    collection = next(one for one in node.balancer.collections() if one.name == "c")
    cached: dict[int, bytes | None] = {}
    points: dict[int, bytes | None] = {}
    for number in range(count):
        key, point = _cache_key(number), _point(number)
        unit = cache_unit_of(key[key.index(0) + 1 :], cluster.partitions)
        (entry,) = await node.replication.read(unit, [key], Consistency.QUORUM)
        cached[number] = entry.value if entry is not None else None
        shard = vector_unit(collection.id, shard_of(point, collection.shard_number))
        (entry,) = await node.replication.read(shard, [point], Consistency.QUORUM)
        points[number] = entry.value if entry is not None else None
    return cached, points


@pytest.mark.parametrize(
    ("before", "after", "partitions"),
    [
        (["n1", "n2", "n3"], ["m1", "m2"], 7),
        (["n1", "n2"], ["m1", "m2", "m3", "m4", "m5"], 4),
        (["n1"], ["m1", "m2", "m3"], 9),
        (["n1", "n2", "n3", "n4"], ["m1", "m2"], 3),
    ],
    ids=["smaller", "larger", "larger_finer", "smaller_coarser"],
)
async def test_a_cluster_restores_into_one_of_another_size(
    before: list[str], after: list[str], partitions: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Fewer nodes or more, fewer units or more: every key is where it belongs there, at as many members."""
    shared = FakeDisk()
    async with open_data_cluster(before, durable_kinds=("vector",), with_snapshots=True) as cluster:
        await cluster.settle()
        await _fill(cluster, "n1", 30)
        desks = {name: _desk(cluster, name, shared) for name in before}
        saved = await desks[before[-1]].create("all", place=PLACE, is_cluster=True)
        assert (saved.scope, len(saved.nodes), saved.partitions) == ("cluster", len(before), 4)
    async with open_data_cluster(
        after, durable_kinds=("vector",), partitions=partitions, with_snapshots=True
    ) as cluster:
        await cluster.settle()
        desks = {name: _desk(cluster, name, shared) for name in after}
        await trio.sleep(5.0)  # it is later than when the snapshot was made
        report = await desks["m2"].restore("all", place=PLACE)
        assert (report.failed, report.skipped, report.collections) == ((), (), ("c",))
        assert (report.items, report.items_standing) == (60, 0)
        cached, points = await _read(cluster, "m1", 30)
        assert cached == {number: b"value %d" % number for number in range(30)}
        assert points == {number: b"point %d" % number for number in range(30)}
        (made,) = cluster["m1"].balancer.collections()
        assert made.id != "one"
        for number in range(30):
            shard = vector_unit(made.id, shard_of(_point(number), 3))
            members = cluster["m1"].balancer.sets(shard).current
            assert len(members) == min(len(after), 3)
            for member in members:
                held = cluster[member].replication.replica.table.units[shard].store
                (entry,) = held.get([_point(number)])
                assert entry is not None
                assert entry.value == b"point %d" % number
        again = await desks["m1"].restore("all", place=PLACE)
        assert (again.failed, again.collections) == ((), ())
        assert (again.items, again.items_standing) == (0, 60)
        assert await _read(cluster, "m2", 30) == (cached, points)


async def test_a_restore_undoes_nothing_that_is_newer(autojump_clock: trio.testing.MockClock) -> None:
    """Values written and deleted since the snapshot stand, in the cache and in the collection, and are counted."""
    shared = FakeDisk()
    async with open_data_cluster(["n1", "n2", "n3"], durable_kinds=("vector",), with_snapshots=True) as cluster:
        await cluster.settle()
        await _fill(cluster, "n1", 9)
        desks = {name: _desk(cluster, name, shared) for name in sorted(NAMES)}
        await desks["n1"].create("s", place=PLACE, is_cluster=True)
        for number, value in ((1, None), (2, b"newer")):
            key, point = _cache_key(number), _point(number)
            unit = cache_unit_of(key[key.index(0) + 1 :], cluster.partitions)
            await cluster["n2"].replication.write(unit, [(key, value)])
            await cluster["n2"].replication.write(vector_unit("one", shard_of(point, 3)), [(point, value)])
        before = await _read(cluster, "n3", 9)
        report = await desks["n3"].restore("s", place=PLACE)
        assert (report.failed, report.skipped) == ((), ())
        assert (report.items, report.items_standing) == (0, 18)
        assert await _read(cluster, "n3", 9) == before
        assert [before[0][1], before[0][2], before[1][1], before[1][2]] == [None, b"newer", None, b"newer"]


async def test_what_several_copies_of_a_unit_have_is_counted_once(autojump_clock: trio.testing.MockClock) -> None:
    """Each shard was saved from two replicas that agree and from one that lags: nothing stands in an empty cluster."""
    shared = FakeDisk()
    async with open_data_cluster(["n1", "n2", "n3"], durable_kinds=("vector",), with_snapshots=True) as cluster:
        await cluster.settle()
        await _fill(cluster, "n1", 60)
        for number in range(3):
            held = cluster["n3"].replication.replica.table.units[vector_unit("one", number)]
            held.drop([next(iter(held.store.keys()))])
        desks = [_desk(cluster, name, shared) for name in sorted(NAMES)]
        await desks[0].create("s", place=PLACE, is_cluster=True, kinds=["vector"])
    async with open_data_cluster(["m1", "m2", "m3"], durable_kinds=("vector",), with_snapshots=True) as cluster:
        await cluster.settle()
        desks = [_desk(cluster, name, shared) for name in ("m1", "m2", "m3")]
        report = await desks[0].restore("s", place=PLACE)
        assert (report.items, report.items_standing, report.failed) == (60, 0, ())


async def test_a_cache_that_started_empty_takes_what_was_saved(autojump_clock: trio.testing.MockClock) -> None:
    """A sole node forgets its cache with its process; what was saved comes back although it is older than the floor."""
    shared = FakeDisk()
    async with open_data_cluster(["n1"], durable_kinds=("vector",), with_snapshots=True) as cluster:
        await cluster.settle()
        await _fill(cluster, "n1", 6)
        await _desk(cluster, "n1", shared).create("s", place=PLACE)
        await cluster["n1"].kill()
        await cluster.restart("n1")
        await cluster.settle()
        await trio.sleep(30.0)
        cached, points = await _read(cluster, "n1", 6)
        assert set(cached.values()) == {None}
        assert points[3] == b"point 3"
        key = _cache_key(5)
        unit = cache_unit_of(key[key.index(0) + 1 :], cluster.partitions)
        await cluster["n1"].replication.write(unit, [(key, b"written after the start")])
        report = await _desk(cluster, "n1", shared).restore("s", place=PLACE)
        assert (report.items, report.items_standing) == (5, 7)
        cached, _ = await _read(cluster, "n1", 6)
        assert cached == {number: b"value %d" % number for number in range(5)} | {5: b"written after the start"}


async def test_power_lost_at_any_disk_call_of_a_restore_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    """What was acknowledged before is there after each crash, and restoring again brings all of the snapshot."""
    shared, number = FakeDisk(), 0
    async with open_data_cluster(["n1"], durable_kinds=("vector",), with_snapshots=True) as cluster:
        await cluster.settle()
        await _fill(cluster, "n1", 12)
        await _desk(cluster, "n1", shared).create("s", place=PLACE)
    while True:
        number += 1
        disk, died = FakeDisk(), False
        try:
            async with open_data_cluster(["m1"], disks={"m1": disk}, **SOLE) as cluster:  # type: ignore[arg-type]
                await cluster.settle()
                node = cluster["m1"]
                await node.balancer.create_collection(
                    Collection(name="c", id="two", dimension=2, distance="Dot", shard_number=3)
                )
                await cluster.settle()
                own = vector_unit("two", shard_of(_point(99), 3))
                await node.replication.write(own, [(_point(99), b"mine")])
                disk.crash_call(disk.calls + number)
                await _desk(cluster, "m1", shared).restore("s", place=PLACE)
        except* PowerLost:
            died = True
        disk.crash(Tear.TORN, random.Random(number))
        async with open_data_cluster(["m1"], disks={"m1": disk}, **SOLE) as cluster:  # type: ignore[arg-type]
            await cluster.settle()
            (mine,) = await cluster["m1"].replication.read(own, [_point(99)])
            assert mine is not None
            assert mine.value == b"mine"
            report = await _desk(cluster, "m1", shared).restore("s", place=PLACE)
            assert report.failed == ()
            _, points = await _read(cluster, "m1", 12)
            assert points == {count: b"point %d" % count for count in range(12)}
        if not died:
            break
    assert number > 2

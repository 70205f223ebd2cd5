"""The replication drivers on a full disk: writes are refused by name, reads go on, and room ends it by itself."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from balancer.placement import cache_unit
from frys_node.base.errors import NoReplica, NotReady, StorageError
from frys_node.base.types import Consistency
from frys_node.testing.data_cluster import DataCluster, DataNode, open_data_cluster
from frys_node.testing.disk import Failure
from frys_node.transport.errors import StorageFull

UNIT = cache_unit(1)


async def settled(cluster: DataCluster) -> None:
    """Wait until every join is through."""
    with trio.fail_after(120):
        await cluster.settle()


def fill(node: DataNode) -> None:
    """Leave no room on a node's disk."""
    node.disk.capacity_bytes = node.disk.used_bytes


def free(node: DataNode) -> None:
    """Make room."""
    node.disk.capacity_bytes = None


async def read(node: DataNode, key: bytes) -> bytes | None:
    """Read one key at quorum."""
    (entry,) = await node.replication.read(UNIT, [key], Consistency.QUORUM)
    return None if entry is None else entry.value


async def test_a_full_disk_refuses_writes_and_serves_reads_until_there_is_room(autojump_clock: MockClock) -> None:
    """One node alone: each write hears of the disk at once, the node goes on, and stops without waiting for room."""
    async with open_data_cluster(["n1"]) as cluster:
        await settled(cluster)
        one = cluster["n1"]
        await one.replication.write(UNIT, [(b"k", b"v")])
        fill(one)
        for _ in range(3):
            with trio.fail_after(1), pytest.raises(StorageFull, match="the disk of n1 takes no writes") as caught:
                await one.replication.write(UNIT, [(b"k2", b"v2")])
            assert caught.value.status == 507
            assert "free space" in caught.value.hint
        assert await read(one, b"k") == b"v"
        with trio.fail_after(1):
            await one.replication.drain()
        free(one)
        await trio.sleep(1)
        await one.replication.write(UNIT, [(b"k3", b"v3")])
        assert (one.is_running, one.failure) == (True, None)
        await one.kill()
        await cluster.restart("n1")
        await settled(cluster)
        assert [await read(one, key) for key in (b"k", b"k3")] == [b"v", b"v3"]


async def test_a_quorum_with_room_is_enough_and_the_full_node_gets_the_rest_later(autojump_clock: MockClock) -> None:
    """Of three nodes one may be full: only a write to all is refused. With two full every write is."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        one, two, three = (cluster[name] for name in ("n1", "n2", "n3"))
        fill(three)
        for number in range(5):
            await one.replication.write(UNIT, [(b"k%d" % number, b"v")])
        with pytest.raises(StorageFull, match="the disk of n3"):
            await three.replication.write(UNIT, [(b"all", b"v")], Consistency.ALL)
        fill(two)
        with trio.fail_after(2), pytest.raises(StorageFull, match=r"the disk of n[23], n[23]"):
            await one.replication.write(UNIT, [(b"k9", b"v")])
        assert [await read(node, b"k4") for node in (one, two, three)] == [b"v"] * 3
        free(two)
        free(three)
        await trio.sleep(10)
        stores = cluster.stores(UNIT)
        assert all(stores[node.name][b"k%d" % number].value == b"v" for node in (two, three) for number in range(5))


async def test_a_full_node_beside_one_that_is_down_is_named(autojump_clock: MockClock) -> None:
    """The disk alone is not to blame for the missing quorum, and is said all the same."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        fill(cluster["n2"])
        await cluster["n3"].kill()
        with pytest.raises(NoReplica, match=r"1 of 3 replicas .* in time; the disk of n2 takes no writes"):
            await cluster["n1"].replication.write(UNIT, [(b"k", b"v")])


async def test_writes_while_disks_fill_and_nodes_die_lose_nothing_that_was_acknowledged(
    autojump_clock: MockClock,
) -> None:
    """Disks fill and empty, nodes are killed with what was in memory only: every acknowledged key is there."""
    rng = random.Random(7)
    async with open_data_cluster(["n1", "n2", "n3"], checkpoint_bytes=20_000) as cluster:
        await settled(cluster)
        acked: list[bytes] = []
        refused = 0
        for number in range(200):
            keys = [f"k{number}-{i}".encode() for i in range(10)]
            victim = cluster[rng.choice(["n2", "n3"])]
            if number % 3 == 0:
                fill(victim)
            try:
                with trio.fail_after(4):
                    await cluster["n1"].replication.write(UNIT, [(key, key) for key in keys])
                acked += keys
            except (StorageFull, NoReplica, trio.TooSlowError):
                refused += 1
            if number % 5 == 0:
                await victim.kill()
                await cluster.restart(victim.name)
            if rng.random() < 0.5:
                free(victim)
                await trio.sleep(rng.random())
        assert refused > 10
        assert len(acked) > 500
        for name in ("n2", "n3"):
            free(cluster[name])
        await trio.sleep(5)
        found = await cluster["n3"].replication.read(UNIT, acked, Consistency.QUORUM)
        assert [entry.value if entry else None for entry in found] == acked


async def test_a_bulk_waits_for_room_at_the_joiner(autojump_clock: MockClock) -> None:
    """A joiner whose disk fills up is told so page by page, and joins once there is room."""
    async with open_data_cluster(["n1"], with_snapshots=True) as cluster:
        await settled(cluster)
        await cluster["n1"].replication.write(UNIT, [(b"k%d" % number, b"v" * 1_000) for number in range(100)])
        two = await cluster.add("n2")
        two.disk.capacity_bytes = two.disk.used_bytes + 4_000
        await trio.sleep(5)
        assert two.replication.local(UNIT) is None
        free(two)
        await settled(cluster)
        assert len(cluster.stores(UNIT)[two.name]) == 100


async def test_a_failed_sync_stops_replication_and_says_why_each_time(autojump_clock: MockClock) -> None:
    """Nothing is acknowledged, and whoever asks, or runs the component again, hears of the disk and the way out."""
    async with open_data_cluster(["n1"]) as cluster:
        await settled(cluster)
        one = cluster["n1"]
        one.disk.fail_call(one.disk.calls + 2, Failure.IO)
        cause = "cannot sync 'replication/log-00000000': Input/output error"
        with pytest.raises(NotReady, match="replication has stopped on this node.*" + cause):
            await one.replication.write(UNIT, [(b"k", b"v")])
        with pytest.raises(NotReady, match="replication does not run on this node.*" + cause):
            await one.replication.write(UNIT, [(b"k", b"v")])
        await trio.sleep(0.1)
        assert isinstance(one.failure, StorageError)
        with pytest.raises(StorageError, match="replication has stopped on this node.*" + cause) as caught:
            await one.replication.run()
        assert "restart the node" in caught.value.hint

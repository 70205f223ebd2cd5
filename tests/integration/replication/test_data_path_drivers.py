"""Balancer and replication drivers together, on loopback calls under trio's mock clock."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from balancer.placement import cache_unit
from frys_node.base.errors import AlreadyExists, NoReplica, NotFound
from frys_node.base.types import Consistency, NodeId
from frys_node.kernel.services.topology import Collection
from frys_node.testing.data_cluster import open_data_cluster

UNIT = cache_unit(1)


async def test_a_single_node_writes_and_reads_through_its_log(autojump_clock: MockClock) -> None:
    """A cluster of one serves quorum writes and reads, and finds them again after kill -9."""
    async with open_data_cluster(["n1"]) as cluster:
        await cluster.settle()
        one = cluster["n1"]
        version = await one.replication.write(UNIT, [(b"a", b"1"), (b"b", None)])
        assert version.node == "n1"
        await one.kill()
        one = await cluster.restart("n1")
        entries = await one.replication.read(UNIT, [b"a", b"b", b"c"], Consistency.QUORUM)
        assert [entry and entry.value for entry in entries] == [b"1", None, None]
        assert entries[1] is not None


async def test_joins_bring_every_replica_to_the_same_data(autojump_clock: MockClock) -> None:
    """Data written on one node is complete on three after two joins through joining and joint."""
    async with open_data_cluster(["n1"]) as cluster:
        await cluster.settle()
        await cluster["n1"].replication.write(UNIT, [(f"k{i}".encode(), b"v") for i in range(500)])
        for name in ("n2", "n3"):
            await cluster.add(name)
        with trio.fail_after(60):
            await cluster.settle()
        stores = cluster.stores(UNIT)
        assert sorted(stores) == ["n1", "n2", "n3"]
        assert stores["n1"] == stores["n2"] == stores["n3"]
        assert len(stores["n1"]) == 500


async def test_a_dead_replica_does_not_stop_quorum_and_misses_nothing_later(autojump_clock: MockClock) -> None:
    """Two of three acknowledge at quorum, `all` fails, and the restarted third catches up."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        with trio.fail_after(60):
            await cluster.settle()
        await cluster["n3"].kill()
        await cluster["n1"].replication.write(UNIT, [(b"k", b"new")])
        with pytest.raises(NoReplica):
            with trio.fail_after(2):
                await cluster["n1"].replication.write(UNIT, [(b"x", b"y")], Consistency.ALL)
        await cluster.restart("n3")
        with trio.fail_after(60):
            while cluster.stores(UNIT).get(cluster["n3"].name, {}).get(b"k") is None:  # noqa: ASYNC110
                await trio.sleep(0.5)
        entries = await cluster["n3"].replication.read(UNIT, [b"k"], Consistency.QUORUM)
        assert entries[0] is not None
        assert entries[0].value == b"new"


async def test_a_leave_moves_every_unit_away_first(autojump_clock: MockClock) -> None:
    """After `leave` returns the leaver holds nothing and the others hold everything."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        with trio.fail_after(60):
            await cluster.settle()
        await cluster["n1"].replication.write(UNIT, [(b"k", b"v")], Consistency.ALL)
        with trio.fail_after(60):
            await cluster["n3"].balancer.leave()
        with trio.fail_after(60):
            await cluster.settle(["n1", "n2"])
        assert sorted(cluster.stores(UNIT)) == ["n1", "n2"]
        assert cluster["n3"].replication.replica.table.units == {}


async def test_a_leave_withdraws_a_join_that_waits_at_the_issuer(autojump_clock: MockClock) -> None:
    """A node that leaves before its turn has come is never put on the ring, where it would hold up every change."""
    async with open_data_cluster(["n1", "n2"]) as cluster:
        with trio.fail_after(60):
            await cluster.settle()
        issuer = cluster["n1"].balancer.machine.steps
        newcomer = await cluster.add("n3")
        with trio.fail_after(10):
            while NodeId("n3") not in issuer.waiting:  # noqa: ASYNC110 -- the queue has no event
                await trio.sleep(0.001)
            await newcomer.balancer.leave()
        await trio.sleep(30)
        record = cluster["n1"].balancer.machine.record
        assert record is not None
        assert (record.phase, record.members(), issuer.waiting) == ("stable", (NodeId("n1"), NodeId("n2")), ())


async def test_collections_are_created_and_deleted_through_any_node(autojump_clock: MockClock) -> None:
    """A catalogue step from a non-issuer makes shards writable; doubles and unknown names are refused."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        with trio.fail_after(60):
            await cluster.settle()
        two = cluster["n2"]
        collection = Collection(name="digits", id="ab12", dimension=64, distance="Cosine")
        await two.balancer.create_collection(collection)
        assert [c.name for c in two.balancer.collections()] == ["digits"]
        with pytest.raises(AlreadyExists):
            await two.balancer.create_collection(collection)
        unit = next(unit for unit in two.balancer.placement.units() if unit.startswith("vector/"))
        await two.replication.write(unit, [(b"p", b"vec")])
        stamps = await two.replication.versions(unit, [b"p", b"q"])
        assert stamps[0] is not None
        assert stamps[1] is None
        await two.balancer.delete_collection("digits")
        with pytest.raises(NotFound):
            await two.replication.read(unit, [b"p"])
        with pytest.raises(NotFound):
            await two.balancer.delete_collection("digits")


async def test_writes_go_on_while_nodes_join_and_messages_are_lost(autojump_clock: MockClock) -> None:
    """Every acknowledged write of a stream through two joins is read back at quorum from a newcomer."""
    async with open_data_cluster(["n1"], note_loss=0.05, seed=3) as cluster:
        await cluster.settle()
        acked: list[bytes] = []

        async def write() -> None:
            for number in range(200):
                key = f"k{number}".encode()
                await cluster["n1"].replication.write(UNIT, [(key, b"v")])
                acked.append(key)
                await trio.sleep(0.01)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await cluster.add("n2")
            await cluster.add("n3")
        with trio.fail_after(120):
            await cluster.settle()
        entries = await cluster["n3"].replication.read(UNIT, acked, Consistency.QUORUM)
        assert len(acked) == 200
        assert all(entry is not None and entry.value == b"v" for entry in entries)


async def test_a_refresh_finds_what_was_created_through_another_node_just_now(autojump_clock: MockClock) -> None:
    """A collection that one node has acknowledged is known to every other after its refresh."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        with trio.fail_after(60):
            await cluster.settle()
        for number in range(5):
            name = f"c{number}"
            await cluster["n2"].balancer.create_collection(
                Collection(name=name, id=f"id{number}", dimension=2, distance="Dot")
            )
            for node in ("n1", "n3"):
                await cluster[node].balancer.refresh()
                assert name in [one.name for one in cluster[node].balancer.collections()]

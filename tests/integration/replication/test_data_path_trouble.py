"""Balancer and replication drivers in trouble: kills, damaged and failing disks, lost memory, owners that move."""

from __future__ import annotations

import random

import pytest
import trio
from trio.testing import MockClock

from balancer.movers_driver import MoverRunner
from balancer.placement import Placement, cache_unit
from balancer.record import FORMAT, JOINT, STABLE, TopologyRecord, first_record
from balancer.spread import RingMember
from balancer.work import work_for
from frys_node.base.errors import CorruptData, NoReplica, NotReady, UsageError
from frys_node.base.types import ClusterId, Consistency, Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.topology import Collection
from frys_node.testing.data_cluster import DataCluster, open_data_cluster

UNIT = cache_unit(1)
N1, N2 = NodeId("n1"), NodeId("n2")


async def settled(cluster: DataCluster) -> None:
    """Wait until every join is through."""
    with trio.fail_after(120):
        await cluster.settle()


async def test_twenty_kills_during_writes_lose_nothing_that_was_acknowledged(autojump_clock: MockClock) -> None:
    """Ten thousand acknowledged keys, twenty kills that lose unsynced bytes: every key is there."""
    rng = random.Random(4)
    async with open_data_cluster(["n1", "n2", "n3"], checkpoint_bytes=200_000) as cluster:
        await settled(cluster)
        acked: list[bytes] = []
        kills = 0

        async def write(number: int) -> None:
            keys = [f"k{number}-{i}".encode() for i in range(50)]
            try:
                with trio.fail_after(5):
                    await cluster["n1"].replication.write(cache_unit(number % 4), [(key, key) for key in keys])
            except (NoReplica, trio.TooSlowError):
                return
            acked.extend(keys)

        for number in range(260):
            await write(number)
            if number % 13 == 0:
                victim = rng.choice(["n2", "n3"])
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(write, 1_000 + number)
                    await trio.sleep(rng.random() * 0.004)
                    await cluster[victim].kill()
                kills += 1
                await write(2_000 + number)
                await cluster.restart(victim)
                await trio.sleep(1.0)
        assert kills == 20
        assert len(acked) >= 10_000
        reader = cluster["n3"].replication
        for unit in range(4):
            keys = [key for key in acked if int(key[1:].split(b"-")[0]) % 4 == unit]
            found = await reader.read(cache_unit(unit), keys, Consistency.QUORUM)
            assert [entry.value if entry else None for entry in found] == keys
        assert any(name.startswith("checkpoint") for name in cluster["n1"].disk.list("replication"))


async def test_bulk_comes_by_snapshot_and_the_pass_brings_what_came_meanwhile(autojump_clock: MockClock) -> None:
    """With the snapshot component a joiner pulls units as manifests and chunks, then is equal to the others."""
    async with open_data_cluster(["n1"], with_snapshots=True, kinds=("vector",), durable_kinds=("vector",)) as cluster:
        await settled(cluster)
        one = cluster["n1"]
        await one.balancer.create_collection(Collection(name="c", id="c1", dimension=4, distance="Dot"))
        units = [unit for unit in one.balancer.placement.units() if unit.startswith("vector/")]
        for unit in units:
            await one.replication.write(unit, [(f"p{i}".encode(), b"v" * 500) for i in range(300)])
        await cluster.add("n2")
        await cluster.add("n3")
        await settled(cluster)
        assert cluster["n3"].snapshots is not None
        assert len(cluster["n3"].snapshots.moves()) > 0
        for unit in units:
            stores = cluster.stores(unit)
            assert len(stores) == 3
            assert all(store == stores[N1] and len(store) == 300 for store in stores.values())


async def test_units_of_a_collection_deleted_while_a_node_was_down_are_dropped(autojump_clock: MockClock) -> None:
    """The node comes back, hears that the record without them is settled, and forgets them on disk too."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        one = cluster["n1"]
        await one.balancer.create_collection(Collection(name="c", id="c1", dimension=4, distance="Dot"))
        unit = next(unit for unit in one.balancer.placement.units() if unit.startswith("vector/"))
        await one.replication.write(unit, [(b"p", b"v")], Consistency.ALL)
        await cluster["n3"].kill()
        await one.balancer.delete_collection("c")
        for _ in range(2):
            await cluster.restart("n3")
            await settled(cluster)
            await trio.sleep(1)
            assert unit not in cluster["n3"].replication.replica.table.units
            await cluster["n3"].kill()


async def test_a_restarted_memory_replica_refills_before_it_serves(autojump_clock: MockClock) -> None:
    """A kind that lives in memory comes back from the members that still have it."""
    async with open_data_cluster(["n1", "n2", "n3"], durable_kinds=("vector",)) as cluster:
        await settled(cluster)
        await cluster["n1"].replication.write(UNIT, [(b"k", b"v")], Consistency.ALL)
        await cluster["n2"].kill()
        await cluster.restart("n2")
        with trio.fail_after(10):
            while cluster["n2"].replication.local(UNIT) is None:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert cluster.stores(UNIT)[N2][b"k"].value == b"v"


async def test_memory_that_nobody_has_any_more_starts_empty(autojump_clock: MockClock) -> None:
    """After all replicas restarted the unit serves again within its patience; a cache may forget."""
    async with open_data_cluster(["n1", "n2"], durable_kinds=("vector",)) as cluster:
        await settled(cluster)
        await cluster["n1"].replication.write(UNIT, [(b"k", b"v")])
        await cluster["n1"].kill()
        await cluster["n2"].kill()
        await cluster.restart("n1")
        await cluster.restart("n2")
        with trio.fail_after(10):
            found = await cluster["n1"].replication.read(UNIT, [b"k"], Consistency.QUORUM)
        assert [entry.value for entry in found if entry is not None] in ([], [None])
        await cluster["n2"].replication.write(UNIT, [(b"k", b"again")])


async def test_damaged_topology_files_are_named_or_asked_for_again(autojump_clock: MockClock) -> None:
    """A record that cannot be read stops the node with the file's name; what was settled is only asked for again."""
    async with open_data_cluster(["n1"]) as cluster:
        await settled(cluster)
        await cluster["n1"].kill()
        cluster["n1"].disk.write("topology/settled", b"junk")
        await cluster.restart("n1")
        await settled(cluster)
        await cluster["n1"].kill()
        cluster["n1"].disk.write("topology/adopted", b"junk")
        with pytest.raises(RuntimeError):
            await cluster.restart("n1")
        assert isinstance(cluster["n1"].failure, CorruptData)
        assert "topology/adopted" in cluster["n1"].failure.message


async def test_writes_that_are_too_big_are_refused_and_big_batches_are_split(autojump_clock: MockClock) -> None:
    """One item over the limit is refused before anything is sent; each message that a write takes is a version."""
    async with open_data_cluster(["n1", "n2"]) as cluster:
        await settled(cluster)
        with pytest.raises(UsageError, match="over the limit"):
            await cluster["n1"].replication.write(UNIT, [(b"k", b"v" * 900_000)])
        items: list[tuple[bytes, bytes | None]] = [(b"k%d" % i, b"v" * 100_000) for i in range(20)]
        await cluster["n1"].replication.write(UNIT, items, Consistency.ALL)
        held = cluster.stores(UNIT)[N2]
        assert len(held) == 20
        assert len({entry.version for entry in held.values()}) == 4  # 5 of 100 kB in 512 KiB
        await cluster["n1"].replication.write(UNIT, items[:5], Consistency.ALL)
        held = cluster.stores(UNIT)[N2]
        assert len({held[key].version for key, _ in items[:5]}) == 1


async def test_a_forged_record_is_refused(autojump_clock: MockClock) -> None:
    """A record that its issuer did not sign, or one of another cluster, changes nothing."""
    from balancer.record import RECORD
    from balancer.topology_messages import TOPOLOGY_MESSAGES, RecordPush, SignedRecord

    async with open_data_cluster(["n1", "n2"]) as cluster:
        await settled(cluster)
        held = cluster["n2"].balancer.epoch
        for cluster_id in ("c" * 32, "d" * 32):
            forged = first_record(ClusterId(cluster_id), RingMember(N1))
            data = RECORD.encode(
                TopologyRecord(
                    **{**{f: getattr(forged, f) for f in forged.__struct_fields__}, "epoch": Epoch(Term(9, N1), 9)}
                )
            )
            push = TOPOLOGY_MESSAGES.encode(RecordPush(SignedRecord(data, b"no proof")))
            cluster["n1"].balancer._rpc.note(N2, "topology", push)
            cluster["n1"].balancer._rpc.note(N2, "topology", b"junk")
        await trio.sleep(1)
        assert cluster["n2"].balancer.epoch == held


class RecordingMover:
    """A `UnitMover` that notes every call; pulls fail until the source is sealed."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, UnitId]] = []
        self.source_is_sealed = True

    async def start(self, unit: UnitId) -> None:
        """Note it."""
        self.calls.append(("start", unit))

    async def seal(self, unit: UnitId) -> None:
        """Note it."""
        self.calls.append(("seal", unit))

    async def unseal(self, unit: UnitId) -> None:
        """Note it."""
        self.calls.append(("unseal", unit))

    async def pull(self, unit: UnitId, source: NodeId) -> None:
        """Note it, or refuse."""
        if not self.source_is_sealed:
            raise NotReady("not sealed yet")
        self.calls.append(("pull", unit))

    async def drop(self, unit: UnitId) -> None:
        """Note it."""
        self.calls.append(("drop", unit))


def moving(seq: int, phase: str, ring: list[NodeId], following: list[NodeId]) -> Placement:
    """Return the placement of a record with one partition."""
    return Placement(
        TopologyRecord(
            format=FORMAT,
            cluster=ClusterId("c" * 32),
            epoch=Epoch(Term(1, N1), seq),
            phase=phase,
            ring=tuple(RingMember(node=node) for node in ring),
            next_ring=tuple(RingMember(node=node) for node in following),
            partitions=1,
            vnodes=4,
        )
    )


@pytest.mark.parametrize("is_aborted", [False, True])
async def test_an_owner_seals_in_joint_and_the_new_one_starts_when_stable(
    autojump_clock: MockClock, is_aborted: bool
) -> None:
    """Seal, pull, start, drop in this order on the two sides; an abort unseals and drops the copy."""
    unit = UnitId("workflow/0")
    transferred: list[NodeId] = []
    movers = {node: RecordingMover() for node in (N1, N2)}
    runners = {node: MoverRunner(lambda _unit, _epoch, node=node: transferred.append(node)) for node in (N1, N2)}
    movers[N2].source_is_sealed = False

    async def adopt(placement: Placement, *, is_settled: bool = False) -> None:
        for node, runner in runners.items():
            runner.adopt(placement, work_for(placement, node, ("workflow",)))
            if is_settled:
                runner.settled(placement.record.epoch)
        await trio.sleep(1)

    async with trio.open_nursery() as nursery:
        for node, runner in runners.items():
            runner.register("workflow", movers[node])
            nursery.start_soon(runner.run)
        await adopt(moving(1, STABLE, [N1], [N1]), is_settled=True)
        await adopt(moving(3, JOINT, [N1], [N2]))
        assert transferred == []
        movers[N2].source_is_sealed = True
        await trio.sleep(1)
        assert transferred[0] == N2
        owner = N1 if is_aborted else N2
        await adopt(moving(4, STABLE, [owner], [owner]), is_settled=True)
        nursery.cancel_scope.cancel()
    old = [("start", unit), ("seal", unit)]
    if is_aborted:
        assert movers[N1].calls == [*old, ("unseal", unit)]
        assert movers[N2].calls == [("pull", unit), ("drop", unit)]
    else:
        assert movers[N1].calls == [*old, ("drop", unit)]
        assert movers[N2].calls == [("pull", unit), ("start", unit)]

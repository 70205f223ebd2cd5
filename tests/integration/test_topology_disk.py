"""The topology record and a disk that refuses: changes are refused or wait, the node goes on."""

from __future__ import annotations

import msgspec
import pytest
import trio
from trio.testing import MockClock

from balancer import catalogue_driver
from balancer.driver import NOTE
from balancer.errors import CatalogueFull
from balancer.record import RECORD
from balancer.saved import FROZEN_PATH
from balancer.topology_messages import TOPOLOGY_MESSAGES, RecordPush, SignedRecord
from frys_node.base.errors import FrameTooLarge
from frys_node.base.types import NodeId
from frys_node.kernel.services.topology import Collection
from frys_node.testing.data_cluster import DataCluster, HashProofs, open_data_cluster
from frys_node.testing.disk import Failure
from frys_node.transport.errors import StorageFull

POINTS = Collection(name="points", id="p1", dimension=4, distance="Dot")


async def settled(cluster: DataCluster) -> None:
    """Wait until every join is through."""
    with trio.fail_after(120):
        await cluster.settle()


async def test_a_full_disk_refuses_a_collection_and_the_node_goes_on(autojump_clock: MockClock) -> None:
    """The caller is told that the disk is full, nothing was changed, and the same call succeeds once there is room."""
    async with open_data_cluster(["n1", "n2"]) as cluster:
        await settled(cluster)
        issuer, other = cluster["n1"], cluster["n2"]
        issuer.disk.capacity_bytes = issuer.disk.used_bytes
        for node in (issuer, other):
            with pytest.raises(StorageFull) as refusal, trio.fail_after(20):
                await node.balancer.create_collection(POINTS)
            assert refusal.value.status == 507
            assert list(node.balancer.collections()) == []
        issuer.disk.capacity_bytes = None
        await other.balancer.create_collection(POINTS)
        assert [made.name for made in issuer.balancer.collections()] == ["points"]
        assert issuer.failure is None


async def test_a_catalogue_that_no_message_can_carry_is_refused(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one collection too many is refused at any node, and there is room again when another is deleted."""
    async with open_data_cluster(["n1", "n2"]) as cluster:
        await settled(cluster)
        record = cluster["n1"].balancer.machine.record
        assert record is not None
        monkeypatch.setattr(catalogue_driver, "RECORD_BYTES_MAX", len(RECORD.encode(record)) + 500)
        first, second = (Collection(name=name * 200, id=name, dimension=4, distance="Dot") for name in "ab")
        await cluster["n2"].balancer.create_collection(first)
        for node in (cluster["n1"], cluster["n2"]):
            with pytest.raises(CatalogueFull, match="2 collections") as refusal:
                await node.balancer.create_collection(second)
            assert refusal.value.status == 409
        await cluster["n1"].balancer.delete_collection(first.name)
        await cluster["n2"].balancer.create_collection(second)


@pytest.mark.parametrize("calls", range(1, 7))
@pytest.mark.parametrize("failure", [Failure.FULL, Failure.IO])
async def test_a_join_waits_for_a_disk_that_refuses(autojump_clock: MockClock, calls: int, failure: Failure) -> None:
    """Whichever write of a join fails at the issuer, it is tried again and the join is completed."""
    async with open_data_cluster(["n1"]) as cluster:
        await settled(cluster)
        issuer = cluster["n1"]
        for number in range(calls):
            issuer.disk.fail_call(issuer.disk.calls + 1 + number, failure)
        await cluster.add("n2")
        await settled(cluster)
        assert issuer.failure is None
        assert issuer.disk.failures_met


async def test_a_member_that_cannot_store_the_record_works_under_the_old_one(autojump_clock: MockClock) -> None:
    """A member whose disk is full adopts nothing and stays up; with room again it catches up by itself."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        member = cluster["n3"]
        before = member.balancer.epoch
        member.disk.capacity_bytes = member.disk.used_bytes
        await cluster["n1"].balancer.create_collection(POINTS)
        await trio.sleep(10)
        assert member.balancer.epoch == before
        assert member.failure is None
        member.disk.capacity_bytes = None
        with trio.fail_after(10):
            await member.balancer.wait_for(cluster["n1"].balancer.epoch)


async def test_a_balancer_that_crashed_can_be_run_again(autojump_clock: MockClock) -> None:
    """The supervisor calls `run` again on the same object: it serves as before, under the record that it had."""
    async with open_data_cluster(["n1"]) as cluster:
        await settled(cluster)
        node = cluster["n1"]
        epoch = node.balancer.epoch
        await node.stop_components()
        async with trio.open_nursery() as nursery:
            await nursery.start(node.balancer.run)
            assert node.balancer.epoch == epoch
            with trio.fail_after(10):
                await node.balancer.create_collection(POINTS)
            nursery.cancel_scope.cancel()


async def test_two_records_with_one_key_freeze_a_node_over_restarts_until_another_issuer(
    autojump_clock: MockClock,
) -> None:
    """The alarm is on disk and in the status; the node takes nothing more of that term, and all of the next."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        member = cluster["n2"]
        record = cluster["n1"].balancer.placement.record
        data = RECORD.encode(msgspec.structs.replace(record, replication_factor=2))
        push = RecordPush(SignedRecord(data, HashProofs(NodeId("n1")).prove(data)))
        cluster.network.node("n1").note(NodeId("n2"), NOTE, TOPOLOGY_MESSAGES.encode(push))
        with trio.fail_after(5):
            while not member.disk.read(FROZEN_PATH):  # noqa: ASYNC110
                await trio.sleep(0.05)
        await member.kill()
        await cluster.restart("n2")
        assert member.balancer.status()["frozen"] == str(record.epoch)
        await cluster["n1"].balancer.create_collection(POINTS)
        await trio.sleep(5.0)
        assert member.balancer.epoch == record.epoch
        await cluster["n3"].balancer.verbs.promote()
        with trio.fail_after(20):
            while member.balancer.status()["frozen"]:  # noqa: ASYNC110
                await trio.sleep(0.05)
        assert [made.name for made in member.balancer.collections()] == ["points"]


async def test_a_record_that_no_frame_takes_stops_no_node(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who cannot be told stays under the record before; the sender counts it and goes on."""
    async with open_data_cluster(["n1", "n2"]) as cluster:
        await settled(cluster)
        issuer = cluster["n1"]

        def refuse(node: NodeId, name: str, payload: bytes) -> bool:
            raise FrameTooLarge("a body of 2000000 bytes is over the limit of 1048576")

        monkeypatch.setattr(issuer.balancer._rpc, "note", refuse)
        issuer.balancer.share(cluster["n2"].balancer.node)
        assert issuer.balancer._junk.values == {("too_large",): 1}
        assert issuer.failure is None

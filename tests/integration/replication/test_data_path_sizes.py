"""Values that are more than a frame together, through nodes that hold none of them."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from balancer.placement import cache_unit
from frys_node.base.errors import NotReady
from frys_node.base.types import Consistency, Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Version
from frys_node.kernel.services.sessions import SESSION, Session
from frys_node.replication.messages import Write
from frys_node.testing.data_cluster import DataCluster, DataNode, open_data_cluster
from frys_node.testing.services import FakeHttp
from tests.integration.vector.vector_cluster import load_plugin

NAMES = ("n1", "n2", "n3", "n4")


def without(cluster: DataCluster, unit: UnitId) -> DataNode:
    """Return the node that does not hold a unit."""
    held = cluster["n1"].balancer.sets(unit).current
    (name,) = [name for name in NAMES if NodeId(name) not in held]
    return cluster[name]


def too_large(cluster: DataCluster) -> float:
    """Return how many messages were too large, on all nodes."""
    return sum(node.replication._dropped.values.get(("too_large",), 0) for node in cluster.nodes.values())


def assert_all_run(cluster: DataCluster) -> None:
    """No node's replication has ended, and nothing was too large."""
    assert [node.failure for node in cluster.nodes.values()] == [None] * len(NAMES)
    assert too_large(cluster) == 0


@pytest.mark.parametrize("consistency", list(Consistency))
async def test_three_values_of_400_kilobytes_are_read_by_a_node_that_holds_none(
    autojump_clock: MockClock, consistency: Consistency
) -> None:
    """As MGET of one hash tag, a batch read, and the reads of a pipeline of GETDEL do."""
    async with open_data_cluster(NAMES) as cluster:
        await cluster.settle()
        unit = cache_unit(0)
        asking = without(cluster, unit).replication
        values = {b"k%d" % number: bytes([number]) * 400_000 for number in range(3)}
        await asking.write(unit, list(values.items()))
        found = await asking.read(unit, [*values, b"none"], consistency)
        assert [entry and entry.value for entry in found] == [*values.values(), None]
        session = Session(waits_repair=True)
        token = SESSION.set(session)
        try:
            found = await asking.read(unit, list(values), consistency)
        finally:
            SESSION.reset(token)
        assert [entry and entry.value for entry in found] == list(values.values())
        assert session.places(unit) is not None
        await trio.sleep(10)  # hints and read repair, if there are any
        assert_all_run(cluster)


async def test_a_message_that_no_frame_takes_is_dropped_counted_and_logged_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The component goes on, and what leaves with it arrives."""
    async with open_data_cluster(NAMES) as cluster:
        await cluster.settle()
        unit = cache_unit(0)
        one = cluster["n1"].replication
        monster = Write(Epoch(Term(1, one.node), 1), unit, 1, 1, Version(1, 0, one.node, 1), [(b"k", bytes(1 << 20))])
        with caplog.at_level(logging.ERROR):
            for _ in range(3):
                one._outbox.add(NodeId("n2"), monster)
                await one.write(unit, [(b"k", b"v")], Consistency.ALL)
        assert too_large(cluster) == 3
        (line,) = [record for record in caplog.records if record.getMessage() == "replication.message_too_large"]
        assert (line.kind, line.unit) == ("Write", unit)  # type: ignore[attr-defined]
        assert cluster["n1"].failure is None


async def test_a_defect_that_ends_replication_is_not_blamed_on_the_disk(autojump_clock: MockClock) -> None:
    """Whoever runs it again hears what ended it, and that it is to be reported."""
    async with open_data_cluster(["n1"]) as cluster:
        await cluster.settle()
        with pytest.raises(ExceptionGroup) as group:  # noqa: PT012
            async with trio.open_nursery() as nursery:
                cluster._nursery = nursery
                one = await cluster.add("n2")

                def broken() -> None:
                    raise MemoryError("no room")

                one.replication._outbox.flush = broken  # type: ignore[method-assign]
                one.replication._outbox._wake.set()
                await trio.sleep(1)
        assert group.value.split(MemoryError)[1] is None
        with pytest.raises(NotReady, match="MemoryError: no room") as caught:
            await one.replication.run()
        assert "disk" not in caught.value.hint
        assert "report" in caught.value.hint


class VectorNodes:
    """The vector plugin on every node of a data cluster."""

    def __init__(self, cluster: DataCluster, nursery: trio.Nursery) -> None:
        self._cluster = cluster
        self._nursery = nursery
        self.http: dict[str, FakeHttp] = {}

    async def load(self) -> None:
        """Load it everywhere."""
        for name, node in self._cluster.nodes.items():
            http, rpc = FakeHttp(), self._cluster.network.node(name)
            await load_plugin(NodeId(name), http, node.replication, node.balancer, rpc, nursery=self._nursery)
            self.http[name] = http

    async def result(self, node: str, method: str, target: str, body: Any) -> Any:
        """Serve one request that must succeed."""
        response = await self.http[node].request(method, target, body)
        assert response.status == 200, response.body
        return json.loads(response.body)["result"]


async def test_a_hundred_big_points_are_scrolled_and_deleted_by_a_filter(autojump_clock: MockClock) -> None:
    """3,072 dimensions and 5 KB of payload in one shard, through each node: one of them holds no replica."""
    async with open_data_cluster(NAMES, kinds=("vector",)) as cluster, trio.open_nursery() as nursery:
        nodes = VectorNodes(cluster, nursery)
        await cluster.settle()
        await nodes.load()
        await nodes.result(
            "n1", "PUT", "/collections/big", {"vectors": {"size": 3072, "distance": "Dot"}, "shard_number": 1}
        )
        await cluster.settle()
        points = [
            {"id": number, "vector": [float(number + 1)] * 3072, "payload": {"text": "x" * 5_000, "odd": number % 2}}
            for number in range(100)
        ]
        for start in range(0, 100, 25):
            body = {"points": points[start : start + 25]}
            await nodes.result("n1", "PUT", "/collections/big/points?wait=true", body)
        ask = {"limit": 100, "with_payload": True, "with_vector": True}
        for name in NAMES:
            for level in ("one", "quorum"):
                page = await nodes.result(
                    name, "POST", f"/collections/big/points/scroll?consistency={level}&timeout=60", ask
                )
                assert [point["id"] for point in page["points"]] == list(range(100))
        odd = {"filter": {"must": [{"key": "odd", "match": {"value": 1}}]}}
        for name in NAMES:
            await nodes.result(name, "POST", "/collections/big/points/delete?wait=true&timeout=60", odd)
            left = await nodes.result(name, "POST", "/collections/big/points/scroll?consistency=quorum", ask)
            assert [point["id"] for point in left["points"]] == list(range(0, 100, 2))
        assert_all_run(cluster)
        nursery.cancel_scope.cancel()

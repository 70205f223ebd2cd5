"""A replica that its members call unwell is asked last, and first again when it is well: on loopback calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from trio.testing import MockClock

from balancer.placement import cache_unit
from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.services.members import UNWELL, WELL
from frys_node.kernel.services.sessions import SESSION, Session
from frys_node.kernel.services.topology import Collection
from frys_node.observe.metrics import Metrics
from frys_node.plugins.vector.collection import unit_of
from frys_node.plugins.vector.config import VectorConfig
from frys_node.plugins.vector.local import LocalShards
from frys_node.plugins.vector.messages import SEARCH, Query, QueryHits, SearchReply, SearchRequest
from frys_node.plugins.vector.scatter import Scatter
from frys_node.testing.data_cluster import ClusterMembers, DataCluster, DataNode, open_data_cluster
from frys_node.testing.executor import InlineExecutor

NAMES = ("n1", "n2", "n3", "n4")
POINTS = Collection(name="points", id="c1", dimension=2, distance="Dot", shard_number=1, replication_factor=3)


@pytest.fixture
def unwell(monkeypatch: pytest.MonkeyPatch) -> set[NodeId]:
    """Whom the members find slow, stalled, suspect or degraded."""
    found: set[NodeId] = set()
    original = ClusterMembers.rank

    def rank(self: ClusterMembers, node: NodeId) -> int:
        ranked = original(self, node)
        return UNWELL if ranked == WELL and node in found else ranked

    monkeypatch.setattr(ClusterMembers, "rank", rank)
    return found


@contextmanager
def new_session() -> Iterator[Session]:
    """Work within a session, which knows who answered."""
    session = Session()
    before = SESSION.set(session)
    try:
        yield session
    finally:
        SESSION.reset(before)


def outsider(cluster: DataCluster, unit: UnitId) -> DataNode:
    """The node that holds no replica of the unit."""
    current = cluster["n1"].balancer.sets(unit).current
    (name,) = set(cluster.nodes) - set(current)
    return cluster.nodes[name]


async def answerer(asker: DataNode, unit: UnitId) -> NodeId:
    """Who answers a read at `one`."""
    with new_session() as session:
        (entry,) = await asker.replication.read(unit, [b"k"])
    assert entry is not None
    places = session.places(unit)
    assert places is not None
    (node,) = places
    return node


async def test_a_read_at_one_goes_to_a_well_replica_and_back_when_the_first_is_well(
    unwell: set[NodeId], autojump_clock: MockClock
) -> None:
    """The coordinator orders by the members' rank, before everything else."""
    async with open_data_cluster(NAMES) as cluster:
        await cluster.settle()
        unit = cache_unit(0)
        asker = outsider(cluster, unit)
        await asker.replication.write(unit, [(b"k", b"v")], Consistency.ALL)
        first, second, third = cluster["n1"].balancer.sets(unit).current
        assert await answerer(asker, unit) == first
        unwell.add(first)
        assert await answerer(asker, unit) == second
        unwell.add(second)
        assert await answerer(asker, unit) == third
        unwell.clear()
        assert await answerer(asker, unit) == first


async def test_replicas_names_the_unwell_last(unwell: set[NodeId], autojump_clock: MockClock) -> None:
    """What plugins ask by has the same order; among the well ones this node comes first, if it is one."""
    async with open_data_cluster(NAMES) as cluster:
        await cluster.settle()
        unit = cache_unit(0)
        asker = outsider(cluster, unit)
        first, second, third = cluster["n1"].balancer.sets(unit).current
        assert asker.replication.replicas(unit) == [first, second, third]
        unwell.add(first)
        assert asker.replication.replicas(unit) == [second, third, first]
        assert cluster[third].replication.replicas(unit) == [third, second, first]
        unwell.clear()
        assert asker.replication.replicas(unit) == [first, second, third]
        assert cluster[second].replication.replicas(unit) == [second, first, third]


async def test_a_search_at_one_is_scattered_past_an_unwell_replica_and_back_when_it_is_well(
    unwell: set[NodeId], autojump_clock: MockClock
) -> None:
    """The scatter asks in the order of `replicas`, one replica of each shard."""
    async with open_data_cluster(NAMES) as cluster:
        await cluster.settle()
        await cluster["n1"].balancer.create_collection(POINTS)
        await cluster.settle()
        unit = unit_of(POINTS, 0)
        asker = outsider(cluster, unit)
        asked: list[NodeId] = []
        for node in cluster.nodes.values():

            async def search(_source: NodeId, request: SearchRequest, name: NodeId = node.name) -> SearchReply:
                asked.append(name)
                return SearchReply([QueryHits([]) for _ in request.queries])

            cluster.network.node(node.name).serve(SEARCH, search)
        replication, topology, config = asker.replication, asker.balancer, VectorConfig()
        scatter = Scatter(
            local=LocalShards(replication=replication, topology=topology, executor=InlineExecutor(), config=config),
            replication=replication,
            topology=topology,
            rpc=cluster.network.node(asker.name),
            config=config,
            metrics=Metrics(),
        )
        first, second, _ = topology.sets(unit).current
        for is_unwell in (False, True, False):
            unwell.update({first} if is_unwell else ())
            gathered = await scatter.search(POINTS, [Query(b"", 1)], Consistency.ONE)
            assert gathered.missing == ()
            unwell.clear()
        assert asked == [first, second, first]

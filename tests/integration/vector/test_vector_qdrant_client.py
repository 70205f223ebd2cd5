"""The stock qdrant-client, unchanged, against three nodes over real sockets and the real HTTP server."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import numpy as np
import pytest
import trio
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse
from vector_cluster import VectorCluster

from frys_node.base.types import Address
from frys_node.observe.metrics import Metrics
from frys_node.plugins.network.access import Kind
from frys_node.plugins.network.config import HttpLimits
from frys_node.plugins.network.router import Router
from frys_node.plugins.network.server import HttpServer
from frys_node.plugins.vector.config import VectorConfig
from frys_node.testing.rpc import open_rpc_network
from frys_node.transport.clock import SystemClock
from frys_node.transport.network import SystemNetwork

FAIL_S = 60.0


@asynccontextmanager
async def serving(names: str) -> AsyncIterator[list[str]]:
    """Serve a cluster on loopback sockets; yields the URL of each node."""
    with trio.fail_after(FAIL_S):
        async with open_rpc_network() as network, trio.open_nursery() as nursery:
            cluster = VectorCluster(list(names), network, 3)
            urls: list[str] = []
            listeners = []
            for name in names:
                router = Router()
                cluster.http[name] = router
                await cluster.load(name, VectorConfig(), nursery)
                server = HttpServer(
                    router=router, limits=HttpLimits(), access=None, clock=SystemClock(), metrics=Metrics()
                )
                listener = await SystemNetwork().listen(Address("127.0.0.1", 0))
                listeners.append(listener)
                nursery.start_soon(server.serve, listener, Kind.LOOPBACK, nursery)
                urls.append(f"http://{listener.address}")
            yield urls
            for listener in listeners:
                await listener.aclose()
            nursery.cancel_scope.cancel()


def walk(urls: list[str]) -> None:
    """Use every call that the first issue promises, each on the next node."""
    clients = [QdrantClient(url=url, prefer_grpc=False, timeout=20) for url in urls]
    for thread in threading.enumerate():
        # Each client asks for the server's version in a thread, which may be behind the end of the nodes else.
        if "_check_compatibility" in thread.name:
            thread.join(FAIL_S)
    one, two, three = clients
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(300, 24)).astype(np.float32)
    params = models.VectorParams(size=24, distance=models.Distance.COSINE)

    assert not one.collection_exists("docs")
    assert one.create_collection("docs", vectors_config=params, shard_number=3, metadata={"owner": "me"})
    assert two.collection_exists("docs")
    assert [item.name for item in three.get_collections().collections] == ["docs"]
    with pytest.raises(UnexpectedResponse, match="already exists"):
        two.create_collection("docs", vectors_config=params)

    points = [
        models.PointStruct(id=n, vector=rows[n].tolist(), payload={"n": n, "parity": "even" if n % 2 == 0 else "odd"})
        for n in range(200)
    ]
    assert two.upsert("docs", points, wait=True).status is models.UpdateStatus.COMPLETED
    more = list(range(200, 300))
    batch = models.Batch(ids=more, vectors=rows[200:].tolist(), payloads=[{"n": n} for n in more])
    three.upsert("docs", batch)
    assert one.count("docs").count == 300

    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    exact = np.argsort(-(unit @ unit[5]))[:10].tolist()
    for client in clients:
        found = client.query_points("docs", query=rows[5].tolist(), limit=10, with_payload=True).points
        assert [hit.id for hit in found] == exact
        assert found[0].payload == {"n": 5, "parity": "odd"}
        assert found[0].score == pytest.approx(1.0, abs=1e-5)
    assert three.query_points("docs", query=5, limit=9).points[0].id == exact[1]
    even = models.Filter(must=[models.FieldCondition(key="parity", match=models.MatchValue(value="even"))])
    low = models.Filter(must=[models.FieldCondition(key="n", range=models.Range(lt=10))], must_not=[even])
    hits = two.query_points("docs", query=rows[5], query_filter=low, limit=10, with_vectors=True).points
    assert sorted(int(hit.id) for hit in hits) == [1, 3, 5, 7, 9]
    assert np.allclose(hits[0].vector, unit[5], atol=1e-6)
    both = one.query_batch_points(
        "docs", [models.QueryRequest(query=rows[n].tolist(), limit=1, filter=None) for n in (1, 2)]
    )
    assert [answer.points[0].id for answer in both] == [1, 2]

    assert [record.payload for record in one.retrieve("docs", ids=[7, 1_000])] == [{"n": 7, "parity": "odd"}]
    page, offset = two.scroll("docs", limit=120, with_payload=["n"])
    rest, end = three.scroll("docs", limit=500, offset=offset)
    assert ([record.id for record in page + rest], end) == (list(range(300)), None)
    assert one.count("docs", count_filter=even, exact=True).count == 100
    one.delete("docs", points_selector=[0, 2])
    two.delete("docs", points_selector=models.FilterSelector(filter=even))
    assert three.count("docs").count == 200

    info = one.get_collection("docs")
    assert info.points_count == 200
    assert info.config.params.vectors == params
    assert info.config.metadata == {"owner": "me"}
    with pytest.raises(UnexpectedResponse, match="expected dim: 24, got 3"):
        one.upsert("docs", [models.PointStruct(id=1, vector=[1, 2, 3])])
    assert three.delete_collection("docs")
    with pytest.raises(UnexpectedResponse, match="unknown_collection"):
        one.count("docs")
    for client in clients:
        client.close()


async def test_the_stock_client_works_unchanged_against_any_node() -> None:
    """Version check, collections, points, queries, filters and errors, with no setting but the URL."""
    async with serving("abc") as urls:
        await trio.to_thread.run_sync(walk, urls)

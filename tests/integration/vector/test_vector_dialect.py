"""Qdrant's dialect on one node and on three: what it answers and what it refuses."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from typing import Any

import msgspec
import pytest
import trio
from vector_cluster import VectorCluster, open_vector_cluster

from frys_node.plugins.vector.config import VectorConfig

FOUR = {"vectors": {"size": 4, "distance": "Dot"}}
UUID = "3f2504e0-4f89-11d3-9a0c-0305e82c3301"


def point(number: int | str, vector: list[float], **payload: object) -> dict[str, Any]:
    """A point as JSON."""
    return {"id": number, "vector": vector, "payload": payload}


async def fill(cluster: VectorCluster, count: int, *, distance: str = "Dot", shards: int = 4) -> None:
    """A collection `c` of `count` points on a line, so that neighbours are known."""
    body = {"vectors": {"size": 2, "distance": distance}, "shard_number": shards}
    await cluster.result("PUT", "/collections/c", body)
    points = [point(n, [float(n), 1.0], n=n, even=n % 2 == 0, tags=[f"t{n % 3}", "all"]) for n in range(count)]
    await cluster.result("PUT", "/collections/c/points?wait=true", {"points": points})


async def ids(cluster: VectorCluster, body: dict[str, Any], *, node: str = "a", query: str = "") -> list[int | str]:
    """Ids that a query finds, best first."""
    found = await cluster.result("POST", f"/collections/c/points/query{query}", body, node=node)
    return [hit["id"] for hit in found["points"]]


async def test_the_walk_of_a_client_through_any_node() -> None:
    """Create, upsert, query, retrieve, count, scroll and delete, each on another node than the one before."""
    async with open_vector_cluster() as cluster:
        assert await cluster.result("PUT", "/collections/c", FOUR, node="a") is True
        assert await cluster.result("GET", "/collections/c/exists", node="b") == {"exists": True}
        assert await cluster.result("GET", "/collections", node="c") == {"collections": [{"name": "c"}]}
        points = {"points": [point(1, [1, 0, 0, 0], city="Rome"), point(UUID, [0, 2, 0, 0], city="Oslo")]}
        done = await cluster.result("PUT", "/collections/c/points?wait=true", points, node="b")
        assert done["status"] == "completed"
        assert done["operation_id"] > 0
        batch = {"batch": {"ids": [7], "vectors": [[0, 0, 3, 0]], "payloads": [None]}}
        assert (await cluster.result("PUT", "/collections/c/points", batch, node="c"))["status"] == "acknowledged"
        query = {"query": [0, 1, 0.5, 0], "limit": 2, "with_payload": True, "with_vector": True}
        found = (await cluster.result("POST", "/collections/c/points/query", query, node="a"))["points"]
        assert [(hit["id"], hit["score"]) for hit in found] == [(UUID, 2.0), (7, 1.5)]
        assert (found[0]["payload"], found[1]["payload"]) == ({"city": "Oslo"}, {})
        assert found[0]["vector"] == [0, 2, 0, 0]
        assert found[0]["version"] > 0
        old = {"vector": [0, 1, 0.5, 0], "limit": 2}
        assert [h["id"] for h in await cluster.result("POST", "/collections/c/points/search", old, node="b")] == [
            UUID,
            7,
        ]
        records = await cluster.result("POST", "/collections/c/points", {"ids": [7, 99, UUID]}, node="c")
        assert records == [{"id": 7, "payload": {}}, {"id": UUID, "payload": {"city": "Oslo"}}]
        one = await cluster.result("GET", f"/collections/c/points/{UUID}", node="a")
        assert one == {"id": UUID, "payload": {"city": "Oslo"}, "vector": [0, 2, 0, 0]}
        assert await cluster.result("POST", "/collections/c/points/count", {}, node="b") == {"count": 3}
        info = await cluster.result("GET", "/collections/c", node="c")
        assert (info["points_count"], info["config"]["params"]["shard_number"], info["status"]) == (3, 4, "green")
        page = await cluster.result("POST", "/collections/c/points/scroll", {"limit": 2}, node="a")
        assert ([p["id"] for p in page["points"]], page["next_page_offset"]) == ([1, 7], UUID)
        rest = await cluster.result("POST", "/collections/c/points/scroll", {"offset": UUID}, node="b")
        assert ([p["id"] for p in rest["points"]], rest["next_page_offset"]) == ([UUID], None)
        await cluster.result("POST", "/collections/c/points/delete?wait=true", {"points": [7, UUID]}, node="c")
        assert await cluster.result("POST", "/collections/c/points/count", {"exact": True}, node="a") == {"count": 1}
        assert await cluster.result("DELETE", "/collections/c", node="b") is True
        assert await cluster.result("DELETE", "/collections/c", node="b") is False
        status, answer = await cluster.call("POST", "/collections/c/points/count", {}, node="a")
        assert (status, answer["status"]["error"]) == (404, "Not found: Collection `c` doesn't exist!")


@pytest.mark.parametrize(
    ("distance", "scores"),
    [
        ("Cosine", [1.0, 0.8, 0.6]),
        ("Dot", [10.0, 0.8, 0.6]),
        ("Euclid", [0.632, 0.894, 9.0]),
        ("Manhattan", [0.8, 1.2, 9]),
    ],
)
async def test_scores_are_those_of_qdrant(distance: str, scores: list[float]) -> None:
    """Cosine and dot rise, Euclid and Manhattan fall; Euclid is not squared; a threshold cuts at the bad end."""
    async with open_vector_cluster("a", replication_factor=1) as cluster:
        await cluster.result("PUT", "/collections/c", {"vectors": {"size": 2, "distance": distance}})
        points = [point(1, [10, 0]), point(2, [0.8, 0.6]), point(3, [0.6, 0.8])]
        await cluster.result("PUT", "/collections/c/points", {"points": points})
        found = (await cluster.result("POST", "/collections/c/points/query", {"query": [1, 0]}))["points"]
        assert [hit["score"] for hit in found] == pytest.approx(scores, abs=0.01)
        threshold = {"query": [1, 0], "score_threshold": found[1]["score"]}
        cut = (await cluster.result("POST", "/collections/c/points/query", threshold))["points"]
        assert [hit["id"] for hit in cut] == [hit["id"] for hit in found[:2]]


async def test_a_filtered_search_returns_k_whenever_k_match() -> None:
    """Filters are exact, however few points they let through and wherever those lie."""
    async with open_vector_cluster(config=VectorConfig(index_rows_min=64)) as cluster:
        await fill(cluster, 600)
        for plugin in cluster.plugins.values():
            while await plugin._local.maintain():
                pass
        few = {"must": [{"key": "n", "match": {"any": [3, 400, 77]}}]}
        assert await ids(cluster, {"query": [1, 0], "limit": 3, "filter": few}) == [400, 77, 3]
        low = {"must": [{"key": "n", "range": {"lt": 20}}], "must_not": [{"key": "even", "match": {"value": True}}]}
        assert await ids(cluster, {"query": [1, 0], "limit": 10, "filter": low}) == [19, 17, 15, 13, 11, 9, 7, 5, 3, 1]
        assert await cluster.result("POST", "/collections/c/points/count", {"filter": low}) == {"count": 10}
        page = await cluster.result("POST", "/collections/c/points/scroll", {"filter": low, "limit": 4})
        assert [p["id"] for p in page["points"]] == [1, 3, 5, 7]
        await cluster.result("POST", "/collections/c/points/delete", {"filter": low})
        assert await cluster.result("POST", "/collections/c/points/count", {}) == {"count": 590}


async def test_graphs_answer_as_the_exact_scan_does_while_points_come_and_go() -> None:
    """With graphs, a tail and dead rows, a search misses next to nothing, and never shows a deleted point."""
    rng = random.Random(7)
    rows = {n: [rng.gauss(0, 1) for _ in range(16)] for n in range(1_500)}
    async with open_vector_cluster("a", replication_factor=1, config=VectorConfig(index_rows_min=128)) as cluster:
        body = {"vectors": {"size": 16, "distance": "Cosine"}, "shard_number": 2}
        await cluster.result("PUT", "/collections/c", body)
        local = cluster.plugins["a"]._local
        for start in range(0, 1_500, 300):
            points = [{"id": n, "vector": rows[n]} for n in range(start, start + 300)]
            await cluster.result("PUT", "/collections/c/points", {"points": points})
            await local.maintain()
            dead = [n for n in range(start, start + 300) if n % 3 == 0]
            await cluster.result("POST", "/collections/c/points/delete", {"points": dead})
        while await local.maintain():
            pass
        info = await cluster.result("GET", "/collections/c")
        assert info["points_count"] == 1_000
        assert info["indexed_vectors_count"] > 500
        found = total = 0
        for n in range(0, 1_500, 50):
            query: dict[str, Any] = {"query": rows[n], "limit": 10}
            quick = await ids(cluster, query)
            exact = await ids(cluster, query | {"params": {"exact": True}})
            assert len(quick) == len(exact) == 10
            assert all(int(hit) % 3 for hit in quick)
            found, total = found + len(set(quick) & set(exact)), total + 10
        assert found / total >= 0.95


async def test_batches_answer_each_query_in_its_place() -> None:
    """One request, many queries, each with its own limit and filter; listings and the older form too."""
    async with open_vector_cluster() as cluster:
        await fill(cluster, 50)
        searches = [
            {"query": [1, 0], "limit": 2},
            {"limit": 2},
            {"query": [-1, 0], "limit": 1, "offset": 1},
            {"query": 5, "limit": 1},
            {"query": {"nearest": [1, 0]}, "limit": 1, "filter": {"must": {"key": "even", "match": {"value": True}}}},
        ]
        found = await cluster.result("POST", "/collections/c/points/query/batch", {"searches": searches}, node="b")
        assert [[hit["id"] for hit in one["points"]] for one in found] == [[49, 48], [0, 1], [1], [49], [48]]
        old = {"searches": [{"vector": [1, 0], "limit": 1, "with_payload": ["n"]}] * 3}
        answers = await cluster.result("POST", "/collections/c/points/search/batch", old, node="c")
        assert [[hit["payload"] for hit in one] for one in answers] == [[{"n": 49}]] * 3


async def test_a_query_by_id_leaves_the_point_itself_out() -> None:
    """The stored vector of the point is the query."""
    async with open_vector_cluster() as cluster:
        await fill(cluster, 20, distance="Euclid")
        assert await ids(cluster, {"query": 10, "limit": 3}) == [9, 11, 8]
        status, answer = await cluster.call("POST", "/collections/c/points/query", {"query": 999})
        assert status == 404
        assert answer["status"]["code"] == "vector.unknown_point"


async def test_a_dead_node_changes_nothing_and_two_are_named() -> None:
    """With one of three nodes down every search answers; with two down, quorum names the shards, `one` goes on."""
    async with open_vector_cluster() as cluster:
        await fill(cluster, 100)
        cluster.stop("b")
        for query in ("", "?consistency=one", "?consistency=quorum", "?consistency=majority"):
            assert await ids(cluster, {"query": [1, 0], "limit": 3}, query=query) == [99, 98, 97]
        cluster.stop("c")
        assert await ids(cluster, {"query": [1, 0], "limit": 3}) == [99, 98, 97]
        status, answer = await cluster.call("POST", "/collections/c/points/query?consistency=quorum", {"query": [1, 0]})
        assert (status, answer["status"]["code"]) == (503, "vector.missing_shards")
        assert "shards 0, 1, 2, 3" in answer["status"]["error"]
        refused = await cluster.call("PUT", "/collections/c/points", {"points": [point(1, [1, 1])]})
        assert refused[0] == 503


async def test_missing_shards_are_refused_or_named_but_never_hidden() -> None:
    """With one copy only, a dead node takes its shards along."""
    async with open_vector_cluster("abcd", replication_factor=1) as cluster:
        await fill(cluster, 200, shards=16)
        held = [n for n, node in enumerate(cluster.cluster.nodes) if node != "a"]
        assert held
        cluster.stop("b")
        body = {"query": [1, 0], "limit": 200}
        status, answer = await cluster.call("POST", "/collections/c/points/query", body)
        assert status == 503
        status, answer = await cluster.call("POST", "/collections/c/points/query?partial=true", body)
        assert status == 200
        assert 0 < len(answer["missing_shards"]) < 16
        assert 0 < len(answer["result"]["points"]) < 200


async def test_every_request_names_the_shards_that_it_lacks() -> None:
    """Reads, writes, listings and counts name collection and shards; `partial` serves listings as it does searches."""
    async with open_vector_cluster("abcd", replication_factor=1) as cluster:
        await fill(cluster, 200, shards=16)
        cluster.stop("b")
        path = "/collections/c/points"
        _, answer = await cluster.call("POST", f"{path}/query?partial=true", {"limit": 200})
        assert 0 < len(answer["result"]["points"]) < 200
        names = ", ".join(map(str, answer["missing_shards"]))
        everything = list(range(200))
        for method, target, body in (
            ("POST", path, {"ids": everything}),
            ("PUT", path, {"points": [point(number, [number, 1]) for number in everything]}),
            ("POST", f"{path}/delete", {"points": everything}),
            ("POST", f"{path}/count", {}),
            ("POST", f"{path}/scroll", {"limit": 200}),
        ):
            status, answer = await cluster.call(method, target, body)
            assert (status, answer["status"]["code"]) == (503, "vector.missing_shards")
            text = answer["status"]["error"]
            assert f"shards {names} of collection `c`" in text
            assert "partial" not in text
            assert "consistency=one" not in text


async def test_a_collection_with_unanswered_shards_is_red_and_says_why() -> None:
    """Points that nobody could count are not passed over in silence."""
    async with open_vector_cluster("abcd", replication_factor=1) as cluster:
        await fill(cluster, 200, shards=16)
        assert (await cluster.result("GET", "/collections/c"))["status"] == "green"
        cluster.stop("b")
        _, answer = await cluster.call("GET", "/collections/c")
        names = ", ".join(map(str, answer["missing_shards"]))
        assert answer["result"]["status"] == "red"
        assert f"shards {names} do not answer" in answer["result"]["optimizer_status"]["error"]
        assert 0 < answer["result"]["points_count"] < 200


async def test_a_quorum_search_corrects_a_replica_that_missed_writes() -> None:
    """Overwritten points are scored again, deleted ones vanish, new ones appear, whichever replica is stale."""
    async with open_vector_cluster() as cluster:
        await fill(cluster, 30)
        for stale in "abc":
            cluster.cluster.down.add(stale)
            other = "b" if stale == "a" else "a"
            moved = {"points": [point(29, [-5, 0]), point(1_000, [500, 0])]}
            await cluster.result("PUT", "/collections/c/points", moved, node=other)
            await cluster.result("POST", "/collections/c/points/delete", {"points": [28]}, node=other)
            cluster.cluster.down.clear()
            for node in "abc":
                body = {"query": [1, 0], "limit": 2}
                assert await ids(cluster, body, node=node, query="?consistency=quorum") == [1_000, 27]
                count = "/collections/c/points/count?consistency=quorum"
                assert await cluster.result("POST", count, {}, node=node) == {"count": 30}
            restored = {"points": [point(29, [29, 1], n=29), point(28, [28, 1], n=28)]}
            await cluster.result("PUT", "/collections/c/points?consistency=all", restored)
            await cluster.result("POST", "/collections/c/points/delete?consistency=all", {"points": [1_000]})


async def test_large_payloads_travel_outside_the_search_frame() -> None:
    """More payload than one reply carries is read afterwards; nothing is cut."""
    async with open_vector_cluster() as cluster:
        await cluster.result("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}})
        points = [point(n, [float(n), 0], text="x" * 30_000) for n in range(60)]
        await cluster.result("PUT", "/collections/c/points", {"points": points})
        body = {"query": [1, 0], "limit": 60, "with_payload": True}
        found = (await cluster.result("POST", "/collections/c/points/query", body, node="b"))["points"]
        assert [len(hit["payload"]["text"]) for hit in found] == [30_000] * 60


async def test_a_reloaded_plugin_finds_its_shards_again() -> None:
    """Replication keeps the data; the new plugin serves it, takes writes and goes on with the index."""
    config = VectorConfig(index_rows_min=64)
    async with open_vector_cluster(config=config) as cluster, trio.open_nursery() as nursery:
        await fill(cluster, 600)
        old = cluster.plugins["a"]
        await old.on_unload()
        await old.cleanup()
        assert (await cluster.http["a"].request("GET", "/collections")).status == 404
        assert await ids(cluster, {"query": [1, 0], "limit": 2}, node="b") == [599, 598]
        await cluster.load("a", config, nursery)
        await cluster.result("PUT", "/collections/c/points", {"points": [point(1_000, [1_000, 1])]})
        assert await ids(cluster, {"query": [1, 0], "limit": 2}) == [1_000, 599]
        while await cluster.plugins["a"]._local.maintain():
            pass
        assert (await cluster.result("GET", "/collections/c"))["indexed_vectors_count"] > 0
        nursery.cancel_scope.cancel()


async def test_the_largest_pages_fit_in_frames() -> None:
    """Ten thousand hits with payloads, from other nodes, verified and not."""
    async with open_vector_cluster("abcd", replication_factor=3) as cluster:
        await cluster.result("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 2})
        for start in range(0, 10_200, 5_100):
            ids_here = [f"00000000-0000-0000-0000-{n:012d}" for n in range(start, start + 5_100)]
            points = [{"id": name, "vector": [n, 1], "payload": {"n": n}} for n, name in enumerate(ids_here, start)]
            await cluster.result("PUT", "/collections/c/points", {"points": points})
        body = {"query": [1, 0], "limit": 10_000, "with_payload": True}
        for node in "abcd":
            for level in ("one", "quorum"):
                target = f"/collections/c/points/query?consistency={level}"
                found = (await cluster.result("POST", target, body, node=node))["points"]
                assert [hit["payload"]["n"] for hit in found] == list(range(10_199, 199, -1))
        page = await cluster.result("POST", "/collections/c/points/scroll", {"limit": 10_000}, node="d")
        assert [hit["payload"]["n"] for hit in page["points"]] == list(range(10_000))


BAD: list[tuple[str, str, bytes | dict[str, Any], int, str]] = [
    ("PUT", "/collections/c/points", {"points": [point(1, [1, 2, 3])]}, 400, "expected dim: 2, got 3"),
    ("PUT", "/collections/c/points", {"points": [point(1, [1, 2]), point(2, [])]}, 400, "in point 2"),
    ("PUT", "/collections/c/points", b'{"points": [{"id": 1, "vector": [NaN, 1]}]}', 400, "Format error"),
    ("PUT", "/collections/c/points", b'{"points": [{"id": 1, "vector": [1e39, 1]}]}', 400, "infinity"),
    ("PUT", "/collections/c/points", b'{"points": [{"id": 1, "vector": [1e400, 1]}]}', 400, "out of range"),
    ("PUT", "/collections/c/points", b'{"points": [{"id": 1, "vector": [null, 1]}]}', 400, "null"),
    ("PUT", "/collections/c/points", {"points": [point(-1, [1, 2])]}, 400, "valid point ID"),
    ("PUT", "/collections/c/points", {"points": [point("abc", [1, 2])]}, 400, "valid point ID"),
    ("PUT", "/collections/c/points", b'{"points": [{"id": 18446744073709551616, "vector": [1, 2]}]}', 400, ""),
    ("PUT", "/collections/c/points", {"points": [{"id": 1, "vector": {"image": [1, 2]}}]}, 400, "named vectors"),
    ("PUT", "/collections/c/points", {"points": [point(n, [1, 2]) for n in range(10_001)]}, 400, "limit of 10000"),
    ("PUT", "/collections/c/points", {"points": [{"id": 1, "vector": [1, 2], "payload": [1]}]}, 400, "JSON object"),
    ("PUT", "/collections/c/points", {"points": [point(1, [1, 2], text="x" * 70_000)]}, 400, "limit of 65536"),
    ("PUT", "/collections/c/points", b'{"points": [', 400, "Format error"),
    ("PUT", "/collections/c/points", b"\xff\xfe", 400, "Format error"),
    ("PUT", "/collections/c/points", b'{"points": ' + b"[" * 100_000, 400, "Format error"),
    ("PUT", "/collections/c/points", {"points": [], "batch": None, "extra": 1}, 400, "extra"),
    ("PUT", "/collections/c/points", {}, 400, "either `points` or `batch`"),
    ("PUT", "/collections/c/points", {"batch": {"ids": [1, 2], "vectors": [[1, 2]]}}, 400, "2 ids, 1 vectors"),
    ("PUT", "/collections/none/points", {"points": [point(1, [1, 2])]}, 404, "doesn't exist"),
    ("POST", "/collections/c/points/query", {"query": [1, 2, 3]}, 400, "expected dim: 2, got 3 in the query"),
    ("POST", "/collections/c/points/query", {"query": [1, 2], "limit": 10_001}, 400, "limit of 10000"),
    ("POST", "/collections/c/points/query", {"query": [1, 2], "limit": 10**30}, 400, ""),
    ("POST", "/collections/c/points/query", {"query": [1, 2], "limit": 0}, 400, "below 1"),
    ("POST", "/collections/c/points/query", {"query": [1, 2], "offset": -1}, 400, "below 0"),
    ("POST", "/collections/c/points/query", {"query": [1, 2], "using": "image"}, 400, "named vectors"),
    ("POST", "/collections/c/points/query", {"query": {"recommend": {}}}, 400, "`recommend`"),
    ("POST", "/collections/c/points/query", {"query": [1, 2], "prefetch": {}}, 400, "`prefetch`"),
    ("POST", "/collections/c/points/query", {"query": [1, 2], "filter": {"must": [{}]}}, 400, "says nothing"),
    ("POST", "/collections/c/points/query", {"query": [1, 2], "filter": {"musst": []}}, 400, "musst"),
    ("POST", "/collections/c/points/query?consistency=most", {"query": [1, 2]}, 400, "not a level"),
    ("POST", "/collections/c/points/query?timeout=0", {"query": [1, 2]}, 400, "timeout"),
    ("POST", "/collections/c/points/query/batch", {"searches": [{}] * 1_001}, 400, "limit of 1000"),
    ("POST", "/collections/c/points/delete", {}, 400, "either `points` or `filter`"),
    ("GET", "/collections/c/points/x", b"", 400, "valid point ID"),
    ("GET", "/collections/c/points/77", b"", 404, "does not exist"),
    ("PUT", "/collections/c/points?wait=soon", {"points": [point(1, [1, 2])]}, 400, "wait `soon`"),
    ("POST", "/collections/c/points/payload", {"payload": {}, "points": [1]}, 400, "not in the part"),
    ("PUT", "/collections/c/points/vectors", {"points": [[0.5] * 1_000] * 30}, 400, "not in the part"),
    ("PATCH", "/collections/c", {}, 400, "PATCH /collections/c is not in the part"),
    ("GET", "/collections/c/cluster", b"", 400, "not in the part"),
    ("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}}, 409, "already exists"),
    ("PUT", "/collections/d", {"vectors": {"size": 0, "distance": "Dot"}}, 400, "between 1 and"),
    ("PUT", "/collections/d", {"vectors": {"size": 2, "distance": "Hamming"}}, 400, "Cosine"),
    ("PUT", "/collections/d", {"vectors": {"image": {"size": 2, "distance": "Dot"}}}, 400, "named vectors"),
    ("PUT", "/collections/d", {}, 400, "`vectors` is missing"),
    ("PUT", "/collections/d", {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 65}, 400, "shard_number"),
    ("PUT", "/collections/d", FOUR | {"sparse_vectors": {"text": {}}}, 400, "sparse_vectors"),
    ("PUT", "/collections/d", FOUR | {"strict_mode_config": {"enabled": True}}, 400, "`strict_mode_config`"),
    ("PUT", "/collections/a%3Ab", FOUR, 400, "not a collection name"),
    ("PUT", "/collections/" + "n" * 256, FOUR, 400, "not a collection name"),
]


@pytest.mark.parametrize(("method", "target", "body", "status", "text"), BAD)
async def test_bad_input_is_refused_by_name_and_writes_nothing(
    method: str, target: str, body: bytes | dict[str, Any], status: int, text: str
) -> None:
    """A clear error in Qdrant's envelope, and the collection is as it was."""
    async with open_vector_cluster("a", replication_factor=1) as cluster:
        await cluster.result("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}})
        got, answer = await cluster.call(method, target, body)
        assert (got, text in answer["status"]["error"]) == (status, True), answer
        assert "." in answer["status"]["code"]
        assert await cluster.result("POST", "/collections/c/points/count", {}) == {"count": 0}
        assert await cluster.result("GET", "/collections") == {"collections": [{"name": "c"}]}


async def test_payloads_are_cut_as_asked_and_their_depth_is_bounded() -> None:
    """Include and exclude reach into objects; sixty-four levels are enough for anybody."""
    async with open_vector_cluster("a", replication_factor=1) as cluster:
        await cluster.result("PUT", "/collections/c", {"vectors": {"size": 1, "distance": "Dot"}})
        payload = {"a": {"x": 1, "y": 2}, "b": 3}
        await cluster.result("PUT", "/collections/c/points", {"points": [{"id": 1, "vector": [1], "payload": payload}]})
        shown = {
            True: payload,
            msgspec.json.encode(["a.x"]): {"a": {"x": 1}},
            msgspec.json.encode({"include": ["b", "nothing"]}): {"b": 3},
            msgspec.json.encode({"exclude": ["a.x", "b"]}): {"a": {"y": 2}},
        }
        for selector, expected in shown.items():
            raw = msgspec.Raw(selector) if isinstance(selector, bytes) else selector
            (hit,) = (await cluster.result("POST", "/collections/c/points/query", {"query": [1], "with_payload": raw}))[
                "points"
            ]
            assert hit["payload"] == expected
        deep = b'{"points": [{"id": 1, "vector": [1], "payload": {"a": ' + b"[" * 70 + b"]" * 70 + b"}}]}"
        status, answer = await cluster.call("PUT", "/collections/c/points", deep)
        assert status == 400
        assert "deeper than 64" in answer["status"]["error"]


async def test_cosine_vectors_are_stored_at_length_one() -> None:
    """As in Qdrant, what comes back under Cosine is normalised."""
    async with open_vector_cluster("a", replication_factor=1) as cluster:
        await cluster.result("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Cosine"}})
        await cluster.result("PUT", "/collections/c/points", {"points": [point(1, [3, 4]), point(2, [0, 0])]})
        one = await cluster.result("GET", "/collections/c/points/1")
        assert math.dist(one["vector"], [0.6, 0.8]) < 1e-6
        assert (await cluster.result("GET", "/collections/c/points/2"))["vector"] == [0, 0]


def test_importing_the_plugin_imports_neither_numpy_nor_usearch() -> None:
    """A node without vectors does not pay for them (D12)."""
    code = (
        "import sys, frys_node.plugins.vector.plugin as p; "
        "sys.exit(any(name in sys.modules for name in ('numpy', 'usearch')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


async def test_a_collection_has_levels_of_its_own_for_requests_that_say_none() -> None:
    """`frys` in the definition sets them and is shown; a request's own level wins; an unknown one is refused."""
    async with open_vector_cluster() as cluster:
        levels = {"read_consistency": "quorum", "write_consistency": "all", "read_repair": "wait"}
        await cluster.result("PUT", "/collections/c", FOUR | {"frys": levels})
        info = await cluster.result("GET", "/collections/c")
        assert info["config"]["params"]["frys"] == levels
        points = {"points": [point(1, [1, 0, 0, 0])]}
        await cluster.result("PUT", "/collections/c/points", points)
        assert await cluster.result("POST", "/collections/c/points/count", {}) == {"count": 1}
        bad = FOUR | {"frys": {"read_consistency": "two"}}
        assert (await cluster.call("PUT", "/collections/d", bad))[0] == 400

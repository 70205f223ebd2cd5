"""The cache's HTTP routes on one node and on three, without sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec
import pytest

from frys_node.base.types import Consistency
from frys_node.base.units import cache_unit_of
from frys_node.observe.metrics import Metrics
from frys_node.plugins.cache.changer import CHANGE, Changer
from frys_node.plugins.cache.changes import Change
from frys_node.plugins.cache.config import CacheConfig
from frys_node.plugins.cache.driver import CacheService
from frys_node.plugins.cache.http import CacheHttp
from frys_node.plugins.cache.memory import CacheMemory
from frys_node.testing.rpc import RpcNetwork, open_rpc_network
from frys_node.testing.services import FakeHttp, ServiceCluster


class CacheCluster:
    """Four caches that share a wall clock, three replicas of each unit."""

    def __init__(self, network: RpcNetwork, config: CacheConfig | None = None) -> None:
        self.cluster = ServiceCluster(["a", "b", "c", "d"], replication_factor=3)
        self.unix_ms = 5_000_000
        self.http: dict[str, FakeHttp] = {}
        self.services: dict[str, CacheService] = {}
        self.changers: dict[str, Changer] = {}
        for node in self.cluster.nodes:
            memory = CacheMemory(1 << 20, lambda: self.unix_ms)
            self.cluster.replication[node].register("cache", memory.open, durable=False)
            service = CacheService(
                replication=self.cluster.replication[node],
                topology=self.cluster.topology[node],
                memory=memory,
                config=config or CacheConfig(),
                metrics=Metrics(),
                now_unix_ms=lambda: self.unix_ms,
                node=node,
            )
            changer = Changer(
                service=service,
                topology=self.cluster.topology[node],
                rpc=network.node(node),
                is_usable=lambda other: other not in self.cluster.down,
            )
            network.node(node).serve(CHANGE, changer.answer)
            self.services[node], self.changers[node] = service, changer
            self.http[node] = FakeHttp()
            CacheHttp(service, changer).register(self.http[node])


@pytest.fixture
async def caches() -> AsyncIterator[CacheCluster]:
    """A cluster of four nodes, three replicas each."""
    async with open_rpc_network() as network:
        yield CacheCluster(network)


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
@pytest.mark.parametrize("header", ["if-match", "if-none-match"])
@pytest.mark.parametrize("text", ["", " ", ",", '""'])
async def test_a_condition_without_a_tag_is_refused_and_nothing_is_written(
    caches: CacheCluster, method: str, header: str, text: str
) -> None:
    """An empty header would have made a conditional write unconditional."""
    path = "/v1/cache/default/k"
    node = caches.http["a"]
    await node.request("PUT", path, b"kept")
    assert (await node.request(method, path, b"new", {header: text})).status == 400
    assert (await node.request("GET", path)).body == b"kept"


async def test_a_delete_only_if_nothing_is_there_is_refused(caches: CacheCluster) -> None:
    """It makes no sense, whatever is there."""
    node = caches.http["a"]
    for path in ("/v1/cache/default/k", "/v1/cache/default/none"):
        await node.request("PUT", "/v1/cache/default/k", b"kept")
        assert (await node.request("DELETE", path, headers={"if-none-match": "*"})).status == 400
    assert (await node.request("GET", "/v1/cache/default/k")).body == b"kept"


async def test_a_lease_has_a_limit_that_its_refusal_names(caches: CacheCluster) -> None:
    """Ten minutes are granted, a moment more is not, and then nobody waits for it."""
    node, path = caches.http["a"], "/v1/cache/default/page?lease="
    refused = await node.request("GET", path + "600.001s")
    assert refused.status == 400
    assert b"over the limit of 600 s" in refused.body
    assert (await node.request("GET", path + "10m")).headers["X-Frys-Lease"] == "granted"


async def test_any_node_answers_what_another_took(caches: CacheCluster) -> None:
    """Bytes and content type come back unchanged from every node, with one ETag."""
    body = bytes(range(256))
    put = await caches.http["a"].request("PUT", "/v1/cache/default/a%2Fb/c", body, {"content-type": "image/png"})
    assert put.status == 200
    for node in "abcd":
        got = await caches.http[node].request("GET", "/v1/cache/default/a/b/c")
        assert (got.status, got.body, got.content_type) == (200, body, "image/png")
        assert got.headers["ETag"] == put.headers["ETag"]
        again = {"if-none-match": got.headers["ETag"]}
        assert (await caches.http[node].request("GET", "/v1/cache/default/a/b/c", headers=again)).status == 304


async def test_namespaces_are_apart_and_deletes_reach_all_nodes(caches: CacheCluster) -> None:
    """The same key in two namespaces is two entries of one unit."""
    http = caches.http["a"]
    await http.request("PUT", "/v1/cache/one/k", b"1")
    await http.request("PUT", "/v1/cache/two/k", b"2")
    assert (await http.request("DELETE", "/v1/cache/one/k")).status == 200
    missing = await caches.http["b"].request("GET", "/v1/cache/one/k")
    assert missing.status == 404
    assert msgspec.json.decode(missing.body)["error"]["code"] == "cache.miss"
    assert (await caches.http["c"].request("GET", "/v1/cache/two/k?consistency=all")).body == b"2"


async def test_a_value_lives_as_long_as_it_was_told(caches: CacheCluster) -> None:
    """The remaining life is shown; afterwards it is a miss."""
    await caches.http["a"].request("PUT", "/v1/cache/default/k?ttl=30s", b"v")
    caches.unix_ms += 29_500
    got = await caches.http["b"].request("GET", "/v1/cache/default/k")
    assert got.headers["X-Frys-Ttl"] == "0.500"
    caches.unix_ms += 500
    assert (await caches.http["b"].request("GET", "/v1/cache/default/k")).status == 404


async def test_a_batch_deletes_puts_and_gets_in_order(caches: CacheCluster) -> None:
    """One request for many keys on many units; text stays text, other bytes are base64."""
    batch = {
        "put": [{"key": f"k{n}", "value": str(n), "ttl": 60} for n in range(50)] + [{"key": "raw", "base64": "/w=="}],
        "get": ["k7", "nothing", "raw", "k7"],
    }
    answer = msgspec.json.decode((await caches.http["a"].request("POST", "/v1/cache/default", batch)).body)
    assert len(answer["put"]) == 51
    seven, nothing, raw, seven_again = answer["get"]
    assert (seven["value"], nothing, raw["base64"]) == ("7", None, "/w==")
    assert seven == seven_again
    answer = msgspec.json.decode(
        (
            await caches.http["b"].request("POST", "/v1/cache/default", {"delete": ["k7", "k8"], "get": ["k7", "k9"]})
        ).body
    )
    assert answer["deleted"] == 2
    assert answer["get"][0] is None
    assert answer["get"][1]["value"] == "9"


async def test_a_quorum_survives_one_node_and_refuses_two(caches: CacheCluster) -> None:
    """Writes at the default level need two of three; `one` goes on with what is left."""
    entry = caches.http["a"]
    await entry.request("PUT", "/v1/cache/default/k", b"v")
    members = caches.cluster.members_of(cache_unit_of(b"k", caches.cluster.partitions))
    caches.cluster.down.add(members[0])
    assert (await entry.request("PUT", "/v1/cache/default/k", b"w")).status == 200
    caches.cluster.down.add(members[1])
    refused = await entry.request("PUT", "/v1/cache/default/k", b"x")
    assert refused.status == 503
    assert msgspec.json.decode(refused.body)["error"]["code"] == "routing.no_replica"
    assert (await entry.request("GET", "/v1/cache/default/k?consistency=one")).status == 200


@pytest.mark.parametrize(
    ("method", "target", "body", "status"),
    [
        ("PUT", "/v1/cache/default/" + "k" * 513, b"v", 400),
        ("PUT", "/v1/cache/default/k", b"v" * (512 * 1024 + 1), 413),
        ("PUT", "/v1/cache/na%2Fme/k", b"v", 400),
        ("PUT", "/v1/cache/default/k?ttl=soon", b"v", 400),
        ("PUT", "/v1/cache/default/k?consistency=most", b"v", 400),
        ("GET", "/v1/cache/default/", b"", 400),
        ("POST", "/v1/cache/default", b"{", 400),
        ("POST", "/v1/cache/default", b'{"get": ' + b"[" * 5_000, 400),
        ("POST", "/v1/cache/default", b'{"fetch": []}', 400),
        ("POST", "/v1/cache/default", {"get": [str(n) for n in range(1_001)]}, 413),
        ("POST", "/v1/cache/default", {"put": [{"key": "a"}]}, 400),
        ("POST", "/v1/cache/default", {"put": [{"key": "a", "base64": "!"}]}, 400),
        ("POST", "/v1/cache/default", {"put": [{"key": "a", "value": "1"}, {"key": "a", "value": "2"}]}, 400),
        ("POST", "/v1/cache/default", {"put": [{"key": "good", "value": "1"}], "delete": [""]}, 400),
    ],
)
async def test_bad_input_is_refused_by_name_and_changes_nothing(
    caches: CacheCluster, method: str, target: str, body: bytes | dict[str, object], status: int
) -> None:
    """Each limit answers with its own code and nothing of the request is done."""
    answer = await caches.http["a"].request(method, target, body)
    assert answer.status == status
    error = msgspec.json.decode(answer.body)["error"]
    assert error["code"].startswith(("cache.", "request."))
    assert error["message"]
    held = [store for node in "abcd" for store in caches.cluster.replication[node].stores.values()]
    assert [entry for store in held for entry in store.entries()] == []


async def test_a_write_with_a_condition_is_done_only_if_it_holds(caches: CacheCluster) -> None:
    """If-Match takes the ETag of any node's answer, If-None-Match: * an absent entry; 412 changes nothing."""
    a, b, c = (caches.http[node] for node in "abc")
    path = "/v1/cache/default/k"
    assert (await a.request("PUT", path, b"0", {"if-match": "*"})).status == 412
    first = await a.request("PUT", path, b"1", {"if-none-match": "*"})
    assert first.status == 200
    again = await b.request("PUT", path, b"2", {"if-none-match": "*"})
    assert msgspec.json.decode(again.body)["error"]["code"] == "cache.conflict"
    tag = first.headers["ETag"]
    assert (await c.request("GET", path)).headers["ETag"] == tag
    second = await c.request("PUT", path + "?ttl=60s", b"2", {"if-match": tag, "content-type": "text/plain"})
    assert second.status == 200
    assert (await b.request("PUT", path, b"3", {"if-match": tag})).status == 412
    got = await a.request("GET", path)
    assert (got.body, got.content_type, got.headers["X-Frys-Ttl"]) == (b"2", "text/plain", "60.000")
    assert (await a.request("DELETE", path, headers={"if-match": tag})).status == 412
    assert (await a.request("DELETE", path, headers={"if-match": second.headers["ETag"]})).status == 200
    assert (await a.request("GET", path)).status == 404
    for headers in ({"if-none-match": tag}, {"if-match": f"{tag}, {tag}"}, {"if-match": tag, "if-none-match": "*"}):
        assert (await a.request("PUT", path, b"x", headers)).status == 400


async def test_a_post_counts(caches: CacheCluster) -> None:
    """Through any node; what is no number is refused and stays."""
    path = "/v1/cache/default/n"
    for number, node in enumerate("abcd", 1):
        answer = msgspec.json.decode((await caches.http[node].request("POST", path + "?add=5")).body)
        assert answer["value"] == 5 * number
    assert (await caches.http["a"].request("GET", path)).body == b"20"
    assert (await caches.http["a"].request("POST", path)).status == 400
    await caches.http["a"].request("PUT", path, b"text")
    refused = await caches.http["b"].request("POST", path + "?add=1")
    assert (refused.status, msgspec.json.decode(refused.body)["error"]["code"]) == (400, "cache.invalid")


async def test_one_of_those_that_miss_is_asked_to_load(caches: CacheCluster) -> None:
    """Across nodes; when the lease is over another one is, and a value that is there ends it all."""
    path = "/v1/cache/default/page?lease=5s"
    answers = [await caches.http[node].request("GET", path) for node in "abcd"]
    assert [answer.status for answer in answers] == [404] * 4
    assert [answer.headers["X-Frys-Lease"] for answer in answers] == ["granted", "wait", "wait", "wait"]
    assert answers[1].headers["Retry-After"] == "1"
    caches.unix_ms += 5_000
    assert (await caches.http["d"].request("GET", path)).headers["X-Frys-Lease"] == "granted"
    await caches.http["d"].request("PUT", "/v1/cache/default/page", b"loaded")
    assert (await caches.http["a"].request("GET", path)).body == b"loaded"
    assert (await caches.http["a"].request("GET", "/v1/cache/default/x?lease=soon")).status == 400


async def test_a_hash_is_not_taken_for_bytes(caches: CacheCluster) -> None:
    """It belongs to Redis clients: HTTP says so, a batch leaves it out, and a PUT replaces it."""
    await caches.changers["a"].run([Change(b"default\0h", "hset", [b"f", b"1"])], Consistency.QUORUM)
    answer = await caches.http["b"].request("GET", "/v1/cache/default/h")
    assert (answer.status, b"HGETALL" in answer.body) == (400, True)
    batch = await caches.http["c"].request("POST", "/v1/cache/default", {"get": ["h"]})
    assert msgspec.json.decode(batch.body)["get"] == [None]
    assert (await caches.http["d"].request("PUT", "/v1/cache/default/h", b"v")).status == 200
    assert (await caches.http["a"].request("GET", "/v1/cache/default/h")).body == b"v"


async def test_a_session_header_is_answered_and_junk_in_it_is_refused(caches: CacheCluster) -> None:
    """`new` begins a session, every answer carries the token, a miss too; without the header there is none."""
    path = "/v1/cache/default/k"
    put = await caches.http["a"].request("PUT", path, b"v", {"frys-session": "new"})
    got = await caches.http["b"].request("GET", path, headers={"frys-session": put.headers["Frys-Session"]})
    assert (got.status, got.body) == (200, b"v")
    assert "Frys-Session" in got.headers
    missed = await caches.http["b"].request("GET", path + "2", headers={"frys-session": "new"})
    assert missed.status == 404
    assert "Frys-Session" in missed.headers
    assert "Frys-Session" not in (await caches.http["b"].request("GET", path)).headers
    lost = await caches.http["b"].request("PUT", path, b"w", {"frys-session": "new", "if-none-match": "*"})
    assert lost.status == 412
    assert "Frys-Session" in lost.headers
    refused = await caches.http["a"].request("GET", path, headers={"frys-session": "junk!"})
    assert refused.status == 400
    assert b"request.invalid_session" in refused.body
    assert (await caches.http["a"].request("GET", path + "?read_repair=never")).status == 400

"""The cache's HTTP routes on one node and on three, without sockets."""

from __future__ import annotations

import msgspec
import pytest

from frys_node.base.units import cache_unit_of
from frys_node.observe.metrics import Metrics
from frys_node.plugins.cache.cache import CacheMemory
from frys_node.plugins.cache.config import CacheConfig
from frys_node.plugins.cache.driver import CacheService
from frys_node.plugins.cache.http import CacheHttp
from frys_node.testing.services import FakeHttp, ServiceCluster


class CacheCluster:
    """Three caches that share a wall clock."""

    def __init__(self, config: CacheConfig | None = None) -> None:
        self.cluster = ServiceCluster(["a", "b", "c", "d"], replication_factor=3)
        self.unix_ms = 5_000_000
        self.http: dict[str, FakeHttp] = {}
        for node in self.cluster.nodes:
            memory = CacheMemory(1 << 20, lambda: self.unix_ms)
            self.cluster.replication[node].register("cache", memory.open, durable=False)
            service = CacheService(
                replication=self.cluster.replication[node],
                topology=self.cluster.topology[node],
                config=config or CacheConfig(),
                metrics=Metrics(),
                now_unix_ms=lambda: self.unix_ms,
            )
            self.http[node] = FakeHttp()
            CacheHttp(service).register(self.http[node])


@pytest.fixture
def caches() -> CacheCluster:
    """A cluster of four nodes, three replicas each."""
    return CacheCluster()


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

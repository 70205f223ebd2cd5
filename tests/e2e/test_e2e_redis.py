"""Stock Redis clients and tools against a real cluster of three, unchanged."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import ConstantBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry

from frys_node.bench.redis_tools import benchmark, find_tool, redis_server, run_tool, server_command
from frys_node.demo.cluster import NodeProcess, free_port

pytestmark = pytest.mark.slow

LIMIT_S = 60.0

may_skip = not os.environ.get("CI")
"""CI brings the tools (`.ci/apt`); if they are missing there, their tests fail."""

has_tools, has_server = find_tool("redis-benchmark") is not None, server_command() is not None
needs_tools = pytest.mark.skipif(may_skip and not has_tools, reason="redis-tools are not here (make peers)")
needs_server = pytest.mark.skipif(may_skip and not has_server, reason="redis-server is not here (make peers)")


def wait(what: str, probe: Callable[[], Any]) -> Any:
    """Poll until the probe is true; fail naming what was waited for."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(redis.RedisError):
            value = probe()
            if value:
                return value
        time.sleep(0.1)
    raise AssertionError(f"waited {LIMIT_S:g} s for {what}")


class RedisNodes:
    """Three nodes, each with a Redis listener."""

    def __init__(self, home: Path) -> None:
        self.ports = [free_port() for _ in range(3)]
        self.nodes = [
            NodeProcess(f"n{number}", home / f"n{number}", settings={"FRYS_PLUGINS_CACHE_RESP": f"127.0.0.1:{port}"})
            for number, port in enumerate(self.ports)
        ]
        self.nodes[0].start()
        self.ready(self.nodes[0])
        for node in self.nodes[1:]:
            node.start([self.nodes[0].bind])
        for node in self.nodes[1:]:
            self.ready(node)
        wait("a stable ring of three", self.is_stable)
        wait("every node knows every listener", self.all_known)

    def ready(self, node: NodeProcess) -> None:
        """Wait until a node is ready, or fail with its log."""
        try:
            wait(f"{node.name} ready", lambda: node.is_ready)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{node.log_tail(40)}") from error

    def is_stable(self) -> bool:
        """True when each node has adopted a stable record of three."""
        rings = [node.call("GET", "/v1/ring") for node in self.nodes]
        return all(ring["phase"] == "stable" and len(ring["members"]) == 3 for ring in rings)

    def all_known(self) -> bool:
        """True when CLUSTER NODES of each names all three."""
        texts = [redis.Redis(port=port).execute_command("CLUSTER NODES") for port in self.ports]
        return all(len(text) == 3 for text in texts)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisNodes]:
    """One cluster for the module."""
    started = RedisNodes(tmp_path_factory.mktemp("redis"))
    try:
        yield started
    finally:
        codes = [node.stop() for node in started.nodes]
        assert codes == [0, 0, 0], [node.log_tail(30) for node in started.nodes]


@pytest.fixture(params=[2, 3])
def clients(cluster: RedisNodes, request: pytest.FixtureRequest) -> Iterator[list[redis.Redis]]:
    """A plain client of each node, in each protocol; the database is empty."""
    made = [redis.Redis(port=port, protocol=request.param, socket_timeout=20) for port in cluster.ports]
    made[0].flushdb()
    yield made
    for client in made:
        client.close()


def test_what_one_node_takes_every_node_serves(clients: list[redis.Redis]) -> None:
    """Strings, counters, conditions, lifetimes and hashes, each written and read through different nodes."""
    one, two, three = clients
    assert one.set("k", "v")
    assert [client.get("k") for client in clients] == [b"v"] * 3
    assert two.set("k", "w", nx=True) is None
    assert two.set("lock", 1, nx=True, px=60_000)
    assert three.pttl("lock") > 50_000
    assert one.set("k", "w", get=True) == b"v"
    assert two.mset({"a": 1, "b": 2})
    assert three.mget("a", "none", "b") == [b"1", None, b"2"]
    assert [client.incr("n", 5) for client in clients] == [5, 10, 15]
    assert two.decr("n") == 14
    assert one.hset("h", mapping={"f": 1, "g": 2}) == 2
    assert two.hincrby("h", "f", 41) == 42
    assert three.hgetall("h") == {b"f": b"42", b"g": b"2"}
    assert one.hdel("h", "g") == 1
    assert two.type("h") == b"hash"
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        three.get("h")
    assert one.append("k", "!") == 2
    assert two.getdel("k") == b"w!"
    assert three.exists("k") == 0
    assert one.expire("a", 100)
    assert 95 < two.ttl("a") <= 100
    assert three.persist("a")
    assert one.delete("a", "b", "none") == 2
    assert sorted(two.scan_iter()) == [b"h", b"lock", b"n"]
    assert three.dbsize() == 3


def test_pipelines_keep_their_order(clients: list[redis.Redis]) -> None:
    """A thousand writes, reads and counts in one go, and a database chosen by the client is a namespace."""
    pipe = clients[0].pipeline(transaction=False)
    for number in range(500):
        pipe.set(f"p{number}", number)
    for number in range(500):
        pipe.get(f"p{number}")
    for _ in range(50):
        pipe.incr("count")
    answers = pipe.execute()
    assert answers[500:1_000] == [b"%d" % number for number in range(500)]
    assert answers[1_000:] == list(range(1, 51))
    assert len(list(clients[1].scan_iter(match="p*", count=100))) == 500
    assert clients[0].flushdb()
    assert clients[2].dbsize() == 0


def test_the_pipeline_that_redis_py_makes_by_default_works(clients: list[redis.Redis]) -> None:
    """MULTI and EXEC around what it queues: replies in order, errors in their place, keys of any slot."""
    pipe = clients[0].pipeline()
    for number in range(25):
        pipe.set(f"t{number}", number).incr(f"t{number}").get(f"t{number}")
    answers = pipe.execute()
    assert answers == [x for number in range(25) for x in (True, number + 1, b"%d" % (number + 1))]
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        clients[1].pipeline().hset("th", "a", 1).get("th").set("after", 1).execute()
    assert clients[2].get("after") == b"1"  # as in Redis nothing is rolled back
    failed = clients[1].pipeline().get("th").hget("th", "a").execute(raise_on_error=False)
    assert isinstance(failed[0], redis.ResponseError)
    assert failed[1] == b"1"
    spoilt = clients[1].pipeline()
    spoilt.set("never", 1)
    spoilt.execute_command("LPUSH", "l", 1)
    with pytest.raises(redis.ResponseError, match="unknown command"):
        spoilt.execute()
    assert clients[2].get("never") is None
    with pytest.raises(redis.ResponseError, match="WATCH is not supported"):
        clients[0].pipeline().watch("t1")
    assert clients[0].flushdb()


def test_a_counter_loses_nothing_to_three_nodes_at_once(clients: list[redis.Redis]) -> None:
    """Six clients count through three nodes; while the set is stable the sum is exact."""

    def count(client: redis.Redis) -> None:
        for _ in range(50):
            client.incr("many")

    threads = [threading.Thread(target=count, args=(client,)) for client in clients * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert clients[0].get("many") == b"300"


def test_messages_cross_the_cluster(clients: list[redis.Redis]) -> None:
    """A subscriber of one node hears what is published at another, by channel and by pattern."""
    hub = clients[0].pubsub(ignore_subscribe_messages=False)
    hub.subscribe("news")
    hub.psubscribe("n*")
    for _ in range(2):
        assert hub.get_message(timeout=5)["type"] in ("subscribe", "psubscribe")
    clients[1].publish("news", "hello")
    clients[0].publish("news", "again")
    heard = [hub.get_message(timeout=5) for _ in range(4)]
    assert sorted((message["type"], message["data"]) for message in heard) == [
        ("message", b"again"),
        ("message", b"hello"),
        ("pmessage", b"again"),
        ("pmessage", b"hello"),
    ]
    hub.close()


@pytest.mark.parametrize("protocol", [2, 3])
def test_a_cluster_client_goes_straight_to_the_owners(cluster: RedisNodes, protocol: int) -> None:
    """redis-py learns the map from any node; its keys are with the first members of their units."""
    client = RedisCluster(host="127.0.0.1", port=cluster.ports[1], protocol=protocol)
    assert {node.port for node in client.get_nodes()} == set(cluster.ports)
    for number in range(60):
        assert client.set(f"c{number}", number)
    assert [client.get(f"c{number}") for number in range(60)] == [b"%d" % number for number in range(60)]
    owners = {client.get_node_from_key(f"c{number}").port for number in range(60)}
    assert owners == set(cluster.ports)
    pipe = client.pipeline()
    for number in range(60):
        pipe.incr(f"c{number}")
    assert pipe.execute() == list(range(1, 61))
    assert client.mset_nonatomic({"{t}a": 1, "{t}b": 2})
    assert client.mget("{t}a", "{t}b") == [b"1", b"2"]
    ports = {node.name: port for node, port in zip(cluster.nodes, cluster.ports, strict=True)}
    for number in range(20):
        owner = cluster.nodes[0].call("GET", f"/v1/ring?key=c{number}")["owner"]
        assert client.get_node_from_key(f"c{number}").port == ports[owner["current"][0]]
    client.close()


def test_after_readwrite_a_key_that_lives_elsewhere_is_moved_to_its_owner(cluster: RedisNodes) -> None:
    """The node that MOVED names, by the ring's own word, serves the key without another one; READONLY ends it."""
    names = {port: node.name for node, port in zip(cluster.nodes, cluster.ports, strict=True)}
    client = redis.Redis(port=cluster.ports[0], single_connection_client=True)
    client.readwrite()
    moved = 0
    for number in range(30):
        owner = cluster.nodes[1].call("GET", f"/v1/ring?key=m{number}")["owner"]["current"][0]
        if owner == names[cluster.ports[0]]:
            assert client.set(f"m{number}", number)
            continue
        with pytest.raises(redis.exceptions.MovedError) as told:
            client.set(f"m{number}", number)
        assert owner == names[told.value.port]
        moved += 1
        with redis.Redis(port=told.value.port, single_connection_client=True) as there:
            there.readwrite()
            assert there.set(f"m{number}", number)
    assert 0 < moved < 30
    client.readonly()
    assert [client.get(f"m{number}") for number in range(30)] == [b"%d" % number for number in range(30)]
    client.close()


@needs_tools
def test_the_tools_of_redis_work_unchanged(cluster: RedisNodes) -> None:
    """redis-cli, alone and following a cluster, and redis-benchmark, plain, pipelined and over the cluster."""
    port = str(cluster.ports[2])
    assert run_tool("redis-cli", ["-p", port, "set", "tool", "1"]).stdout == "OK\n"
    assert run_tool("redis-cli", ["-c", "-p", port, "incr", "tool"]).stdout == "2\n"
    assert json.loads(run_tool("redis-cli", ["-3", "--json", "-p", port, "hset", "th", "f", "1"]).stdout) == 1
    assert json.loads(run_tool("redis-cli", ["-3", "--json", "-p", port, "hgetall", "th"]).stdout) == {"f": "1"}
    assert "redis_version:" in run_tool("redis-cli", ["-p", port, "info"]).stdout
    assert "tool" in run_tool("redis-cli", ["-p", port, "--scan"]).stdout.split()
    check = run_tool("redis-cli", ["--cluster", "check", f"127.0.0.1:{port}"])
    assert "All 16384 slots covered" in check.stdout, check.stdout + check.stderr
    for test in ("set", "get"):
        assert benchmark(cluster.ports[0], test, pipeline=1, requests=500) > 0
        assert benchmark(cluster.ports[0], test, pipeline=16, requests=2_000, keys=200) > 0
    over_cluster = run_tool("redis-benchmark", ["--cluster", "-p", port, "-t", "set,get", "-n", "600", "-q"])
    assert over_cluster.stdout.count("requests per second") == 2, over_cluster.stdout + over_cluster.stderr


CONVERSATION = """
SET k v|GET k|SET k w NX|SET k w XX GET|GETSET k x|APPEND k yz|STRLEN k|GETDEL k|GETDEL k|TYPE k
INCR n|INCRBY n 10|DECRBY n 3|INCRBY n x|SET n text|INCR n|SET n 9223372036854775807|INCR n|DECR none
SETEX e 100 v|TTL e|PERSIST e|TTL e|EXPIRE e 50 GT|EXPIRE e 50|EXPIRE e 60 GT|EXPIRE e 40 LT|TTL e|EXPIRE e 1 BAD
SETEX e 0 v|SET e v EX 0|SET e v EX x|SET e v BAD|SET e v EX|EXPIRE none 5|EXPIRE e -5|EXISTS e
HSET h a 1 b 2|HSET h a 3|HGET h a|HMGET h a z b|HGETALL h|HKEYS h|HVALS h|HLEN h|HEXISTS h z|HINCRBY h a 4
HINCRBY h a x|HSET h t text|HINCRBY h t 1|HSETNX h a 1|HSTRLEN h t|HDEL h a z|HSET h a|HMSET h q 1|GET h|INCR h
APPEND h x|STRLEN h|SET h v GET|MGET h|HGET none a|HGETALL none|HKEYS none|HDEL none a|HINCRBY none a 1|DEL none
MSET a 1 b 2|MGET a z b h|MSET a|DEL a b z|UNLINK h|EXISTS k k n|GETEX n|GETEX n BAD|GETEX n EX 100|GETEX n PERSIST
PING|PING x|PING x y|ECHO hi|ECHO|GET|GET a b|SELECT 99|SELECT x|FOO a b|foo|CLIENT GETNAME|CLIENT SETNAME x
CLIENT GETNAME|CLIENT ID x|CLIENT SETNAME|CONFIG GET|CLUSTER BOGUS|PUBSUB NUMPAT x|COMMAND BOGUS|CLIENT NO-EVICT ON
CLIENT BOGUS|CONFIG BOGUS|COMMAND GETKEYS MSET a 1 b 2|CLIENT SETINFO LIB-NAME x|HELLO 9|HELLO x|AUTH x|OBJECT
SUBSCRIBE c|GET k|PING|UNSUBSCRIBE c|UNSUBSCRIBE|PSUBSCRIBE p*|PUNSUBSCRIBE|PUBLISH c m|PUBSUB CHANNELS
PUBSUB NUMSUB c|PUBSUB NUMPAT|SCAN x|SCAN 0 COUNT 0|SCAN 0 BAD x|FLUSHDB BAD|FLUSHDB|DBSIZE|SCAN 0
MULTI|MULTI|SET t 1|INCR t|GET t|HGET t x|WATCH t|EXEC|EXEC|DISCARD|UNWATCH|MULTI|GET|SET t 9|EXEC|GET t|MULTI|SET t 9
DISCARD|GET t|MULTI|FOO|EXEC|MULTI|EXEC|MULTI|UNWATCH|SELECT 1|SET u 1|SELECT 0|PING|ECHO x|EXEC|MULTI|DEL t|HGETALL t
EXEC|MULTI|EXEC x|EXEC|MULTI|SET t|DISCARD|DISCARD x
SET f v|EXPIRE f 100 XX GT|EXPIRE f 100|EXPIRE f 200 XX GT|EXPIRE f 100 XX LT|PERSIST f|EXPIRE f 10 xx lt
EXPIRE f 10 LT LT|EXPIRE f 5 GT LT|EXPIRE f 5 NX GT|EXPIRE f x BAD|SET f v EX 99999999999|EXPIRE f 99999999999
SET f v EX 9223372036854775|SET f v PX 9223372036854775807|SET f v PXAT 9223372036854775807|PEXPIRETIME f
PEXPIRE f 9000000000000000000|PEXPIRE f 9223372036854775807|PEXPIREAT f 9223372036854775807
EXPIRE f 9223372036854775807|PEXPIRE f -9223372036854775808|SET f v NX NX|SET f w XX XX GET GET|SET f v EX 5 EX 10
TTL f|SET f v EX 5 PX 10|SET f v KEEPTTL KEEPTTL|SET f v EX x BAD|GETEX f PERSIST PERSIST|GETEX f EX 10 EX 20|TTL f
GETEX f EX 10 PERSIST|COMMAND INFO foo bar|CLIENT LIST FOO|CLIENT LIST TYPE|CLIENT LIST TYPE foo|CLIENT LIST ID
CLIENT LIST ID x|SCAN 18446744073709551616|DEL f
RESET|READONLYX|QUIT
"""


def raw_replies(port: int, lines: list[str]) -> list[bytes]:
    """Send commands one by one over a socket; return the bytes of each reply."""
    import socket

    replies = []
    with socket.create_connection(("127.0.0.1", port), 10.0) as sock:
        for line in lines:
            words = line.split()
            raw = b"".join(b"$%d\r\n%b\r\n" % (len(word), word.encode()) for word in words)
            sock.sendall(b"*%d\r\n%b" % (len(words), raw))
            sock.settimeout(10.0)
            reply = sock.recv(65_536)
            sock.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                while part := sock.recv(65_536):
                    reply += part
            replies.append(reply)
    return replies


DIFFERS = frozenset({"OBJECT", "CLIENT SETINFO LIB-NAME x"})
"""A command that this node does not have, and one that Redis has had since 7.2 only: clients greet with it."""


@needs_server
def test_replies_are_those_of_redis_byte_for_byte(cluster: RedisNodes, tmp_path: Path) -> None:
    """The same conversation with Debian's server, in RESP2 and in RESP3, but for what HELLO tells of the server."""
    conversation = [line for row in CONVERSATION.strip().splitlines() for line in row.split("|")]
    lines = [*conversation[: conversation.index("RESET")], "RESET", "HELLO 3", *conversation]
    redis.Redis(port=cluster.ports[0]).flushdb()
    port = free_port()
    with redis_server(port, tmp_path):
        theirs = raw_replies(port, lines)
    ours = raw_replies(cluster.ports[0], lines)
    different = [
        (line, one, other)
        for line, one, other in zip(lines, ours, theirs, strict=True)
        if one != other and line not in DIFFERS | {"HELLO 3"}
    ]
    assert different == []


def test_a_client_survives_the_death_of_a_node(cluster: RedisNodes) -> None:
    """Killed without a word: what was acknowledged is there, and a cluster client finds its way."""
    retry = Retry(ConstantBackoff(0.2), 50)
    client = RedisCluster(host="127.0.0.1", port=cluster.ports[0], retry=retry)
    for number in range(100):
        client.set(f"s{number}", number)
    cluster.nodes[2].kill()
    try:
        plain = redis.Redis(port=cluster.ports[1])
        assert [plain.get(f"s{number}") for number in range(100)] == [b"%d" % number for number in range(100)]
        wait("a counter goes on", lambda: plain.incr("after") > 0)
        every = [b"%d" % number for number in range(100)]
        wait("all keys through the cluster", lambda: [client.get(f"s{n}") for n in range(100)] == every)
    finally:
        client.close()
        cluster.nodes[2].start([cluster.nodes[0].bind])
        cluster.ready(cluster.nodes[2])

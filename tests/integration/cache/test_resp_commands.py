"""What each command answers, by tables: bytes in, bytes out, on one node and on a cluster of four."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from frys_node.plugins.cache.resp.session import Redirect
from frys_node.plugins.cache.resp.table import COMMANDS
from frys_node.testing.rpc import open_rpc_network
from tests.integration.cache.resp_rig import TOKEN, RespCluster, command

OK, NIL, ZERO, ONE, TWO = b"+OK\r\n", b"$-1\r\n", b":0\r\n", b":1\r\n", b":2\r\n"
WRONGTYPE = b"-WRONGTYPE Operation against a key holding the wrong kind of value\r\n"
NOT_INTEGER = b"-ERR value is not an integer or out of range\r\n"
SYNTAX = b"-ERR syntax error\r\n"
NO_PASSWORD = (
    b"-ERR AUTH <password> called without any password configured for the default user. "
    b"Are you sure your configuration is correct?\r\n"
)


def b(text: str) -> bytes:
    """A string as a reply."""
    return b"$%d\r\n%b\r\n" % (len(text.encode()), text.encode())


def a(*parts: bytes) -> bytes:
    """An array as a reply."""
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


def n(number: int) -> bytes:
    """An integer as a reply."""
    return b":%d\r\n" % number


@pytest.fixture(params=["a", "abcd"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[RespCluster]:
    """One node that is everything, and four of which three hold each key."""
    async with open_rpc_network() as network, trio.open_nursery() as nursery:
        yield RespCluster(request.param, network, nursery)
        nursery.cancel_scope.cancel()


TABLES: dict[str, list[tuple[str, bytes]]] = {
    "strings": [
        ("GET k", NIL),
        ("SET k v", OK),
        ("get k", b("v")),
        ("SET k w NX", NIL),
        ("SET n w NX", OK),
        ("SET nothing w XX", NIL),
        ("SET k w XX GET", b("v")),
        ("SET k x GET NX", b("w")),
        ("SET fresh x NX GET", NIL),
        ("GET fresh", b("x")),
        ("GET k", b("w")),
        ("SET k v NX XX", SYNTAX),
        ("SET k v EX", SYNTAX),
        ("SET k v EX 10 PX 10", SYNTAX),
        ("SET k v BOGUS", SYNTAX),
        ("SET k v EX 0", b"-ERR invalid expire time in 'set' command\r\n"),
        ("SET k v EX -1", b"-ERR invalid expire time in 'set' command\r\n"),
        ("SET k v EX 1.5", NOT_INTEGER),
        ("GETSET k z", b("w")),
        ("SETNX k z", ZERO),
        ("SETNX k2 z", ONE),
        ("MSET x 1 y 2 x 3", OK),
        ("MGET x none y", a(b("3"), NIL, b("2"))),
        ("MSET x 1 y", b"-ERR wrong number of arguments for 'mset' command\r\n"),
        ("STRLEN x", ONE),
        ("STRLEN none", ZERO),
        ("APPEND x 45", n(3)),
        ("APPEND fresh2 ab", TWO),
        ("GET x", b("345")),
        ("GETDEL x", b("345")),
        ("GETDEL x", NIL),
        ("EXISTS y y none", TWO),
        ("TYPE y", b"+string\r\n"),
        ("TYPE none", b"+none\r\n"),
        ("DEL y none k", TWO),
        ("UNLINK n", ONE),
        ("DEL y", ZERO),
        ("GET", b"-ERR wrong number of arguments for 'get' command\r\n"),
        ("GET a b", b"-ERR wrong number of arguments for 'get' command\r\n"),
    ],
    "counters": [
        ("INCR c", ONE),
        ("INCRBY c 41", n(42)),
        ("DECR c", n(41)),
        ("DECRBY c 50", n(-9)),
        ("GET c", b("-9")),
        ("INCRBY c x", NOT_INTEGER),
        ("SET c 9223372036854775807", OK),
        ("INCR c", b"-ERR increment or decrement would overflow\r\n"),
        ("DECRBY c -9223372036854775808", b"-ERR decrement would overflow\r\n"),
        ("SET c +1", OK),
        ("INCR c", NOT_INTEGER),
        ("SET c 01", OK),
        ("INCR c", NOT_INTEGER),
        ("SET c text", OK),
        ("INCR c", NOT_INTEGER),
    ],
    "lifetimes": [
        ("TTL none", n(-2)),
        ("SET k v", OK),
        ("TTL k", n(-1)),
        ("EXPIRE none 10", ZERO),
        ("EXPIRE k 100", ONE),
        ("TTL k", n(100)),
        ("PTTL k", n(100_000)),
        ("EXPIRETIME k", n(5_100)),
        ("PEXPIRETIME k", n(5_100_000)),
        ("EXPIRE k 50 GT", ZERO),
        ("EXPIRE k 50 LT", ONE),
        ("EXPIRE k 60 NX", ZERO),
        ("EXPIRE k 60 XX", ONE),
        ("EXPIRE k 60 NX XX", b"-ERR NX and XX, GT or LT options at the same time are not compatible\r\n"),
        ("EXPIRE k 60 GT LT", b"-ERR GT and LT options at the same time are not compatible\r\n"),
        ("EXPIRE k 60 NX GT LT", b"-ERR NX and XX, GT or LT options at the same time are not compatible\r\n"),
        ("EXPIRE k 60 SOON", b"-ERR Unsupported option SOON\r\n"),
        ("EXPIRE k soon LATER", b"-ERR Unsupported option LATER\r\n"),
        ("EXPIRE k soon", NOT_INTEGER),
        ("EXPIRE k 70 XX GT", ONE),
        ("EXPIRE k 60 GT XX", ZERO),
        ("EXPIRE k 60 XX LT", ONE),
        ("SET lasting v", OK),
        ("EXPIRE lasting 9 XX LT", ZERO),
        ("EXPIRE lasting 9 LT LT", ONE),
        ("SET k w KEEPTTL", OK),
        ("TTL k", n(60)),
        ("APPEND k x", TWO),
        ("TTL k", n(60)),
        ("PERSIST k", ONE),
        ("PERSIST k", ZERO),
        ("TTL k", n(-1)),
        ("PEXPIRE k 1500", ONE),
        ("PTTL k", n(1_500)),
        ("GETEX k PERSIST", b("wx")),
        ("TTL k", n(-1)),
        ("GETEX k EX 7", b("wx")),
        ("TTL k", n(7)),
        ("GETEX k", b("wx")),
        ("GETEX k EX", SYNTAX),
        ("GETEX k PXAT 5009000", b("wx")),
        ("TTL k", n(9)),
        ("SETEX s 10 v", OK),
        ("PSETEX p 10500 v", OK),
        ("TTL s", n(10)),
        ("PTTL p", n(10_500)),
        ("SETEX s 0 v", b"-ERR invalid expire time in 'setex' command\r\n"),
        ("SET x v PXAT 5000001", OK),
        ("PTTL x", ONE),
        ("SET far v EX 99999999999", OK),
        ("EXPIRE far 99999999999", ONE),
        ("SET far v EX 5 EX 10", OK),
        ("TTL far", n(10)),
        ("SET far v EX 5 PX 10", SYNTAX),
        ("SET far v KEEPTTL KEEPTTL", OK),
        ("SET far v EX x BAD", SYNTAX),
        ("GETEX far EX 10 EX 20", b("v")),
        ("TTL far", n(20)),
        ("GETEX far PERSIST PERSIST", b("v")),
        ("GETEX far EX 10 PERSIST", SYNTAX),
        ("PEXPIRE far 9000000000000000000", ONE),
        ("PEXPIRETIME far", n(9_000_000_000_005_000_000)),
        ("PEXPIREAT far 9223372036854775807", ONE),
        ("PEXPIRETIME far", n((1 << 63) - 1)),
        ("PEXPIRE far 9223372036854775807", b"-ERR invalid expire time in 'pexpire' command\r\n"),
        ("EXPIRE far -9223372036854775808", b"-ERR invalid expire time in 'expire' command\r\n"),
        ("SET far v PX 9223372036854775807", b"-ERR invalid expire time in 'set' command\r\n"),
        ("SETEX far 9223372036854776 v", b"-ERR invalid expire time in 'setex' command\r\n"),
        ("PEXPIRE far -9223372036854775808", ONE),
        ("EXISTS far", ZERO),
        ("SET far v NX NX", OK),
        ("SET far w XX XX GET GET", b("v")),
        ("SET gone v EXAT 1", OK),
        ("GET gone", NIL),
        ("PEXPIREAT k 9999999999999", ONE),
        ("PEXPIREAT k 1 GT", ZERO),
        ("EXPIREAT k 1", ONE),
        ("GET k", NIL),
        ("EXPIRE s -1", ONE),
        ("EXISTS s", ZERO),
    ],
    "hashes": [
        ("HSET h f 1 g 2", TWO),
        ("HSET h f 3", ZERO),
        ("HGET h f", b("3")),
        ("HGET h none", NIL),
        ("HGET none f", NIL),
        ("HMGET h f none g", a(b("3"), NIL, b("2"))),
        ("HGETALL h", a(b("f"), b("3"), b("g"), b("2"))),
        ("HGETALL none", a()),
        ("HKEYS h", a(b("f"), b("g"))),
        ("HVALS h", a(b("3"), b("2"))),
        ("HLEN h", TWO),
        ("HSTRLEN h f", ONE),
        ("HEXISTS h f", ONE),
        ("HEXISTS h none", ZERO),
        ("HSETNX h f 9", ZERO),
        ("HSETNX h new 9", ONE),
        ("HINCRBY h f 4", n(7)),
        ("HINCRBY h count -2", n(-2)),
        ("HSET h t text", ONE),
        ("HINCRBY h t 1", b"-ERR hash value is not an integer\r\n"),
        ("HINCRBY h f x", NOT_INTEGER),
        ("HSET h f", b"-ERR wrong number of arguments for 'hset' command\r\n"),
        ("HSET h f 1 g", b"-ERR wrong number of arguments for 'hset' command\r\n"),
        ("HMSET h2 f 1", OK),
        ("TYPE h", b"+hash\r\n"),
        ("HDEL h f g none f", TWO),
        ("EXPIRE h 10", ONE),
        ("HSET h z 1", ONE),
        ("TTL h", n(10)),
        ("HDEL h2 f", ONE),
        ("EXISTS h2", ZERO),
    ],
    "wrong types": [
        ("HSET h f 1", ONE),
        ("SET s v", OK),
        ("GET h", WRONGTYPE),
        ("STRLEN h", WRONGTYPE),
        ("INCR h", WRONGTYPE),
        ("APPEND h x", WRONGTYPE),
        ("GETDEL h", WRONGTYPE),
        ("SET h v GET", WRONGTYPE),
        ("MGET h s", a(NIL, b("v"))),
        ("HGET s f", WRONGTYPE),
        ("HSET s f 1", WRONGTYPE),
        ("HDEL s f", WRONGTYPE),
        ("HLEN s", WRONGTYPE),
        ("HINCRBY s f 1", WRONGTYPE),
        ("SET h v", OK),
        ("GET h", b("v")),
    ],
    "the connection": [
        ("PING", b"+PONG\r\n"),
        ("PING hello", b("hello")),
        ("PING a b", b"-ERR wrong number of arguments for 'ping' command\r\n"),
        ("ECHO hello", b("hello")),
        ("CLIENT GETNAME", NIL),
        ("CLIENT SETNAME me", OK),
        ("CLIENT GETNAME", b("me")),
        ("CLIENT SETINFO LIB-NAME redis-py", OK),
        ("CLIENT SETINFO LIB-COLOUR red", b"-ERR Unrecognized option 'LIB-COLOUR'\r\n"),
        ("CLIENT ID", ONE),
        ("CLIENT NO-EVICT ON", OK),
        ("CLIENT NO-EVICT MAYBE", SYNTAX),
        ("CLIENT BOGUS", b"-ERR unknown subcommand 'BOGUS'. Try CLIENT HELP.\r\n"),
        ("CLIENT ID x", b"-ERR wrong number of arguments for 'client|id' command\r\n"),
        ("CLIENT LIST", b("client_list ")),
        ("CLIENT LIST FOO", SYNTAX),
        ("CLIENT LIST TYPE", SYNTAX),
        ("CLIENT LIST ID", SYNTAX),
        ("CLIENT LIST TYPE foo", b"-ERR Unknown client type 'foo'\r\n"),
        ("CLIENT LIST ID x", b"-ERR Invalid client ID\r\n"),
        ("CLIENT LIST TYPE pubsub", b("client_list TYPE PUBSUB")),
        ("CLIENT LIST ID 1 2", b("client_list ID 1 2")),
        ("INFO server", b("info server")),
        ("SELECT 1", OK),
        ("SET k one", OK),
        ("SELECT 0", OK),
        ("GET k", NIL),
        ("SELECT 16", b"-ERR DB index is out of range\r\n"),
        ("SELECT x", NOT_INTEGER),
        ("CONFIG GET maxmemory-policy save", a(b("maxmemory-policy"), b("allkeys-lru"), b("save"), b(""))),
        ("CONFIG GET nothing", a()),
        ("CONFIG SET x y", b"-ERR unknown subcommand 'SET'. Try CONFIG HELP.\r\n"),
        ("FOO a bc", b"-ERR unknown command 'FOO', with args beginning with: 'a' 'bc' \r\n"),
        ("FOO", b"-ERR unknown command 'FOO', with args beginning with: \r\n"),
        ("LPUSH", b"-ERR unknown command 'LPUSH', with args beginning with: \r\n"),
        ("COMMAND COUNT", n(len(COMMANDS))),
        ("COMMAND INFO nope", a(NIL)),
        ("COMMAND GETKEYS mset x 1 y 2", a(b("x"), b("y"))),
        ("COMMAND DOCS get", a()),
        ("AUTH x", NO_PASSWORD),
        ("READONLY", OK),
        ("RESET", b"+RESET\r\n"),
        ("CLUSTER KEYSLOT foo", n(12_182)),
        ("CLUSTER BOGUS", b"-ERR unknown subcommand 'BOGUS'. Try CLUSTER HELP.\r\n"),
        ("PUBSUB NUMPAT", ZERO),
        ("PUBSUB NUMSUB c", a(b("c"), ZERO)),
        ("SCAN x", b"-ERR invalid cursor\r\n"),
        ("SCAN 18446744073709551616", b"-ERR invalid cursor\r\n"),
        ("SCAN 18446744073709551615", a(b("0"), a())),
        ("SCAN 0 COUNT 0", SYNTAX),
        ("SCAN 0 COUNT", SYNTAX),
        ("HELLO 4", b"-NOPROTO unsupported protocol version\r\n"),
        ("HELLO x", b"-ERR Protocol version is not an integer or out of range\r\n"),
        ("QUIT", OK),
        ("PING", b""),
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", list(TABLES))
async def test_commands_answer_as_redis_does(cluster: RespCluster, name: str) -> None:
    """One after another, each through another node of the cluster."""
    clients = [node.client() for node in cluster.nodes.values()]
    if name == "the connection":
        clients = clients[:1]
    for number, (text, wanted) in enumerate(TABLES[name]):
        assert await clients[number % len(clients)].do(*text.split()) == wanted, text


@pytest.mark.parametrize("name", list(TABLES))
async def test_a_pipeline_answers_what_its_commands_answer(cluster: RespCluster, name: str) -> None:
    """All at once through one connection: the same replies in the same order."""
    data = b"".join(command(*text.split()) for text, _ in TABLES[name])
    wanted = b"".join(reply for _, reply in TABLES[name])
    assert await cluster.nodes["a"].client().send(data) == wanted


async def test_what_a_pipeline_chooses_holds_from_there_on(cluster: RespCluster) -> None:
    """A database and a protocol that are chosen in the middle leave alone what stands before."""
    client = cluster.nodes["a"].client()
    data = [
        "SET k 0",
        "GET none",
        "SELECT 1",
        "SET k 1",
        "HELLO 3",
        "GET none",
        "DBSIZE",
        "FLUSHDB",
        "SELECT 0",
        "GET k",
    ]
    answer = await client.send(b"".join(command(*text.split()) for text in data))
    hello = answer[answer.index(b"%7") : answer.index(b"_\r\n")]
    assert answer.replace(hello, b"") == OK + NIL + OK + OK + b"_\r\n" + ONE + OK + OK + b("0")


async def test_resp3_has_its_own_nothing_maps_and_pushes(cluster: RespCluster) -> None:
    """HELLO 3 answers a map, and from then on so do HGETALL and CONFIG GET."""
    client = cluster.nodes["a"].client()
    hello = await client.do("HELLO", 3, "SETNAME", "me")
    assert hello.startswith(b"%7\r\n" + b("server") + b("redis"))
    assert await client.do("GET", "none") == b"_\r\n"
    assert await client.do("HSET", "h", "f", 1) == ONE
    assert await client.do("HGETALL", "h") == b"%1\r\n" + b("f") + b("1")
    assert await client.do("SUBSCRIBE", "c") == b">3\r\n" + b("subscribe") + b("c") + ONE
    assert await client.do("GET", "h") == WRONGTYPE
    assert await client.do("CLIENT", "GETNAME") == b("me")
    assert await client.do("RESET") == b"+RESET\r\n"
    assert await client.do("GET", "none") == NIL
    assert await client.do("CLIENT", "GETNAME") == NIL


async def test_a_stranger_may_do_nothing_but_say_who_it_is(cluster: RespCluster) -> None:
    """Off loopback every command needs the token first, by AUTH or by HELLO."""
    node = cluster.nodes["a"]
    client = node.client(must_authenticate=True)
    for text in ("GET k", "SET k v", "CLUSTER SLOTS", "INFO", "SUBSCRIBE c", "CONFIG GET *", "CLIENT LIST"):
        assert await client.do(*text.split()) == b"-NOAUTH Authentication required.\r\n"
    assert (await client.do("HELLO", 3)).startswith(b"-NOAUTH HELLO must be called")
    assert (await client.do("AUTH", "wrong")).startswith(b"-WRONGPASS")
    assert (await client.do("AUTH", "nobody", TOKEN)).startswith(b"-WRONGPASS")
    assert await client.send(command("AUTH", TOKEN) + command("SET", "k", "v")) == OK + OK
    assert await client.do("RESET") == b"+RESET\r\n"
    assert (await client.do("GET", "k")).startswith(b"-NOAUTH")
    assert (await client.do("HELLO", 2, "AUTH", "default", TOKEN)).startswith(b"*14\r\n")
    assert await client.do("GET", "k") == b("v")


@pytest.mark.parametrize("head", [b"POST / HTTP/1.1\r\nX: y\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n"])
async def test_a_web_page_gets_nothing(cluster: RespCluster, head: bytes) -> None:
    """The verbs and headers of HTTP end the connection before anything of the body is taken for a command."""
    client = cluster.nodes["a"].client()
    answer = await client.send(head + b"\r\nSET k v\r\n")
    assert not client.is_open
    assert b"+OK" not in answer
    assert await cluster.nodes["a"].client().do("GET", "k") == NIL


async def test_limits_are_named(cluster: RespCluster) -> None:
    """Keys, values, words and messages over their limits are refused, and nothing is stored."""
    client = cluster.nodes["a"].client()
    long, big = "k" * 513, b"v" * (512 * 1024 + 1)
    assert await client.do("SET", long, "v") == b"-ERR a key has 1 to 512 bytes\r\n"
    assert await client.do("GET", "") == b"-ERR a key has 1 to 512 bytes\r\n"
    too_long = b"-ERR string exceeds maximum allowed size (proto-max-bulk-len)\r\n"
    assert await client.do("SET", "k", big) == too_long
    assert await client.do("APPEND", "k", big) == too_long
    assert await client.do("HSET", "h", "f", big) == too_long
    assert (await client.do("PUBLISH", "c", big)).startswith(b"-ERR the message is over")
    text = b"1002 words of at most 1000: send fewer, or raise plugins.cache.resp_limits.arguments"
    assert await client.do("MGET", *range(1_001)) == b"-ERR too many arguments, %s\r\n" % text
    assert await client.do("DBSIZE") == ZERO


async def test_scan_finds_every_key_of_its_database_once(cluster: RespCluster) -> None:
    """Page by page, by pattern and by type, with nothing of other namespaces; FLUSHDB ends them all."""
    client = cluster.nodes["a"].client()
    for number in range(300):
        await client.do("SET", f"k{number}", number)
    await client.do("HSET", "hash", "f", 1)
    await client.do("SELECT", 1)
    await client.do("SET", "other", 1)
    await client.do("SELECT", 0)

    async def scan(*options: str) -> list[bytes]:
        keys: list[bytes] = []
        cursor = b"0"
        for _ in range(2_000):
            answer = await client.do("SCAN", cursor, *options)
            parts = answer.split(b"\r\n")
            cursor = parts[2]
            keys += parts[5:-1:2]
            if cursor == b"0":
                return keys
        raise AssertionError("the scan does not end")

    assert sorted(await scan()) == sorted([b"hash", *(b"k%d" % number for number in range(300))])
    assert sorted(await scan("COUNT", "1000", "MATCH", "k29?")) == [b"k%d" % number for number in range(290, 300)]
    assert await scan("TYPE", "hash", "COUNT", "100") == [b"hash"]
    assert await client.do("DBSIZE") == n(301)
    assert await client.do("FLUSHDB") == OK
    assert await client.do("DBSIZE") == ZERO
    await client.do("SELECT", 1)
    assert await client.do("DBSIZE") == ONE


async def test_messages_reach_the_subscribers_of_every_node(cluster: RespCluster) -> None:
    """By channel and by pattern, in each protocol; a subscriber in RESP2 may do little else."""
    last = list(cluster.nodes)[-1]
    plain, modern, sender = cluster.nodes[last].client(), cluster.nodes[last].client(), cluster.nodes["a"].client()
    await modern.do("HELLO", 3)
    assert await plain.do("SUBSCRIBE", "news", "other") == a(b("subscribe"), b("news"), ONE) + a(
        b("subscribe"), b("other"), TWO
    )
    assert (await plain.do("GET", "k")).startswith(b"-ERR Can't execute 'get': only (P|S)SUBSCRIBE")
    assert await plain.do("PING") == a(b("pong"), b(""))
    await modern.do("PSUBSCRIBE", "n?ws")
    assert await modern.do("GET", "k") == b"_\r\n"
    assert await sender.do("PUBLISH", "news", "hello") == n(2 if last == "a" else 0)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert plain.pushed == [a(b("message"), b("news"), b("hello"))]
    assert modern.pushed == [b">4\r\n" + b("pmessage") + b("n?ws") + b("news") + b("hello")]
    assert await sender.do("PUBSUB", "CHANNELS") == (a(b("news"), b("other")) if last == "a" else a())
    assert await plain.do("UNSUBSCRIBE") == a(b("unsubscribe"), b("news"), ONE) + a(b("unsubscribe"), b("other"), ZERO)
    assert await plain.do("UNSUBSCRIBE") == a(b("unsubscribe"), NIL, ZERO)
    answer = await plain.do("SUBSCRIBE", "1", "2", "3", "4", "5")
    assert answer.count(b"subscribe") == 5 if cluster.config.resp_limits.subscriptions >= 5 else True


async def test_subscribing_in_a_pipeline_changes_what_follows(cluster: RespCluster) -> None:
    """What comes after it in the same bytes is planned when it has been carried out."""
    client = cluster.nodes["a"].client()
    answer = await client.send(
        command("SUBSCRIBE", "c") + command("GET", "k") + command("UNSUBSCRIBE", "c") + command("PING")
    )
    assert answer.startswith(a(b("subscribe"), b("c"), ONE) + b"-ERR Can't execute 'get'")
    assert answer.endswith(a(b("unsubscribe"), b("c"), ZERO) + b"+PONG\r\n")


async def test_a_client_that_asks_for_it_is_sent_to_the_owner(cluster: RespCluster) -> None:
    """READWRITE turns MOVED on for keys that live elsewhere, READONLY turns it off again; others are always served."""
    node = cluster.nodes["a"]
    node.view.redirects[b"far"] = Redirect(1_234, "10.0.0.1:6002")
    client = node.client()
    assert await client.do("SET", "far", 1) == OK
    assert await client.do("READWRITE") == OK
    assert await client.do("GET", "far") == b"-MOVED 1234 10.0.0.1:6002\r\n"
    assert await client.do("INCR", "near") == ONE
    assert await client.do("READONLY") == OK
    assert await client.do("GET", "far") == b("1")


async def test_the_map_of_the_cluster_covers_every_slot(cluster: RespCluster) -> None:
    """SLOTS, SHARDS, NODES and INFO agree, and name each node once."""
    client = cluster.nodes["a"].client()
    nodes = (await client.do("CLUSTER", "NODES")).decode().splitlines()[1:]
    nodes = [line for line in nodes if line]
    assert len(nodes) == len(cluster.nodes)
    assert sum("myself" in line for line in nodes) == 1
    covered = 0
    for line in nodes:
        for part in line.split()[8:]:
            low, _, high = part.partition("-")
            covered += int(high or low) - int(low) + 1
    assert covered == 16_384
    assert b"cluster_state:ok" in await client.do("CLUSTER", "INFO")
    assert (await client.do("CLUSTER", "SHARDS")).count(b("master")) == len([n for n in nodes if n.split()[8:]])
    assert (await client.do("CLUSTER", "SLOTS")).startswith(b"*")
    assert await client.do("CLUSTER", "MYID") == b("a" + "0" * 39)

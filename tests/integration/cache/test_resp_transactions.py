"""MULTI and EXEC over a fake cluster: Redis' conversation, in order, all or none, one slot for cluster clients."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from frys_node.plugins.cache.resp.session import Redirect
from frys_node.testing.rpc import open_rpc_network
from tests.integration.cache.resp_rig import RespCluster, command
from tests.integration.cache.test_resp_commands import NIL, OK, WRONGTYPE, a, b, n

QUEUED = b"+QUEUED\r\n"
REFUSED_WATCH = (
    b"-ERR WATCH is not supported: transactions are not isolated here. Use SET with NX, XX or GET, INCR, or If-Match "
    b"over HTTP\r\n"
)


CONVERSATION = [
        ("EXEC", b"-ERR EXEC without MULTI\r\n"),
        ("DISCARD", b"-ERR DISCARD without MULTI\r\n"),
        ("MULTI", OK),
        ("MULTI", b"-ERR MULTI calls can not be nested\r\n"),
        ("SET k 1", QUEUED),
        ("GET k", QUEUED),
        ("INCR k", QUEUED),
        ("HGET k f", QUEUED),
        ("GET none", QUEUED),
        ("PING", QUEUED),
        ("EXEC", b"*6\r\n" + OK + b("1") + n(2) + WRONGTYPE + NIL + b"+PONG\r\n"),
        ("EXEC", b"-ERR EXEC without MULTI\r\n"),
        ("GET k", b("2")),
        ("MULTI", OK),
        ("EXEC", a()),
        ("MULTI", OK),
        ("SET k lost", QUEUED),
        ("DISCARD", OK),
        ("MULTI", OK),
        ("SET k lost", QUEUED),
        ("GET", b"-ERR wrong number of arguments for 'get' command\r\n"),
        ("LPUSH l x", b"-ERR unknown command 'LPUSH', with args beginning with: 'l' 'x' \r\n"),
        ("SET k lost", QUEUED),
        ("EXEC", b"-EXECABORT Transaction discarded because of previous errors.\r\n"),
        ("GET k", b("2")),
        ("MULTI", OK),
        ("SELECT 1", QUEUED),
        ("SET k one", QUEUED),
        ("UNWATCH", QUEUED),
        ("EXEC", a(OK, OK, OK)),
        ("GET k", b("one")),
        ("SELECT 0", OK),
        ("MULTI", OK),
        ("EXEC x", b"-EXECABORT Transaction discarded because of: wrong number of arguments for 'exec' command\r\n"),
        ("EXEC", b"-ERR EXEC without MULTI\r\n"),
        ("WATCH k", REFUSED_WATCH),
        ("MULTI", OK),
        ("WATCH k", b"-ERR WATCH inside MULTI is not allowed\r\n"),
        ("SUBSCRIBE c", b"-ERR Command not allowed inside a transaction\r\n"),
        ("RESET", b"+RESET\r\n"),
        ("EXEC", b"-ERR EXEC without MULTI\r\n"),
        ("UNWATCH", OK),
        ("MULTI", OK),
        ("SET k quits", QUEUED),
        ("QUIT", OK),
    ]  # fmt: skip


@pytest.fixture(params=["a", "abcd"])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[RespCluster]:
    """One node that is everything, and four of which three hold each key."""
    async with open_rpc_network() as network, trio.open_nursery() as nursery:
        yield RespCluster(request.param, network, nursery)
        nursery.cancel_scope.cancel()


async def test_a_conversation_is_the_one_of_redis(cluster: RespCluster) -> None:
    """What is queued, refused, discarded and carried out, command by command."""
    client = next(iter(cluster.nodes.values())).client()
    for text, reply in CONVERSATION:
        assert await client.send(command(*text.split())) == reply, text


async def test_a_transaction_of_a_cluster_client_stays_in_one_slot(cluster: RespCluster) -> None:
    """After READWRITE a key that lives elsewhere is MOVED when it is queued, and EXEC over two slots is CROSSSLOT."""
    node = next(iter(cluster.nodes.values()))
    node.view.redirects[b"far"] = Redirect(1_234, "10.0.0.1:6002")
    client = node.client()
    assert await client.do("READWRITE") == OK
    assert await client.do("MULTI") == OK
    assert await client.do("GET", "far") == b"-MOVED 1234 10.0.0.1:6002\r\n"
    assert await client.do("EXEC") == b"-EXECABORT Transaction discarded because of previous errors.\r\n"
    assert await client.do("MULTI") == OK
    assert await client.do("SET", "{a}1", "x") == await client.do("MGET", "{a}1", "{a}2") == QUEUED
    assert await client.do("EXEC") == a(OK, a(b("x"), NIL))
    assert await client.do("MULTI") == OK
    assert await client.do("SET", "a", "x") == await client.do("SET", "b", "x") == QUEUED
    assert await client.do("EXEC") == b"-CROSSSLOT Keys in request don't hash to the same slot\r\n"
    assert await client.do("EXEC") == b"-ERR EXEC without MULTI\r\n"
    assert await client.do("READONLY") == OK
    assert await client.send(b"".join(command(*w.split()) for w in ("MULTI", "SET a y", "SET b y", "EXEC"))) == (
        OK + QUEUED * 2 + a(OK, OK)
    )


async def test_a_transaction_is_bounded(cluster: RespCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client queues has a limit; beyond it EXEC carries out nothing."""
    monkeypatch.setattr("frys_node.plugins.cache.resp.session.TRANSACTION_COMMANDS_MAX", 2)
    client = next(iter(cluster.nodes.values())).client()
    assert await client.do("MULTI") == OK
    assert [await client.do("SET", "k", "v") for _ in range(2)] == [QUEUED] * 2
    assert (await client.do("SET", "k", "v")).startswith(b"-ERR a transaction has up to 2 commands")
    assert (await client.do("EXEC")).startswith(b"-EXECABORT")
    assert await client.do("GET", "k") == NIL


async def test_reads_of_one_shape_are_queued_too(cluster: RespCluster) -> None:
    """The short cut for pipelines of equal commands does not pass a transaction by."""
    client = next(iter(cluster.nodes.values())).client()
    assert await client.do("MULTI") == OK
    assert await client.send(command("GET", "a") * 8) == QUEUED * 8
    assert await client.do("EXEC") == a(*[NIL] * 8)

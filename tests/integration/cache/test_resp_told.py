"""What a node tells of itself: the types of texts and sets, and HELP."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import trio

from frys_node.plugins.cache.resp.subcommands import SUBCOMMANDS
from frys_node.testing.rpc import open_rpc_network
from tests.integration.cache.resp_rig import RespCluster


@pytest.fixture
async def cluster() -> AsyncIterator[RespCluster]:
    """Four nodes of which three hold each key."""
    async with open_rpc_network() as network, trio.open_nursery() as nursery:
        yield RespCluster("abcd", network, nursery)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("protocol", [2, 3])
async def test_texts_and_sets_have_the_types_that_redis_gives_them(cluster: RespCluster, protocol: int) -> None:
    """In RESP3 texts for people are verbatim strings, flags of commands sets, and metadata of SLOTS a map."""
    client = cluster.nodes["a"].client()
    await client.do("HELLO", protocol)
    for text in ("INFO server", "CLIENT INFO", "CLIENT LIST", "CLUSTER INFO", "CLUSTER NODES"):
        answer = await client.do(*text.split())
        head, _, rest = answer.partition(b"\r\n")
        assert head[:1] == (b"=" if protocol == 3 else b"$"), text
        assert len(rest) == int(head[1:]) + 2
        assert rest.startswith(b"txt:") is (protocol == 3)
    kind = b"~" if protocol == 3 else b"*"
    details = await client.do("COMMAND", "INFO", "get")
    assert kind + b"1\r\n+readonly\r\n" in details
    assert details.endswith((kind + b"0\r\n") * 4)
    assert (b"%0\r\n" if protocol == 3 else b"*0\r\n") in await client.do("CLUSTER", "SLOTS")


@pytest.mark.parametrize("name", ["CLIENT", "CLUSTER", "COMMAND", "CONFIG", "PUBSUB"])
async def test_help_names_every_subcommand(cluster: RespCluster, name: str) -> None:
    """What the complaint about an unknown one tells people to try."""
    client = cluster.nodes["a"].client()
    assert (await client.do(name, "NONE", "x")).endswith(f"Try {name} HELP.\r\n".encode())
    answer = await client.do(name.lower(), "help")
    count, *lines = answer.decode().split("\r\n")[:-1]
    assert int(count[1:]) == len(lines)
    assert lines[0] == f"+{name} <subcommand> [<arg> [value] [opt] ...]. Subcommands are:"
    named = {line[1:].split()[0] for line in lines[1:] if not line.startswith(("+    ", "+("))}
    assert named == {verb.decode() for verb in SUBCOMMANDS[name]} | {"HELP"}
    assert (await client.do(name, "HELP", "x")).startswith(b"-ERR wrong number of arguments for")

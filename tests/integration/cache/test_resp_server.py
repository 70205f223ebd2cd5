"""The Redis listener on real sockets: limits, time-outs, slow readers, tokens, draining."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from frys_node.base.types import Address, NodeId
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.registry import find
from frys_node.kernel.services.access import ACCESS
from frys_node.kernel.services.members import MEMBERS, Condition, MemberView, Status
from frys_node.kernel.services.node import NODE
from frys_node.kernel.services.replication import REPLICATION
from frys_node.kernel.services.rpc import RPC
from frys_node.kernel.services.topology import TOPOLOGY
from frys_node.plugins.cache.cache import RespTokenNeeded
from frys_node.plugins.cache.config import CacheConfig, RespLimits
from frys_node.plugins.network.config import NetworkPluginConfig
from frys_node.testing.access import FakeAccess
from frys_node.testing.rpc import open_rpc_network
from frys_node.testing.services import ServiceCluster
from frys_node.transport.clock import SystemClock
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.executor import ThreadExecutor
from tests.integration.cache.resp_rig import TOKEN, command

SELF = NodeId("a" * 32)


class LoneMember:
    """A cluster of one, at an address of the machine."""

    self_id = SELF

    def get(self, node: NodeId) -> MemberView | None:
        """Its view."""
        return self.all()[0] if node == SELF else None

    def all(self) -> list[MemberView]:
        """Its view alone."""
        return [
            MemberView(
                name="a",
                id=SELF,
                address=Address("127.0.0.1", 7_946),
                status=Status.ALIVE,
                condition=Condition.OK,
                incarnation=0,
                boot=1,
                tags={},
            )
        ]

    def is_usable(self, node: NodeId) -> bool:
        """True of it."""
        return node == SELF


@asynccontextmanager
async def serving(
    data_dir: Path, *, token: bool = True, access: FakeAccess | None = None, **settings: Any
) -> AsyncIterator[tuple[Kernel, Address]]:
    """Run a node whose cache serves Redis clients on a free port."""
    limits = {name: settings.pop(name) for name in list(settings) if name in RespLimits.__struct_fields__}
    config = CacheConfig(resp_limits=RespLimits(**limits), **({"resp": "127.0.0.1:0"} | settings))
    with trio.fail_after(20):
        async with open_rpc_network() as network:
            kernel = Kernel(
                node=SELF,
                name="a",
                boot=1,
                data_dir=data_dir,
                clock=SystemClock(),
                entropy=SystemEntropy(),
                disk=DirectoryDisk(data_dir),
                executor=ThreadExecutor(),
            )
            cluster = ServiceCluster([SELF], replication_factor=1)
            kernel.services.provide(REPLICATION, cluster.replication[SELF])
            kernel.services.provide(TOPOLOGY, cluster.topology[SELF])
            kernel.services.provide(RPC, network.node(SELF))
            kernel.services.provide(MEMBERS, LoneMember())
            if token:
                kernel.services.provide(ACCESS, access or FakeAccess(TOKEN.decode()))
            async with kernel.running():
                plugins = {"network": NetworkPluginConfig(http="127.0.0.1:0"), "cache": config}
                await kernel.load_plugins([find("network"), find("cache")], plugins)
                kernel.mark_started()
                yield kernel, Address.parse(kernel.services.get(NODE).status()["resp"]["address"])


OPEN: list[trio.SocketStream] = []
"""Connections of the test that runs."""


@pytest.fixture(autouse=True)
async def hang_up() -> AsyncIterator[None]:
    """Close what a test has left open."""
    yield
    while OPEN:
        await OPEN.pop().aclose()


async def dial(address: Address) -> trio.SocketStream:
    """Connect."""
    OPEN.append(await trio.open_tcp_stream(address.host, address.port))
    return OPEN[-1]


async def send_for_ever(stream: trio.SocketStream, data: bytes) -> None:
    """Send until the other side has hung up."""
    while True:
        await stream.send_all(data)


async def ask(stream: trio.SocketStream, data: bytes, wanted: int) -> bytes:
    """Send, and read that many bytes or to the end."""
    await stream.send_all(data)
    answer = b""
    while len(answer) < wanted:
        part = await stream.receive_some(wanted - len(answer))
        if not part:
            break
        answer += part
    return answer


def cuts(kernel: Kernel) -> dict[str, float]:
    """Connections that the node ended, by reason."""
    found = next(metric for metric in kernel.metrics if metric.name == "frys_cache_resp_connections_cut_total")
    return {reason: count for (reason,), count in found.values.items()}


async def test_a_client_is_served_and_the_listener_goes_with_the_plugin(tmp_path: Path) -> None:
    """Commands, pipelines and errors over a socket; after unloading the port is free, after loading it serves again."""
    async with serving(tmp_path) as (kernel, address):
        stream = await dial(address)
        assert await ask(stream, command("SET", "k", "v") + command("GET", "k"), 12) == b"+OK\r\n$1\r\nv\r\n"
        sets = b"".join(command("SET", f"k{number:04}", f"v{number:04}") for number in range(500))
        assert await ask(stream, sets, 2_500) == b"+OK\r\n" * 500
        gets = b"".join(command("GET", f"k{number:04}") for number in range(500))
        assert await ask(stream, gets, 5_500) == b"".join(b"$5\r\nv%04d\r\n" % number for number in range(500))
        assert (await ask(stream, b"*1\r\n:1\r\n", 200)).startswith(b"-ERR Protocol error: expected '$', got ':'\r\n")
        await kernel.services.get(NODE).unload("cache")
        with pytest.raises(OSError, match="connect"):
            await dial(address)
        await kernel.services.get(NODE).load("cache")
        again = Address.parse(kernel.services.get(NODE).status()["resp"]["address"])
        assert await ask(await dial(again), command("GET", "k"), 7) == b"$1\r\nv\r\n"


async def test_one_client_too_many_is_told_so(tmp_path: Path) -> None:
    """The limit holds, and a place that becomes free is given away again."""
    async with serving(tmp_path, clients=2) as (kernel, address):
        first, second = await dial(address), await dial(address)
        assert await ask(first, command("PING"), 7) == b"+PONG\r\n"
        assert await ask(second, command("PING"), 7) == b"+PONG\r\n"
        third = await dial(address)
        assert await third.receive_some(100) == b"-ERR max number of clients reached\r\n"
        assert await ask(first, command("QUIT"), 100) == b"+OK\r\n"
        assert await ask(await dial(address), command("PING"), 7) == b"+PONG\r\n"
        assert cuts(kernel) == {"clients": 1}


@pytest.mark.parametrize("begin", [b"", b"*2\r\n$3\r\nGET\r\n"])
async def test_silence_has_an_end(tmp_path: Path, begin: bytes) -> None:
    """Between requests and in the middle of one; a subscriber may be silent."""
    async with serving(tmp_path, idle_s=0.3, request_s=0.3) as (kernel, address):
        listener = await dial(address)
        await ask(listener, command("SUBSCRIBE", "c"), 30)
        stream = await dial(address)
        if begin:
            await stream.send_all(begin)
        assert await stream.receive_some(100) == b""
        assert cuts(kernel) == {"time": 1}
        assert await ask(await dial(address), command("PUBLISH", "c", "hi"), 4) == b":1\r\n"
        assert (await listener.receive_some(100)).endswith(b"hi\r\n")


async def test_a_client_that_takes_no_replies_is_cut_and_costs_little(tmp_path: Path) -> None:
    """It asks for far more than it reads: the node waits with what it holds, not with all of it, then hangs up."""
    async with serving(tmp_path, write_s=0.5) as (kernel, address):
        stream = await dial(address)
        await ask(stream, command("SET", "big", b"x" * 500_000), 5)
        with pytest.raises(trio.BrokenResourceError):
            await send_for_ever(stream, command("GET", "big") * 100)
        assert cuts(kernel) == {"time": 1}


async def test_a_subscriber_that_does_not_read_is_cut_at_its_limit(tmp_path: Path) -> None:
    """Its messages queue up to the limit, and its publisher never waits for it."""
    async with serving(tmp_path, output_bytes=65_536) as (kernel, address):
        listener, sender = await dial(address), await dial(address)
        await ask(listener, command("SUBSCRIBE", "c"), 30)
        for _ in range(400):
            await ask(sender, command("PUBLISH", "c", b"x" * 60_000), 4)
            if cuts(kernel):
                break
        assert cuts(kernel) == {"output": 1}
        assert await ask(sender, command("PUBLISH", "c", "x"), 4) == b":0\r\n"


async def test_off_loopback_the_token_is_needed(tmp_path: Path) -> None:
    """A listener that others reach refuses strangers; without a token to check it is not even opened."""
    async with serving(tmp_path, resp="0.0.0.0:0") as (_, address):
        stream = await dial(Address("127.0.0.1", address.port))
        assert await ask(stream, command("GET", "k"), 34) == b"-NOAUTH Authentication required.\r\n"
        assert await ask(stream, command("AUTH", TOKEN), 5) == b"+OK\r\n"
        assert await ask(stream, command("GET", "k"), 5) == b"$-1\r\n"
        other = await dial(Address("127.0.0.1", address.port))
        assert b"unauthenticated bulk length" in await ask(other, b"*1\r\n$100000\r\n", 200)
    async with serving(tmp_path, resp="0.0.0.0:0", resp_insecure=True, token=False) as (_, address):
        assert await ask(await dial(Address("127.0.0.1", address.port)), command("GET", "k"), 5) == b"$-1\r\n"
    with pytest.RaisesGroup(RespTokenNeeded, flatten_subgroups=True, allow_unwrapped=True):
        async with serving(tmp_path, resp="0.0.0.0:0", token=False):
            raise AssertionError("it was opened")


async def test_work_in_hand_is_finished_when_the_node_stops(tmp_path: Path) -> None:
    """The door closes: idle clients are let go, and nobody new comes in."""
    async with serving(tmp_path) as (_, address):
        stream = await dial(address)
        assert await ask(stream, command("PING"), 7) == b"+PONG\r\n"
    assert await stream.receive_some(10) == b""


async def test_many_clients_that_only_ask_and_go_get_their_answers(tmp_path: Path) -> None:
    """Replies wait for the end of a turn then: they are in order, and out before the connection ends."""
    answers: list[bytes] = []

    async def ask_and_go(number: int) -> None:
        stream = await dial(address)
        await stream.send_all(command("SET", f"k{number}", number) + command("GET", f"k{number}"))
        await stream.send_all(command("ECHO", "x" * 20_000))
        await stream.send_eof()
        answer = b""
        while part := await stream.receive_some(100_000):
            answer += part
        text = str(number).encode()
        echoed = b"$20000\r\n" + b"x" * 20_000 + b"\r\n"
        assert answer == b"+OK\r\n$%d\r\n%b\r\n" % (len(text), text) + echoed
        answers.append(answer)

    async with serving(tmp_path) as (_, address), trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(ask_and_go, number)
    assert len(answers) == 40


async def test_one_of_many_clients_that_does_not_read_holds_up_nobody(tmp_path: Path) -> None:
    """Its small replies fill its socket; the others are answered all the while, and it is cut in the end."""
    async with serving(tmp_path, write_s=0.5) as (kernel, address):
        others = [await dial(address) for _ in range(12)]
        stuck = await dial(address)
        await ask(others[0], command("SET", "k", b"x" * 10_000), 5)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_send_until_broken, stuck, command("GET", "k"))
            while not cuts(kernel):
                for stream in others:
                    assert await ask(stream, command("PING"), 7) == b"+PONG\r\n"
        assert cuts(kernel) == {"time": 1}


async def _send_until_broken(stream: trio.SocketStream, data: bytes) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await send_for_ever(stream, data)

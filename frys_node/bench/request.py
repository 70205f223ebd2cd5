"""A 64-byte request and reply over the node-to-node channel (TLS, two processes) against a blocking TCP echo."""

from __future__ import annotations

import gc
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from frys_node.base.types import Address, NodeId
from frys_node.bench.figure import Figure
from frys_node.bench.runner import percentile
from frys_node.channel.bootstrap import create_cluster, join_cluster
from frys_node.channel.driver import Channel
from frys_node.kernel.services.rpc import Method
from frys_node.observe.metrics import Metrics
from frys_node.secure.identity import Identity
from frys_node.secure.stored import next_boot
from frys_node.transport.clock import SystemClock
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.network import SystemNetwork

REQUESTS = 2_000
WARM_UP = 200
PAYLOAD = b"x" * 64
ECHO: Method[bytes, bytes] = Method("bench.echo", bytes, bytes)

_TCP_ECHO = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
peer, _ = listener.accept()
peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
while data := peer.recv(4096):
    peer.sendall(data)
"""


def run(rounds: int) -> list[Figure]:
    """Interleave rounds over the channel and over plain TCP."""
    ours: list[float] = []
    peer: list[float] = []
    with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
        create_cluster(
            DirectoryDisk(Path(home) / "a"), SystemEntropy(), SystemClock(), cluster_name="bench", node_name="a"
        )
        server = subprocess.Popen(
            [sys.executable, "-m", "frys_node.bench.request", str(Path(home) / "a")], stdout=subprocess.PIPE
        )
        echo = subprocess.Popen([sys.executable, "-c", _TCP_ECHO], stdout=subprocess.PIPE)
        try:
            assert server.stdout is not None
            assert echo.stdout is not None
            port, tcp_port = int(server.stdout.readline()), int(echo.stdout.readline())
            trio.run(_client, Path(home), port, tcp_port, rounds, ours, peer)
        finally:
            for process in (server, echo):
                process.kill()
                process.wait()
    return figures_of(ours, peer)


def figures_of(ours: Sequence[float], peer: Sequence[float]) -> list[Figure]:
    """Return the figures; milliseconds."""
    return [
        Figure("request p50", "ms", percentile(ours, 50), "TCP echo p50", percentile(peer, 50), "<= 0.2 ms"),
        Figure("request p99", "ms", percentile(ours, 99), "TCP echo p99", percentile(peer, 99), "<= 1 ms"),
    ]


async def _client(home: Path, port: int, tcp_port: int, rounds: int, ours: list[float], peer: list[float]) -> None:
    network, clock, entropy, disk = SystemNetwork(), SystemClock(), SystemEntropy(), DirectoryDisk(home / "b")
    address = Address("127.0.0.1", port)
    outcome = await join_cluster(
        network,
        disk,
        entropy,
        clock,
        seeds=[address],
        token=(home / "a" / "join-token").read_text(),
        name="b",
        name_chosen=True,
        expect_cluster=None,
        advertise=Address("127.0.0.1", 1),
    )
    async with trio.open_nursery() as nursery:
        channel = await open_channel(outcome.identity, disk, nursery)
        channel.learn(outcome.issuer, address)
        plain = socket.create_connection(("127.0.0.1", tcp_port))
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await calls(channel, outcome.issuer, WARM_UP)
        gc.freeze()
        for _ in range(rounds):
            ours += await calls(channel, outcome.issuer, REQUESTS)
            peer += _echoes(plain)
        plain.close()
        nursery.cancel_scope.cancel()


async def open_channel(identity: Identity, disk: DirectoryDisk, nursery: trio.Nursery) -> Channel:
    """Run a channel on a free port of loopback in the nursery."""
    network, entropy = SystemNetwork(), SystemEntropy()
    channel = Channel(
        identity=identity,
        boot=next_boot(disk, entropy),
        network=network,
        listener=await network.listen(Address("127.0.0.1", 0)),
        clock=SystemClock(),
        entropy=entropy,
        disk=disk,
        metrics=Metrics(),
    )
    await nursery.start(channel.run)
    return channel


async def calls(channel: Channel, node: NodeId, count: int) -> list[float]:
    """Return the latency of each of `count` calls in a row, in milliseconds."""
    taken = []
    for _ in range(count):
        begun = time.perf_counter_ns()
        await channel.call(node, ECHO, PAYLOAD)
        taken.append((time.perf_counter_ns() - begun) / 1e6)
    return taken


def _echoes(plain: socket.socket) -> list[float]:
    taken = []
    for _ in range(REQUESTS):
        begun = time.perf_counter_ns()
        plain.sendall(PAYLOAD)
        plain.recv(4096)
        taken.append((time.perf_counter_ns() - begun) / 1e6)
    return taken


async def _echo(caller: NodeId, request: bytes) -> bytes:
    return request


async def _serve(directory: Path) -> None:
    """Be the other process: answer echoes until the parent's end of the pipe or this process ends."""
    from frys_node.secure.identity import load_identity

    disk = DirectoryDisk(directory)
    identity = load_identity(disk)
    assert identity is not None
    async with trio.open_nursery() as nursery:
        channel = await open_channel(identity, disk, nursery)
        channel.serve(ECHO, _echo)
        gc.freeze()
        print(channel.advertise.port, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(_serve, Path(sys.argv[1]))

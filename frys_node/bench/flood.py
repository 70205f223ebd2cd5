"""Calls of a healthy peer beside a flood of junk connections, against the same calls just before.

A node, a peer with a standing connection to it, and an attacker, each a process of its own on loopback. The attacker
opens `JUNK` connections in all rounds together, `RATE_PER_S` a second: random bytes, HTTP, half a record's header, a
ClientHello that was recorded once (the node answers each), and one byte and silence. The last three hold their place
until the attacker has too many of them. Every `ASK_EVERY`th shakes hands as a joiner instead and asks `ASKED` times in
one breath which cluster this is: the first is answered, the second ends it. Loopback has no limit per network, only the
one in all, so this is a flood from many addresses. Here the attacker takes its CPU from the same machine, so each round
also has the same junk thrown at a listener that only accepts: what calls suffer then is the machine's, not the node's.
"""

from __future__ import annotations

import random
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import trio
from OpenSSL import SSL

from frys_node.base.types import Address, NodeId
from frys_node.bench.figure import Figure
from frys_node.bench.request import WARM_UP, calls, open_channel
from frys_node.bench.runner import cpu_s, percentile
from frys_node.channel.bootstrap import create_cluster, join_cluster
from frys_node.channel.driver import Channel
from frys_node.channel.messages import KIND_JOIN
from frys_node.secure.tls import join_context
from frys_node.transport.clock import SystemClock
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.network import SystemNetwork
from frys_node.trust.join_messages import JOIN_BYTES_MAX, JOIN_CODEC, InfoRequest
from frys_node.wire.frame import encode_frame
from frys_node.wire.version import PROTOCOL_MAX, PROTOCOL_MIN

JUNK = 10_000
RATE_PER_S = 1_000
BURST = 20
HELD_MAX = 250
"""Silent connections that the attacker keeps open."""

ASK_EVERY = 40
ASKED = 4_000

CONNECT_S = 5.0
CALLS = 500
"""At a time; calls go on in such runs until the round's junk is through."""


class Round:
    """Latencies of one round in milliseconds (`aside`: the junk goes elsewhere), and the node's CPU beside the junk."""

    def __init__(self) -> None:
        self.before: list[float] = []
        self.aside: list[float] = []
        self.beside: list[float] = []
        self.cpu_ms = 0.0


class Measured(NamedTuple):
    """The rounds of a whole run, and what one junk connection cost the node, with the calls meanwhile, in ms of CPU."""

    rounds: list[Round]
    junk_ms: float


def run(rounds: int) -> list[Figure]:
    """Measure calls before and beside the flood, in every round."""
    measured = measure(rounds, -(-JUNK // rounds))
    return figures_of(measured.rounds, measured.junk_ms, _handshake_ms())


def measure(rounds: int, count: int) -> Measured:
    """Throw so many junk connections at a node in each round while a peer calls it.

    Raises:
        ExceptionGroup: A call of the peer failed.
    """
    with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
        create_cluster(
            DirectoryDisk(Path(home) / "a"), SystemEntropy(), SystemClock(), cluster_name="bench", node_name="a"
        )
        with subprocess.Popen(
            [sys.executable, "-m", "frys_node.bench.request", str(Path(home) / "a")],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as server:
            try:
                assert server.stdout is not None
                port = int(server.stdout.readline())
                measured = trio.run(_peer, Path(home), port, rounds, count, server.pid)
            finally:
                server.kill()
    return Measured(measured, sum(one.cpu_ms for one in measured) / (rounds * count))


def figures_of(measured: Sequence[Round], junk_ms: float, handshake_ms: float) -> list[Figure]:
    """Return the figures; milliseconds."""
    before = [value for one in measured for value in one.before]
    aside = [value for one in measured for value in one.aside]
    beside = [value for one in measured for value in one.beside]
    return [
        Figure("call p50 beside the flood", "ms", percentile(beside, 50), "before", percentile(before, 50)),
        Figure("call p99 beside the flood", "ms", percentile(beside, 99), "before", percentile(before, 99), "<= 2x"),
        Figure("call p99 beside the flood", "ms", percentile(beside, 99), "junk elsewhere", percentile(aside, 99)),
        Figure("node's CPU, calls and one junk connection", "ms", junk_ms, "making a ClientHello", handshake_ms),
    ]


async def _peer(home: Path, port: int, rounds: int, count: int, server: int) -> list[Round]:
    network, disk, address = SystemNetwork(), DirectoryDisk(home / "b"), Address("127.0.0.1", port)
    outcome = await join_cluster(
        network,
        disk,
        SystemEntropy(),
        SystemClock(),
        seeds=[address],
        token=(home / "a" / "join-token").read_text(),
        name="b",
        name_chosen=True,
        expect_cluster=None,
        advertise=Address("127.0.0.1", 1),
    )
    measured: list[Round] = []
    async with trio.open_nursery() as nursery:
        channel = await open_channel(outcome.identity, disk, nursery)
        channel.learn(outcome.issuer, address)
        await calls(channel, outcome.issuer, WARM_UP)
        while len(measured) < rounds:
            measured += [await _round(channel, outcome.issuer, port, count, server, len(measured))]
        nursery.cancel_scope.cancel()
    return measured


async def _round(channel: Channel, node: NodeId, port: int, count: int, server: int, number: int) -> Round:
    one = Round()
    while len(one.before) < 4 * CALLS:
        one.before += await calls(channel, node, CALLS)
    one.aside = await _calls_during(channel, node, 0, count, number)
    begun = cpu_s(server)
    one.beside = await _calls_during(channel, node, port, count, number)
    one.cpu_ms = (cpu_s(server) - begun) * 1e3
    return one


async def _calls_during(channel: Channel, node: NodeId, port: int, count: int, number: int) -> list[float]:
    """Call for as long as the attacker is at it; with port 0 it has a listener of its own."""
    taken: list[float] = []
    attacker = await trio.lowlevel.open_process(
        [sys.executable, "-m", "frys_node.bench.flood", str(port), str(count), str(number)]
    )
    try:
        while attacker.poll() is None:
            taken += await calls(channel, node, CALLS)
    finally:
        attacker.kill()
        await attacker.wait()
    return taken


def _client_hello() -> bytes:
    """What a joiner says first."""
    connection = SSL.Connection(join_context(), None)
    connection.set_connect_state()
    with suppress(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(65_536)


def _handshake_ms() -> float:
    """What the cheapest half of a handshake costs here: the attacker's side."""
    begun = time.process_time_ns()
    for _ in range(100):
        _client_hello()
    return (time.process_time_ns() - begun) / 1e8


def _sink() -> int:
    """Open a listener that accepts and reads what there is at once; return its port."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=HELD_MAX)

    def accept() -> None:
        kept: deque[socket.socket] = deque(maxlen=HELD_MAX)
        while True:
            kept.append(listener.accept()[0])
            kept[-1].setblocking(False)
            with suppress(OSError):
                kept[-1].recv(4_096)

    threading.Thread(target=accept, daemon=True).start()
    return int(listener.getsockname()[1])


def ask(port: int) -> None:
    """Shake hands as a joiner does, and ask `ASKED` times which cluster this is; answers are not looked at."""
    question = encode_frame(KIND_JOIN, JOIN_CODEC.encode(InfoRequest(PROTOCOL_MIN, PROTOCOL_MAX)), JOIN_BYTES_MAX)
    with suppress(OSError, SSL.Error), socket.create_connection(("127.0.0.1", port), CONNECT_S) as plain:
        # A blocking socket with the kernel's timeout: with Python's, OpenSSL would be told to come again at once.
        plain.settimeout(None)
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            plain.setsockopt(socket.SOL_SOCKET, option, struct.pack("ll", int(CONNECT_S), 0))
        joiner = SSL.Connection(join_context(), plain)
        joiner.set_connect_state()
        joiner.do_handshake()
        joiner.sendall(question * ASKED)
        # Closed with bytes unread, the connection would be reset, and what the node has not read yet be lost.
        plain.shutdown(socket.SHUT_WR)
        while plain.recv(65_536):
            continue


def attack(port: int, count: int, seed: int) -> None:
    """Open junk connections at `RATE_PER_S` until so many were made."""
    rng, hello = random.Random(seed), _client_hello()
    held: deque[socket.socket] = deque()
    is_aside = not port
    port = port or _sink()
    begun_s = time.monotonic()
    for made in range(count):
        if made % BURST == 0:
            time.sleep(max(0.0, begun_s + made / RATE_PER_S - time.monotonic()))
        if made % ASK_EVERY == ASK_EVERY - 1 and not is_aside:
            ask(port)
            continue
        kind = made % 5
        payload = (rng.randbytes(600), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", b"\x16\x03\x01", hello, b"\x16")[kind]
        try:
            junk = socket.create_connection(("127.0.0.1", port), CONNECT_S)
            junk.sendall(payload)
        except OSError:
            # The node may refuse and reset before all was said; that is its right.
            continue
        if kind < 2:
            junk.close()
            continue
        held.append(junk)
        if len(held) > HELD_MAX:
            held.popleft().close()
    for junk in held:
        junk.close()


if __name__ == "__main__":
    attack(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

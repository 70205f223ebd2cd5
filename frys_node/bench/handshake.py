"""The channel's handshake, echo and join, against the `ssl` module of the standard library in the same run.

A handshake is mutual and counts both ends, the gate behind it too; the peer's is mutual TLS 1.3 with Ed25519
certificates and the classical key exchange, all that the standard library can do here. Both run in memory, so that CPU
time is all there is. The echo is 64 bytes over loopback between two tasks of one process: our stream over our
transport, and trio's over `ssl`. A join is what a person waits for: from exec to the first 200 of /readyz.
"""

from __future__ import annotations

import itertools
import socket
import ssl
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import trio
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from frys_node.base.ports import Stream
from frys_node.base.types import Address
from frys_node.bench.figure import Figure
from frys_node.bench.runner import cpu_s, median, percentile
from frys_node.channel.bootstrap import create_cluster
from frys_node.demo.cluster import NodeProcess
from frys_node.demo.console import DemoFailed
from frys_node.secure.gate import check_peer
from frys_node.secure.identity import Identity
from frys_node.secure.signing_keys import Kind, key_pem
from frys_node.secure.tls import HandshakeNotes, TlsProfile, TlsStream
from frys_node.testing.identities import issue_member
from frys_node.transport.clock import SystemClock
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.stream import SocketStream

HANDSHAKES = 100
"""In one round, of each kind."""
ECHOES = 1_000
WARM_UP = 50
PAYLOAD = b"x" * 64
POLL_S = 0.005
LIMIT_S = 60.0
KINDS: tuple[tuple[Kind, str], ...] = (("ed25519", "<= 2.0 ms"), ("ml-dsa-65", "<= 4.5 ms"))


class Ends(NamedTuple):
    """Two members of one cluster."""

    dialling: Identity
    accepting: Identity


def run(rounds: int) -> list[Figure]:
    """Interleave rounds of our handshakes, the standard library's, and echoes; then join as often."""
    with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
        ends = {kind: make_ends(Path(home) / kind, kind) for kind, _ in KINDS}
        contexts = stdlib_contexts(ends["ed25519"], Path(home))
        shakes: dict[str, Callable[[], int]] = {kind: _channel_shaker(pair) for kind, pair in ends.items()}
        shakes["stdlib"] = lambda: shake_stdlib(*contexts)
        taken: dict[str, list[float]] = {name: [] for name in shakes}
        sizes = {name: shake() for name, shake in shakes.items()}
        ours: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds):
            for name, shake in shakes.items():
                begun = time.process_time_ns()
                for _ in range(HANDSHAKES):
                    shake()
                taken[name].append((time.process_time_ns() - begun) / 1e6 / HANDSHAKES)
            ours += trio.run(_echo_channel, ends["ed25519"])
            theirs += trio.run(_echo_stdlib, contexts)
    return [*figures_of(taken, sizes, ours, theirs), *_joins(rounds)]


def figures_of(
    taken: Mapping[str, Sequence[float]], sizes: Mapping[str, int], ours: Sequence[float], theirs: Sequence[float]
) -> list[Figure]:
    """Return the figures of milliseconds a handshake, its bytes, and microseconds an echo."""
    figures = []
    peer = "stdlib ssl, Ed25519, X25519"
    for kind, budget in KINDS:
        title = f"mutual handshake, {kind}, CPU of both ends"
        figures.append(Figure(title, "ms", median(taken[kind]), peer, median(taken["stdlib"]), budget, taken[kind]))
        figures.append(Figure(f"bytes of it, {kind}", "B", sizes[kind], peer, sizes["stdlib"]))
    figures.append(Figure("64 B echo p50", "us", percentile(ours, 50), "stdlib ssl", percentile(theirs, 50), "<= 1.1x"))
    return figures


def make_ends(directory: Path, kind: Kind) -> Ends:
    """Make a cluster of a kind and a second member of it."""
    entropy, clock = SystemEntropy(), SystemClock()
    first = create_cluster(DirectoryDisk(directory), entropy, clock, cluster_name="bench", node_name="a", kind=kind)
    second = issue_member(first, "b", entropy, clock)
    return Ends(second, first)


def _channel_shaker(ends: Ends) -> Callable[[], int]:
    """Return what makes one handshake of the channel; contexts are made once, as a node makes them."""
    client, server = TlsProfile(ends.dialling).client, TlsProfile(ends.accepting).server
    clock = SystemClock()

    def shake() -> int:
        left, right = SSL.Connection(client, None), SSL.Connection(server, None)
        for connection in (left, right):
            connection.set_app_data(HandshakeNotes())
        left.set_connect_state()
        right.set_accept_state()
        sent = _pump(left, right)
        check_peer(left, ends.dialling, unix_ns=clock.unix_ns(), expected=ends.accepting.node_id)
        check_peer(right, ends.accepting, unix_ns=clock.unix_ns())
        return sent

    return shake


def _pump(left: SSL.Connection, right: SSL.Connection) -> int:
    """Carry bytes both ways until both ends are done; returns how many."""
    sent, is_done = 0, [False, False]
    while not all(is_done):
        for index, (here, there) in enumerate(((left, right), (right, left))):
            try:
                here.do_handshake()
                is_done[index] = True
            except SSL.WantReadError:
                is_done[index] = False
            try:
                data = here.bio_read(65_536)
            except SSL.WantReadError:
                continue
            there.bio_write(data)
            sent += len(data)
    return sent


def stdlib_contexts(ends: Ends, home: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the contexts of two members for the standard library: TLS 1.3, mutual, without tickets."""
    made = []
    for identity, purpose in ((ends.dialling, ssl.PROTOCOL_TLS_CLIENT), (ends.accepting, ssl.PROTOCOL_TLS_SERVER)):
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.check_hostname = False
        context.verify_mode = ssl.CERT_REQUIRED
        if purpose == ssl.PROTOCOL_TLS_SERVER:
            context.num_tickets = 0
        context.load_verify_locations(cadata=identity.ca_certificate.public_bytes(Encoding.PEM).decode())
        pem = home / f"{identity.node_name}.pem"
        pem.touch(0o600)
        pem.write_text(key_pem(identity.key) + identity.certificate.public_bytes(Encoding.PEM).decode())
        context.load_cert_chain(pem)
        made.append(context)
    return made[0], made[1]


def shake_stdlib(client: ssl.SSLContext, server: ssl.SSLContext) -> int:
    """Make one handshake of the standard library in memory; returns the bytes that were exchanged."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [client.wrap_bio(to_client, to_server), server.wrap_bio(to_server, to_client, server_side=True)]
    sent, is_done = 0, [False, False]
    while not all(is_done):
        for index, (end, outgoing) in enumerate(zip(ends, (to_server, to_client), strict=True)):
            before = outgoing.pending
            try:
                end.do_handshake()
                is_done[index] = True
            except ssl.SSLWantReadError:
                is_done[index] = False
            sent += outgoing.pending - before
    return sent


async def _tcp_pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        left = socket.create_connection(listener.getsockname())
        right, _ = listener.accept()
    for sock in (left, right):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setblocking(False)
    return left, right


async def _echo_channel(ends: Ends) -> list[float]:
    here = Address("127.0.0.1", 0)
    left, right = await _tcp_pair()
    client = TlsStream(SocketStream(left, here), TlsProfile(ends.dialling).client, server=False)
    server = TlsStream(SocketStream(right, here), TlsProfile(ends.accepting).server, server=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.handshake)
        await server.handshake()
    return await _echoes(client, server)


async def _echo_stdlib(contexts: Sequence[ssl.SSLContext]) -> list[float]:
    left, right = await _tcp_pair()
    client = trio.SSLStream(trio.SocketStream(trio.socket.from_stdlib_socket(left)), contexts[0])
    server = trio.SSLStream(trio.SocketStream(trio.socket.from_stdlib_socket(right)), contexts[1], server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        await server.do_handshake()
    return await _echoes(client, server)


async def _echoes(
    client: Stream | trio.SSLStream[trio.SocketStream], server: Stream | trio.SSLStream[trio.SocketStream]
) -> list[float]:
    """Return the microseconds of each echo in a row, the first few left out."""

    async def answer() -> None:
        while True:
            await server.send_all(bytes(await server.receive_some(4_096)))

    taken = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        for _ in range(WARM_UP + ECHOES):
            begun = time.perf_counter_ns()
            await client.send_all(PAYLOAD)
            await client.receive_some(4_096)
            taken.append((time.perf_counter_ns() - begun) / 1e3)
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(client) if isinstance(client, trio.SSLStream) else await client.aclose()
    await trio.aclose_forcefully(server) if isinstance(server, trio.SSLStream) else await server.aclose()
    return taken[WARM_UP:]


def _joins(rounds: int) -> list[Figure]:
    """Found a cluster and join it by one command, as often as there are rounds, for each kind of identity."""
    figures = []
    for kind, _ in KINDS:
        joins, starts, cpu = [], [], []
        for number in range(rounds):
            with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
                started, joined, used = _join_once(Path(home), kind, number)
                starts.append(started)
                joins.append(joined)
                cpu.append(used)
        figures += join_figures(kind, joins, starts, cpu)
    return figures


def join_figures(kind: Kind, joins: Sequence[float], starts: Sequence[float], cpu: Sequence[float]) -> list[Figure]:
    """Return the figures of joins with identities of a kind; seconds."""
    title = f"join to /readyz, {kind}"
    return [
        Figure(title, "s", median(joins), "start of the first node", median(starts), "<= 1 s", joins),
        Figure(f"CPU of a join, {kind}", "s", median(cpu), samples=cpu),
    ]


def _join_once(home: Path, kind: Kind, number: int) -> tuple[float, float, float]:
    settings = {"XDG_STATE_HOME": str(home / "state")}
    first = NodeProcess("a", home / "a", settings=settings | {"FRYS_CLUSTER_IDENTITY": kind})
    second = NodeProcess(f"b{number}", home / "b", settings=settings)
    try:
        started = _until_ready(first, ())
        joined = _until_ready(second, (first.bind,))
        assert second.process is not None
        return started, joined, cpu_s(second.process.pid)
    finally:
        for node in (second, first):
            node.stop()


def _until_ready(node: NodeProcess, seeds: Sequence[str]) -> float:
    """Start a node and return the seconds until /readyz said 200."""
    begun = time.perf_counter()
    node.start(seeds)
    for _ in itertools.count():
        if node.is_ready:
            return time.perf_counter() - begun
        if time.perf_counter() - begun > LIMIT_S:
            break
        time.sleep(POLL_S)
    raise DemoFailed(f"no /readyz within {LIMIT_S:g} s:\n{node.log_tail()}")

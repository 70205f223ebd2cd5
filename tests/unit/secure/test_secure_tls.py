"""The TLS stream over fake streams, and reading a ServerHello off the wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from OpenSSL import SSL

from frys_node.channel.bootstrap import create_cluster
from frys_node.secure.errors import ClassicalOnly, HandshakeRefused, NotTls
from frys_node.secure.gate import check_profile
from frys_node.secure.identity import Identity
from frys_node.secure.observe_tls import ServerHello, parse_server_hello
from frys_node.secure.tls import (
    ALPN_CHANNEL,
    ALPN_JOIN,
    HANDSHAKE_BYTES_MAX,
    RecordCount,
    TlsProfile,
    TlsStream,
    connect_tls,
    join_context,
    new_context,
)
from frys_node.testing.disk import FakeDisk
from frys_node.transport.clock import SystemClock
from frys_node.transport.entropy import SystemEntropy


class Pipe:
    """One end of a byte pipe that records what it received and gives it out in small reads."""

    def __init__(self, read_max: int) -> None:
        self.other: Pipe = self
        self.seen = b""
        self._read_max = read_max
        self._buffer = bytearray()
        self._rest = b""
        self._wake = trio.Event()
        self._has_ended = False

    async def send_all(self, data: bytes) -> None:
        """Hand the bytes over."""
        await trio.lowlevel.checkpoint()
        if self.other._has_ended:
            raise trio.BrokenResourceError("gone")
        data, self._rest = self._rest + data, b""
        self.other._buffer += data
        self.other.seen += data
        self.other._wake.set()

    def send_nowait(self, data: bytes) -> bool:
        """Hand the bytes over, all but the last: that one takes its time."""
        self.other._buffer += self._rest + data[:-1]
        self.other.seen += self._rest + data[:-1]
        self._rest = data[-1:]
        self.other._wake.set()
        return False

    def unacknowledged_bytes(self) -> int | None:
        """The byte that takes its time."""
        return len(self._rest)

    async def receive_some(self, max_bytes: int = 65_536) -> bytes:
        """Return a few bytes."""
        await trio.lowlevel.checkpoint()
        while not self._buffer and not self._has_ended:
            self._wake = trio.Event()
            await self._wake.wait()
        data = bytes(self._buffer[: min(max_bytes, self._read_max)])
        del self._buffer[: len(data)]
        return data

    async def aclose(self) -> None:
        """End both directions."""
        for end in (self, self.other):
            end._has_ended = True
            end._wake.set()
        await trio.lowlevel.checkpoint()


def _pipes(read_max: int = 65_536) -> tuple[Pipe, Pipe]:
    left, right = Pipe(read_max), Pipe(read_max)
    left.other, right.other = right, left
    return left, right


@pytest.fixture(scope="module")
def identity() -> Identity:
    """A cluster's first node."""
    return create_cluster(FakeDisk(), SystemEntropy(), SystemClock(), cluster_name="prod", node_name="n1")


@asynccontextmanager
async def _joined(identity: Identity, read_max: int = 65_536) -> AsyncIterator[tuple[TlsStream, TlsStream, Pipe, Pipe]]:
    """Two ends of a handshaken ``frys/1`` stream, with the pipes below."""
    left, right = _pipes(read_max)
    profile = TlsProfile(identity)
    client = TlsStream(left, profile.client, server=False)
    server = TlsStream(right, profile.server, server=True)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.handshake)
            nursery.start_soon(server.handshake)
        yield client, server, left, right


@pytest.mark.parametrize("read_max", [1, 7, 1_000, 65_536])
async def test_bytes_arrive_whole_whatever_the_reads_are(identity: Identity, read_max: int) -> None:
    """Up to a megabyte in records of 16 KiB: partial writes and small reads lose nothing."""
    data = SystemEntropy().token_bytes(100 if read_max == 1 else 50_000 if read_max == 7 else 1_000_000)
    async with _joined(identity, read_max) as (client, server, _, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, data)
            received = b""
            while len(received) < len(data):
                received += await server.receive_some()
        assert received == data
        await server.send_all(b"small")
        assert await client.receive_some(2) + await client.receive_some(3) == b"small"


async def test_a_record_sent_without_waiting_is_finished_by_the_next_send(identity: Identity) -> None:
    """The rest of a record that the transport did not take goes out before anything else."""
    async with _joined(identity) as (client, server, _, _):
        assert not client.send_nowait(b"first ")
        with pytest.raises(trio.BusyResourceError):
            client.send_nowait(b"x")
        await client.send_all(b"second")
        assert await server.receive_some(6) + await server.receive_some() == b"first second"
        assert not client.send_nowait(b"last")
        await client.aclose()
        assert await server.receive_some() + await server.receive_some() == b"last"


@given(st.lists(st.integers(0, 700), max_size=8), st.lists(st.integers(1, 900), max_size=30))
def test_records_are_counted_however_the_stream_is_cut(lengths: list[int], cuts: list[int]) -> None:
    """Only bytes that are exactly one record, with nothing open before, count as one: a second is never left behind."""
    stream = b"".join(b"\x17\x03\x03" + length.to_bytes(2) + bytes(length) for length in lengths)
    starts = {0: 0}
    for index, length in enumerate(lengths):
        starts[max(starts) + 5 + length] = index + 1
    count, position = RecordCount(), 0
    for cut in [*cuts, len(stream)]:
        data = stream[position : position + cut]
        end = position + len(data)
        is_one = position in starts and end in starts and starts[end] == starts[position] + 1
        assert count.take(data) == is_one
        position = end


async def test_an_orderly_end_and_a_truncation_are_told_apart(identity: Identity) -> None:
    """close_notify is an end; a cut transport is an error, so nobody can shorten a message."""
    async with _joined(identity) as (client, server, _, _):
        await client.send_all(b"last")
        await client.aclose()
        assert await server.receive_some() == b"last"
        assert await server.receive_some() == b""
        assert await server.receive_some() == b""
    async with _joined(identity) as (client, server, left, _):
        await client.send_all(b"half")
        await left.aclose()
        assert await server.receive_some() == b"half"
        with pytest.raises(trio.BrokenResourceError, match="close_notify"):
            await server.receive_some()
        with pytest.raises(trio.BrokenResourceError):
            await server.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError, match="cut off"):
            await server.send_all(b"x")


async def test_a_changed_record_breaks_the_stream(identity: Identity) -> None:
    """One flipped bit on the wire is an error, never other plain text."""
    async with _joined(identity) as (client, server, _, right):
        await client.send_all(b"secret")
        right._buffer[-1] ^= 1
        with pytest.raises(trio.BrokenResourceError, match="verify"):
            await server.receive_some()


async def test_the_wire_shows_the_group_and_nothing_else(identity: Identity) -> None:
    """The ServerHello parses to 0x0304, 0x1302, 0x11EC; plain text and names never appear."""
    async with _joined(identity) as (client, server, left, right):
        check_profile(client.connection, ALPN_CHANNEL)
        await client.send_all(b"PLANTED-MARKER")
        assert await server.receive_some() == b"PLANTED-MARKER"
        assert client.export(b"EXPORTER-x") == server.export(b"EXPORTER-x")
    assert parse_server_hello(left.seen) == ServerHello(0x0304, 0x1302, 0x11EC)
    for size in range(len(left.seen)):
        assert parse_server_hello(left.seen[:size]) in (None, ServerHello(0x0304, 0x1302, 0x11EC))
    assert b"PLANTED" not in left.seen + right.seen
    assert identity.cluster_id.encode() not in left.seen + right.seen
    with pytest.raises(HandshakeRefused, match="alpn"):
        check_profile(client.connection, ALPN_JOIN)


def test_a_classical_handshake_looks_different_on_the_wire(identity: Identity) -> None:
    """The parser sees what was agreed on, also when that is TLS 1.2 or another group."""
    assert _hello_of(identity, SSL.TLS1_3_VERSION).group == 0x001D
    old = _hello_of(identity, SSL.TLS1_2_VERSION)
    assert (old.version, old.group) == (0x0303, 0)


def _hello_of(identity: Identity, version: int) -> ServerHello:
    from cryptography.hazmat.bindings.openssl.binding import Binding

    connections = []
    for is_server in (False, True):
        context = SSL.Context(SSL.TLS_METHOD)
        context.set_max_proto_version(version)
        Binding().lib.SSL_CTX_set1_curves_list(context._context, b"X25519")
        if is_server:
            context.use_privatekey(identity.key)  # type: ignore[arg-type]
            context.use_certificate(identity.certificate)
        connection = SSL.Connection(context, None)
        (connection.set_accept_state if is_server else connection.set_connect_state)()
        connections.append(connection)
    client, server = connections
    for turn in (client, server):
        with pytest.raises(SSL.WantReadError):
            turn.do_handshake()
        if turn is client:
            server.bio_write(client.bio_read(65_536))
    hello = parse_server_hello(server.bio_read(65_536))
    assert hello is not None
    return hello


@given(st.binary(max_size=300), st.booleans())
def test_noise_is_no_server_hello(data: bytes, with_head: bool) -> None:
    """Any bytes parse to a ServerHello or None; nothing is raised."""
    head = b"\x16\x03\x03" + (len(data) + 4).to_bytes(2, "big") + b"\x02" + len(data).to_bytes(3, "big")
    assert parse_server_hello(head + data if with_head else data) is None or with_head


async def test_servers_of_other_kinds_are_named(identity: Identity) -> None:
    """Plain text and old TLS each get their own error with a hint."""

    async def answer(data: bytes, error: type[Exception]) -> None:
        left, right = _pipes()
        await right.send_all(data)
        with trio.fail_after(5), pytest.raises(error) as caught:
            await connect_tls(left, join_context())
        assert getattr(caught.value, "hint", "")

    await answer(b"HTTP/1.1 400 Bad Request\r\n\r\n", NotTls)
    await answer(b"SSH-2.0-OpenSSH_9.2\r\n", NotTls)
    await answer(b"\x15\x03\x03\x00\x02\x02\x46", ClassicalOnly)
    await answer(b"\x15\x03\x03\x00\x02\x02\x28", ClassicalOnly)


async def test_a_handshake_cannot_be_fed_without_end(identity: Identity) -> None:
    """Pre-authentication bytes are capped, whatever OpenSSL would still swallow: a hello of 64 KiB, not yet whole."""
    left, right = _pipes()
    server = TlsStream(right, TlsProfile(identity).server, server=True)
    record = b"\x16\x03\x03\x40\x00" + b"\x01\x01\x00\x00" + bytes(16_380)
    await left.send_all(record * 5)
    with trio.fail_after(5), pytest.raises(HandshakeRefused) as caught:
        await server.handshake()
    # Without the cap OpenSSL would refuse the same, later, as `handshake`.
    assert caught.value.reason == "bytes_cap"
    assert server.handshake_bytes == HANDSHAKE_BYTES_MAX + 1


def test_this_installation_can_do_the_profile() -> None:
    """A build without ML-KEM would fail here, before any node starts."""
    assert new_context() is not None


class _Passes(trio.abc.Instrument):
    """Counts the passes of the event loop."""

    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_a_burst_shakes_hands_one_step_in_a_pass(identity: Identity, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever has a connection already waits for one of them at a time, not for all."""
    profile, turns, passes = TlsProfile(identity), trio.CapacityLimiter(1), _Passes()
    steps: list[int] = []
    pipes = [_pipes(65_536) for _ in range(8)]
    servers = [TlsStream(right, profile.server, server=True, turns=turns) for _, right in pipes]
    clients = [TlsStream(left, profile.client, server=False) for left, _ in pipes]
    original = SSL.Connection.do_handshake

    def counted(connection: SSL.Connection) -> None:
        if any(connection is server.connection for server in servers):
            steps.append(passes.count)
        original(connection)

    monkeypatch.setattr(SSL.Connection, "do_handshake", counted)
    trio.lowlevel.add_instrument(passes)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            for stream in (*servers, *clients):
                nursery.start_soon(stream.handshake)
    trio.lowlevel.remove_instrument(passes)
    assert len(steps) >= 2 * len(servers)
    assert len(set(steps)) == len(steps)

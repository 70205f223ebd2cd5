"""What the channel refuses: each with its own reason, counted, and the listener goes on."""

from __future__ import annotations

import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio
from cryptography.hazmat.bindings.openssl.binding import Binding
from OpenSSL import SSL

from frys_node.base.errors import FrysError, NodeUnreachable, SecurityError
from frys_node.base.types import NodeId
from frys_node.channel import gatekeeper
from frys_node.channel.bootstrap import create_cluster
from frys_node.channel.gatekeeper import HALF_OPEN_MAX
from frys_node.channel.messages import FRAME_BYTES_MAX, KIND_JOIN, Hello
from frys_node.channel.mux import Mux
from frys_node.secure import certificates
from frys_node.secure.errors import ClassicalOnly, HandshakeRefused
from frys_node.secure.identity import Identity, new_key
from frys_node.secure.tls import ALPN_CHANNEL, ALPN_JOIN, TlsProfile, TlsStream, new_context
from frys_node.transport.disk import DirectoryDisk
from frys_node.trust.join_messages import JOIN_BYTES_MAX, JOIN_CODEC, ClusterInfo, InfoRequest, JoinMessage
from frys_node.wire.frame import FrameReader, encode_frame
from frys_node.wire.version import PROTOCOL_MAX, PROTOCOL_MIN
from tests.integration.channel.channel_rig import CLOCK, ECHO, ENTROPY, LOOPBACK, NETWORK, Node, create, join, running


@pytest.fixture
async def a(tmp_path: Path) -> AsyncIterator[Node]:
    """A running one-node cluster."""
    async with running(await create(tmp_path / "a", "a")) as node:
        yield node


async def _still_serves(node: Node, directory: Path) -> None:
    """After whatever happened a newcomer joins and calls."""
    async with running(await join(directory / "after", node, "after")) as after:
        assert await after.channel.call(node.id, ECHO, b"x") == b"x"


async def _refused(node: Node, reason: str, attempt: Callable[[], Awaitable[None]], directory: Path) -> None:
    """The attempt is refused with the reason, once, and the node goes on."""
    with trio.fail_after(15):
        with suppress(HandshakeRefused, trio.BrokenResourceError):
            await attempt()
        await node.until_refused(reason)
        assert node.refused() == {reason: 1}
        await _still_serves(node, directory)


async def _tls_until_closed(node: Node, context: SSL.Context, payload: bytes = b"") -> None:
    """Shake hands with the context, send the payload, read until the node closes."""
    transport = await NETWORK.connect(node.address)
    try:
        stream = TlsStream(transport, context, server=False)
        await stream.handshake()
        if payload:
            await stream.send_all(payload)
        while await stream.receive_some():
            pass
    finally:
        await transport.aclose()


def _member(directory: Path, ca_of: Identity, **wrong: object) -> Identity:
    """An identity signed by the node's own authority, with something wrong in its certificate."""
    assert ca_of.ca_key is not None
    key = new_key(ENTROPY)
    node = NodeId(str(wrong.get("node", certificates.node_id_of(key.public_key()))))
    subject = certificates.Subject(ca_of.cluster_id, node, "x")
    issued_ns = CLOCK.unix_ns() + int(str(wrong.get("shift_s", 0))) * 10**9
    certificate = certificates.issue(
        ca_of.ca_key, ca_of.ca_certificate, key.public_key(), subject=subject, unix_ns=issued_ns
    )
    return Identity(
        cluster_id=ca_of.cluster_id,
        cluster_name=ca_of.cluster_name,
        node_name="x",
        issuer=ca_of.node_id,
        key=key,
        certificate=certificate,
        ca_certificate=ca_of.ca_certificate,
    )


def _classical(groups: bytes) -> SSL.Context:
    context = new_context()
    context.set_alpn_protos([ALPN_CHANNEL])
    assert Binding().lib.SSL_CTX_set1_curves_list(context._context, groups) == 1
    return context


async def test_a_plain_text_client_is_refused(a: Node, tmp_path: Path) -> None:
    """HTTP on the cluster port."""

    async def attempt() -> None:
        stream = await NETWORK.connect(a.address)
        await stream.send_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        while await stream.receive_some():
            pass
        await stream.aclose()

    await _refused(a, "not_tls", attempt, tmp_path)


async def test_a_hello_without_end_is_refused(a: Node, tmp_path: Path) -> None:
    """64 KiB of one that OpenSSL would go on reading, then no more: whoever is not authenticated fills nothing."""
    record = b"\x16\x03\x03\x40\x00" + b"\x01\x01\x00\x00" + bytes(16_380)

    async def attempt() -> None:
        stream = await NETWORK.connect(a.address)
        try:
            await stream.send_all(record * 5)
            while await stream.receive_some():
                pass
        finally:
            await stream.aclose()

    await _refused(a, "bytes_cap", attempt, tmp_path)


@pytest.mark.parametrize("groups", [b"X25519", b"P-256", b"X25519:P-384"])
async def test_a_classical_only_client_is_refused(a: Node, tmp_path: Path, groups: bytes) -> None:
    """TLS 1.3 without ML-KEM finds no group."""
    await _refused(a, "group", lambda: _tls_until_closed(a, _classical(groups)), tmp_path)


async def test_an_old_tls_client_is_refused(a: Node, tmp_path: Path) -> None:
    """TLS 1.2 finds no version."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    await _refused(a, "tls_version", lambda: _tls_until_closed(a, context), tmp_path)


@pytest.mark.parametrize(("version", "reason"), [(SSL.TLS1_2_VERSION, "tls_version"), (SSL.TLS1_3_VERSION, "group")])
async def test_a_server_that_was_dialled_is_refused_under_the_label_of_what_it_lacks(
    a: Node, version: int, reason: str
) -> None:
    """An old server without TLS 1.3, and one of today without ML-KEM: two things to mend."""
    context = new_context() if version == SSL.TLS1_3_VERSION else SSL.Context(SSL.TLS_METHOD)
    context.use_certificate(a.identity.certificate)
    context.use_privatekey(a.identity.key)
    context.set_max_proto_version(version)
    groups = b"X25519MLKEM768:X25519" if version == SSL.TLS1_2_VERSION else b"X25519"
    assert Binding().lib.SSL_CTX_set1_curves_list(context._context, groups) == 1
    listener = await NETWORK.listen(LOOPBACK)

    async def serve() -> None:
        transport, _ = await listener.accept()
        with suppress(FrysError, trio.BrokenResourceError):
            await TlsStream(transport, context, server=True).handshake()
        await transport.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        with trio.fail_after(10), pytest.raises(ClassicalOnly):
            await a.channel.connect_address(listener.address)
    await listener.aclose()
    assert a.refused() == {reason: 1}


@pytest.mark.parametrize("suite", [b"TLS_AES_128_GCM_SHA256", b"TLS_CHACHA20_POLY1305_SHA256"])
async def test_another_cipher_is_refused(a: Node, tmp_path: Path, suite: bytes) -> None:
    """Only AES-256-GCM is spoken."""
    context = new_context()
    context.set_alpn_protos([ALPN_CHANNEL])
    context.set_tls13_ciphersuites(suite)
    await _refused(a, "cipher", lambda: _tls_until_closed(a, context), tmp_path)


async def test_a_client_without_a_certificate_is_refused(a: Node, tmp_path: Path) -> None:
    """``frys/1`` wants a certificate."""
    context = new_context()
    context.set_alpn_protos([ALPN_CHANNEL])
    await _refused(a, "no_certificate", lambda: _tls_until_closed(a, context), tmp_path)


@pytest.mark.parametrize("protocols", [[], [b"h2"], [b"frys/2"]])
async def test_an_unknown_protocol_is_refused(a: Node, tmp_path: Path, protocols: list[bytes]) -> None:
    """No ALPN or another one, even with a member's certificate."""
    context = TlsProfile(_member(tmp_path, a.identity)).client
    if protocols:
        context.set_alpn_protos(protocols)
    else:
        member = _member(tmp_path, a.identity)
        context = new_context()
        context.use_privatekey(member.key)  # type: ignore[arg-type]
        context.use_certificate(member.certificate)
    await _refused(a, "alpn", lambda: _tls_until_closed(a, context), tmp_path)


async def test_a_member_of_another_cluster_is_refused(a: Node, tmp_path: Path) -> None:
    """A certificate of a foreign authority."""
    foreign = create_cluster(DirectoryDisk(tmp_path / "f"), ENTROPY, CLOCK, cluster_name="test", node_name="f")
    context = TlsProfile(foreign).client
    context.set_verify(SSL.VERIFY_NONE)
    await _refused(a, "chain", lambda: _tls_until_closed(a, context), tmp_path)


@pytest.mark.parametrize("cluster", ["test", "other"])
async def test_a_client_that_refuses_this_nodes_certificate_is_told_apart(
    a: Node, tmp_path: Path, cluster: str
) -> None:
    """A member of another cluster, also of one of the same name, that looks at whom it met: its own log has the fix."""
    foreign = create_cluster(DirectoryDisk(tmp_path / "f"), ENTROPY, CLOCK, cluster_name=cluster, node_name="f")
    await _refused(a, "peer_refused", lambda: _tls_until_closed(a, TlsProfile(foreign).client), tmp_path)


async def test_a_hello_of_another_cluster_is_refused(a: Node, tmp_path: Path) -> None:
    """Also behind a certificate of this one: what a node says of itself has to fit what it shows."""
    mux = Mux(dialled=True)
    mux.hello(Hello(PROTOCOL_MIN, PROTOCOL_MAX, "9" * 32, "other", "x", 1, str(LOOPBACK), ("node",)))
    hello, context = mux.data_to_send(), TlsProfile(_member(tmp_path, a.identity)).client
    await _refused(a, "cluster", lambda: _tls_until_closed(a, context, hello), tmp_path)


async def test_an_unforeseen_error_ends_one_connection(
    a: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A fault of the node's own in a greeting is counted and logged with its traceback; the listener goes on."""
    context = TlsProfile(_member(tmp_path, a.identity)).client

    async def attempt() -> None:
        with monkeypatch.context() as patched:
            patched.setattr("frys_node.channel.greeting.check_peer", "not to be called")
            await _tls_until_closed(a, context)

    await _refused(a, "internal", attempt, tmp_path)
    (told,) = [record for record in caplog.records if record.getMessage() == "channel.greeting_failed"]
    assert told.exc_info is not None


async def test_a_member_of_another_protocol_is_told_both_ranges(
    a: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hellos whose ranges do not meet end the connection with both sides' values."""
    async with running(await join(tmp_path / "b", a, "b")) as b:
        monkeypatch.setattr("frys_node.channel.greeting.PROTOCOL_MIN", 7)
        monkeypatch.setattr("frys_node.channel.greeting.PROTOCOL_MAX", 9)
        with trio.fail_after(20), pytest.raises(HandshakeRefused, match="this node speaks protocol 1-1, node 'a' 7-9"):
            await b.channel.call(a.id, ECHO, b"x")


async def test_a_certificate_long_expired_is_refused(a: Node, tmp_path: Path) -> None:
    """Two years after its issue, which is beyond the grace."""
    context = TlsProfile(_member(tmp_path, a.identity, shift_s=-2 * 365 * 86_400)).client
    await _refused(a, "expired", lambda: _tls_until_closed(a, context), tmp_path)


async def test_a_certificate_expired_yesterday_is_within_the_grace(a: Node, tmp_path: Path) -> None:
    """A member that was off while its certificate ran out still finds its cluster."""
    late = -(certificates.NODE_LIFE_DAYS * 86_400 - certificates.BACKDATE_S) - 86_400
    member = _member(tmp_path, a.identity, shift_s=late)
    stream = TlsStream(await NETWORK.connect(a.address), TlsProfile(member).client, server=False)
    with trio.fail_after(10):
        await stream.handshake()
        assert await stream.receive_some()
    await stream.aclose()
    assert a.refused() == {}


async def test_an_expelled_node_is_refused(a: Node, tmp_path: Path) -> None:
    """A certificate of a node id that was revoked."""
    member = _member(tmp_path, a.identity)
    a.channel.revoke(member.node_id)
    await _refused(a, "revoked", lambda: _tls_until_closed(a, TlsProfile(member).client), tmp_path)


async def test_an_expelled_node_loses_its_connection(a: Node, tmp_path: Path) -> None:
    """Expulsion ends what stands, and the way back is shut."""
    async with running(await join(tmp_path / "b", a, "b")) as b:
        with trio.fail_after(15):
            assert await b.channel.call(a.id, ECHO, b"x") == b"x"
            gone = trio.Event()
            b.channel.on_connection(lambda _node, _boot, ending: gone.set() if ending else None)
            a.channel.revoke(b.id)
            await gone.wait()
            with pytest.raises((SecurityError, NodeUnreachable)):
                await b.channel.call(a.id, ECHO, b"x")
        assert not a.channel.is_connected(b.id)


async def test_a_node_that_dials_itself_is_refused(a: Node, tmp_path: Path) -> None:
    """Both ends of such a connection refuse it as themselves."""
    with trio.fail_after(15):
        with pytest.raises(HandshakeRefused) as caught:
            await a.channel.connect_address(a.address)
        assert caught.value.reason == "self"
        await _still_serves(a, tmp_path)
    assert set(a.refused()) <= {"self", "reset", "eof"}


async def test_another_node_at_the_address_is_refused(a: Node, tmp_path: Path) -> None:
    """A member that dials one node and meets another does not talk to it."""
    async with running(await join(tmp_path / "b", a, "b")) as b:
        other = NodeId("9" * 32)
        b.channel.learn(other, a.address)
        with trio.fail_after(15), pytest.raises(HandshakeRefused) as caught:
            await b.channel.call(other, ECHO, b"x")
        assert caught.value.reason == "wrong_node"


@pytest.mark.parametrize(
    "payload",
    [
        struct.pack(">IB", FRAME_BYTES_MAX + 1, 1),
        struct.pack(">IB", 0xFFFF_FFFF, 1) + b"x" * 100,
        struct.pack(">IB", 0, 1),
        struct.pack(">IB", 5, 9) + b"abcd",
        struct.pack(">IB", 5, 1) + b"\xc1\xc1\xc1\xc1",
        struct.pack(">IB", 4, 1) + b"\x92\x08\x01",
        random.Random(1).randbytes(4_096),
    ],
    ids=["oversized", "huge", "empty", "kind", "garbage", "ping-first", "random"],
)
async def test_a_member_that_breaks_the_protocol_is_refused(a: Node, tmp_path: Path, payload: bytes) -> None:
    """Garbage, oversized and out-of-order frames behind a good handshake."""
    context = TlsProfile(_member(tmp_path, a.identity)).client
    await _refused(a, "protocol", lambda: _tls_until_closed(a, context, payload), tmp_path)


@pytest.mark.parametrize(
    "payload",
    [struct.pack(">IB", 70_000, 2), struct.pack(">IB", 5, 2) + b"\xc1\xc1\xc1\xc1", struct.pack(">IB", 2, 1) + b"\x90"],
    ids=["oversized", "garbage", "kind"],
)
async def test_a_joiner_that_breaks_the_protocol_is_refused(a: Node, tmp_path: Path, payload: bytes) -> None:
    """The same on the join protocol, where anybody may come."""
    context = new_context()
    context.set_alpn_protos([ALPN_JOIN])
    await _refused(a, "protocol", lambda: _tls_until_closed(a, context, payload), tmp_path)


async def test_the_join_protocol_gives_no_way_into_the_channel(a: Node, tmp_path: Path) -> None:
    """A ``frys/1`` frame on a ``frys-join/1`` connection is a broken protocol, never a call."""
    context = new_context()
    context.set_alpn_protos([ALPN_JOIN])
    frame = struct.pack(">IB", 20, 1) + b"\x95\x03\x01\xa9test.echo\x01\xc4\x01x"[:19].ljust(19, b"\0")
    await _refused(a, "protocol", lambda: _tls_until_closed(a, context, frame), tmp_path)


async def test_random_bytes_never_end_the_listener(a: Node, tmp_path: Path) -> None:
    """A hundred connections of noise, cut off at random: each refused, then business as usual."""
    generator = random.Random(3)

    async def noise(data: bytes) -> None:
        stream = await NETWORK.connect(a.address)
        try:
            await stream.send_all(data)
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass
        await stream.aclose()

    with trio.fail_after(30):
        for _ in range(10):
            async with trio.open_nursery() as nursery:
                for _ in range(10):
                    head = generator.choice([b"", b"\x16\x03\x01\x02\x00", b"\x16\x03\x03\x00\x40\x01"])
                    nursery.start_soon(noise, head + generator.randbytes(600))
        await _still_serves(a, tmp_path)
    assert sum(a.refused().values()) == 100


async def test_an_abrupt_reset_in_any_phase_is_survived(a: Node, tmp_path: Path) -> None:
    """RST before, in and after the handshake."""
    with trio.fail_after(30):
        for phase in range(2):
            sock = socket.create_connection(tuple(a.address))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if phase == 1:
                sock.sendall(b"\x16\x03\x01\x02\x00\x01")
            sock.close()
        transport = await NETWORK.connect(a.address)
        stream = TlsStream(transport, TlsProfile(_member(tmp_path, a.identity)).client, server=False)
        await stream.handshake()
        await stream.receive_some()
        # Closing with unread bytes makes the kernel send RST.
        await transport.aclose()
        await a.until_refused("reset", 3)
        await _still_serves(a, tmp_path)


async def test_idle_connections_cannot_keep_newcomers_out(a: Node, tmp_path: Path) -> None:
    """As many silent sockets as there are places: the oldest make room, and a join takes no longer for it."""
    with trio.fail_after(15):
        silent = [await NETWORK.connect(a.address) for _ in range(HALF_OPEN_MAX)]
        await _still_serves(a, tmp_path)
        assert await silent[0].receive_some() == b""
        await a.until_refused("half_open")
        for stream in silent:
            await stream.aclose()


async def test_a_join_has_no_more_bytes_than_one_connection_may_send_unauthenticated(a: Node, tmp_path: Path) -> None:
    """64 KiB with the handshake: whoever has no certificate cannot make the node hold more, whatever it sends."""
    context = new_context()
    context.set_alpn_protos([ALPN_JOIN])
    context.set_verify(SSL.VERIFY_NONE)

    async def attempt() -> None:
        transport = await NETWORK.connect(a.address)
        try:
            stream = TlsStream(transport, context, server=False)
            await stream.handshake()
            info = encode_frame(KIND_JOIN, JOIN_CODEC.encode(InfoRequest(1, 1)), JOIN_BYTES_MAX)
            await stream.send_all(info)
            assert await stream.receive_some()
            padding = struct.pack(">IB", JOIN_BYTES_MAX - 200, KIND_JOIN)
            await stream.send_all(padding + bytes(JOIN_BYTES_MAX - len(info) - len(padding) - 200))
            while await stream.receive_some():
                pass
        finally:
            await transport.aclose()

    await _refused(a, "protocol", attempt, tmp_path)


async def test_a_joiner_gets_one_answer_to_each_kind_of_question(a: Node, tmp_path: Path) -> None:
    """A thousand questions in one breath, 9 bytes each: one answer, then the end, under a label of its own."""
    context = new_context()
    context.set_alpn_protos([ALPN_JOIN])
    context.set_verify(SSL.VERIFY_NONE)
    answers: list[JoinMessage] = []

    async def attempt() -> None:
        transport = await NETWORK.connect(a.address)
        try:
            stream = TlsStream(transport, context, server=False)
            await stream.handshake()
            frames = FrameReader(JOIN_BYTES_MAX)
            question = encode_frame(KIND_JOIN, JOIN_CODEC.encode(InfoRequest(1, 1)), JOIN_BYTES_MAX)
            assert len(question) == 10
            await stream.send_all(question * 1_000)
            while data := await stream.receive_some():
                answers.extend(JOIN_CODEC.decode(frame.body) for frame in frames.receive_data(data))
        finally:
            await transport.aclose()

    await _refused(a, "join_repeated", attempt, tmp_path)
    assert len(answers) <= 1
    assert all(isinstance(answer, ClusterInfo) for answer in answers)


async def test_idle_connections_of_one_network_have_a_limit_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beyond it the next one is refused, the others of that network stay, and nobody else makes room for it."""
    monkeypatch.setattr(gatekeeper, "is_loopback", lambda host: host != "127.0.0.66")
    monkeypatch.setattr(gatekeeper, "HALF_OPEN_PER_NETWORK_MAX", 3)
    async with running(await create(tmp_path / "a", "a")) as a:
        silent = [socket.socket() for _ in range(4)]
        try:
            with trio.fail_after(20):
                for sock in silent:
                    sock.bind(("127.0.0.66", 0))
                    sock.connect((a.address.host, a.address.port))
                await a.until_refused("half_open_network")
                assert a.gauge("frys_channel_half_open") == 3
                await _still_serves(a, tmp_path)
        finally:
            for sock in silent:
                sock.close()


async def test_a_flood_from_one_network_is_refused_and_the_others_come_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Beyond its rate a network gets no handshake; it is counted, logged once with the fix, and nobody else waits."""
    monkeypatch.setattr(gatekeeper, "is_loopback", lambda host: host != "127.0.0.66")
    monkeypatch.setattr(gatekeeper, "NEW_PER_NETWORK_BURST", 5)
    monkeypatch.setattr(gatekeeper, "NEW_PER_NETWORK_S", 0.001)
    async with running(await create(tmp_path / "a", "a")) as a:
        with trio.fail_after(20):
            for _ in range(30):
                with socket.socket() as sock:
                    sock.bind(("127.0.0.66", 0))
                    sock.connect((a.address.host, a.address.port))
            await a.until_refused("rate_network", 25)
            await _still_serves(a, tmp_path)
        lines = [record for record in caplog.records if getattr(record, "reason", "") == "rate_network"]
        assert 1 <= len(lines) <= 3
        assert "[cluster] allow" in lines[0].__dict__["fix"]

"""The downgrade matrix: each weaker or foreign way of coming in, tried on the real listener over loopback.

Each row has to be refused with its own label of `frys_channel_refused_total`, once, with a `channel.refused` event in
the log, and the node has to go on: the rows run against one and the same node, and members are let in between them.
Rows in which the node dials are refused by the dialling side.
"""

from __future__ import annotations

import datetime as dt
import logging
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import trio
from cryptography import x509
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from OpenSSL import SSL
from verify_tally import Tally

from frys_node.base import log_limit
from frys_node.base.errors import SecurityError
from frys_node.base.types import ClusterId, NodeId
from frys_node.channel.messages import Hello
from frys_node.channel.mux import Mux
from frys_node.observe.metrics import Gauge
from frys_node.secure import certificates
from frys_node.secure.errors import HandshakeRefused
from frys_node.secure.gate import check_peer
from frys_node.secure.identity import Identity, new_key
from frys_node.secure.tls import ALPN_CHANNEL, TlsProfile, TlsStream, new_context
from frys_node.trust.messages import Credentials
from frys_node.wire.version import PROTOCOL_MAX, PROTOCOL_MIN
from tests.integration.channel.channel_rig import CLOCK, ENTROPY, LOOPBACK, NETWORK, Node, create, running

ROW_S = 10.0
DAY_S = 86_400
YEAR_S = 365 * DAY_S
GRACE_DAYS = certificates.EXPIRY_GRACE_S // DAY_S


class Row(NamedTuple):
    """One way in, and the label that refuses it; an empty label means that it is let in."""

    name: str
    label: str
    attempt: Callable[[Node], Awaitable[None]]


class Shown(NamedTuple):
    """What somebody shows."""

    key: Ed25519PrivateKey
    certificate: x509.Certificate

    @property
    def node(self) -> NodeId:
        """The node id of the key."""
        return _id_of(self.key)


class Events(logging.Handler):
    """Keeps the reasons of `channel.refused` events."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.reasons: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one."""
        if record.getMessage() == "channel.refused":
            self.reasons.append(str(getattr(record, "reason", "")))


# Contexts of clients.


def _bare(alpn: bytes | None = ALPN_CHANNEL) -> SSL.Context:
    context = new_context()
    if alpn:
        context.set_alpn_protos([alpn])
    return context


def _with_groups(member: Shown, groups: bytes) -> SSL.Context:
    context = _stranger(member)
    assert Binding().lib.SSL_CTX_set1_curves_list(context._context, groups) == 1
    return context


def _with_suite(member: Shown, suite: bytes) -> SSL.Context:
    context = _stranger(member)
    context.set_tls13_ciphersuites(suite)
    return context


def _old(member: Shown) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    return _showing(context, member.key, member.certificate)


def _stranger(shown: Shown, alpn: bytes | None = ALPN_CHANNEL) -> SSL.Context:
    """A client that shows a certificate and does not care whom it meets."""
    return _showing(_bare(alpn), shown.key, shown.certificate)


def _showing(context: SSL.Context, key: object, certificate: x509.Certificate) -> SSL.Context:
    # In this order the key of a certificate before is dropped.
    context.use_certificate(certificate)
    context.use_privatekey(key)  # type: ignore[arg-type]
    return context


# Certificates.


class Forge:
    """Makes certificates with something wrong in them, signed by this cluster's authority or by another key."""

    def __init__(self, cluster: Identity) -> None:
        assert cluster.ca_key is not None
        self.cluster = cluster
        self._ca_key = cluster.ca_key

    def member(self, *, shift_s: int = 0, node: NodeId | None = None) -> Shown:
        """Return a member whose certificate was issued at another time, or for another node id."""
        key = new_key(ENTROPY)
        return Shown(
            key, self._issue(self._ca_key, self.cluster.ca_certificate, key, node or _id_of(key), shift_s=shift_s)
        )

    def foreign(self, *, is_twin: bool) -> Shown:
        """Return a member of another cluster; a twin has this one's id and its authority this one's name."""
        ca_key, key = new_key(ENTROPY), new_key(ENTROPY)
        cluster = self.cluster.cluster_id if is_twin else ClusterId(ENTROPY.token_bytes(16).hex())
        ca = certificates.create_authority(ca_key, cluster, self.cluster.cluster_name, CLOCK.unix_ns())
        return Shown(key, self._issue(ca_key, ca, key, _id_of(key)))

    def _issue(
        self, ca_key: Ed25519PrivateKey, ca: x509.Certificate, key: Ed25519PrivateKey, node: NodeId, *, shift_s: int = 0
    ) -> x509.Certificate:
        subject = certificates.Subject(certificates.authority_cluster(ca), node, "stranger")
        issued_ns = CLOCK.unix_ns() + shift_s * 10**9
        return certificates.issue(ca_key, ca, key.public_key(), subject=subject, unix_ns=issued_ns)

    def odd(
        self, *, uri: str = "", usages: tuple[x509.ObjectIdentifier, ...] = (), is_self_signed: bool = False
    ) -> Shown:
        """Return somebody with another name or other usages, or signed by itself."""
        key = new_key(ENTROPY)
        own = f"frys://{self.cluster.cluster_id}/{_id_of(key)}"
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "stranger")])
        now = dt.datetime.fromtimestamp(CLOCK.unix_ns() // 10**9, tz=dt.UTC)
        both = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if is_self_signed else self.cluster.ca_certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=30))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri or own)]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages or both), critical=False)
            .sign(key if is_self_signed else self._ca_key, None)
        )
        return Shown(key, made)


def _id_of(key: Ed25519PrivateKey) -> NodeId:
    return certificates.node_id_of(key.public_key())


# Attempts.


def _come(context: SSL.Context) -> Callable[[Node], Awaitable[None]]:
    """Shake hands with the node and read until it ends the connection, or greets."""

    async def attempt(node: Node) -> None:
        transport = await NETWORK.connect(node.address)
        try:
            stream = TlsStream(transport, context, server=False)
            await stream.handshake()
            if not await stream.receive_some():
                raise HandshakeRefused("eof")
        finally:
            await transport.aclose()

    return attempt


def _come_as(shown: Shown, alpn: bytes | None = ALPN_CHANNEL) -> Callable[[Node], Awaitable[None]]:
    return _come(_stranger(shown, alpn))


def _enter(cluster: Identity, shown: Shown) -> Callable[[Node], Awaitable[None]]:
    """Come in as a member does, up to both hellos."""
    identity = Identity(
        cluster_id=cluster.cluster_id,
        cluster_name=cluster.cluster_name,
        node_name="stranger",
        issuer=cluster.node_id,
        key=shown.key,
        certificate=shown.certificate,
        ca_certificate=cluster.ca_certificate,
    )
    context = TlsProfile(identity).client
    hello = Hello(
        PROTOCOL_MIN, PROTOCOL_MAX, cluster.cluster_id, cluster.cluster_name, "stranger", 1, str(LOOPBACK), ("node",)
    )

    async def attempt(node: Node) -> None:
        stream = TlsStream(await NETWORK.connect(node.address), context, server=False)
        await stream.handshake()
        check_peer(stream.connection, identity, unix_ns=CLOCK.unix_ns(), expected=node.id)
        mux = Mux(dialled=True)
        mux.hello(hello)
        await stream.send_all(mux.data_to_send())
        heard: list[object] = []
        # The credentials behind the hello are told to members only.
        while not any(isinstance(event, Credentials) for event in heard):
            heard += mux.receive_data(await stream.receive_some())
        await stream.aclose()

    return attempt


def _dial_server(context: SSL.Context, expected: NodeId) -> Callable[[Node], Awaitable[None]]:
    """Have the node dial a server of that kind, which it takes for another member."""

    async def attempt(node: Node) -> None:
        listener = await NETWORK.listen(LOOPBACK)
        refusal: SecurityError | None = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve_once, listener, context)
            try:
                await node.channel.greet(expected, await NETWORK.connect(listener.address), listener.address)
            except SecurityError as error:
                refusal = error
            nursery.cancel_scope.cancel()
        await listener.aclose()
        if refusal is not None:
            raise refusal

    return attempt


async def _serve_once(listener: object, context: SSL.Context) -> None:
    transport, _ = await listener.accept()  # type: ignore[attr-defined]
    stream = TlsStream(transport, context, server=True)
    try:
        await stream.handshake()
        while await stream.receive_some():
            continue
    except (HandshakeRefused, trio.BrokenResourceError):
        return
    finally:
        with trio.CancelScope(shield=True):
            await transport.aclose()


async def _meet_itself(node: Node) -> None:
    await node.channel.connect_address(node.address)


def _server(cluster: Identity, shown: Shown, change: Callable[[SSL.Context], object] | None = None) -> SSL.Context:
    """A server that shows a certificate and lets anybody come."""
    context = _showing(TlsProfile(cluster).server, shown.key, shown.certificate)
    context.set_verify(SSL.VERIFY_NONE)
    if change is not None:
        change(context)
    return context


def _classical_groups(context: SSL.Context) -> None:
    assert Binding().lib.SSL_CTX_set1_curves_list(context._context, b"X25519") == 1


def _old_only(context: SSL.Context) -> None:
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)


def _accepting_rows(forge: Forge) -> list[Row]:
    """Ways in that the node's listener meets."""
    member = forge.member()
    life_s = certificates.NODE_LIFE_DAYS * DAY_S - certificates.BACKDATE_S
    late, too_late = forge.member(shift_s=-life_s - DAY_S), forge.member(shift_s=-life_s - (GRACE_DAYS + 1) * DAY_S)
    client_only = forge.odd(usages=(ExtendedKeyUsageOID.CLIENT_AUTH,))
    elsewhere = forge.odd(uri=f"frys://{'9' * 32}/{'8' * 32}")
    return [
        Row("a member", "", _enter(forge.cluster, member)),
        Row("TLS 1.2", "tls_version", _come(_old(member))),
        *(
            Row(f"group {groups.decode()}", "group", _come(_with_groups(member, groups)))
            for groups in (b"X25519", b"P-256", b"P-384", b"X448", b"SecP256r1MLKEM768", b"SecP384r1MLKEM1024")
        ),
        *(
            Row(f"cipher {suite.decode()}", "cipher", _come(_with_suite(member, suite)))
            for suite in (b"TLS_AES_128_GCM_SHA256", b"TLS_CHACHA20_POLY1305_SHA256")
        ),
        Row("no ALPN", "alpn", _come_as(member, None)),
        Row("no ALPN, no certificate", "alpn", _come(_bare(None))),
        Row("ALPN h2", "alpn", _come_as(member, b"h2")),
        Row("ALPN frys/2", "alpn", _come_as(member, b"frys/2")),
        Row("no client certificate", "no_certificate", _come(_bare())),
        Row("foreign authority", "chain", _come_as(forge.foreign(is_twin=False))),
        Row("foreign authority of the same names", "chain", _come_as(forge.foreign(is_twin=True))),
        Row("self-signed", "self_signed", _come_as(forge.odd(is_self_signed=True))),
        Row("not yet valid", "expired", _come_as(forge.member(shift_s=2 * DAY_S + certificates.BACKDATE_S))),
        Row("expired past the grace", "expired", _come_as(too_late)),
        Row("expired within the grace", "", _enter(forge.cluster, late)),
        Row("only for clients", "eku", _come_as(client_only)),
        Row("named for another cluster", "san", _come_as(elsewhere)),
        Row("named by no node id", "san", _come_as(forge.odd(uri=f"frys://{forge.cluster.cluster_id}/me"))),
        Row("this node's own id", "self", _come_as(forge.member(node=forge.cluster.node_id))),
        Row("another member after all that", "", _enter(forge.cluster, forge.member())),
    ]


def _dialling_rows(forge: Forge) -> list[Row]:
    """Servers that the node dials."""
    me, member, other = forge.cluster, forge.member(), NodeId("7" * 32)
    return [
        Row("dialled: TLS 1.2", "tls_version", _dial_server(_server(me, member, _old_only), member.node)),
        Row("dialled: X25519 only", "group", _dial_server(_server(me, member, _classical_groups), member.node)),
        Row("dialled: foreign authority", "chain", _dial_server(_server(me, forge.foreign(is_twin=True)), other)),
        Row("dialled: self-signed", "self_signed", _dial_server(_server(me, forge.odd(is_self_signed=True)), other)),
        Row("dialled: wrong node id", "wrong_node", _dial_server(_server(me, member), other)),
    ]


@asynccontextmanager
async def _node() -> AsyncIterator[Node]:
    with tempfile.TemporaryDirectory(prefix="frys-verify-") as home:
        async with running(await create(Path(home) / "a", "a")) as node:
            yield node


def _half_open(node: Node) -> float:
    gauge = next(metric for metric in node.metrics if metric.name == "frys_channel_half_open")
    assert isinstance(gauge, Gauge)
    assert gauge.source is not None
    return gauge.source()


async def _try(node: Node, row: Row, events: Events) -> str:
    """Try one row; return what was wrong, empty if nothing was."""
    before = node.refused()
    events.reasons.clear()
    error = ""
    with trio.move_on_after(ROW_S) as scope:
        try:
            await row.attempt(node)
        except (SecurityError, trio.BrokenResourceError) as refusal:
            error = f"{refusal}"
        if row.label:
            await node.until_refused(row.label, before.get(row.label, 0) + 1)
        while _half_open(node):  # noqa: ASYNC110 - a plain counter has nothing to wait on
            await trio.sleep(0.002)
    found = {key: count - before.get(key, 0) for key, count in node.refused().items() if count != before.get(key, 0)}
    if scope.cancelled_caught:
        return f"not within {ROW_S:.0f} s; refused as {found or 'nothing'}"
    wanted = {row.label: 1} if row.label else {}
    if row.label == "self" and set(found) <= {"self", "eof", "reset"} and found["self"] >= 1:
        # Where a node dials itself both ends are its own, and either may be first.
        found = wanted
    if found != wanted:
        return f"refused as {found or 'nothing'}, not as {wanted or 'nothing'} {error}"
    if row.label and row.label not in events.reasons:
        return "no event in the log"
    return "" if row.label or not error else f"not let in: {error}"


async def _matrix(tally: Tally) -> None:
    events = Events()
    logger = logging.getLogger("frys_node")
    logger.addHandler(events)
    propagates, logger.propagate = logger.propagate, False
    # Rows of one label follow one another faster than their events are let into the log.
    pause_s, log_limit.LOG_EVERY_S = log_limit.LOG_EVERY_S, -1.0
    try:
        async with _node() as node:
            forge = Forge(node.identity)
            expelled = forge.member()
            node.channel.revoke(expelled.node)
            rows = [
                *_accepting_rows(forge),
                Row("expelled", "revoked", _come_as(expelled)),
                *_dialling_rows(forge),
                Row("dialled: itself", "self", _meet_itself),
                Row("a member at the end", "", _enter(node.identity, forge.member())),
            ]
            for row in rows:
                problem = await _try(node, row, events)
                tally.check(not problem, f"{row.name}: {problem}")
            labels = sorted({row.label for row in rows if row.label})
            tally.notes.append(f"labels: {', '.join(labels)}")
    finally:
        log_limit.LOG_EVERY_S = pause_s
        logger.removeHandler(events)
        logger.propagate = propagates


def downgrades() -> list[Tally]:
    """Every row."""
    tally = Tally("downgrade matrix", "attempts")
    trio.run(_matrix, tally)
    return [tally]

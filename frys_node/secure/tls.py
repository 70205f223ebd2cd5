"""TLS 1.3 with X25519MLKEM768 and AES-256-GCM, and nothing else (D1), as a `Stream` over any other `Stream`.

pyOpenSSL over memory buffers, on the OpenSSL that `cryptography` bundles: Python's own `ssl` can neither pin nor show
the key exchange group. Two protocols share one listener and are told apart by ALPN: ``frys/1`` (both sides show a
certificate of the cluster's authority) and ``frys-join/1`` (the server's certificate only; token exchange only). What
the handshake agreed on is checked again afterwards in `gate`, so that the channel fails closed should the pinning
below ever stop working.

Traps that this file knows: OpenSSL takes at most one record (16 KiB) per write, so writes loop; an end of the byte
stream without close_notify is a truncation and therefore an error, never an end.
"""

from __future__ import annotations

import warnings
from typing import Final, cast

import trio
from cryptography.hazmat.bindings.openssl.binding import Binding
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL, crypto

from frys_node.base.ports import Stream
from frys_node.secure.errors import ClassicalOnly, HandshakeRefused, NotTls
from frys_node.secure.identity import Identity
from frys_node.secure.posture import TLS_CIPHER, TLS_GROUP, TLS_VERSION
from frys_node.secure.signing_keys import PrivateKey, key_pem

ALPN_CHANNEL: Final = b"frys/1"
ALPN_JOIN: Final = b"frys-join/1"
GROUP: Final = TLS_GROUP
CIPHER: Final = TLS_CIPHER
VERSION: Final = TLS_VERSION
EXPORTER_JOIN: Final = b"EXPORTER-frys-join"
EXPORTER_RETURN: Final = b"EXPORTER-frys-return"

HANDSHAKE_BYTES_MAX = 65_536
"""What a side may send before it is authenticated."""

_HANDSHAKE_READ_BYTES = 8_192
"""Read at a time until then: what a client sends right behind its last message must not count as the handshake's."""

_PIECE_BYTES = 262_144
_READ_BYTES = 65_536
_RECORD_BYTES = 16_384
_HEADER_BYTES = 5
_CLOSE_S = 0.25
_MODE_NO_AUTO_CHAIN = 8
"""SSL_MODE_NO_AUTO_CHAIN: the authority's certificate is known to both sides and need not travel."""

_VERIFY_EXPIRED = 10
_VERIFY_REASONS = {9: "expired", 10: "expired", 18: "self_signed", 26: "eku", 47: "san", 48: "san"}

_ERROR_REASONS = (
    ("no suitable key share", "group"),
    ("no shared group", "group"),
    ("no suitable groups", "group"),
    ("unsupported protocol", "tls_version"),
    ("protocol version", "tls_version"),
    ("wrong ssl version", "tls_version"),
    ("no shared cipher", "cipher"),
    ("no application protocol", "alpn"),
    ("peer did not return a certificate", "no_certificate"),
    ("certificate required", "no_certificate"),
    ("alert bad certificate", "peer_refused"),
    ("alert unknown ca", "peer_refused"),
    # Of another cluster whose authority has the same name: the signature is what does not fit.
    ("alert decrypt error", "peer_refused"),
    ("alert certificate", "peer_refused"),
    ("alert unsupported certificate", "peer_refused"),
    ("certificate verify failed", "chain"),
    ("wrong version number", "not_tls"),
    ("http request", "not_tls"),
    ("https proxy request", "not_tls"),
    ("packet length too long", "not_tls"),
    ("bad record type", "not_tls"),
    ("record layer failure", "not_tls"),
    ("unexpected message", "not_tls"),
)


class HandshakeNotes:
    """What callbacks saw during one handshake; hangs on its connection."""

    __slots__ = ("alpn", "verify_error")

    def __init__(self) -> None:
        self.alpn: bytes | None = None
        self.verify_error = 0


def _select_alpn(connection: SSL.Connection, offered: list[bytes]) -> bytes | SSL._NoOverlappingProtocols:
    """Choose the protocol; only ``frys-join/1`` is excused from showing a certificate."""
    notes = cast("HandshakeNotes", connection.get_app_data())
    if ALPN_CHANNEL in offered:
        notes.alpn = ALPN_CHANNEL
        return ALPN_CHANNEL
    if ALPN_JOIN in offered:
        notes.alpn = ALPN_JOIN
        connection.set_verify(SSL.VERIFY_NONE)
        return ALPN_JOIN
    return SSL.NO_OVERLAPPING_PROTOCOLS


def _verify(connection: SSL.Connection, _certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
    """Note why a chain fails. An expired member is let through to the gate, which knows the grace period."""
    if error:
        cast("HandshakeNotes", connection.get_app_data()).verify_error = error
    return bool(ok) or (error == _VERIFY_EXPIRED and depth == 0)


def new_context() -> SSL.Context:
    """Return a context pinned to the profile, without keys.

    Raises:
        ClassicalOnly: This installation's OpenSSL cannot do the post-quantum group.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_max_proto_version(SSL.TLS1_3_VERSION)
    context.set_tls13_ciphersuites(CIPHER.encode())
    # pyOpenSSL has no public call for this yet; the gate checks the group of every connection again.
    if Binding().lib.SSL_CTX_set1_curves_list(context._context, GROUP.encode()) != 1:  # noqa: SLF001
        raise ClassicalOnly(
            f"the OpenSSL of this installation has no {GROUP}", hint="pip install 'cryptography>=50' from its own wheel"
        )
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_mode(_MODE_NO_AUTO_CHAIN)
    return context


class TlsProfile:
    """The contexts of one identity."""

    __slots__ = ("client", "server")

    def __init__(self, identity: Identity) -> None:
        self.server: SSL.Context
        self.client: SSL.Context
        self.renew(identity)

    def renew(self, identity: Identity) -> None:
        """Use the identity's present certificate and authorities for connections to come."""
        self.server = _member_context(identity)
        self.server.set_alpn_select_callback(_select_alpn)
        self.client = _member_context(identity)
        self.client.set_alpn_protos([ALPN_CHANNEL])


def _member_context(identity: Identity) -> SSL.Context:
    context = new_context()
    _use_key(context, identity.key)
    context.use_certificate(identity.certificate)
    store = context.get_cert_store()
    assert store is not None
    for authority in identity.authorities:
        store.add_cert(crypto.X509.from_cryptography(authority))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _verify)
    return context


def _use_key(context: SSL.Context, key: PrivateKey) -> None:
    if isinstance(key, Ed25519PrivateKey):
        context.use_privatekey(key)
        return
    # pyOpenSSL 26 does not know ML-DSA keys, and calls the only other way to hand one over deprecated.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, key_pem(key).encode()))


def join_context() -> SSL.Context:
    """Return the client context of a node without a certificate; the join itself checks the server's."""
    context = new_context()
    context.set_verify(SSL.VERIFY_NONE)
    context.set_alpn_protos([ALPN_JOIN])
    return context


class RecordCount:
    """Finds the records in a byte stream by their headers (RFC 8446, 5.1), without looking inside."""

    __slots__ = ("_head", "_missing")

    def __init__(self) -> None:
        self._head = b""
        """The beginning of a header whose rest has not arrived."""
        self._missing = 0
        """Bytes of the current record that have not arrived."""

    def take(self, data: bytes) -> bool:
        """Count bytes that arrived; True if they are exactly one record and nothing was open before them."""
        if not (self._missing or self._head) and len(data) - _HEADER_BYTES == int.from_bytes(data[3:_HEADER_BYTES]):
            return True
        position = self._missing
        if self._head:
            data, self._head = self._head + data, b""
        while position + _HEADER_BYTES <= len(data):
            position += _HEADER_BYTES + int.from_bytes(data[position + 3 : position + _HEADER_BYTES])
        self._missing = max(0, position - len(data))
        self._head = data[position:]
        return False


class TlsStream:
    """`Stream` of plain bytes over a `Stream` of TLS records. One sender and one receiver at a time."""

    __slots__ = (
        "_connection",
        "_early",
        "_has_ended",
        "_has_rest",
        "_is_broken",
        "_is_sending",
        "_may_hold_more",
        "_records",
        "_transport",
        "_turns",
        "handshake_bytes",
        "notes",
    )

    def __init__(
        self,
        transport: Stream,
        context: SSL.Context,
        *,
        server: bool,
        early: bytes = b"",
        turns: trio.CapacityLimiter | None = None,
    ) -> None:
        """`early` is what was read of the transport already; those who share `turns` shake hands one after another."""
        self._early = early
        self._turns = turns
        self._transport = transport
        self._connection = SSL.Connection(context, None)
        self.notes = HandshakeNotes()
        self._connection.set_app_data(self.notes)
        if server:
            self._connection.set_accept_state()
        else:
            self._connection.set_connect_state()
        self._records = RecordCount()
        self.handshake_bytes = 0
        """What the other side sent during the handshake."""
        # The last bytes of the handshake may carry the first of the application.
        self._may_hold_more = True
        self._has_ended = False
        self._is_broken = False
        self._is_sending = False
        self._has_rest = False

    @property
    def transport(self) -> Stream:
        """What the records travel over."""
        return self._transport

    @property
    def connection(self) -> SSL.Connection:
        """The OpenSSL connection, for the gate and the exporter."""
        return self._connection

    async def handshake(self) -> None:
        """Shake hands; the caller's cancel scope bounds the wait.

        Raises:
            HandshakeRefused: With the reason as its metric label. The transport is left for the caller to close.
        """
        while True:
            try:
                is_done = await self._shake()
            except SSL.Error as error:
                await self._flush_alert()
                raise self._refusal(error) from error
            try:
                await self._flush(0)
            except trio.BrokenResourceError as error:
                raise HandshakeRefused("reset", "the connection broke during the handshake") from error
            if is_done:
                return
            data = await self._receive_handshake()
            self.handshake_bytes += len(data)
            if self.handshake_bytes > HANDSHAKE_BYTES_MAX:
                raise HandshakeRefused("bytes_cap", "the other side sent too much before it was authenticated")
            self._records.take(data)
            self._connection.bio_write(data)

    async def _shake(self) -> bool:
        """Go on with the handshake as far as what was received allows; True if it is done.

        A step of it takes half a millisecond. A burst of connections must not have all of theirs in one pass of the
        event loop, in which everybody else's work waits for them.
        """
        if self._turns is not None:
            await self._turns.acquire()
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        finally:
            if self._turns is not None:
                self._turns.release()
        return True

    async def _receive_handshake(self) -> bytes:
        if self._early:
            early, self._early = self._early, b""
            return early
        try:
            # One byte over the limit shows that it is passed; more than that is not even read.
            left = 1 + HANDSHAKE_BYTES_MAX - self.handshake_bytes
            data = await self._transport.receive_some(min(_HANDSHAKE_READ_BYTES, left))
        except trio.BrokenResourceError as error:
            raise HandshakeRefused("reset", "the connection broke during the handshake") from error
        if not data:
            raise HandshakeRefused("eof", "the connection ended during the handshake")
        return data

    def _refusal(self, error: SSL.Error) -> HandshakeRefused:
        """Translate OpenSSL's error into a reason."""
        entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
        text = "; ".join(str(entry[2]) for entry in entries).lower()
        reason = next((label for part, label in _ERROR_REASONS if part in text), "handshake")
        if reason == "chain":
            reason = _VERIFY_REASONS.get(self.notes.verify_error, "chain")
        if reason == "no_certificate" and self.notes.alpn is None:
            # OpenSSL has no way to refuse an unknown protocol from Python; the missing certificate ends it anyway.
            reason = "alpn"
        return HandshakeRefused(reason, f"the TLS handshake failed: {text or error!r}")

    async def send_all(self, data: bytes) -> None:
        """Encrypt and send everything.

        Raises:
            trio.BrokenResourceError: The connection is gone, or an earlier send was cut off in the middle.
        """
        if self._is_broken:
            raise trio.BrokenResourceError("an earlier send was cut off")
        if self._has_rest:
            await self._transmit(b"")
            self._has_rest = False
        view = memoryview(data)
        for start in range(0, len(view), _PIECE_BYTES):
            piece = view[start : start + _PIECE_BYTES]
            self._encrypt(piece)
            await self._flush(len(piece))

    def send_nowait(self, data: bytes) -> bool:
        """Encrypt everything and send what goes at once; see `Stream.send_nowait`."""
        if self._is_broken:
            raise trio.BrokenResourceError("an earlier send was cut off, or is not finished")
        if self._has_rest:
            raise trio.BusyResourceError("another send on this stream is not finished")
        self._encrypt(memoryview(data))
        self._has_rest = not self._transport.send_nowait(self._made(len(data)))
        return not self._has_rest

    def unacknowledged_bytes(self) -> int | None:
        """How many bytes of records the peer's kernel has not acknowledged; see `Stream.unacknowledged_bytes`."""
        return self._transport.unacknowledged_bytes()

    def _encrypt(self, piece: memoryview) -> None:
        sent = 0
        try:
            while sent < len(piece):
                sent += self._connection.send(piece[sent:])
        except SSL.Error as error:
            self._is_broken = True
            raise trio.BrokenResourceError("TLS refused to send") from error

    async def _flush(self, plain_bytes: int) -> None:
        """Send the records that OpenSSL has made; `plain_bytes` is about how much they hold."""
        if records := self._made(plain_bytes):
            await self._transmit(records)

    async def _transmit(self, records: bytes) -> None:
        # Records that are half on the wire cannot be taken back: whatever interrupts the send ends the stream.
        self._is_broken = self._is_sending = True
        await self._transport.send_all(records)
        self._is_broken = self._is_sending = False

    def _made(self, plain_bytes: int) -> bytes:
        """Return the records that OpenSSL has made; `plain_bytes` is about how much they hold."""
        room = plain_bytes + 64 + 32 * (1 + plain_bytes // _RECORD_BYTES) if plain_bytes else _RECORD_BYTES
        parts: list[bytes] = []
        while True:
            try:
                part = self._connection.bio_read(room)
            except SSL.WantReadError:
                break
            parts.append(part)
            if len(part) < room:
                break
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _flush_alert(self) -> None:
        """Tell the other side why, if it still listens."""
        with trio.move_on_after(_CLOSE_S):
            try:
                await self._flush(0)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self._is_broken = True

    async def receive_some(self, max_bytes: int = _READ_BYTES) -> bytes:
        """Return the plain bytes of what has arrived, ``b""`` after the peer's close_notify.

        Raises:
            trio.BrokenResourceError: The connection broke, was truncated, or its records do not verify.
        """
        if self._may_hold_more:
            plain = self._decrypt(max_bytes)
            if plain:
                await trio.lowlevel.checkpoint()
                return plain
        while not self._has_ended:
            data = await self._transport.receive_some(_READ_BYTES)
            if not data:
                raise trio.BrokenResourceError("the connection ended without close_notify")
            is_one = self._records.take(data)
            self._connection.bio_write(data)
            plain = self._decrypt(max_bytes, is_one=is_one)
            if plain:
                return plain
        await trio.lowlevel.checkpoint()
        return b""

    def _decrypt(self, max_bytes: int, *, is_one: bool = False) -> bytes:
        """Take what can be decrypted, up to `max_bytes`; with `is_one` OpenSSL holds one whole record, no more."""
        parts: list[bytes] = []
        room = max_bytes
        self._may_hold_more = True
        try:
            while room > 0:
                part = self._connection.recv(min(room, _RECORD_BYTES))
                parts.append(part)
                room -= len(part)
                if is_one and max_bytes >= _RECORD_BYTES:
                    # Asking again would only make OpenSSL say so, by an exception that costs more than the record.
                    self._may_hold_more = False
                    break
        except SSL.WantReadError:
            self._may_hold_more = False
        except SSL.ZeroReturnError:
            self._has_ended = True
            self._may_hold_more = False
        except SSL.Error as error:
            raise trio.BrokenResourceError("a TLS record did not verify") from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def aclose(self) -> None:
        """Say close_notify if that is possible at once, then close the transport."""
        if not (self._is_broken or self._is_sending):
            with trio.move_on_after(_CLOSE_S, shield=True):
                try:
                    self._connection.shutdown()
                    await self._flush(0)
                except (SSL.Error, trio.BrokenResourceError, trio.ClosedResourceError):
                    self._is_broken = True
        await self._transport.aclose()

    def export(self, label: bytes, count: int = 32) -> bytes:
        """Return keying material that both ends of this very connection share (RFC 8446, 7.5)."""
        return self._connection.export_keying_material(label, count)


async def connect_tls(transport: Stream, context: SSL.Context) -> TlsStream:
    """Shake hands as a client, and say in plain words what kind of server refused.

    Raises:
        NotTls: The other side answered something else than TLS.
        ClassicalOnly: The other side speaks TLS, but not this profile.
        HandshakeRefused: Any other reason.
    """
    stream = TlsStream(transport, context, server=False)
    try:
        await stream.handshake()
    except HandshakeRefused as error:
        if error.reason == "not_tls":
            raise NotTls(
                "the address answers, but not with TLS: no frys node listens there",
                hint="give the cluster port (7946 by default), not the HTTP port",
            ) from error
        if error.reason in {"tls_version", "group", "cipher"} or "handshake failure" in error.message:
            raise ClassicalOnly(
                f"the server does not speak TLS 1.3 with {GROUP}: it is no frys node, or its cryptography is too old",
                hint="check the address; on a frys node, upgrade it",
            ) from error
        raise
    return stream

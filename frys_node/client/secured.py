"""TLS for the two clients: X25519MLKEM768 only, and the server's certificate checked against the host dialled."""

from __future__ import annotations

import errno
from pathlib import Path

from OpenSSL import SSL

from frys_node.base.errors import ConfigError
from frys_node.base.ports import Stream
from frys_node.base.types import Address
from frys_node.secure.errors import HandshakeRefused
from frys_node.secure.web_certificates import is_literal
from frys_node.secure.web_tls import check_server, client_context
from frys_node.transport.blocking import Wire

PIECE_BYTES = 16_384
"""OpenSSL takes at most one record at a time."""

READ_BYTES = 65_536
FILE_BYTES_MAX = 1 << 20


def context_of(ca: str | None) -> SSL.Context:
    """Return the context of a client that trusts the authorities in a PEM file, or the system's for None.

    Raises:
        ConfigError: The file is unreadable or holds none.
    """
    if ca is None:
        return client_context(None)
    try:
        with Path(ca).open("rb") as file:
            data = file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(
            f"cannot read {ca}: {error.strerror or error}", hint="give ca= the file ca.pem of a node's data directory"
        ) from error
    return client_context(data)


class SecureWire(Wire):
    """A `Wire` with TLS on it. Whatever TLS objects to is an `OSError`, as a broken connection is."""

    __slots__ = ("_host", "_is_shaken", "_pending", "_tls")

    def __init__(self, address: Address, context: SSL.Context) -> None:
        """Begin to connect; see `Wire`."""
        self._host = address.host
        self._tls = SSL.Connection(context, None)
        self._tls.set_connect_state()
        if not is_literal(address.host):
            self._tls.set_tlsext_host_name(address.host.encode("idna"))
        self._is_shaken = False
        self._pending = b""
        super().__init__(address)

    @property
    def is_ready(self) -> bool:
        """True once the handshake is done: nothing of a request has been sent before."""
        return self._is_shaken

    def wants_write(self, has_more: bool) -> bool:
        """True if there is something to send now; before the handshake is done a request is not."""
        return bool(self._pending) or (self._is_shaken and has_more)

    def finish_connect(self) -> bool:
        """See `Wire`; the handshake begins with it."""
        if not super().finish_connect():
            return False
        self._shake()
        return True

    def _shake(self) -> None:
        try:
            self._tls.do_handshake()
        except SSL.WantReadError:
            self._flush()
            return
        except SSL.Error as error:
            self._flush()
            raise OSError(errno.EPROTO, f"the TLS handshake failed: {_reason(error)}") from error
        try:
            check_server(self._tls, self._host)
        except HandshakeRefused as error:
            raise OSError(errno.EPROTO, error.message) from error
        self._is_shaken = True
        self._flush()

    def _flush(self) -> None:
        """Send what OpenSSL has made, as far as the kernel takes it."""
        while True:
            try:
                self._pending += self._tls.bio_read(READ_BYTES)
            except SSL.WantReadError:
                break
        if self._pending:
            self._pending = self._pending[super().send(memoryview(self._pending)) :]

    def send(self, data: memoryview) -> int:
        """Encrypt and send; returns how much of `data` was taken. What the kernel did not take waits here."""
        taken = 0
        self._flush()
        while self._is_shaken and not self._pending and taken < len(data):
            try:
                taken += self._tls.send(data[taken : taken + PIECE_BYTES])
            except SSL.Error as error:
                raise OSError(errno.EPROTO, f"TLS refused to send: {_reason(error)}") from error
            self._flush()
        return taken

    def receive(self) -> bytes | None:
        """See `Wire`; an end without close_notify is a cut answer, and an `OSError`."""
        while True:
            if self._is_shaken:
                try:
                    return self._tls.recv(READ_BYTES)
                except SSL.ZeroReturnError:
                    return b""
                except SSL.WantReadError:
                    self._flush()
                except SSL.Error as error:
                    raise OSError(errno.EPROTO, f"TLS refused what came: {_reason(error)}") from error
            raw = super().receive()
            if raw is None:
                return None
            if not raw:
                raise OSError(errno.ECONNRESET, "the connection ended without close_notify")
            self._tls.bio_write(raw)
            if not self._is_shaken:
                self._shake()


async def secured(transport: Stream, address: Address, context: SSL.Context) -> Stream:
    """Shake hands as a client on trio; the caller's cancel scope bounds it.

    Raises:
        HandshakeRefused: The other side is not whom its address says, or speaks something else.
    """
    from frys_node.secure.tls import TlsStream

    stream = TlsStream(transport, context, server=False)
    if not is_literal(address.host):
        stream.connection.set_tlsext_host_name(address.host.encode("idna"))
    await stream.handshake()
    check_server(stream.connection, address.host)
    return stream


def _reason(error: SSL.Error) -> str:
    entries = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return "; ".join(str(entry[2]) for entry in entries) or type(error).__name__

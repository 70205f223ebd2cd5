"""TLS in front of a plugin's listener: which certificate it shows, and streams over the connections that took it.

A listener with TLS never answers in the clear. Until its certificate is there (the cluster's comes from the issuer),
connections wait for it as they wait for a slow client: up to the time that headers have. Handshakes are each
connection's own affair, so that a slow one holds up nobody.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import trio
from OpenSSL import SSL

from frys_node.base.errors import ConfigError, FrysError
from frys_node.kernel.context import PluginContext
from frys_node.kernel.services.certificates import WEB_CERTIFICATES
from frys_node.observe.log import get_logger
from frys_node.secure.errors import HandshakeRefused
from frys_node.secure.tls import TlsStream
from frys_node.secure.web_tls import server_context
from frys_node.transport.stream import SocketStream

SERVICE_POLL_S = 0.05
"""Pause between looks for the node's channel, which starts after the front."""

RETRY_S = 5.0
"""Pause before the issuer is asked again that did not give a certificate."""

FILES_LOOK_S = 60.0
"""Pause between looks whether the given files have changed."""

FILE_BYTES_MAX = 1 << 20

log = get_logger(__name__)


class TlsSettings(NamedTuple):
    """What a listener shows, and to whom."""

    certificate: str
    """PEM file of a given certificate with its chain; empty for one of the cluster's authority."""
    key: str
    names: tuple[str, ...]
    """Besides the node's own, for the cluster's certificate."""
    is_classical: bool
    option: str
    """The setting that names the file, for the texts of errors."""


class SecureStream:
    """What a connection needs of a stream, over TLS."""

    def __init__(self, stream: TlsStream, transport: SocketStream) -> None:
        self._stream = stream
        self._transport = transport

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return some plain bytes, empty at the peer's close_notify."""
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes) -> None:
        """Send everything."""
        await self._stream.send_all(data)

    def send_nowait(self, data: bytes) -> bool:
        """Take all of it and send what goes at once; see `Stream.send_nowait`."""
        return self._stream.send_nowait(data)

    async def send_eof(self) -> None:
        """Say that nothing more comes; receiving goes on."""
        self._say_goodbye()
        await self._transport.send_eof()

    def close(self) -> None:
        """Close at once, with a close_notify if the kernel takes it: an end without one looks like a cut answer."""
        self._say_goodbye()
        self._transport.close()

    def _say_goodbye(self) -> None:
        connection = self._stream.connection
        try:
            connection.shutdown()
            self._transport.send_nowait(connection.bio_read(4_096))
        except (SSL.Error, trio.BrokenResourceError, trio.BusyResourceError, trio.ClosedResourceError):
            # Said already, in the middle of a record, or nobody is there.
            return


class TlsFront:
    """The certificate of one listener, kept fresh by `run`."""

    def __init__(self, context: PluginContext, settings: TlsSettings, *, listener: str) -> None:
        """`listener` is the beginning of the metric's name, such as ``network``."""
        self._plugin = context
        self._settings = settings
        self._shown: SSL.Context | None = None
        self._is_ready = trio.Event()
        self._changed = trio.Event()
        """Set when the certificate that is shown is of an authority of the past."""
        self._seen: tuple[bytes, bytes] | None = None
        self._refused = context.metrics.counter(
            f"frys_{listener}_tls_refused_total", "TLS handshakes of clients that failed, by reason", ("reason",)
        )

    async def load(self) -> None:
        """Read given files; the cluster's certificate comes later.

        Raises:
            ConfigError: A file is unreadable, readable by others, or no certificate with its key.
        """
        if self._settings.certificate:
            await self._plugin.executor.run(self._read_files)

    def _read_files(self) -> None:
        settings = self._settings
        found = (
            _read(settings.certificate, settings.option, secret=False),
            _read(settings.key, settings.option, secret=True),
        )
        if found != self._seen:
            self._show(*found)
            self._seen = found

    def _show(self, chain_pem: bytes, key_pem: bytes) -> None:
        self._shown = server_context(chain_pem, key_pem, classical=self._settings.is_classical)

    async def secure(self, transport: SocketStream) -> SecureStream:
        """Shake hands; the caller's cancel scope bounds it.

        Raises:
            HandshakeRefused: The client speaks something else, or not this profile.
        """
        await self._is_ready.wait()
        assert self._shown is not None
        stream = TlsStream(transport, self._shown, server=True)
        try:
            await stream.handshake()
        except HandshakeRefused as error:
            self._refused.inc(error.reason)
            raise
        return SecureStream(stream, transport)

    async def run(self) -> None:
        """Have a certificate, and another one in time or of the next authority; connections that stand keep theirs."""
        while True:
            try:
                wait_s = await self._refresh()
                self._is_ready.set()
            except FrysError as error:
                log.error("kernel.certificate_not_renewed", error=error.message, fix=error.hint)
                wait_s = RETRY_S
            with trio.move_on_after(wait_s):
                await self._changed.wait()

    async def _refresh(self) -> float:
        if self._settings.certificate:
            await self._plugin.executor.run(self._read_files)
            return FILES_LOOK_S
        while (service := self._plugin.services.find(WEB_CERTIFICATES)) is None:  # noqa: ASYNC110 (services tell nobody)
            await trio.sleep(SERVICE_POLL_S)
        self._changed = service.changed
        made = await service.obtain(self._settings.names)
        self._show(made.chain_pem, made.key_pem)
        log.info("kernel.certificate_shown", fresh_for_s=round(made.fresh_for_s))
        return max(RETRY_S, made.fresh_for_s)


def _read(name: str, option: str, *, secret: bool) -> bytes:
    path = Path(name)
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            data = file.read(FILE_BYTES_MAX)
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror or error}",
            hint=f"set {option} and its key to PEM files that this user can read",
        ) from error
    if secret and stat.S_ISREG(mode) and mode & 0o007:
        raise ConfigError(f"{path} holds a key and everybody may read it", hint=f"chmod 600 {path}")
    return data

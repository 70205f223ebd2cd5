"""Byte streams over raw non-blocking sockets: try the call first, wait only when it would block (perf.md, section 2).

Every call is a cancellation point; a call that never blocks yields to the other tasks every `SPIN_MAX` times.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
import termios
from typing import NamedTuple

import trio

from frys_node.base.types import Address
from frys_node.transport.addresses import from_sockaddr

SPIN_MAX = 16
"""Calls in a row that may succeed without giving the other tasks a turn."""

ACCEPT_PAUSE_S = 0.1
"""How long `accept` waits when the process is out of file descriptors or the kernel out of memory."""

BACKLOG = 1_024

_WAIT_OUT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_TRY_AGAIN = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH, errno.EINTR})


class PeerCredentials(NamedTuple):
    """Who is at the other end of a unix socket, as the kernel says."""

    pid: int
    uid: int
    gid: int


def address_of(raw: object) -> Address:
    """Return the address of a kernel socket name; a unix socket's path becomes the host, its port is 0."""
    if isinstance(raw, tuple):
        return from_sockaddr(raw)
    return Address(os.fsdecode(raw) if isinstance(raw, bytes) else str(raw), 0)


class SocketStream:
    """`Stream` over a connected TCP or unix socket."""

    __slots__ = ("_is_drained", "_peer", "_reading", "_rest", "_sending", "_sock", "_spins")

    def __init__(self, sock: socket.socket, peer: Address) -> None:
        self._sock = sock
        self._peer = peer
        self._sending = self._reading = False
        self._rest = b""
        self._is_drained = False
        """The last read took everything there was: the next one need not try."""
        self._spins = 0
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    @property
    def local_address(self) -> Address:
        """This end."""
        return address_of(self._sock.getsockname())

    @property
    def peer_address(self) -> Address:
        """The other end, as it was when the connection was made."""
        return self._peer

    @property
    def socket(self) -> socket.socket:
        """The raw socket, for kernel facts such as TCP_INFO; nobody else reads from it or writes to it."""
        return self._sock

    def peer_credentials(self) -> PeerCredentials | None:
        """Who connected, on a unix socket; None on TCP."""
        if self._sock.family != socket.AF_UNIX:
            return None
        raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        return PeerCredentials(*struct.unpack("3i", raw))

    async def _turn(self) -> None:
        """Be a cancellation point, and every `SPIN_MAX` calls a scheduling point."""
        self._spins += 1
        if self._spins >= SPIN_MAX:
            self._spins = 0
            await trio.lowlevel.checkpoint()
        else:
            await trio.lowlevel.checkpoint_if_cancelled()

    def _check_open(self) -> None:
        if self._sock.fileno() < 0:
            raise trio.ClosedResourceError("this stream is closed")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything; raises `trio.BrokenResourceError` when the peer is gone.

        A cancelled send may have sent a part: the stream is then of no more use.
        """
        self._check_open()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await self._turn()
            self._check_open()
            if self._rest:
                data, self._rest = b"".join((self._rest, data)), b""
            sent = self._send(data)
            if sent == len(data):
                return
            view = memoryview(data)
            while sent < len(view):
                await trio.lowlevel.wait_writable(self._sock)
                self._spins = 0
                sent += self._send(view[sent:])
        finally:
            self._sending = False

    def send_nowait(self, data: bytes) -> bool:
        """Take all of `data` and send what the kernel takes at once; see `Stream.send_nowait`."""
        self._check_open()
        if self._sending or self._rest:
            raise trio.BusyResourceError("another send on this stream is not finished")
        sent = self._send(data)
        self._rest = data[sent:]
        return not self._rest

    def _send(self, data: bytes | bytearray | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise trio.BrokenResourceError(f"{self._peer}: {error.strerror or error}") from error

    def unacknowledged_bytes(self) -> int | None:
        """How much was sent that the peer's kernel has not acknowledged; None on a unix socket or a closed one.

        What waits in this side's kernel counts too. Linux only: elsewhere it is never known.
        """
        if sys.platform != "linux" or self._sock.fileno() < 0 or self._sock.family == socket.AF_UNIX:
            return None
        raw = fcntl.ioctl(self._sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        return int.from_bytes(raw, sys.byteorder) + len(self._rest)

    async def receive_some(self, max_bytes: int = 65_536) -> bytes:
        """Return some bytes, or ``b""`` at the peer's orderly end."""
        self._check_open()
        if self._reading:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._reading = True
        try:
            await self._turn()
            self._check_open()
            if self._is_drained:
                await trio.lowlevel.wait_readable(self._sock)
                self._spins = 0
            while True:
                try:
                    data = self._sock.recv(max_bytes)
                    self._is_drained = len(data) < max_bytes
                    return data
                except BlockingIOError:
                    await trio.lowlevel.wait_readable(self._sock)
                    self._spins = 0
                except OSError as error:
                    raise trio.BrokenResourceError(f"{self._peer}: {error.strerror or error}") from error
        finally:
            self._reading = False

    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes; receiving goes on."""
        self._check_open()
        await trio.lowlevel.checkpoint()
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            raise trio.BrokenResourceError(f"{self._peer}: {error.strerror or error}") from error

    async def aclose(self) -> None:
        """Close at once; waiting calls raise `trio.ClosedResourceError`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close at once, without a checkpoint."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()


class SocketListener:
    """`StreamListener` over a listening TCP or unix socket."""

    __slots__ = ("_address", "_sock", "accept_pauses")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._address = address_of(sock.getsockname())
        self.accept_pauses = 0
        """Times that `accept` had to wait because the process was out of file descriptors."""

    @property
    def address(self) -> Address:
        """The bound local address, with the real port."""
        return self._address

    async def accept(self) -> tuple[SocketStream, Address]:
        """Wait for the next connection; a lack of file descriptors and aborted handshakes are waited out inside."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._sock.fileno() < 0:
                raise trio.ClosedResourceError("this listener is closed")
            try:
                # CPython accepts with accept4(SOCK_CLOEXEC); only non-blocking mode is left to set.
                sock, raw = self._sock.accept()
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._sock)
                continue
            except OSError as error:
                if error.errno in _WAIT_OUT:
                    self.accept_pauses += 1
                    await trio.sleep(ACCEPT_PAUSE_S)
                    continue
                if error.errno in _TRY_AGAIN:
                    await trio.lowlevel.checkpoint()
                    continue
                raise
            sock.setblocking(False)
            try:
                peer = address_of(raw)
                return SocketStream(sock, peer), peer
            except OSError:
                # The peer reset the connection between accept and setsockopt.
                sock.close()

    async def aclose(self) -> None:
        """Stop listening; a pending `accept` raises `trio.ClosedResourceError`."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
        await trio.lowlevel.checkpoint()

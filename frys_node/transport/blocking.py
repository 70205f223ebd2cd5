"""Sockets for a program without an event loop: several connections at a time, driven by one thread.

The blocking client uses them (`frys_node.client`); a node never does. Importing this module does not load trio.
"""

from __future__ import annotations

import errno
import os
import selectors
import socket
import time
from collections.abc import Iterable

from frys_node.base.types import Address
from frys_node.transport.addresses import SockAddr, family_of, open_socket, sockaddr

READ_BYTES = 262_144


def now_s() -> float:
    """Monotonic seconds."""
    return time.monotonic()


def resolve(address: Address) -> list[tuple[int, SockAddr]]:
    """Return the kernel's addresses of a literal or a name, IPv4 first. A name waits for the resolver."""
    family = family_of(address.host)
    literal = sockaddr(address, family)
    if literal is not None:
        return [(family, literal)]
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return sorted({(int(family), raw) for family, _, _, _, raw in found}, key=lambda pair: (pair[0], pair[1]))


class Wire:
    """One TCP connection, non-blocking. `OSError` from any call: it is of no more use."""

    __slots__ = ("_sock", "_targets", "is_connected")

    def __init__(self, address: Address) -> None:
        """Begin to connect.

        Raises:
            OSError: The name has no address, or each of them refuses at once.
        """
        self._targets = resolve(address)
        self.is_connected = False
        self._sock: socket.socket
        if not self._targets:
            raise OSError(errno.EHOSTUNREACH, f"the name '{address.host}' has no address")
        self._next_target()

    def _next_target(self) -> None:
        while True:
            family, target = self._targets.pop(0)
            self._sock = open_socket(family, socket.SOCK_STREAM)
            self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            number = self._sock.connect_ex(target)
            if number in (0, errno.EINPROGRESS):
                return
            self._sock.close()
            if not self._targets:
                raise OSError(number, os.strerror(number))

    @property
    def is_ready(self) -> bool:
        """True once requests can be sent."""
        return self.is_connected

    def wants_write(self, has_more: bool) -> bool:
        """True if it should be watched for room to write, the caller having more to send or not."""
        return has_more

    def fileno(self) -> int:
        """The descriptor, for `Poller`; it changes while a name's addresses are tried."""
        return self._sock.fileno()

    def finish_connect(self) -> bool:
        """Take note that the socket is writable: True if it is connected now, else its next address is tried."""
        number = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if not number and self._sock.getsockname() == self._sock.getpeername():
            number = errno.ECONNREFUSED  # a loopback connect to a free ephemeral port has met itself
        if not number:
            self.is_connected = True
            return True
        self._sock.close()
        if not self._targets:
            raise OSError(number, os.strerror(number))
        self._next_target()
        return False

    def send(self, data: memoryview) -> int:
        """Send what the kernel takes now; returns how much that was."""
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    def receive(self) -> bytes | None:
        """Return what is there, empty at the other side's end, None when nothing is there."""
        try:
            return self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return None

    def is_quiet(self) -> bool:
        """True while the other side has neither closed nor sent anything."""
        return is_quiet(self._sock)

    def close(self) -> None:
        """Close at once."""
        self._sock.close()


def is_quiet(sock: socket.socket) -> bool:
    """True while the other side of a non-blocking socket has neither closed nor sent anything."""
    try:
        sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


class Poller:
    """Waits for several wires."""

    def __init__(self) -> None:
        self._open: selectors.BaseSelector | None = None

    @property
    def _selector(self) -> selectors.BaseSelector:
        """The kernel's queue, made when it is needed: a client that is closed holds no descriptor."""
        if self._open is None:
            self._open = selectors.DefaultSelector()
        return self._open

    def watch(self, wire: Wire, *, writing: bool) -> None:
        """Wait for a wire: to be readable once it is connected, and to be writable if there is more to write."""
        events = (selectors.EVENT_READ if wire.is_connected else 0) | (selectors.EVENT_WRITE if writing else 0)
        number = wire.fileno()
        if number in self._selector.get_map():
            self._selector.modify(number, events, wire)
        else:
            self._selector.register(number, events, wire)

    def forget(self, wire: Wire) -> None:
        """Wait for a wire no more; before it is closed."""
        number = wire.fileno()
        if number >= 0 and number in self._selector.get_map():
            self._selector.unregister(number)

    def wait(self, timeout_s: float) -> Iterable[Wire]:
        """Return the wires that something can be done with, none after the timeout."""
        return [key.data for key, _ in self._selector.select(max(0.0, timeout_s))]

    def close(self) -> None:
        """Give the descriptor back."""
        if self._open is not None:
            self._open.close()
            self._open = None

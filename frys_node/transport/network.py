"""Opens sockets: TCP, UDP and unix, IPv4 and IPv6."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from frys_node.base.types import Address
from frys_node.transport.addresses import SockAddr, family_of, from_sockaddr, has_ipv6, open_socket, sockaddr, to_bind
from frys_node.transport.datagram import UdpSocket, bind_udp
from frys_node.transport.errors import AddressInUse, AddressRefused, bind_failed, connect_failed, connect_reason
from frys_node.transport.stream import BACKLOG, SocketListener, SocketStream

if TYPE_CHECKING:
    from frys_node.transport.dns import Resolver

ATTEMPT_S = 4.0
"""How long one address of several may keep a connect waiting before the next one is tried."""

UNIX_PATH_BYTES_MAX = 107
"""Linux's limit on the path of a unix socket."""


class SystemNetwork:
    """`Network` of a running node."""

    __slots__ = ("_resolver",)

    def __init__(self, resolver: Resolver | None = None) -> None:
        """Take how services are looked up; None: as ``/etc/resolv.conf`` says."""
        self._resolver = resolver

    async def listen(self, address: Address) -> SocketListener:
        """Bind a TCP listener to a literal address; port 0 takes a free one, ``[::]`` is both families.

        Raises:
            AddressInUse: The port is taken. Nothing was bound.
            AddressRefused: The address is not one of this machine, or the right is missing. Nothing was bound.
        """
        await trio.lowlevel.checkpoint()
        address = to_bind(address, is_ipv6_there=has_ipv6())
        family = family_of(address.host)
        local = sockaddr(address, family)
        if local is None:
            raise AddressRefused(f"'{address.host}' is not a literal address", hint="bind an IP such as 0.0.0.0")
        try:
            sock = open_socket(family, socket.SOCK_STREAM)
        except OSError as error:
            raise bind_failed(address, "TCP", error) from error
        try:
            # Without it a restarted node cannot bind its port while old connections linger in TIME_WAIT.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(local)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise bind_failed(address, "TCP", error) from error
        return SocketListener(sock)

    async def connect(self, address: Address) -> SocketStream:
        """Connect by TCP to a name, a service or a literal; each address of a name is tried in order.

        Raises:
            ConnectFailed: The last address's reason. Nothing was sent.
        """
        targets = await self._targets(address)
        if not targets:
            raise connect_failed(address, "unresolved", f"the name '{address.host}' has no address")
        failure: OSError | None = None
        for number, (family, target) in enumerate(targets, 1):
            with trio.move_on_after(ATTEMPT_S if number < len(targets) else float("inf")):
                try:
                    return await _connect(family, target)
                except OSError as error:
                    failure = error
        reason = connect_reason(failure.errno) if failure else "timeout"
        detail = (failure.strerror or str(failure)) if failure else "no answer"
        raise connect_failed(address, reason, detail) from failure

    async def _targets(self, address: Address) -> list[tuple[int, SockAddr]]:
        """Kernel addresses to try: the literal itself, or what the name resolves to."""
        family = family_of(address.host)
        literal = sockaddr(address, family)
        if literal is not None:
            return [(family, literal)]
        if address.is_service:
            literals = await self.resolve_service(address.host)
        else:
            literals = [Address(host, address.port) for host in await self.resolve(address.host)]
        targets: list[tuple[int, SockAddr]] = []
        for each in literals:
            found = sockaddr(each, family_of(each.host))
            if found is not None:
                targets.append((family_of(each.host), found))
        return targets

    async def bind(self, address: Address) -> UdpSocket:
        """Bind a UDP socket; see `bind_udp`."""
        await trio.lowlevel.checkpoint()
        return bind_udp(address)

    async def resolve(self, host: str) -> Sequence[str]:
        """Resolve a name to literal addresses, IPv4 first, each once, in a stable order; empty when there is none."""
        try:
            found = await trio.socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            return ()
        hosts = {from_sockaddr(raw).host for _, _, _, _, raw in found}
        return sorted(hosts, key=lambda literal: (":" in literal, literal))

    async def resolve_service(self, name: str) -> Sequence[Address]:
        """Resolve a name's SRV records to literal addresses, by priority, then weight; empty when there is none."""
        from frys_node.transport.services import lookup

        found: dict[Address, None] = {}
        for target in await lookup(self, name, self._resolver):
            for host in await self.resolve(target.host):
                found[Address(host, target.port)] = None
        return list(found)

    async def listen_unix(self, path: Path) -> SocketListener:
        """Listen on a unix socket, mode 0600; a stale socket file is replaced.

        Raises:
            AddressInUse: A process answers on it. Nothing was bound.
            AddressRefused: The path is too long, is not a socket, or cannot be made. Nothing was bound.
        """
        await trio.lowlevel.checkpoint()
        text = _unix_path(path)
        address = Address(text, 0)
        sock = open_socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            _remove_stale(path)
            mask = os.umask(0o177)
            try:
                sock.bind(text)
            finally:
                os.umask(mask)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            raise bind_failed(address, "unix socket", error) from error
        except BaseException:
            sock.close()
            raise
        return SocketListener(sock)

    async def connect_unix(self, path: Path) -> SocketStream:
        """Connect to a unix socket; `ConnectFailed` when nobody listens on it."""
        await trio.lowlevel.checkpoint()
        text = _unix_path(path)
        sock = open_socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(text)
        except OSError as error:
            sock.close()
            reason = "refused" if isinstance(error, FileNotFoundError) else connect_reason(error.errno)
            raise connect_failed(Address(text, 0), reason, error.strerror or str(error)) from error
        return SocketStream(sock, Address(text, 0))


async def _connect(family: int, target: SockAddr) -> SocketStream:
    """Connect one socket; raises `OSError`."""
    sock = open_socket(family, socket.SOCK_STREAM)
    try:
        try:
            sock.connect(target)
        except BlockingIOError:
            await trio.lowlevel.wait_writable(sock)
            number = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                raise OSError(number, os.strerror(number)) from None
        else:
            await trio.lowlevel.checkpoint()
        if sock.getsockname() == sock.getpeername():
            # A loopback connect to a free ephemeral port can meet itself; nobody listens there.
            raise ConnectionRefusedError(111, "nobody listens there")
        return SocketStream(sock, from_sockaddr(target))
    except BaseException:
        sock.close()
        raise


def _unix_path(path: Path) -> str:
    text = str(path)
    if len(os.fsencode(text)) > UNIX_PATH_BYTES_MAX:
        raise AddressRefused(
            f"the socket path '{text}' is over {UNIX_PATH_BYTES_MAX} bytes", hint="choose a shorter --data-dir"
        )
    return text


def _remove_stale(path: Path) -> None:
    """Remove a socket file that nobody answers on; nothing happens when there is none."""
    if not os.path.lexists(path):
        return
    if not stat.S_ISSOCK(path.lstat().st_mode):
        raise AddressRefused(f"'{path}' exists and is not a socket", hint="move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except BlockingIOError:
            raise AddressInUse(f"a process listens on '{path}'", hint="stop it first") from None
        else:
            raise AddressInUse(f"a process listens on '{path}'", hint="stop it first")

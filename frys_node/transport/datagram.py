"""UDP as a raw non-blocking socket, drained in batches: half of trio's per-packet cost (perf.md, section 2)."""

from __future__ import annotations

import socket

import trio

from frys_node.base.types import Address
from frys_node.transport.addresses import family_of, from_sockaddr, has_ipv6, open_socket, sockaddr, to_bind
from frys_node.transport.errors import AddressRefused, bind_failed

BATCH_MAX = 64
"""Packets returned by one `receive` at most, so that a flood cannot hold the loop."""

PACKET_BYTES_MAX = 65_535
BUFFER_BYTES = 1 << 20
"""Kernel buffer asked for, in each direction; the kernel may grant less."""


class UdpSocket:
    """`Datagram` over UDP."""

    __slots__ = ("_address", "_family", "_sock", "send_errors")

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._family = sock.family
        self._address = from_sockaddr(sock.getsockname())
        self.send_errors = 0
        """Packets that the kernel refused or whose destination is no literal of this family."""

    @property
    def address(self) -> Address:
        """The bound local address, with the real port."""
        return self._address

    def send(self, payload: bytes, destination: Address) -> bool:
        """Send at once; False if the kernel refused or the destination is not a literal address."""
        target = sockaddr(destination, self._family)
        if target is not None:
            try:
                self._sock.sendto(payload, target)
            except OSError:
                # A full buffer, an unreachable network, a packet over the limit or a closed socket: all are loss.
                self.send_errors += 1
                return False
            return True
        self.send_errors += 1
        return False

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for packets and return 1 to 64 of them."""
        while True:
            if self._sock.fileno() < 0:
                raise trio.ClosedResourceError("this socket is closed")
            # Always through the loop: a flood of packets must not starve the other tasks.
            await trio.lowlevel.wait_readable(self._sock)
            packets: list[tuple[bytes, Address]] = []
            receive, append = self._sock.recvfrom, packets.append
            try:
                while len(packets) < BATCH_MAX:
                    payload, source = receive(PACKET_BYTES_MAX)
                    append((payload, from_sockaddr(source)))
            except BlockingIOError:
                pass
            except ConnectionError:
                # A late ICMP refusal of an earlier send; it says nothing about what waits to be read.
                self.send_errors += 1
            if packets:
                return packets

    async def aclose(self) -> None:
        """Close; a pending `receive` raises `trio.ClosedResourceError`."""
        if self._sock.fileno() >= 0:
            trio.lowlevel.notify_closing(self._sock)
            self._sock.close()
        await trio.lowlevel.checkpoint()


def bind_udp(address: Address) -> UdpSocket:
    """Bind a UDP socket to a literal address; ``[::]`` is both families.

    Raises:
        AddressInUse: The port is taken. Nothing was bound.
        AddressRefused: The address is not a literal of this machine, or the right is missing. Nothing was bound.
    """
    address = to_bind(address, is_ipv6_there=has_ipv6())
    family = family_of(address.host)
    local = sockaddr(address, family)
    if local is None:
        raise AddressRefused(f"'{address.host}' is not a literal address", hint="bind an IP address such as 0.0.0.0")
    try:
        sock = open_socket(family, socket.SOCK_DGRAM)
    except OSError as error:
        raise bind_failed(address, "UDP", error) from error
    try:
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            sock.setsockopt(socket.SOL_SOCKET, option, BUFFER_BYTES)
        sock.bind(local)
    except OSError as error:
        sock.close()
        raise bind_failed(address, "UDP", error) from error
    return UdpSocket(sock)

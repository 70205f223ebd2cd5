"""Socket addresses: literals to what the kernel wants and back, without ever asking a resolver."""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import Any

from frys_node.base.types import Address

SockAddr = tuple[Any, ...]
_MAPPED = "::ffff:"


@lru_cache(maxsize=8_192)
def sockaddr(address: Address, family: int) -> SockAddr | None:
    """Return the kernel's form of a literal address for a socket of `family`, None if it is not such a literal.

    A dual-stack IPv6 socket reaches IPv4 hosts by their mapped form.
    """
    host = address.host
    if family == socket.AF_INET6 and ":" not in host:
        host = _MAPPED + host
    try:
        found = socket.getaddrinfo(host, address.port, family, 0, 0, socket.AI_NUMERICHOST | socket.AI_NUMERICSERV)
    except (OSError, UnicodeError):
        # A name with an empty or overlong label is refused by the codec, before the kernel sees it.
        return None
    return found[0][4]


@lru_cache(maxsize=8_192)
def _address(host: str, port: int) -> Address:
    return Address(host.removeprefix(_MAPPED) if "." in host else host, port)


def from_sockaddr(raw: SockAddr) -> Address:
    """Return the address of a kernel tuple; mapped IPv4 comes back as plain IPv4, link-local IPv6 keeps its scope."""
    host: str = raw[0]
    if len(raw) == 4 and raw[3] and "%" not in host:
        host = f"{host}%{raw[3]}"
    return _address(host, raw[1])


def family_of(host: str) -> int:
    """Return the socket family of a literal."""
    return socket.AF_INET6 if ":" in host else socket.AF_INET


@lru_cache(maxsize=1)
def has_ipv6() -> bool:
    """True if this kernel has IPv6 at all; it may have it without a single address."""
    try:
        socket.socket(socket.AF_INET6, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC).close()
    except OSError:
        return False
    return True


def to_bind(address: Address, *, is_ipv6_there: bool) -> Address:
    """Return what to bind for an address: ``[::]``, all of both families, is all of IPv4 where there is no IPv6."""
    return Address("0.0.0.0", address.port) if address.host == "::" and not is_ipv6_there else address  # noqa: S104


def open_socket(family: int, kind: int) -> socket.socket:
    """Open a non-blocking socket, closed on exec; an IPv6 one also serves IPv4."""
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    return sock

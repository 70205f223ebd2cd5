"""Which of this machine's addresses others would reach it by."""

from __future__ import annotations

import socket

from frys_node.base.types import Address
from frys_node.transport.addresses import family_of, from_sockaddr, sockaddr

LOOPBACK = "127.0.0.1"

_FAR_AWAY = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Addresses of documentation (RFC 5737, RFC 3849): connecting a UDP socket sends nothing, it only picks the route."""


def default_route_host(*, is_ipv6_bound: bool = False) -> str:
    """Return the address of the default route's interface, loopback if there is none.

    IPv4 first; IPv6 only if `is_ipv6_bound`: an address that nobody listens on is of no use to others.
    """
    for family, far_away in _FAR_AWAY[: 2 if is_ipv6_bound else 1]:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((far_away, 9))
                host: str = probe.getsockname()[0]
                return host
        except OSError:
            continue
    return LOOPBACK


def host_towards(peer: Address, *, default: str, is_ipv6_bound: bool = False) -> str:
    """Return the address of this machine by which it reaches a peer, `default` if there is no way or no literal.

    A peer on this very machine is reached by loopback, which means nothing to others; so there the default stays, as
    long as the peer can send to it at all: a socket that is bound to ``::1`` has no IPv4.
    """
    family = family_of(peer.host)
    target = sockaddr(peer, family)
    if target is None or (family == socket.AF_INET6 and not is_ipv6_bound):
        return default
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(target)
            host = from_sockaddr(probe.getsockname()).host
    except OSError:
        return default
    is_loopback = host == "::1" or host.startswith("127.")
    return default if is_loopback and family_of(default) == family else host

"""Which of this machine's addresses others would reach it by."""

from __future__ import annotations

import socket

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

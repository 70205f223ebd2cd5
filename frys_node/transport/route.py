"""Which of this machine's addresses others would reach it by."""

from __future__ import annotations

import socket

LOOPBACK = "127.0.0.1"

_FAR_AWAY = ("192.0.2.1", 9)
"""TEST-NET-1 (RFC 5737): connecting a UDP socket sends nothing, it only picks the route."""


def default_route_host() -> str:
    """Return the address of the default route's interface, loopback if there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(_FAR_AWAY)
        except OSError:
            return LOOPBACK
        host: str = probe.getsockname()[0]
        return host

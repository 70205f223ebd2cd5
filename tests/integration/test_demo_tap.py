"""The observer of the demonstration: what it relays, and that it ends."""

from __future__ import annotations

import socket

from frys_node.demo.cluster import free_port
from frys_node.demo.tap import Tap


def test_a_relay_whose_target_is_gone_goes_on_and_ends() -> None:
    """An error that made a socket readable may be gone when it is read; the relay must not wait there for ever."""
    with socket.socket(type=socket.SOCK_DGRAM) as target, socket.socket(type=socket.SOCK_DGRAM) as client:
        target.bind(("127.0.0.1", 0))
        tap = Tap(free_port(), target.getsockname()[1])
        client.sendto(b"hello", ("127.0.0.1", tap.port))
        payload, upstream = target.recvfrom(100)
        assert payload == b"hello"
        target.sendto(b"back", upstream)
        assert client.recv(100) == b"back"
        [(peer, held)] = tap._upstreams.items()
        kept = len(tap.udp_payloads)
        tap._from_node(held, peer)
        tap._from_outside(tap._udp)
        assert len(tap.udp_payloads) == kept
        tap.close()

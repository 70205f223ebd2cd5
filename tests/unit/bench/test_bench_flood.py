"""The attacker of `bench flood`: as many connections as asked, of every kind, and its own listener takes them too."""

from __future__ import annotations

import socket
import threading

from frys_node.bench.flood import attack


def test_the_attacker_opens_as_many_connections_as_asked_of_every_kind() -> None:
    """Noise, HTTP, half a header, a ClientHello and one byte, in turn."""
    seen: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            for _ in range(10):
                connection, _ = listener.accept()
                with connection:
                    seen.append(connection.recv(4_096))

        server = threading.Thread(target=accept)
        server.start()
        attack(listener.getsockname()[1], 10, 1)
        server.join()
    starts = [data[:3] for data in seen]
    assert starts[1::5] == [b"GET", b"GET"]
    assert starts[2::5] == [b"\x16\x03\x01"] * 2
    assert len(seen[3]) > 1_216
    assert seen[3] == seen[8]
    assert seen[4::5] == [b"\x16", b"\x16"]
    assert seen[0] != seen[5]


def test_without_a_port_the_junk_goes_to_a_listener_of_the_attackers_own() -> None:
    """What calls suffer beside that is the machine's."""
    attack(0, 10, 1)

"""The attacker of `bench flood`: as many connections as asked, of every kind, and its own listener takes them too."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

from OpenSSL import SSL

from frys_node.bench import flood
from frys_node.bench.flood import ask, attack
from frys_node.channel.bootstrap import create_cluster
from frys_node.secure.tls import HandshakeNotes, TlsProfile
from frys_node.testing.disk import FakeDisk
from frys_node.transport.clock import SystemClock
from frys_node.transport.entropy import SystemEntropy


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


def test_the_attacker_asks_as_a_joiner_as_often_as_is_said() -> None:
    """A whole handshake on the join protocol, then all the questions; nobody reads them here but to count."""
    asked: list[int] = []
    identity = create_cluster(FakeDisk(), SystemEntropy(), SystemClock(), cluster_name="bench", node_name="a")
    context = TlsProfile(identity).server
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            plain, _ = listener.accept()
            with plain:
                connection = SSL.Connection(context, plain)
                connection.set_app_data(HandshakeNotes())
                connection.set_accept_state()
                connection.do_handshake()
                received = 0
                with suppress(SSL.Error):
                    while data := connection.recv(65_536):
                        received += len(data)
                asked.append(received)

        server = threading.Thread(target=answer)
        server.start()
        ask(listener.getsockname()[1])
        server.join()
    assert asked == [10 * flood.ASKED]


def test_the_attacker_goes_on_when_the_node_hangs_up_on_a_question() -> None:
    """A listener that closes at once costs it that one connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def hang_up() -> None:
            listener.accept()[0].close()

        server = threading.Thread(target=hang_up)
        server.start()
        ask(listener.getsockname()[1])
        server.join()

"""A recording relay in front of one node's cluster port, TCP and UDP: what an observer on the wire would see.

It parses the ServerHello of every TLS connection and keeps UDP payloads, so that the demonstration and a test can show
the negotiated group and cipher, and that no name ever travels in the clear.
"""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress
from typing import NamedTuple

from frys_node.secure.observe_tls import ServerHello, parse_server_hello

READ_BYTES = 65_536
HELLO_BYTES_MAX = 16_384
UDP_KEPT_MAX = 20_000
POLL_S = 0.2


class _Flow(NamedTuple):
    near: socket.socket
    far: socket.socket


class Tap:
    """Relays 127.0.0.1:<port> to a target port on loopback until closed."""

    def __init__(self, port: int, target_port: int) -> None:
        self.port = port
        self.hellos: list[ServerHello] = []
        self.tls_connections = 0
        self.answered = 0
        """Connections on which the node's side has said anything."""
        self.udp_payloads: list[bytes] = []
        self._target = ("127.0.0.1", target_port)
        self._closed = threading.Event()
        self._flows: list[_Flow] = []
        self._pumps: list[threading.Thread] = []
        self._selector = selectors.DefaultSelector()
        self._tcp = socket.create_server(("127.0.0.1", port), backlog=64)
        self._udp = socket.socket(type=socket.SOCK_DGRAM)
        self._udp.bind(("127.0.0.1", port))
        # What made a socket readable may be gone by the time that it is read: an error that a send met first.
        self._udp.setblocking(False)
        self._upstreams: dict[tuple[str, int], socket.socket] = {}
        self._selector.register(self._udp, selectors.EVENT_READ, self._from_outside)
        self._threads = [
            threading.Thread(target=self._accept_loop, daemon=True),
            threading.Thread(target=self._udp_loop, daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Stop relaying; nothing stays open."""
        self._closed.set()
        # A thread in accept() holds its socket open: a connection of our own wakes it.
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
            self._threads[0].join()
        self._tcp.close()
        self._threads[1].join()
        for flow in list(self._flows):
            for end in flow:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        for pump in list(self._pumps):
            pump.join()
        for sock in (self._udp, *self._upstreams.values()):
            sock.close()
        self._selector.close()

    def _accept_loop(self) -> None:
        while not self._closed.is_set():
            try:
                near, _ = self._tcp.accept()
            except OSError:
                continue
            if self._closed.is_set():
                near.close()
                return
            try:
                far = socket.create_connection(self._target, timeout=5)
            except OSError:
                near.close()
                continue
            self.tls_connections += 1
            flow = _Flow(near, far)
            self._flows.append(flow)
            for source, sink, watch in ((near, far, False), (far, near, True)):
                source.settimeout(None)
                pump = threading.Thread(target=self._pump, args=(source, sink, watch, flow), daemon=True)
                self._pumps.append(pump)
                pump.start()

    def _pump(self, source: socket.socket, sink: socket.socket, watch: bool, flow: _Flow) -> None:
        seen = b""
        try:
            while data := source.recv(READ_BYTES):
                if watch and not seen:
                    self.answered += 1
                if watch and len(seen) < HELLO_BYTES_MAX:
                    seen += data
                    hello = parse_server_hello(seen)
                    if hello is not None:
                        self.hellos.append(hello)
                        watch = False
                sink.sendall(data)
        except OSError:
            # Either side is gone: both halves of the flow end here.
            watch = False
        finally:
            for end in flow:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
            source.close()

    def _udp_loop(self) -> None:
        while not self._closed.is_set():
            for key, _ in self._selector.select(POLL_S):
                key.data(key.fileobj)

    def _from_outside(self, sock: socket.socket) -> None:
        try:
            payload, peer = sock.recvfrom(READ_BYTES)
        except OSError:
            return
        self._keep(payload)
        upstream = self._upstreams.get(peer)
        if upstream is None:
            upstream = self._upstreams[peer] = socket.socket(type=socket.SOCK_DGRAM)
            upstream.connect(self._target)
            upstream.setblocking(False)
            self._selector.register(upstream, selectors.EVENT_READ, lambda s, peer=peer: self._from_node(s, peer))
        self._send(upstream.send, payload)

    def _from_node(self, sock: socket.socket, peer: tuple[str, int]) -> None:
        try:
            payload = sock.recv(READ_BYTES)
        except OSError:
            return
        self._keep(payload)
        self._send(lambda data: self._udp.sendto(data, peer), payload)

    @staticmethod
    def _send(send: object, payload: bytes) -> None:
        try:
            send(payload)  # type: ignore[operator]
        except OSError:
            # Best effort, as the network is: the node may be down.
            return

    def _keep(self, payload: bytes) -> None:
        if len(self.udp_payloads) < UDP_KEPT_MAX:
            self.udp_payloads.append(payload)

"""A network in memory: datagrams and streams between named hosts, with every fault, driven by trio's clock.

There is no pump task: a packet carries the instant at which it arrives, and the receiver waits for it, so that the
network works under `trio.testing.MockClock(autojump_threshold=0)` and leaks nothing. A host's name is its literal
address, e.g. ``10.0.0.1``.

Streams behave like TCP: bytes are neither lost nor reordered; under a partition they wait, and arrive after `heal`.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
import trio

from frys_node.base.types import Address
from frys_node.testing.streams import FakeListener, FakeStream, Pipe
from frys_node.transport.datagram import BATCH_MAX
from frys_node.transport.errors import AddressInUse, AddressRefused, connect_failed

CONNECT_TIMEOUT_S = 130.0
"""How long an unanswered connect lasts, as Linux's default SYN retries do."""

DATAGRAM_BYTES_MAX = 65_507
QUEUE_MAX = 4_096
"""Packets that wait at one socket; more are dropped, as by a full kernel buffer."""

_ANY = ("0.0.0.0", "::", "")  # noqa: S104  (nothing real is bound)
_LOCAL = ("127.0.0.1", "::1", "localhost")


class LinkProfile(msgspec.Struct, frozen=True, kw_only=True):
    """What happens to packets on a link. Times in seconds, rates 0-1."""

    delay_s: float = 0.0005
    jitter_s: float = 0.0
    """Added delay, uniform from 0; packets overtake one another within it."""
    loss: float = 0.0
    duplicate: float = 0.0


class FakeNetwork:
    """The wires between hosts, and the verbs that break them."""

    def __init__(self, seed: int = 0, profile: LinkProfile | None = None) -> None:
        self.profile = profile or LinkProfile()
        self.counts: Counter[str] = Counter()
        """Faults injected: ``lost``, ``duplicated``, ``cut`` (by a partition), ``overflow``."""
        self.names: dict[str, list[str]] = {}
        """DNS: names to literal addresses."""
        self.services: dict[str, list[Address]] = {}
        """DNS: SRV records; hosts are literals or in `names`."""
        self._rng = random.Random(f"{seed}/network")
        self._hosts: dict[str, FakeHost] = {}
        self._cut: set[tuple[str, str]] = set()
        self._sequence = 0

    def host(self, name: str) -> FakeHost:
        """Return the host of that name, made when missing."""
        if name not in self._hosts:
            self._hosts[name] = FakeHost(self, name)
        return self._hosts[name]

    def knows(self, name: str) -> bool:
        """True if there is such a host."""
        return name in self._hosts

    def partition(self, a_names: Iterable[str], b_names: Iterable[str], *, one_way: bool = False) -> None:
        """Cut the links from every a to every b; with `one_way` b's traffic still reaches a."""
        b_list = list(b_names)
        for a in a_names:
            for b in b_list:
                self._cut.add((a, b))
                if not one_way:
                    self._cut.add((b, a))

    def heal(self) -> None:
        """Join everything again; what streams held back arrives now."""
        self._cut.clear()
        self._wake_all()

    def kill(self, name: str) -> None:
        """End the host's process: its sockets close, its peers see a reset, connects to it are refused."""
        self.host(name).close_all()

    def is_cut(self, source: str, target: str) -> bool:
        """True if nothing passes from source to target."""
        return (source, target) in self._cut

    def arrival_s(self) -> float:
        """When something sent now would arrive."""
        link = self.profile
        return trio.current_time() + link.delay_s + (self._rng.random() * link.jitter_s if link.jitter_s else 0.0)

    def transmit(self, source: Address, target: Address, payload: bytes) -> None:
        """Carry one datagram, or lose it."""
        link = self.profile
        host = self._hosts.get(target.host)
        if (source.host, target.host) in self._cut:
            self.counts["cut"] += 1
            return
        if link.loss and self._rng.random() < link.loss:
            self.counts["lost"] += 1
            return
        copies = 1
        if link.duplicate and self._rng.random() < link.duplicate:
            self.counts["duplicated"] += 1
            copies = 2
        for _ in range(copies):
            socket = host.datagrams.get(target.port) if host else None
            if socket is not None:
                self._sequence += 1
                socket.deliver(self.arrival_s(), self._sequence, payload, source)

    def _wake_all(self) -> None:
        for host in self._hosts.values():
            for stream in host.streams:
                stream.wake()
            host.changed.set()
            host.changed = trio.Event()


class FakeDatagram:
    """`Datagram` on a fake host."""

    def __init__(self, network: FakeNetwork, host: FakeHost, address: Address) -> None:
        self._network, self._host, self._address = network, host, address
        self._queue: list[tuple[float, int, bytes, Address]] = []
        self._wake = trio.Event()
        self._closed = False

    @property
    def address(self) -> Address:
        """The bound local address, with the real port."""
        return self._address

    def deliver(self, at_s: float, sequence: int, payload: bytes, source: Address) -> None:
        """Queue a packet for its instant (called by the network)."""
        if len(self._queue) >= QUEUE_MAX:
            self._network.counts["overflow"] += 1
            return
        heapq.heappush(self._queue, (at_s, sequence, payload, source))
        self._wake.set()

    def send(self, payload: bytes, destination: Address) -> bool:
        """Send at once; False when closed or over the limit of a datagram."""
        if self._closed or len(payload) > DATAGRAM_BYTES_MAX or destination.port == 0:
            return False
        source = Address(self._host.name, self._address.port)
        self._network.transmit(source, self._host.target(destination), bytes(payload))
        return True

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for packets and return 1 to 64 of them."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this socket is closed")
            now_s = trio.current_time()
            batch: list[tuple[bytes, Address]] = []
            while self._queue and self._queue[0][0] <= now_s and len(batch) < BATCH_MAX:
                _, _, payload, source = heapq.heappop(self._queue)
                batch.append((payload, source))
            if batch:
                return batch
            self._wake = trio.Event()
            with trio.move_on_at(self._queue[0][0] if self._queue else float("inf")):
                await self._wake.wait()

    async def aclose(self) -> None:
        """Close; a pending `receive` raises `trio.ClosedResourceError`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close, without a checkpoint."""
        self._closed = True
        self._host.datagrams.pop(self._address.port, None)
        self._wake.set()


class FakeHost:
    """`Network` of one host."""

    def __init__(self, network: FakeNetwork, name: str) -> None:
        self.network = network
        self.name = name
        self.datagrams: dict[int, FakeDatagram] = {}
        self.listeners: dict[int | str, FakeListener] = {}
        self.streams: list[FakeStream] = []
        self.changed = trio.Event()
        self._port = 40_000

    def target(self, address: Address) -> Address:
        """The address on the wire: loopback names are this host."""
        return Address(self.name, address.port) if address.host in _LOCAL else address

    def _check_local(self, address: Address) -> None:
        if address.host != self.name and address.host not in _ANY + _LOCAL:
            raise AddressRefused(f"host {self.name} does not have the address {address.host}")

    def _free_port(self) -> int:
        self._port += 1
        while self._port in self.listeners or self._port in self.datagrams:
            self._port += 1
        return self._port

    async def listen(self, address: Address) -> FakeListener:
        """Bind a TCP listener."""
        await trio.lowlevel.checkpoint()
        self._check_local(address)
        port = address.port or self._free_port()
        return self._listen(port, Address(address.host, port))

    def _listen(self, key: int | str, address: Address) -> FakeListener:
        if key in self.listeners:
            raise AddressInUse(f"TCP port {key} on {self.name} is in use", hint="choose another port")

        def forget() -> None:
            # A later one may have the port by now.
            if self.listeners.get(key) is listener:
                del self.listeners[key]

        listener = self.listeners[key] = FakeListener(address, forget)
        return listener

    async def bind(self, address: Address) -> FakeDatagram:
        """Bind a UDP socket."""
        await trio.lowlevel.checkpoint()
        self._check_local(address)
        port = address.port or self._free_port()
        if port in self.datagrams:
            raise AddressInUse(f"UDP port {port} on {self.name} is in use", hint="choose another port")
        socket = self.datagrams[port] = FakeDatagram(self.network, self, Address(address.host, port))
        return socket

    async def connect(self, address: Address) -> FakeStream:
        """Connect by TCP; a cut link keeps the caller waiting as a real one does."""
        await trio.lowlevel.checkpoint()
        hosts = [address.host] if self._knows(address.host) else list(await self.resolve(address.host))
        if not hosts:
            raise connect_failed(address, "unresolved", f"the name '{address.host}' has no address")
        target = self.target(Address(hosts[0], address.port))
        remote = self.network.host(target.host)
        with trio.move_on_after(CONNECT_TIMEOUT_S):
            while self.network.is_cut(self.name, remote.name) or self.network.is_cut(remote.name, self.name):
                await self.changed.wait()
            await trio.sleep(2 * self.network.profile.delay_s)
            listener = remote.listeners.get(target.port)
            if listener is None:
                raise connect_failed(address, "refused", "Connection refused")
            return self._join(remote, listener, Address(self.name, self._free_port()), target)
        raise connect_failed(address, "timeout", "no answer")

    def _knows(self, host: str) -> bool:
        return host in _LOCAL or host == self.name or self.network.knows(host)

    def _join(self, remote: FakeHost, listener: FakeListener, local: Address, target: Address) -> FakeStream:
        there = Pipe(self.network, self.name, remote.name)
        back = Pipe(self.network, remote.name, self.name)
        near = FakeStream(back, there, local, target)
        far = FakeStream(there, back, target, local)
        if not listener.offer(far, local):
            raise connect_failed(target, "refused", "the accept queue is full")
        for host, stream in ((self, near), (remote, far)):
            host.streams = [held for held in host.streams if not held.is_closed]
            host.streams.append(stream)
        return near

    async def resolve(self, host: str) -> Sequence[str]:
        """Resolve a name from the network's `names`; literals resolve to themselves."""
        await trio.lowlevel.checkpoint()
        if host == "localhost":
            return [self.name]
        if host in self.network.names:
            return sorted(self.network.names[host])
        return [host] if self._knows(host) else []

    async def resolve_service(self, name: str) -> Sequence[Address]:
        """Resolve a name from the network's `services`."""
        found = [
            Address(host, target.port)
            for target in self.network.services.get(name, ())
            for host in await self.resolve(target.host)
        ]
        await trio.lowlevel.checkpoint()
        return found

    async def listen_unix(self, path: Path) -> FakeListener:
        """Listen on a unix socket of this host."""
        await trio.lowlevel.checkpoint()
        return self._listen(str(path), Address(str(path), 0))

    async def connect_unix(self, path: Path) -> FakeStream:
        """Connect to a unix socket of this host."""
        await trio.lowlevel.checkpoint()
        listener = self.listeners.get(str(path))
        address = Address(str(path), 0)
        if listener is None:
            raise connect_failed(address, "refused", "nobody listens there")
        return self._join(self, listener, Address("", 0), address)

    def close_all(self) -> None:
        """Close every socket of the host at once; streams end with a reset."""
        for datagram in list(self.datagrams.values()):
            datagram.close()
        for listener in list(self.listeners.values()):
            listener.close()
        for stream in self.streams:
            stream.reset()
        self.streams = []

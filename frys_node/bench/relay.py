"""A switch in user space that delays and reorders what nodes send each other.

``python -m frys_node.bench.relay --delay-ms 40 --jitter-ms 20 LINK...`` is for kernels without `netem`. It reads whole
frames from the near ends of the nodes' cables and puts each on the cable of its destination, later; UDP and TCP both
feel it, since neither ends here. Frames carry the kernel's own header for work left to the hardware (checksums,
segmentation), or they would arrive with sums that nobody has computed. What happens to the k-th frame from one cable to
another depends only on the seed.
"""

from __future__ import annotations

import argparse
import heapq
import random
import select
import socket
import time
from collections.abc import Sequence
from typing import NamedTuple

SOL_PACKET, PACKET_VNET_HDR, PACKET_IGNORE_OUTGOING = 263, 15, 23
ETH_P_ALL = 3
VNET_BYTES = 10
"""The header that `PACKET_VNET_HDR` puts before each frame."""

FRAME_BYTES_MAX = VNET_BYTES + 14 + 65_536
BUFFER_BYTES = 1 << 22
PENDING_MAX = 100_000
"""Frames under way; more are dropped, as a full switch would."""

BATCH_MAX = 256
"""Frames read from one cable before the others have their turn."""

BROADCAST = b"\xff" * 6


class Due(NamedTuple):
    """A frame under way."""

    at_s: float
    number: int
    port: int
    frame: bytes


class Delays:
    """Frames under way, delivered in the order in which they are due; the caller brings the time.

    Each direction of each pair of ports draws from its own generator, so traffic elsewhere changes nothing here.
    """

    def __init__(self, seed: int, delay_s: float, jitter_s: float, *, loss: float = 0.0) -> None:
        assert 0.0 <= jitter_s <= delay_s
        self._seed = seed
        self._delay_s = delay_s
        self._jitter_s = jitter_s
        self._loss = loss
        self._rngs: dict[tuple[int, int], random.Random] = {}
        self._heap: list[Due] = []
        self._count = 0
        self.dropped = 0

    def put(self, now_s: float, source: int, port: int, frame: bytes) -> None:
        """Take a frame from a port to another."""
        rng = self._rngs.get((source, port))
        if rng is None:
            rng = self._rngs[source, port] = random.Random(f"{self._seed}/{source}/{port}")
        late_s = self._delay_s + rng.uniform(-self._jitter_s, self._jitter_s)
        is_lost = rng.random() < self._loss
        if is_lost or len(self._heap) >= PENDING_MAX:
            self.dropped += 1
            return
        self._count += 1
        heapq.heappush(self._heap, Due(now_s + late_s, self._count, port, frame))

    def take(self, now_s: float) -> list[Due]:
        """Return the frames that are due."""
        found = []
        while self._heap and self._heap[0].at_s <= now_s:
            found.append(heapq.heappop(self._heap))
        return found

    def wait_s(self, now_s: float) -> float | None:
        """Return how long nothing is due; None if nothing is under way."""
        return max(0.0, self._heap[0].at_s - now_s) if self._heap else None


class Switch:
    """Cables by number, and behind which of them an Ethernet address was last seen."""

    def __init__(self, ports: int) -> None:
        self._ports = ports
        self._behind: dict[bytes, int] = {}

    def route(self, source: int, frame: bytes) -> list[int]:
        """Return where a frame goes: to one cable, or to all others while its destination is unknown."""
        target, sender = frame[VNET_BYTES : VNET_BYTES + 6], frame[VNET_BYTES + 6 : VNET_BYTES + 12]
        self._behind[sender] = source
        known = self._behind.get(target) if target != BROADCAST else None
        if known is not None:
            return [] if known == source else [known]
        return [port for port in range(self._ports) if port != source]


def open_link(name: str) -> socket.socket:
    """Return a socket that reads and writes whole frames of an interface."""
    link = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
    link.setsockopt(SOL_PACKET, PACKET_VNET_HDR, 1)
    link.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    link.bind((name, ETH_P_ALL))
    link.setblocking(False)
    return link


def relay(links: Sequence[socket.socket], delays: Delays) -> None:
    """Carry frames until the process ends."""
    switch = Switch(len(links))
    numbers = {link.fileno(): number for number, link in enumerate(links)}
    poller = select.epoll()
    for descriptor in numbers:
        poller.register(descriptor, select.EPOLLIN)
    while True:
        for descriptor, _ in poller.poll(delays.wait_s(time.monotonic())):
            number = numbers[descriptor]
            for frame in _frames(links[number]):
                for port in switch.route(number, frame):
                    delays.put(time.monotonic(), number, port, frame)
        for due in delays.take(time.monotonic()):
            try:
                links[due.port].send(due.frame)
            except OSError:
                # The cable is down or its queue is full: a frame is lost, as on any network.
                delays.dropped += 1


def _frames(link: socket.socket) -> list[bytes]:
    found: list[bytes] = []
    while len(found) < BATCH_MAX:
        try:
            found.append(link.recv(FRAME_BYTES_MAX))
        except OSError:
            break
    return found


def main() -> None:
    """Relay between the named interfaces."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("links", nargs="+", metavar="LINK")
    parser.add_argument("--delay-ms", type=float, default=40.0, help="one way, mean (default 40)")
    parser.add_argument("--jitter-ms", type=float, default=20.0, help="at most so much more or less (default 20)")
    parser.add_argument("--loss-percent", type=float, default=0.0, help="frames lost (default 0)")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    delays = Delays(given.seed, given.delay_ms / 1e3, given.jitter_ms / 1e3, loss=given.loss_percent / 100)
    relay([open_link(name) for name in given.links], delays)


if __name__ == "__main__":
    main()

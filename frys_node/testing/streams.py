"""The two ends of a fake connection: a window, an order, an end, a reset."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import trio

from frys_node.base.types import Address
from frys_node.transport.stream import PeerCredentials

if TYPE_CHECKING:
    from frys_node.testing.network import FakeNetwork

WINDOW_BYTES = 1 << 18
"""Bytes on the way in one direction before `send_all` waits, like two socket buffers."""

BACKLOG = 128
FAKE_CREDENTIALS = PeerCredentials(1, 1_000, 1_000)


class Pipe:
    """One direction of a connection: chunks with the instant at which they arrive, in order."""

    __slots__ = (
        "_last_s",
        "buffered",
        "chunks",
        "drained",
        "is_broken",
        "is_reader_closed",
        "network",
        "route",
        "wake",
    )

    def __init__(self, network: FakeNetwork, source: str, target: str) -> None:
        self.network = network
        self.route = (source, target)
        self.chunks: deque[tuple[float, bytes]] = deque()
        self.buffered = 0
        self.is_broken = False
        self.is_reader_closed = False
        self.wake = trio.Event()
        self.drained = trio.Event()
        self._last_s = 0.0

    def push(self, data: bytes) -> None:
        """Send a chunk; ``b""`` is the end. TCP keeps order, so a chunk never arrives before the one ahead of it."""
        self._last_s = max(self._last_s, self.network.arrival_s())
        self.chunks.append((self._last_s, data))
        self.buffered += len(data)
        self.wake.set()

    def unarrived_bytes(self) -> int:
        """Bytes on the way; behind a cut, in either direction, everything that has not been read."""
        source, target = self.route
        if self.network.is_cut(source, target) or self.network.is_cut(target, source):
            return self.buffered
        now_s = trio.current_time()
        return sum(len(data) for at_s, data in self.chunks if at_s > now_s)

    def notify(self) -> None:
        """Wake both sides to look again."""
        self.wake.set()
        self.drained.set()


class FakeStream:
    """`Stream` of a fake host."""

    def __init__(self, incoming: Pipe, outgoing: Pipe, local: Address, peer: Address) -> None:
        self._in, self._out = incoming, outgoing
        self.local_address, self.peer_address = local, peer
        self.is_closed = False
        self._eof = False
        self._rest = b""
        self._sending = self._reading = False

    def peer_credentials(self) -> PeerCredentials | None:
        """Who connected, on a unix socket; None on TCP."""
        return FAKE_CREDENTIALS if self.local_address.port == 0 or self.peer_address.port == 0 else None

    def wake(self) -> None:
        """Look again: the network changed."""
        self._in.notify()
        self._out.notify()

    def _check(self) -> None:
        if self.is_closed:
            raise trio.ClosedResourceError("this stream is closed")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send everything, waiting while the window is full."""
        self._check()
        if self._sending:
            raise trio.BusyResourceError("another task is sending on this stream")
        self._sending = True
        try:
            await trio.lowlevel.checkpoint()
            rest, self._rest = self._rest + bytes(data), b""
            while rest := self._push(rest):
                self._out.drained = trio.Event()
                await self._out.drained.wait()
        finally:
            self._sending = False

    def send_nowait(self, data: bytes) -> bool:
        """Take all of `data` and send what the window takes; see `Stream.send_nowait`."""
        if self._sending or self._rest:
            raise trio.BusyResourceError("another send on this stream is not finished")
        self._rest = self._push(bytes(data))
        return not self._rest

    def _push(self, data: bytes) -> bytes:
        """Send what the window takes now and return the rest."""
        self._check()
        if self._out.is_broken or self._out.is_reader_closed or self._eof:
            raise trio.BrokenResourceError(f"{self.peer_address}: the peer is gone")
        room = max(0, WINDOW_BYTES - self._out.buffered)
        if data and room:
            self._out.push(data[:room])
        return data[room:]

    def unacknowledged_bytes(self) -> int | None:
        """How much was sent that has not arrived, read or not; see `Stream.unacknowledged_bytes`."""
        if self.is_closed or self.peer_credentials() is not None:
            return None
        return self._out.unarrived_bytes() + len(self._rest)

    async def receive_some(self, max_bytes: int = 65_536) -> bytes:
        """Return some bytes, or ``b""`` at the peer's orderly end."""
        self._check()
        if self._reading:
            raise trio.BusyResourceError("another task is receiving on this stream")
        self._reading = True
        try:
            await trio.lowlevel.checkpoint()
            while True:
                self._check()
                data = self._take(max_bytes)
                if data is not None:
                    return data
                if self._in.is_broken:
                    raise trio.BrokenResourceError(f"{self.peer_address}: connection reset by peer")
                self._in.wake = trio.Event()
                held = not self._in.chunks or self._in.network.is_cut(*self._in.route)
                with trio.move_on_at(float("inf") if held else self._in.chunks[0][0]):
                    await self._in.wake.wait()
        finally:
            self._reading = False

    def _take(self, max_bytes: int) -> bytes | None:
        """Arrived bytes, ``b""`` at the end, None when there is nothing yet."""
        pipe = self._in
        if pipe.is_broken or not pipe.chunks or pipe.network.is_cut(*pipe.route):
            return None
        now_s = trio.current_time()
        parts: list[bytes] = []
        room = max_bytes
        while pipe.chunks and pipe.chunks[0][0] <= now_s and room > 0:
            at_s, data = pipe.chunks[0]
            if not data:
                return b"".join(parts)
            parts.append(data[:room])
            if len(data) > room:
                pipe.chunks[0] = (at_s, data[room:])
            else:
                pipe.chunks.popleft()
            pipe.buffered -= len(parts[-1])
            room -= len(parts[-1])
        if not parts:
            return None
        pipe.drained.set()
        return b"".join(parts)

    async def send_eof(self) -> None:
        """Tell the peer that nothing more comes."""
        self._check()
        await trio.lowlevel.checkpoint()
        self._end()

    def _end(self) -> None:
        if not self._eof:
            self._eof = True
            self._out.push(b"")

    async def aclose(self) -> None:
        """Close at once; the peer reads what was sent, then the end."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Close, without a checkpoint."""
        if self.is_closed:
            return
        self._end()
        self.is_closed = True
        self._in.is_reader_closed = True
        self.wake()

    def reset(self) -> None:
        """Break the connection: both ends fail, what was on the way is lost."""
        self._in.is_broken = self._out.is_broken = True
        self.is_closed = True
        self.wake()


class FakeListener:
    """`StreamListener` of a fake host."""

    def __init__(self, address: Address, forget: Callable[[], None]) -> None:
        self._address = address
        self._forget = forget
        self._queue: deque[tuple[FakeStream, Address]] = deque()
        self._wake = trio.Event()
        self._closed = False

    @property
    def address(self) -> Address:
        """The bound local address, with the real port."""
        return self._address

    def offer(self, stream: FakeStream, peer: Address) -> bool:
        """Queue a connection; False if the accept queue is full."""
        if self._closed or len(self._queue) >= BACKLOG:
            return False
        self._queue.append((stream, peer))
        self._wake.set()
        return True

    async def accept(self) -> tuple[FakeStream, Address]:
        """Wait for the next connection."""
        await trio.lowlevel.checkpoint()
        while True:
            if self._closed:
                raise trio.ClosedResourceError("this listener is closed")
            if self._queue:
                return self._queue.popleft()
            self._wake = trio.Event()
            await self._wake.wait()

    async def aclose(self) -> None:
        """Stop listening; a pending `accept` raises `trio.ClosedResourceError`."""
        self.close()
        await trio.lowlevel.checkpoint()

    def close(self) -> None:
        """Stop listening, without a checkpoint; connections not yet accepted are reset."""
        self._closed = True
        self._forget()
        for stream, _ in self._queue:
            stream.reset()
        self._queue.clear()
        self._wake.set()

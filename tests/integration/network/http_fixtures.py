"""A kernel with the HTTP plugin on real loopback sockets, and a client that sees every byte."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from frys_node.base.types import Address, NodeId
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.registry import find
from frys_node.kernel.services.access import ACCESS
from frys_node.kernel.services.http import HTTP, Http
from frys_node.plugins.network.config import HttpLimits, NetworkPluginConfig
from frys_node.testing.access import FakeAccess
from frys_node.transport.clock import SystemClock
from frys_node.transport.disk import DirectoryDisk
from frys_node.transport.entropy import SystemEntropy
from frys_node.transport.executor import ThreadExecutor
from frys_node.transport.network import SystemNetwork
from frys_node.transport.stream import SocketStream

TOKEN = "correct-horse-battery"
FAIL_S = 20.0


def make_node(data_dir: Path) -> Kernel:
    """Return a kernel over the real ports."""
    return Kernel(
        node=NodeId("a" * 32),
        name="node-a",
        boot=7,
        data_dir=data_dir,
        clock=SystemClock(),
        entropy=SystemEntropy(),
        disk=DirectoryDisk(data_dir),
        executor=ThreadExecutor(),
    )


@asynccontextmanager
async def serving(
    data_dir: Path,
    *,
    token: bool = False,
    access: FakeAccess | None = None,
    http: str = "127.0.0.1:0",
    insecure: bool = False,
    tls: dict[str, Any] | None = None,
    **limits: Any,
) -> AsyncIterator[tuple[Kernel, Http]]:
    """Run a node with HTTP on a free port."""
    with trio.fail_after(FAIL_S):
        kernel = make_node(data_dir)
        if token or access is not None:
            kernel.services.provide(ACCESS, FakeAccess(TOKEN) if access is None else access)
        config = NetworkPluginConfig(http=http, insecure=insecure, limits=HttpLimits(**limits), **(tls or {}))
        async with kernel.running():
            await kernel.load_plugins([find("network")], {"network": config})
            kernel.mark_started()
            yield kernel, kernel.services.get(HTTP)


class Answer(msgspec.Struct):
    """A response as it came."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """Return the decoded body."""
        return msgspec.json.decode(self.body)


class Client:
    """One connection; sends bytes as given, reads whole responses."""

    def __init__(self, stream: SocketStream) -> None:
        self.stream = stream
        self._buffer = b""

    async def get(self, path: str, *headers: str, method: str = "GET", body: bytes = b"") -> Answer:
        """Send one request and read its answer."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *headers]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        await self.stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return await self.read(method)

    async def read(self, method: str = "GET") -> Answer:
        """Read one answer with a Content-Length (or without a body)."""
        while b"\r\n\r\n" not in self._buffer:
            await self.more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *fields = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in fields)}
        length = 0 if method == "HEAD" else int(headers.get("content-length", "0"))
        while len(self._buffer) < length:
            await self.more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Answer(int(first.split(" ")[1]), headers, body)

    async def more(self) -> None:
        """Read more bytes; the end of the connection is an EOFError."""
        data = await self.stream.receive_some()
        if not data:
            raise EOFError
        self._buffer += data

    async def is_closed(self) -> bool:
        """Wait for the server's end of the connection; True if nothing came before it."""
        try:
            return not await self.stream.receive_some() and not self._buffer
        except trio.BrokenResourceError:
            return True

    async def until(self, marker: bytes) -> bytes:
        """Read until the marker; returns everything up to its end."""
        while marker not in self._buffer:
            await self.more()
        found, _, self._buffer = self._buffer.partition(marker)
        return found + marker


@asynccontextmanager
async def client(http: Http | Path) -> AsyncIterator[Client]:
    """Connect to a listener, or to an admin socket by its path."""
    network = SystemNetwork()
    stream = (
        await network.connect_unix(http)
        if isinstance(http, Path)
        else await network.connect(Address.parse(http.address))
    )
    try:
        yield Client(stream)
    finally:
        await stream.aclose()

"""One Redis client: bytes in, steps carried out in order, replies out in one piece.

While a pipeline is carried out the connection is not read, so a client that does not take its replies is held by TCP.
Messages to a subscriber cannot wait for it: they queue up to a limit, and beyond it the client is cut off.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Protocol

import trio

from frys_node.base.types import Address
from frys_node.observe.log import get_logger
from frys_node.plugins.cache.resp import encode
from frys_node.plugins.cache.resp.outbox import CLIENTS_MIN, DEFERRED_BYTES_MAX
from frys_node.plugins.cache.resp.reader import Command, ProtocolError, RequestReader, Uniform
from frys_node.plugins.cache.resp.session import Session
from frys_node.secure.errors import HandshakeRefused
from frys_node.transport.stream import SocketStream

if TYPE_CHECKING:
    from frys_node.plugins.cache.resp.server import RespServer


class ByteStream(Protocol):
    """What a connection needs of a socket, or of TLS over it."""

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return some bytes, empty at the peer's end."""
        ...

    async def send_all(self, data: bytes) -> None:
        """Send everything, behind what `send_nowait` has left."""
        ...

    def send_nowait(self, data: bytes) -> bool:
        """Take all of it and send what goes at once; True if that is all."""
        ...

    def close(self) -> None:
        """Close at once."""
        ...


Secure = Callable[[SocketStream], Awaitable[ByteStream]]
"""Takes a socket through the handshake of TLS."""

READ_BYTES = 65_536

log = get_logger(__name__)


class RespConnection:
    """The driver of one `RequestReader` and one `Session` (a `Listener`)."""

    def __init__(
        self,
        server: RespServer,
        stream: SocketStream,
        peer: Address,
        session: Session,
        secure: Secure | None = None,
    ) -> None:
        limits = server.limits
        self.peer = peer
        self.scope = trio.CancelScope()
        self.began_s = self.stranger_since_s = trio.current_time()
        self.deadline_s = self.began_s + limits.idle_s
        """When the server's reaper cuts this connection."""
        self.is_busy = False
        """Commands are carried out; how long that takes is their own affair."""
        self._session = session
        self._server = server
        self._socket = stream
        self._stream: ByteStream = stream
        self._secure = secure
        self._reader = RequestReader(limits.arguments, limits.request_bytes)
        self._reader.is_trusted = session.is_known
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._wake: trio.Event | None = None
        self._sent = trio.Event()
        self._is_deferred = False
        """A reply waits for the end of the turn."""
        self._rest: trio.Event | None = None
        """Set when the rest of a reply has been sent, while there is one."""

    @property
    def session(self) -> Session:
        """Its session."""
        return self._session

    async def run(self) -> None:
        """Serve until the client or a rule ends it, then close. Raises nothing but cancellation from above."""
        try:
            with self.scope:
                if self._secure is not None:
                    with trio.fail_after(self._server.limits.auth_s):
                        self._stream = await self._secure(self._socket)
                await self._serve()
        except (HandshakeRefused, trio.TooSlowError):
            self._server.cut("tls")
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._server.broken.inc()
        except Exception as error:  # noqa: BLE001 (one connection must never end the listener)
            log.failed("cache.resp_connection_failed", error, peer=str(self.peer))
        finally:
            self._server.hub.leave(self)
            self._stream.close()

    async def _serve(self) -> None:
        reader, server, session = self._reader, self._server, self._session
        while not session.is_closing and not server.is_draining:
            if session.subscriptions:
                self.deadline_s = math.inf
            else:
                limits = server.limits
                self.deadline_s = trio.current_time() + (limits.request_s if reader.is_partial else limits.idle_s)
            data = await self._stream.receive_some(READ_BYTES)
            if not data:
                break
            began_s = trio.current_time()
            pipeline = reader.uniform(data)
            if pipeline is not None and await self._carry_out_uniform(pipeline):
                server.took(trio.current_time() - began_s)
                continue
            complaint = ""
            try:
                commands = reader.feed(data)
            except ProtocolError as error:
                commands, complaint = error.commands, str(error)
            if commands:
                self.is_busy = True
                await self._carry_out(commands)
                self.is_busy = False
                server.took(trio.current_time() - began_s)
            if complaint:
                server.count_error()
                await self._send(encode.error(f"ERR {complaint}"))
                break
        await self._finish()

    async def _carry_out(self, commands: Sequence[Command]) -> None:
        session, server = self._session, self._server
        while commands:
            most = server.batch_max(session)
            batch = commands[:most] if len(commands) > most else commands
            commands = commands[len(batch) :]
            is_paid = session.is_known
            if is_paid:
                await self._wait_turn(len(batch))
            server.count(len(batch))
            while batch:
                steps, done = session.plan(batch)
                # A stranger pays for what did not make it known: whoever else is behind its address can log in.
                if not is_paid and session.is_known:
                    server.showed_token(self)
                elif not (is_paid or session.is_closing):
                    await self._wait_turn(1)
                data = await server.executor.run(self, steps, self._send)
                if data:
                    await self._send(data)
                self._reader.is_trusted = session.is_known
                if session.is_closing:
                    if session.is_attack:
                        server.attacked(self.peer)
                    return
                batch = batch[done:]

    async def _carry_out_uniform(self, pipeline: Uniform) -> bool:
        """Carry out a pipeline of one shape; False if it has to be read command by command."""
        server = self._server
        if len(pipeline.keys) > server.batch_max(self._session):
            return False
        step = self._session.plan_uniform(pipeline)
        if step is None:
            return False
        self.is_busy = True
        await self._wait_turn(step.count)
        server.count(step.count)
        await self._send(await server.executor.run(self, (step,), self._send))
        self.is_busy = False
        return True

    async def _wait_turn(self, count: int) -> None:
        """Wait while the client is over its pace: it is not read meanwhile, so TCP holds it back."""
        while wait_s := self._server.wait_s(self._session, self.peer, count):  # noqa: ASYNC110 (how long is known)
            await trio.sleep(wait_s)

    async def _send(self, data: bytes) -> None:
        """Send replies; behind what a subscriber has not taken yet."""
        if self._wake is not None:
            self.push(data)
            return
        if self._rest is not None:
            await self._rest.wait()
        server = self._server
        if len(data) <= DEFERRED_BYTES_MAX and len(server.connections) >= CLIENTS_MIN and not self._is_deferred:
            self._is_deferred = True
            server.outbox.put(self, data)
            return
        if self._is_deferred:
            server.outbox.flush()
            if self._rest is not None:
                await self._rest.wait()
        was_busy, self.is_busy = self.is_busy, False
        self.deadline_s = trio.current_time() + self._server.limits.write_s
        await self._stream.send_all(data)
        self.is_busy = was_busy

    def send_now(self, data: bytes) -> None:
        """Send a reply that has waited for its turn; a client that does not take all of it at once gets a task."""
        self._is_deferred = False
        try:
            if self._stream.send_nowait(data):
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.scope.cancel()
            return
        self._rest = trio.Event()
        self._server.nursery.start_soon(self._send_rest, self._rest)

    async def _send_rest(self, done: trio.Event) -> None:
        try:
            with trio.move_on_after(self._server.limits.write_s) as scope:
                await self._stream.send_all(b"")
            if scope.cancelled_caught:
                self._server.cut("time")
                self.scope.cancel()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.scope.cancel()
        finally:
            self._rest = None
            done.set()

    # ------------------------------------------------------------------ messages

    def push(self, data: bytes) -> None:
        """Queue what comes unasked; a client that lets too much queue up is cut off."""
        self._queue.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes > self._server.limits.output_bytes:
            self._server.cut("output")
            self.scope.cancel()
        elif self._wake is None:
            self._wake = trio.Event()
            self._wake.set()
            self._server.nursery.start_soon(self._pump)
        else:
            self._wake.set()

    async def _pump(self) -> None:
        """Send what is queued, for as long as the connection lasts."""
        assert self._wake is not None
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._queue:
                    data = b"".join(self._queue)
                    self._queue.clear()
                    with trio.move_on_after(self._server.limits.write_s) as scope:
                        await self._stream.send_all(data)
                    if scope.cancelled_caught:
                        self._server.cut("slow")
                        self.scope.cancel()
                        return
                    self._queued_bytes -= len(data)
                    self._sent.set()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.scope.cancel()

    async def _finish(self) -> None:
        """Let what is queued go out before the end."""
        if self._is_deferred:
            self._server.outbox.flush()
        if self._rest is not None:
            await self._rest.wait()
        if self._wake is None:
            return
        with trio.move_on_after(self._server.limits.write_s):
            while self._queued_bytes:
                self._sent = trio.Event()
                await self._sent.wait()

"""One HTTP connection: bytes in, requests to handlers one after another, answers out in order.

While a handler runs the connection is not read, so a peer that does not take its answers is held by TCP itself.
Nothing that a peer does ends more than its own connection.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Protocol

import trio

from frys_node.base.access import Kind, Principal
from frys_node.base.errors import FrysError
from frys_node.base.types import Address
from frys_node.kernel.services.http import HttpRequest, HttpResponse, shaped
from frys_node.observe.log import get_logger
from frys_node.plugins.network.access import authorise, identify, unauthorised
from frys_node.plugins.network.body import is_too_deep
from frys_node.plugins.network.errors import HttpError, InternalError, RequestTimeout
from frys_node.plugins.network.parser import DISCARD_BYTES_MAX, Phase, Request, RequestParser
from frys_node.plugins.network.respond import CONTINUE, LAST_CHUNK, chunk, error_response, head_bytes
from frys_node.plugins.network.router import Match, split_target
from frys_node.secure.errors import HandshakeRefused
from frys_node.transport.stream import SocketStream

if TYPE_CHECKING:
    from frys_node.plugins.network.server import HttpServer

READ_BYTES = 65_536
LINGER_S = 2.0
"""How long the rest of a refused body is read away, so that the peer sees the answer and not a reset."""
LINGER_BYTES_MAX = 64 << 20
"""How much of it at most: twice the largest body that any route takes."""

PROBES = frozenset({"/livez", "/readyz"})
"""Routes that are never paced."""

log = get_logger(__name__)


class ByteStream(Protocol):
    """What a connection needs of a socket, or of TLS over it."""

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return some bytes, empty at the peer's end."""
        ...

    async def send_all(self, data: bytes) -> None:
        """Send everything."""
        ...

    async def send_eof(self) -> None:
        """Say that nothing more comes."""
        ...

    def close(self) -> None:
        """Close at once."""
        ...


Secure = Callable[[SocketStream], Awaitable[ByteStream]]
"""Takes a socket through the handshake of TLS."""


class _Admitted:
    """What `admit` found out about a request."""

    __slots__ = ("match", "path", "principal", "query")

    def __init__(self, match: Match, path: str, query: dict[str, str], principal: Principal) -> None:
        self.match, self.path, self.query, self.principal = match, path, query, principal


class Connection:
    """The driver of one `RequestParser`."""

    def __init__(
        self, server: HttpServer, stream: SocketStream, peer: Address, kind: Kind, secure: Secure | None = None
    ) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self.is_busy = False
        """A handler runs; how long it may take is its own affair, not the reaper's."""
        self.is_answering = False
        """Between a whole request and the last byte of its answer."""
        self.is_streaming = False
        self.deadline_s = trio.current_time() + server.limits.header_s
        """When the server's reaper cuts this connection."""
        self.was_late = False
        self.principal: Principal | None = None
        """Who made the request that is answered."""
        self._has_shown = False
        """A request had a role: by a valid token, or because none is needed."""
        self._server = server
        self._socket = stream
        self._stream: ByteStream = stream
        self._secure = secure
        self.kind = kind
        self._parser = RequestParser(server.limits, self._admit)

    @property
    def is_idle(self) -> bool:
        """True between requests."""
        return not self.is_answering and self._parser.phase is Phase.IDLE and not self._parser.requests

    async def run(self) -> None:
        """Serve until the peer or a rule ends it, then close. Raises nothing but cancellation from above."""
        try:
            with self.scope:
                if self._secure is not None:
                    # The deadline of a head holds for the handshake, too.
                    self._stream = await self._secure(self._socket)
                await self._serve()
            if self.was_late and self._parser.phase in (Phase.HEAD, Phase.BODY):
                await self._answer_late()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._server.broken.inc()
        except HandshakeRefused as error:
            log.info("network.tls_refused", peer=str(self.peer), reason=error.reason)
        except Exception as error:  # noqa: BLE001 (one connection must never end the listener)
            log.failed("network.connection_failed", error, peer=str(self.peer))
        finally:
            self._stream.close()

    async def _serve(self) -> None:
        parser = self._parser
        while True:
            while parser.requests:
                request = parser.requests.popleft()
                if not await self._answer(request):
                    return
            if parser.phase is Phase.CLOSED or (self._server.is_draining(self.kind) and parser.phase is Phase.IDLE):
                return
            if parser.phase is Phase.IDLE:
                self.deadline_s = trio.current_time() + self._server.limits.idle_s
            data = await self._stream.receive_some(READ_BYTES)
            if not data or not await self._feed(data):
                return

    async def _feed(self, data: bytes) -> bool:
        """Parse what was read; a flood of small requests is parsed in slices, so that few wait in memory."""
        parser, pipelined = self._parser, self._server.limits.pipelined
        slice_bytes = READ_BYTES if parser.phase is Phase.BODY else max(512, pipelined * 64)
        for start in range(0, len(data), slice_bytes):
            phase = parser.phase
            parser.feed(data[start : start + slice_bytes])
            if parser.phase is not phase:
                self._phase_changed()
            while len(parser.requests) >= pipelined:
                if not await self._answer(parser.requests.popleft()):
                    return False
        if parser.is_continue_wanted and not parser.requests:
            parser.is_continue_wanted = False
            await self._stream.send_all(CONTINUE)
        return True

    def _phase_changed(self) -> None:
        limits, phase = self._server.limits, self._parser.phase
        if phase is Phase.HEAD:
            self.deadline_s = trio.current_time() + limits.header_s
        elif phase is Phase.BODY:
            self.deadline_s = trio.current_time() + limits.body_s

    def _admit(self, request: Request) -> int:
        """Route and authorise a head before its body is kept."""
        server, principal, is_probe = self._server, None, False
        try:
            try:
                path, query = split_target(request.target)
                match = server.router.find(request.method, path)
                is_probe = match.route.template in PROBES
                need = match.route.need(match.params)
                principal = authorise(self.kind, need, request.headers, server.access, server.names)
            finally:
                # Requests that are refused count too, to refuse is work: those of a valid token against the token.
                # Probes do not: whoever shares an address with the kubelet's could have the node restarted.
                if not is_probe:
                    who = principal
                    if who is None:
                        who = identify(self.kind, request.headers, server.access)
                    server.check_pace(self.kind, who, self.peer)
        except FrysError as error:
            request.refusal = error
            return DISCARD_BYTES_MAX
        if principal.role and not self._has_shown:
            self._has_shown = True
            server.showed_token(self)
        request.route = _Admitted(match, path, query, principal)
        return match.route.body_bytes_max

    async def _answer(self, request: Request) -> bool:
        """Answer one request; returns True if the connection goes on."""
        began_s = trio.current_time()
        self.is_busy = self.is_answering = True
        try:
            response = await self._respond(request)
            is_last = request.is_last or (self._server.is_draining(self.kind) and not self._parser.requests)
            # Without chunks, only the end of the connection marks the end of a stream.
            is_last = is_last or (response.stream is not None and request.version == "1.0")
            await self._send(request, response, is_last=is_last)
        finally:
            self.is_busy = self.is_answering = False
        self._server.count(request.method, response.status, trio.current_time() - began_s)
        if is_last and request.refusal is not None:
            await self._linger()
        return not is_last

    async def _respond(self, request: Request) -> HttpResponse:
        if request.refusal is not None:
            return shaped(request.refusal, error_response)
        admitted = request.route
        assert isinstance(admitted, _Admitted)
        route, self.principal = admitted.match.route, admitted.principal
        try:
            self._check_standing(admitted.principal)
            self._check_body(request)
            return await route.handler(
                HttpRequest(
                    method=request.method,
                    path=admitted.path,
                    params=admitted.match.params,
                    query=admitted.query,
                    headers=request.headers,
                    body=request.body,
                    principal=admitted.principal,
                )
            )
        except FrysError as error:
            failure = error
        except RecursionError:
            # The decoders have limits of their own; what gets past them all is the sender's doing.
            failure = HttpError("the body nests too deeply")
        except Exception as error:  # noqa: BLE001 (answered, logged)
            log.failed("network.handler_failed", error, method=request.method, template=route.template)
            failure = InternalError("the node failed to answer", hint="its log says why")
        return shaped(failure, route.error_shape or error_response)

    def _check_standing(self, principal: Principal) -> None:
        """Raise `Unauthorised` if the token was revoked, or has expired, while the body came, or its turn."""
        access = self._server.access
        if principal.token_id and access is not None and not access.is_valid(principal):
            raise unauthorised()

    def _check_body(self, request: Request) -> None:
        depth = self._server.limits.json_depth
        if request.body and "json" in request.headers.get("content-type", "") and is_too_deep(request.body, depth):
            raise HttpError(f"the JSON body nests deeper than {depth}")

    async def _send(self, request: Request, response: HttpResponse, *, is_last: bool) -> None:
        head = head_bytes(
            response,
            fields=self._server.fields(),
            is_last=is_last,
            version=request.version,
            length=None if response.stream is not None else len(response.body),
        )
        self._sending()
        if response.stream is None:
            has_body = request.method != "HEAD" and response.status not in (204, 304)
            await self._stream.send_all(head + response.body if has_body else head)
        else:
            await self._send_stream(request, response, head)

    async def _send_stream(self, request: Request, response: HttpResponse, head: bytes) -> None:
        assert response.stream is not None
        is_chunked = request.version == "1.1"
        self.is_streaming = True
        try:
            await self._stream.send_all(head)
            self.is_busy = True
            if request.method != "HEAD":
                async for piece in response.stream:
                    self._sending()
                    if piece:
                        await self._stream.send_all(chunk(piece) if is_chunked else piece)
                    self.is_busy = True
                if is_chunked:
                    await self._stream.send_all(LAST_CHUNK)
        finally:
            self.is_streaming = False
            close = getattr(response.stream, "aclose", None)
            if close is not None:
                with trio.move_on_after(LINGER_S, shield=True):
                    await close()

    def _sending(self) -> None:
        """From here the peer has `write_s` to take the bytes."""
        self.is_busy = False
        self.deadline_s = trio.current_time() + self._server.limits.write_s

    async def _answer_late(self) -> None:
        phase = self._parser.phase
        what = "headers" if phase is Phase.HEAD else "body"
        self._parser.timed_out(RequestTimeout(f"the request's {what} did not arrive in time"))
        with trio.move_on_after(LINGER_S):
            for request in self._parser.requests:
                await self._answer(request)

    async def _linger(self) -> None:
        """Read away what the peer still sends: closing with unread bytes would reset the answer away."""
        with trio.move_on_after(LINGER_S):
            await self._stream.send_eof()
            left = LINGER_BYTES_MAX
            while left > 0:
                data = await self._stream.receive_some(READ_BYTES)
                if not data:
                    return
                left -= len(data)

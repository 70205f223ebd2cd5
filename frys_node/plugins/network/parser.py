"""Requests out of bytes: a strict HTTP/1.1 stream machine over httptools (llhttp).

Sans-I/O. llhttp refuses what smuggles: repeated or odd Content-Length, Content-Length with Transfer-Encoding, folded
headers, bare CR or LF, control characters, bad chunk sizes, data after ``Connection: close``. This machine adds what
llhttp leaves open: only 1.0 and 1.1, exactly one Host, ``chunked`` as the only coding and never in 1.0, one
Authorization, and a limit on everything that a peer can grow. After the first refusal nothing more is read.

The head is shown to `admit` before any body byte is kept: it names the body's limit, or a refusal, and then the body
is thrown away. So an unauthorised peer cannot make this process hold its body.

Sources: RFC 9112; RFC 9110.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import Enum

import httptools

from frys_node.base.errors import FrysError
from frys_node.plugins.network.config import HttpLimits
from frys_node.plugins.network.errors import (
    BodyTooLarge,
    ExpectationFailed,
    HeadersTooLarge,
    HttpError,
    LengthRequired,
    TargetTooLong,
    VersionNotSupported,
)

DISCARD_BYTES_MAX = 65_536
"""Body of a refused request that is read and thrown away, so that the connection can go on."""

FEED_BYTES = 16_384
"""Bytes are parsed in slices of this size: it is how far an unfinished field may run over its limit."""

CHUNK_OVERHEAD_BYTES = 16_384
CHUNK_OVERHEAD_FACTOR = 8
"""Chunk headers and extensions may take this much plus the factor times the body: a 1-byte chunk costs 5 more."""

_SINGLE = frozenset({"host", "authorization", "api-key", "content-type", "expect", "origin"})
_LENGTHLESS = frozenset({"POST", "PUT", "PATCH"})


class Phase(Enum):
    """What the machine waits for."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    CLOSED = "closed"
    """Nothing more is read: a refusal, the last request of the connection, or an upgrade."""


class Request:
    """One request, complete or refused."""

    __slots__ = ("body", "headers", "is_last", "method", "refusal", "route", "target", "version")

    def __init__(self) -> None:
        self.method = ""
        self.target = ""
        self.version = "1.1"
        self.headers: dict[str, str] = {}
        self.body = b""
        self.refusal: FrysError | None = None
        self.is_last = False
        """The connection closes after the answer."""
        self.route: object = None
        """For the owner of `admit`."""


Admit = Callable[[Request], int]
"""Takes a request whose head is complete; returns its body's limit in bytes, and may set `refusal` and `route`."""


class RequestParser:
    """The stream machine: `feed` bytes, take from `requests`."""

    def __init__(self, limits: HttpLimits, admit: Admit) -> None:
        self.requests: deque[Request] = deque()
        self.phase = Phase.IDLE
        self.is_continue_wanted = False
        """The peer waits for ``100 Continue`` before it sends the body of the request being read."""
        self._limits = limits
        self._admit = admit
        self._parser = httptools.HttpRequestParser(self)
        self._request = Request()
        self._target = b""
        self._head_bytes = self._head_fed = 0
        self._header_count = 0
        self._body: list[bytes] = []
        self._body_bytes = self._body_bytes_max = self._body_fed = 0
        self._is_trailer = self._has_length = False
        self._error: HttpError | None = None

    def feed(self, data: bytes) -> None:
        """Take bytes; complete and refused requests appear in `requests`. Never raises."""
        if len(data) <= FEED_BYTES:
            self._feed(data)
            return
        for start in range(0, len(data), FEED_BYTES):
            self._feed(data[start : start + FEED_BYTES])

    def _feed(self, data: bytes) -> None:
        if self.phase is Phase.CLOSED:
            return
        before, body_before, request = self.phase, self._body_bytes, self._request
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            # The request itself is complete; what follows would be another protocol, which is not spoken.
            if self.requests:
                self.requests[-1].is_last = True
            self.phase = Phase.CLOSED
            return
        except httptools.HttpParserError as error:
            self._refuse(self._error or HttpError(f"this is not HTTP/1.1: {error}"))
            return
        if self.phase is Phase.HEAD:
            self._head_fed = self._head_fed + len(data) if before is Phase.HEAD else 0
            if self._head_fed > self._limits.header_bytes:
                self._refuse(self._too_large())
        elif self.phase is Phase.BODY and before is Phase.BODY and request is self._request:
            self._body_fed += len(data) - (self._body_bytes - body_before)
            if self._body_fed > CHUNK_OVERHEAD_BYTES + CHUNK_OVERHEAD_FACTOR * self._body_bytes:
                self._refuse(BodyTooLarge("the chunks hold more framing than body"))

    def timed_out(self, error: HttpError) -> None:
        """Refuse the request being read because it did not arrive in time."""
        self._refuse(error)

    # Callbacks of httptools. An exception here stops it; `_error` says why.

    def on_message_begin(self) -> None:
        """Start a request."""
        self.phase = Phase.HEAD
        self._request = Request()
        self._target = b""
        self._head_bytes = self._head_fed = self._header_count = 0
        self._body = []
        self._body_bytes = self._body_fed = 0
        self._is_trailer = self._has_length = self.is_continue_wanted = False

    def on_url(self, piece: bytes) -> None:
        """Take a piece of the target."""
        self._target += piece
        if len(self._target) > self._limits.target_bytes:
            self._fail(TargetTooLong(f"the path and query are over {self._limits.target_bytes} bytes"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take one header field, or one trailer field, which is counted and dropped."""
        self._header_count += 1
        self._head_bytes += len(name) + len(value) + 4
        if self._header_count > self._limits.header_count or self._head_bytes > self._limits.header_bytes:
            self._fail(self._too_large())
        if self._is_trailer:
            return
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        if key not in self._request.headers:
            self._request.headers[key] = text
        elif key in _SINGLE:
            self._fail(HttpError(f"the header '{key}' is there twice"))
        else:
            self._request.headers[key] += f", {text}"

    def on_headers_complete(self) -> None:
        """Judge the head and ask `admit`."""
        request = self._request
        request.method = self._parser.get_method().decode("latin-1")
        request.version = self._parser.get_http_version()
        request.target = self._target.decode("latin-1")
        self._check_head(request)
        self._is_trailer = True
        self.phase = Phase.BODY
        self._body_bytes_max = self._admit(request)
        if request.refusal is not None:
            self._body_bytes_max = DISCARD_BYTES_MAX
            if "expect" in request.headers and self._has_length:
                # The peer holds its body back: answer now, and close, since it may send the body all the same.
                self._fail(None)
            return
        length = request.headers.get("content-length")
        if length is not None and int(length) > self._body_bytes_max:
            self._fail(self._body_too_large())
        self.is_continue_wanted = self._has_length and "expect" in request.headers and request.version == "1.1"

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self.is_continue_wanted = False
        self._body_bytes += len(piece)
        if self._body_bytes > self._body_bytes_max:
            self._fail(None if self._request.refusal is not None else self._body_too_large())
        if self._request.refusal is None:
            self._body.append(piece)

    def on_message_complete(self) -> None:
        """Hand the request over."""
        request = self._request
        request.body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request.is_last = not self._parser.should_keep_alive()
        self._body = []
        self.is_continue_wanted = False
        self.requests.append(request)
        self.phase = Phase.CLOSED if request.is_last else Phase.IDLE

    def _check_head(self, request: Request) -> None:
        headers = request.headers
        if request.version not in ("1.0", "1.1"):
            self._fail(VersionNotSupported(f"HTTP/{request.version} is not spoken", hint="use HTTP/1.1"))
        if "host" not in headers and request.version == "1.1":
            self._fail(HttpError("the header 'host' is missing"))
        coding = headers.get("transfer-encoding")
        if coding is not None and (request.version == "1.0" or coding.strip().lower() != "chunked"):
            self._fail(HttpError(f"the transfer coding '{coding[:64]}' is not spoken", hint="use chunked, in HTTP/1.1"))
        if "expect" in headers and headers["expect"].lower() != "100-continue":
            self._fail(ExpectationFailed(f"'{headers['expect'][:64]}' cannot be met", hint="only 100-continue"))
        self._has_length = coding is not None or headers.get("content-length", "0") != "0"
        if (
            coding is None
            and "content-length" not in headers
            and "content-type" in headers
            and request.method in _LENGTHLESS
        ):
            self._fail(LengthRequired("a body is announced without its length", hint="send Content-Length"))
        if not request.target.startswith("/"):
            self._absolute(request)

    def _absolute(self, request: Request) -> None:
        """Turn ``http://host/path`` into its path; the host in it is the one that counts (RFC 9112, 3.2.2)."""
        scheme, separator, rest = request.target.partition("://")
        if separator and scheme.lower() in ("http", "https"):
            host, slash, path = rest.partition("/")
            if host and "?" not in host:
                request.headers["host"] = host
                request.target = slash + path or "/"
                return
        if request.target != "*" and request.method != "CONNECT":
            self._fail(HttpError("the target is no path"))

    def _fail(self, error: HttpError | None) -> None:
        """Stop httptools; None means that the request's own refusal is the answer."""
        self._error = error
        raise ValueError("refused")

    def _refuse(self, error: HttpError) -> None:
        """Queue the refusal of the request being read, and read nothing more."""
        if self.phase is Phase.CLOSED:
            # The last request was whole; what came after it is not ours to answer.
            return
        if self._request.refusal is None:
            self._request.refusal = error
        self._request.is_last = True
        self._body = []
        self.is_continue_wanted = False
        self.requests.append(self._request)
        self.phase = Phase.CLOSED

    def _too_large(self) -> HeadersTooLarge:
        limits = self._limits
        return HeadersTooLarge(f"the headers are over {limits.header_bytes} bytes or {limits.header_count} fields")

    def _body_too_large(self) -> BodyTooLarge:
        return BodyTooLarge(f"the body is over {self._body_bytes_max} bytes", hint="send it in several requests")

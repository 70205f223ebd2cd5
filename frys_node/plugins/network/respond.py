"""Answers as bytes: status line, headers, body; errors in the one envelope.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from frys_node.base.errors import FrysError, PluginError
from frys_node.kernel.services.http import HttpResponse
from frys_node.plugins.network.errors import MethodNotAllowed, Unauthorised

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"
RETRY_AFTER_S = 1

_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_prefixes: dict[tuple[int, str], bytes] = {}


def error_response(error: FrysError) -> HttpResponse:
    """Return the standard envelope of an error, with the headers that its status calls for."""
    headers: dict[str, str] = {}
    if isinstance(error, MethodNotAllowed):
        headers["Allow"] = ", ".join(error.allow)
    elif isinstance(error, Unauthorised):
        headers["WWW-Authenticate"] = 'Bearer realm="frys"'
    elif error.retryable and error.status in (429, 503):
        headers["Retry-After"] = str(RETRY_AFTER_S)
    whole = HttpResponse.json(
        {"error": {"code": error.code, "message": error.message, "hint": error.hint}}, status=error.status
    )
    return HttpResponse(status=whole.status, body=whole.body, headers=headers)


def head_bytes(response: HttpResponse, *, fields: bytes, is_last: bool, version: str, length: int | None) -> bytes:
    """Return the status line and headers; `length` None announces chunks (or, in 1.0, the end of the connection).

    `fields` are header lines that are made elsewhere.

    Raises:
        PluginError: A handler put a line break into a header.
    """
    key = (response.status, response.content_type)
    prefix = _prefixes.get(key)
    if prefix is None:
        prefix = _prefix(response)
        if len(_prefixes) < 256:
            _prefixes[key] = prefix
    parts = [prefix, fields]
    if response.headers:
        parts.append(_fields(response.headers))
    if length is not None:
        # 204 and 304 have no body and no length (RFC 9110, 8.6).
        parts.append(b"" if response.status in (204, 304) else b"Content-Length: %d\r\n" % length)
    elif version == "1.1":
        parts.append(b"Transfer-Encoding: chunked\r\n")
    if is_last:
        parts.append(b"Connection: close\r\n\r\n")
    elif version == "1.0":
        parts.append(b"Connection: keep-alive\r\n\r\n")
    else:
        parts.append(b"\r\n")
    return b"".join(parts)


def chunk(piece: bytes) -> bytes:
    """Return one chunk; pieces are not empty."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def _prefix(response: HttpResponse) -> bytes:
    phrase = _PHRASES.get(response.status, "Unknown")
    lines = f"HTTP/1.1 {response.status} {phrase}\r\n"
    if response.status not in (204, 304):
        _check(response.content_type)
        lines += f"Content-Type: {response.content_type}\r\nX-Content-Type-Options: nosniff\r\n"
    return lines.encode("latin-1")


def _fields(headers: Mapping[str, str]) -> bytes:
    text = ""
    for name, value in headers.items():
        _check(name)
        _check(value)
        text += f"{name}: {value}\r\n"
    return text.encode("latin-1", errors="replace")


def _check(text: str) -> None:
    if "\r" in text or "\n" in text or "\0" in text:
        raise PluginError("a response header holds a line break")

"""The session of a request, hung at the task that works for it.

Sans-I/O. The token travels in the header ``Frys-Session`` (``new`` begins one). The layers between a request and
replication need not know of it: it hangs at the task, and the tasks that it starts.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import ContextVar

import msgspec

from frys_node.base.errors import FrysError, UsageError
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.wire.sessions import (
    HEADER,
    NEW,
    TOKEN_CHARS_MAX,
    UNITS_MAX,
    InvalidSession,
    Session,
)

__all__ = [
    "HEADER",
    "NEW",
    "SESSION",
    "TOKEN_CHARS_MAX",
    "UNITS_MAX",
    "InvalidSession",
    "Session",
    "in_session",
]

SESSION: ContextVar[Session | None] = ContextVar("frys_session", default=None)
"""The session of the request that this task works for."""

REPAIRS = {"async": False, "wait": True}


async def in_session(
    request: HttpRequest, answer: Callable[[HttpRequest], Awaitable[HttpResponse]], *, waits_repair: bool = False
) -> HttpResponse:
    """Answer a request within its client's session, and hand the token on; without header nothing is kept.

    An error carries the token too: what was seen or written before it counts, and to begin anew would forget it.

    Raises:
        InvalidSession: The header is not a token.
        UsageError: ``?read_repair=`` is neither ``async`` nor ``wait``.
    """
    text, repair = request.headers.get(HEADER.lower()), request.query.get("read_repair")
    if repair is not None and repair not in REPAIRS:
        raise UsageError(f"read_repair '{repair[:40]}' is not known", hint="use async or wait")
    if repair is not None:
        waits_repair = REPAIRS[repair]
    if text is None and not waits_repair:
        return await answer(request)
    session = Session() if text is None else Session.decode(text)
    session.waits_repair = waits_repair
    before = SESSION.set(session)
    try:
        response = await answer(request)
    except FrysError as error:
        if text is not None:
            error.answer_headers = {**error.answer_headers, HEADER: session.encode()}
        raise
    finally:
        SESSION.reset(before)
    if text is None:
        return response
    return msgspec.structs.replace(response, headers={**response.headers, HEADER: session.encode()})

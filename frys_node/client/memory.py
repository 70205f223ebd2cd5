"""What the operations of one `session()` have seen: the token that goes with each request, and what answers add to it.

Sans-I/O. Operations may be under way at the same time: each answer's token is joined with what is known by then.
"""

from __future__ import annotations

from frys_node.base.errors import UsageError
from frys_node.client.calls import Answer, Call
from frys_node.wire.sessions import HEADER, NEW, InvalidSession, Session

READ_REPAIRS = ("async", "wait")

_PATHS = ("/v1/cache/", "/collections/")
"""What is replicated: the other services know no sessions."""


class Memory:
    """One session."""

    def __init__(self, token: str = NEW, *, read_repair: str = "async") -> None:
        """Begin one, or go on with one whose token was kept.

        Raises:
            InvalidSession: Not a token.
            UsageError: `read_repair` is neither ``async`` nor ``wait``.
        """
        if read_repair not in READ_REPAIRS:
            raise UsageError(f"read_repair '{read_repair[:40]}' is not known", hint="use async or wait")
        self._seen = Session.decode(token)
        self._token = token
        self._is_waiting = read_repair == "wait"

    @property
    def token(self) -> str:
        """What goes with the next request; kept, it lets another process go on with the session."""
        return self._token

    def dress(self, call: Call) -> Call:
        """Return a call as it is sent."""
        if not call.path.startswith(_PATHS):
            return call
        path = call.path
        if self._is_waiting:
            path += ("&" if "?" in path else "?") + "read_repair=wait"
        return call._replace(path=path, headers=(*call.headers, (HEADER, self._token)))

    def heard(self, answer: Answer) -> None:
        """Take in what an answer says was seen."""
        text = answer.headers.get(HEADER.lower())
        if text is None:
            return
        try:
            self._seen.join(Session.decode(text))
        except InvalidSession:
            # Of a node of a newer version, say: nobody is known to hold what was seen, so ask a quorum.
            self._seen.forget()
        self._token = self._seen.encode()

"""One flight over HTTP/1.1: its requests as bytes, its answers out of bytes.

Sans-I/O. All requests go out in one piece, and the answers come back in their order. httptools parses, as it does in
the node (ADR 0013).
"""

from __future__ import annotations

from collections.abc import Sequence

import httptools

from frys_node.base.types import Address
from frys_node.client.calls import Answer, Call, Failure, Loss, Outcome

ANSWER_BYTES_MAX = 64 << 20
"""Largest answer that is read; a longer one ends the connection."""

HEADERS_MAX = 100


class AnswerReader:
    """Answers out of bytes; `feed` and then look at `answers`."""

    def __init__(self) -> None:
        self.answers: list[Answer] = []
        self.is_last = False
        """The node closes the connection after the last of `answers`."""
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._bytes = 0

    def feed(self, data: bytes) -> None:
        """Take bytes.

        Raises:
            ValueError: They are no HTTP, or an answer is over its limits. The connection is of no more use.
        """
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            raise ValueError(f"this is no HTTP: {error}") from error

    # Callbacks of httptools.

    def on_message_begin(self) -> None:
        """Start an answer."""
        self._headers, self._body, self._bytes = {}, [], 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a field; of a repeated one the last counts."""
        if len(self._headers) >= HEADERS_MAX:
            raise ValueError(f"over {HEADERS_MAX} header fields")
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._bytes += len(piece)
        if self._bytes > ANSWER_BYTES_MAX:
            raise ValueError(f"an answer over {ANSWER_BYTES_MAX} bytes")
        self._body.append(piece)

    def on_message_complete(self) -> None:
        """Keep the answer; ``100 Continue`` and its like are none."""
        status = self._parser.get_status_code()
        if status >= 200:
            self.answers.append(Answer(status, self._headers, b"".join(self._body)))
            self.is_last = not self._parser.should_keep_alive()


def encode(call: Call, authority: str, token: str) -> bytes:
    """Return a call as bytes."""
    lines = [f"{call.method} {call.path} HTTP/1.1", f"Host: {authority}"]
    if token:
        lines.append(f"Authorization: Bearer {token}")
    if call.body or call.method in ("PUT", "POST"):
        lines += [f"Content-Type: {call.content_type}", f"Content-Length: {len(call.body)}"]
    lines += [f"{name}: {value}" for name, value in call.headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + call.body


class Conversation:
    """One flight on one connection."""

    __slots__ = ("_reader", "_want", "failure", "is_done", "to_send")

    def __init__(self, calls: Sequence[Call], address: Address, token: str) -> None:
        self.to_send = b"".join(encode(call, str(address), token) for call in calls)
        self.is_done = False
        """Every answer is there, or none will follow."""
        self.failure: Failure | None = None
        self._want = len(calls)
        self._reader = AnswerReader()

    @property
    def can_go_on(self) -> bool:
        """True if the connection can carry another flight."""
        return self.is_done and self.failure is None and not self._reader.is_last

    def receive(self, data: bytes) -> None:
        """Take what the node sent; empty: it closed the connection."""
        reader = self._reader
        if not data:
            self.fail(Loss.BROKEN, "closed by the node")
            return
        try:
            reader.feed(data)
        except ValueError as error:
            self.fail(Loss.BROKEN, str(error))
            return
        if len(reader.answers) > self._want:
            self.fail(Loss.BROKEN, "more answers than questions")
        elif len(reader.answers) == self._want:
            self.is_done = True
        elif reader.is_last and reader.answers:
            self.fail(Loss.BROKEN, "closed by the node")

    def fail(self, loss: Loss, detail: str = "") -> None:
        """Note that nothing more will come."""
        if not self.is_done:
            self.failure, self.is_done = Failure(loss, detail), True

    @property
    def outcomes(self) -> list[Outcome]:
        """What became of each call, in their order."""
        answered: list[Outcome] = [*self._reader.answers[: self._want]]
        lacking = self._want - len(answered)
        return answered + [self.failure or Failure(Loss.BROKEN)] * lacking

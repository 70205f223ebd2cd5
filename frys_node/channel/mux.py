"""Many calls over one byte stream.

Sans-I/O stream machine, one per connection: bytes in, events out; commands in, bytes out. Theory of operation:

- Each side says `Hello` first; anything else before it ends the connection.
- The dialling side numbers its calls 1, 3, 5..., the accepting side 2, 4, 6..., so ids never collide.
- What is to be sent gathers until the driver takes it all with `data_to_send`: one joined write per batch.
- Bounds: bytes waiting to be sent, calls in flight each way, frame and body size. Over a bound a call fails with
  `Overloaded` before anything is queued, and a note is dropped; replies are always queued, because a call that was
  admitted is already bounded.
- An answer to a call that nobody waits for any more is dropped: the caller cancelled, the answer was under way.
"""

from __future__ import annotations

import struct

from frys_node.base.errors import FrameTooLarge, MalformedFrame, Overloaded, UsageError
from frys_node.channel.messages import (
    BODY_BYTES_MAX,
    CHANNEL_CODEC,
    FRAME_BYTES_MAX,
    KIND_CHANNEL,
    NAME_BYTES_MAX,
    Cancel,
    ChannelMessage,
    Failure,
    GoAway,
    Hello,
    Note,
    Ping,
    Pong,
    Reply,
    Request,
)
from frys_node.trust.messages import Credentials
from frys_node.wire.frame import FrameReader

QUEUE_BYTES_MAX = 16 << 20
"""Bytes waiting to be sent on one connection before calls are refused and notes dropped."""

IN_FLIGHT_MAX = 1_024
"""Calls under way in one direction of one connection."""

BUDGET_MS_MAX = 3_600_000
TEXT_CHARS_MAX = 4_096

Event = Hello | Credentials | Request | Reply | Failure | Note | Cancel | Pong | GoAway
"""What `receive_data` hands to the driver; pings are answered inside."""

_HEADER = struct.Struct(">IB")


class Mux:
    """One side of one connection."""

    __slots__ = (
        "_encode",
        "_has_peer_hello",
        "_has_said_go_away",
        "_incoming",
        "_limit_bytes",
        "_next_id",
        "_outgoing",
        "_peer_parity",
        "_queue",
        "_queued_bytes",
        "_reader",
        "is_draining",
        "late_answers",
    )

    def __init__(self, *, dialled: bool, limit_bytes: int = QUEUE_BYTES_MAX) -> None:
        self._next_id = 1 if dialled else 2
        self._peer_parity = 0 if dialled else 1
        self._reader = FrameReader(FRAME_BYTES_MAX)
        self._encode = CHANNEL_CODEC.encode
        self._queue: list[bytes] = []
        self._queued_bytes = 0
        self._limit_bytes = limit_bytes
        self._outgoing: set[int] = set()
        self._incoming: set[int] = set()
        self._has_peer_hello = False
        self._has_said_go_away = False
        self.is_draining = False
        """True once either side said `GoAway`: no new calls or notes are taken."""
        self.late_answers = 0
        """Answers that came for calls nobody waited for any more."""

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for `data_to_send`."""
        return self._queued_bytes

    @property
    def in_flight(self) -> int:
        """Calls under way, both directions."""
        return len(self._outgoing) + len(self._incoming)

    def receive_data(self, data: bytes) -> list[Event]:
        """Take bytes and return what they say, in order.

        Raises:
            MalformedFrame: Not this protocol, or out of order. Close the connection.
            FrameTooLarge: A frame or body is over its limit. Close the connection.
        """
        events: list[Event] = []
        for frame in self._reader.receive_data(data):
            if frame.kind != KIND_CHANNEL:
                raise MalformedFrame(f"a frame of kind {frame.kind} on a channel connection")
            event = self._take(CHANNEL_CODEC.decode(frame.body))
            if event is not None:
                events.append(event)
        return events

    def _take(self, message: ChannelMessage) -> Event | None:
        """Settle one message; None if it needs no driver."""
        if not self._has_peer_hello:
            if not isinstance(message, Hello):
                raise MalformedFrame("the first message must be a hello")
            self._has_peer_hello = True
            return message
        if isinstance(message, Request):
            return self._take_request(message)
        if isinstance(message, (Reply, Failure)):
            return self._take_answer(message)
        if isinstance(message, Note):
            _check_body(message.body)
        elif isinstance(message, Cancel):
            return message if message.id in self._incoming else None
        elif isinstance(message, Ping):
            # A peer that pings and never reads must not fill this side's memory.
            if self._queued_bytes <= self._limit_bytes:
                self._push(Pong(message.nonce))
            return None
        elif isinstance(message, GoAway):
            self.is_draining = True
        elif isinstance(message, Hello):
            raise MalformedFrame("a second hello")
        return message

    def _take_request(self, request: Request) -> Event | None:
        _check_body(request.body)
        if request.id & 1 != self._peer_parity or request.id in self._incoming:
            raise MalformedFrame(f"call {request.id} has a number that is not the caller's to use")
        if len(self._incoming) >= IN_FLIGHT_MAX:
            if self._queued_bytes > self._limit_bytes:
                raise MalformedFrame("calls over the limit from a peer that does not read")
            self._push(Failure(request.id, Overloaded.code, f"{IN_FLIGHT_MAX} calls are under way on this connection"))
            return None
        self._incoming.add(request.id)
        return request

    def _take_answer(self, answer: Reply | Failure) -> Event | None:
        if isinstance(answer, Reply):
            _check_body(answer.body)
        if answer.id not in self._outgoing:
            self.late_answers += 1
            return None
        self._outgoing.discard(answer.id)
        return answer

    def hello(self, hello: Hello) -> None:
        """Queue this side's hello."""
        self._push(hello)

    def credentials(self, credentials: Credentials) -> None:
        """Queue credentials."""
        self._push(credentials)

    def request(self, method: str, budget_ms: int, body: bytes) -> int:
        """Queue a call and return its id.

        Raises:
            Overloaded: A queue is full or the connection is draining. Nothing was queued.
            FrameTooLarge: The body is over `BODY_BYTES_MAX`. Nothing was queued.
            UsageError: The method's name is too long.
        """
        _check_body(body)
        _check_name(method)
        if self.is_draining or self._queued_bytes > self._limit_bytes or len(self._outgoing) >= IN_FLIGHT_MAX:
            raise Overloaded("the queue to that node is full", hint="retry later")
        call_id = self._next_id
        self._next_id += 2
        self._outgoing.add(call_id)
        self._push(Request(call_id, method, max(1, min(budget_ms, BUDGET_MS_MAX)), body))
        return call_id

    def reply(self, call_id: int, body: bytes) -> None:
        """Queue the answer of a call; nothing happens when the call is not under way (any more).

        Raises:
            FrameTooLarge: The body is over `BODY_BYTES_MAX`. Nothing was queued; the call is still under way.
        """
        _check_body(body)
        if call_id in self._incoming:
            self._incoming.discard(call_id)
            self._push(Reply(call_id, body))

    def fail(self, call_id: int, code: str, message: str, hint: str = "") -> None:
        """Queue the error that answers a call; nothing happens when the call is not under way (any more)."""
        if call_id in self._incoming:
            self._incoming.discard(call_id)
            self._push(Failure(call_id, code, message[:TEXT_CHARS_MAX], hint[:TEXT_CHARS_MAX]))

    def note(self, name: str, body: bytes) -> bool:
        """Queue a note; False (nothing queued) when the queue is full or the connection is draining.

        Raises:
            FrameTooLarge: The body is over `BODY_BYTES_MAX`. Nothing was queued.
        """
        check_note(name, body)
        if self.is_draining or self._queued_bytes > self._limit_bytes:
            return False
        self._push(Note(name, body))
        return True

    def cancel(self, call_id: int) -> None:
        """Give a call up: its answer will be ignored, and the other side is told."""
        if call_id in self._outgoing:
            self._outgoing.discard(call_id)
            self._push(Cancel(call_id))

    def forget(self, call_id: int) -> None:
        """Note that a call of the other side ended without an answer (it cancelled)."""
        self._incoming.discard(call_id)

    def ping(self, nonce: int) -> None:
        """Queue a ping."""
        self._push(Ping(nonce))

    def go_away(self, reason: str) -> None:
        """Refuse new calls and notes from now on, and say so, once: also to one that has said it first.

        Either side then knows that everything the other one had to say has been read.
        """
        self.is_draining = True
        if not self._has_said_go_away:
            self._has_said_go_away = True
            self._push(GoAway(reason))

    def data_to_send(self) -> bytes:
        """Return everything queued, joined, and forget it."""
        if not self._queue:
            return b""
        data = self._queue[0] if len(self._queue) == 1 else b"".join(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        return data

    def _push(self, message: ChannelMessage) -> None:
        body = self._encode(message)
        if len(body) + 1 > FRAME_BYTES_MAX:
            raise FrameTooLarge(f"a message of {len(body)} bytes is over the limit of {FRAME_BYTES_MAX}")
        frame = _HEADER.pack(len(body) + 1, KIND_CHANNEL) + body
        self._queue.append(frame)
        self._queued_bytes += len(frame)


def check_note(name: str, body: bytes) -> None:
    """Refuse a note that no connection takes (`FrameTooLarge`, `UsageError`)."""
    _check_body(body)
    _check_name(name)


def _check_body(body: bytes) -> None:
    if len(body) > BODY_BYTES_MAX:
        raise FrameTooLarge(
            f"a body of {len(body)} bytes is over the limit of {BODY_BYTES_MAX}", hint="send it in chunks"
        )


def _check_name(name: str) -> None:
    if len(name) > NAME_BYTES_MAX:
        raise UsageError(f"the name '{name[:40]}...' is over {NAME_BYTES_MAX} characters")

"""The stream machine of a connection: order, limits, and bytes that a hostile member may send."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frys_node.base.errors import FrameTooLarge, MalformedFrame, Overloaded, UsageError, WireError
from frys_node.channel.messages import (
    BODY_BYTES_MAX,
    CHANNEL_CODEC,
    KIND_CHANNEL,
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
from frys_node.channel.mux import IN_FLIGHT_MAX, Event, Mux
from frys_node.secure.admin import AdminWord
from frys_node.secure.keyring import EpochKey
from frys_node.secure.statements import Expulsion
from frys_node.trust.messages import Credentials
from frys_node.wire.frame import FrameReader, encode_frame

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "channel-messages-1.bin"
HELLO = Hello(1, 1, "c" * 32, "prod", "n1", 1 << 32 | 7, "10.0.0.1:7946", ("node",))
FIRST = Credentials((EpochKey(1, b"k" * 32),), (b"h" * 32,), ("d" * 32,))
SIGNED = Credentials(
    (EpochKey(2, b"k" * 32, 1_800_000_000, 1, b"s" * 64),), (b"h" * 32,), (), (Expulsion(("d" * 32,), b"t" * 64),)
)
REPLACED = Credentials((), admin=AdminWord(2, (b"h" * 32,), b"t" * 64))
DEPARTED = Credentials((), departed=("e" * 32,))
GONE = Credentials((), departed=("e" * 32,), departed_signature=b"t" * 64)
EVERY: tuple[ChannelMessage, ...] = (
    HELLO,
    FIRST,
    Request(1, "cache.get", 1_500, b"body"),
    Reply(2, b"answer"),
    Failure(4, "routing.overloaded", "full", "retry"),
    Note("replication", b"bytes"),
    Cancel(1),
    Ping(9),
    Pong(9),
    GoAway("shutdown"),
)


def _frame(message: ChannelMessage) -> bytes:
    return encode_frame(KIND_CHANNEL, CHANNEL_CODEC.encode(message))


def _pair() -> tuple[Mux, Mux]:
    """Two ends that have greeted each other."""
    dialling, accepting = Mux(dialled=True), Mux(dialled=False)
    for one, other in ((dialling, accepting), (accepting, dialling)):
        one.hello(HELLO)
        assert other.receive_data(one.data_to_send()) == [HELLO]
    return dialling, accepting


def test_the_golden_messages_decode_forever() -> None:
    """Every message of the first version; credentials have grown since, the others are the same byte for byte."""
    golden = FrameReader().receive_data(GOLDEN.read_bytes())
    assert tuple(CHANNEL_CODEC.decode(frame.body) for frame in golden) == EVERY
    for frame, message in zip(golden, EVERY, strict=True):
        assert message is FIRST or CHANNEL_CODEC.encode(message) == frame.body


def test_the_golden_credentials_decode_forever() -> None:
    """With the authority's signatures over keys and expulsions; then admin tokens; who has left; over that, too."""
    told = [[FIRST, SIGNED, REPLACED, DEPARTED, GONE][:count] for count in range(2, 6)]
    for version, messages in enumerate(told, 2):
        golden = GOLDEN.with_name(f"channel-messages-{version}.bin").read_bytes()
        assert [CHANNEL_CODEC.decode(frame.body) for frame in FrameReader().receive_data(golden)] == messages
    assert golden == b"".join(map(_frame, messages))


def test_a_call_goes_there_and_back() -> None:
    """Request, reply, and nothing is in flight any more; ids of the two sides never collide."""
    a, b = _pair()
    mine, theirs = a.request("m", 100, b"x"), b.request("m", 100, b"y")
    assert (mine, theirs) == (1, 2)
    assert b.receive_data(a.data_to_send()) == [Request(1, "m", 100, b"x")]
    assert (a.in_flight, b.in_flight) == (1, 2)
    b.reply(1, b"ok")
    assert a.receive_data(b.data_to_send()) == [Request(2, "m", 100, b"y"), Reply(1, b"ok")]
    a.fail(2, "code", "m" * 10_000, "h")
    (failure,) = b.receive_data(a.data_to_send())
    assert isinstance(failure, Failure)
    assert len(failure.message) == 4_096
    assert (a.in_flight, b.in_flight) == (0, 0)


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.sampled_from(["request", "note", "ping", "cancel"]), st.binary(max_size=300)), max_size=30),
    st.lists(st.integers(1, 50), min_size=1, max_size=20),
)
def test_any_cut_of_the_bytes_gives_the_same_events(steps: list[tuple[str, bytes]], cuts: list[int]) -> None:
    """However the stream is cut into reads, the events are those of one whole read."""

    def bytes_of() -> bytes:
        sender = Mux(dialled=True)
        sender.hello(HELLO)
        last = 0
        for kind, body in steps:
            if kind == "request":
                last = sender.request("m", 1, body)
            elif kind == "note":
                sender.note("n", body)
            elif kind == "ping":
                sender.ping(len(body))
            else:
                sender.cancel(last)
        return sender.data_to_send()

    data = bytes_of()
    whole = Mux(dialled=False).receive_data(data)
    pieces: list[Event] = []
    receiver, start, turn = Mux(dialled=False), 0, 0
    while start < len(data):
        size = cuts[turn % len(cuts)]
        pieces += receiver.receive_data(data[start : start + size])
        start, turn = start + size, turn + 1
    assert pieces == whole


@given(st.binary(max_size=400))
def test_noise_is_an_event_or_a_wire_error(data: bytes) -> None:
    """Whatever a member sends behind its hello, nothing but a wire error comes out."""
    _, accepting = _pair()
    try:
        accepting.receive_data(data)
        accepting.receive_data(encode_frame(KIND_CHANNEL, data or b"\0"))
    except WireError as error:
        assert error.code.startswith("wire.")  # noqa: PT017


@pytest.mark.parametrize("message", EVERY[1:])
def test_nothing_comes_before_the_hello(message: ChannelMessage) -> None:
    """A connection that does not begin with a hello is broken, whatever else it says."""
    with pytest.raises(MalformedFrame, match="hello"):
        Mux(dialled=False).receive_data(_frame(message))


def test_a_second_hello_and_foreign_numbers_break_the_connection() -> None:
    """A member cannot greet twice, use the other side's call numbers, or use one twice at a time."""
    for message in (HELLO, Request(2, "m", 1, b""), Request(0, "m", 1, b"")):
        _, accepting = _pair()
        with pytest.raises(MalformedFrame):
            accepting.receive_data(_frame(message))
    _, accepting = _pair()
    accepting.receive_data(_frame(Request(1, "m", 1, b"")))
    with pytest.raises(MalformedFrame):
        accepting.receive_data(_frame(Request(1, "m", 1, b"")))


def test_bodies_over_the_limit_are_refused_on_both_sides() -> None:
    """Nothing is queued; a member that sends one anyway breaks its connection."""
    a, b = _pair()
    body = bytes(BODY_BYTES_MAX + 1)
    b.receive_data(_frame(Request(1, "m", 1, b"")))
    for attempt in (
        lambda: a.request("m", 1, body),
        lambda: a.note("n", body),
        lambda: b.reply(1, body),
    ):
        with pytest.raises(FrameTooLarge):
            attempt()
    assert (a.queued_bytes, b.queued_bytes) == (0, 0)
    with pytest.raises(FrameTooLarge):
        b.receive_data(_frame_of(Note("n", body)))
    with pytest.raises(UsageError):
        a.request("m" * 200, 1, b"")


def _frame_of(message: ChannelMessage) -> bytes:
    return encode_frame(KIND_CHANNEL, CHANNEL_CODEC.encode(message), 1 << 22)


def test_a_full_queue_refuses_calls_and_drops_notes_and_recovers() -> None:
    """Over the limit of bytes nothing more is queued until the driver took what is there."""
    a = Mux(dialled=True, limit_bytes=1_000)
    assert a.note("n", bytes(1_000))
    with pytest.raises(Overloaded):
        a.request("m", 1, b"x")
    assert not a.note("n", b"x")
    a.data_to_send()
    assert a.request("m", 1, b"x")
    assert a.note("n", b"x")


def test_calls_in_flight_are_limited_each_way() -> None:
    """The caller is refused at its limit; a peer that ignores it gets an error for each call too many."""
    a, b = _pair()
    for _ in range(IN_FLIGHT_MAX):
        a.request("m", 1, b"")
    with pytest.raises(Overloaded):
        a.request("m", 1, b"")
    assert len(b.receive_data(a.data_to_send())) == IN_FLIGHT_MAX
    assert b.receive_data(_frame(Request(2 * IN_FLIGHT_MAX + 1, "m", 1, b""))) == []
    (frame,) = FrameReader().receive_data(b.data_to_send())
    failure = CHANNEL_CODEC.decode(frame.body)
    assert isinstance(failure, Failure)
    assert failure.code == Overloaded.code


def test_a_peer_that_pings_and_never_reads_costs_no_memory() -> None:
    """Pongs that nobody takes are not queued without end."""
    a, b = _pair()
    small = Mux(dialled=False, limit_bytes=1_000)
    a = Mux(dialled=True)
    a.hello(HELLO)
    small.receive_data(a.data_to_send())
    for nonce in range(10_000):
        a.ping(nonce)
    small.receive_data(a.data_to_send())
    assert small.queued_bytes < 2_000
    assert b.queued_bytes == 0


def test_pings_are_answered_inside() -> None:
    """The driver never sees a ping; the pong carries its nonce."""
    a, b = _pair()
    a.ping(77)
    assert b.receive_data(a.data_to_send()) == []
    assert a.receive_data(b.data_to_send()) == [Pong(77)]


def test_an_answer_that_nobody_waits_for_is_counted() -> None:
    """A call given up: the cancel is heard once, the late answer is dropped."""
    a, b = _pair()
    call = a.request("m", 1, b"")
    b.receive_data(a.data_to_send())
    b.reply(call, b"late")
    a.cancel(call)
    a.cancel(call)
    assert b.receive_data(a.data_to_send()) == []
    assert a.receive_data(b.data_to_send()) == []
    assert a.late_answers == 1
    again = a.request("m", 1, b"")
    b.receive_data(a.data_to_send())
    a.cancel(again)
    assert b.receive_data(a.data_to_send()) == [Cancel(again)]
    b.forget(again)
    b.reply(again, b"x")
    b.fail(again, "c", "m")
    assert (a.in_flight, b.in_flight, b.queued_bytes) == (0, 0, 0)


def test_after_a_go_away_only_answers_travel() -> None:
    """Both sides stop sending calls and notes; what is under way is finished; it is said once."""
    a, b = _pair()
    call = a.request("m", 1, b"")
    b.receive_data(a.data_to_send())
    b.go_away("bye")
    b.go_away("bye")
    assert a.receive_data(b.data_to_send()) == [GoAway("bye")]
    for side in (a, b):
        assert side.is_draining
        assert not side.note("n", b"")
        with pytest.raises(Overloaded):
            side.request("m", 1, b"")
    b.reply(call, b"done")
    assert a.receive_data(b.data_to_send()) == [Reply(call, b"done")]


def test_budgets_are_kept_in_range() -> None:
    """An expired budget travels as one millisecond, an endless one as an hour."""
    a, b = _pair()
    a.request("m", -5, b"")
    a.request("m", 10**12, b"")
    budgets = [event.budget_ms for event in b.receive_data(a.data_to_send()) if isinstance(event, Request)]
    assert budgets == [1, 3_600_000]
    assert a.data_to_send() == b""
    a.credentials(Credentials(()))
    assert b.receive_data(a.data_to_send()) == [Credentials(())]


def test_a_boot_that_no_node_has_is_no_hello() -> None:
    """Packets are opened under the boot that the hello names: a negative one would end the reader of all packets."""
    hello = msgspec.msgpack.decode(CHANNEL_CODEC.encode(HELLO))
    hello[6] = -1
    frame = encode_frame(KIND_CHANNEL, msgspec.msgpack.encode(hello))
    with pytest.raises(MalformedFrame):
        Mux(dialled=True).receive_data(frame)


def test_a_reader_gives_no_more_frames_than_are_asked_for_and_keeps_the_rest() -> None:
    """A stranger may send thousands in one read: one is cut out at a time, and the next call brings the next."""
    wire = b"".join(encode_frame(KIND_CHANNEL, b"%d" % number) for number in range(3))
    reader = FrameReader()
    found = reader.receive_data(wire + b"\0", at_most=1)
    while more := reader.receive_data(b"", at_most=1):
        assert len(more) == 1
        found += more
    assert [frame.body for frame in found] == [b"0", b"1", b"2"]
    assert reader.receive_data(encode_frame(KIND_CHANNEL, b"last")[1:], at_most=1)[0].body == b"last"

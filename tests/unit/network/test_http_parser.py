"""The request machine: what it takes, what it refuses, and that h11 reads nothing else into the same bytes."""

from __future__ import annotations

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frys_node.plugins.network.config import HttpLimits
from frys_node.plugins.network.errors import NoRoute
from frys_node.plugins.network.parser import DISCARD_BYTES_MAX, Phase, Request, RequestParser

BODY_MAX = 1_000


def _parse(data: bytes, *, cut: int = 0, limits: HttpLimits | None = None, body_max: int = BODY_MAX) -> RequestParser:
    parser = RequestParser(limits or HttpLimits(), lambda request: body_max)
    step = cut or len(data) or 1
    for start in range(0, len(data), step):
        parser.feed(data[start : start + step])
    return parser


def _post(*headers: str, body: str = "", version: str = "1.1") -> bytes:
    lines = [f"POST /x HTTP/{version}", "Host: a", *headers]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode("latin-1")


CHUNKED = "Transfer-Encoding: chunked"

SMUGGLING: dict[str, bytes] = {
    "content-length twice, equal": _post("Content-Length: 3", "Content-Length: 3", body="abc"),
    "content-length twice, different": _post("Content-Length: 3", "Content-Length: 4", body="abcd"),
    "content-length list": _post("Content-Length: 3, 3", body="abc"),
    "content-length plus sign": _post("Content-Length: +3", body="abc"),
    "content-length minus sign": _post("Content-Length: -3", body="abc"),
    "content-length hex": _post("Content-Length: 0x3", body="abc"),
    "content-length empty": _post("Content-Length:", body="abc"),
    "content-length overflow": _post("Content-Length: 99999999999999999999", body="abc"),
    "content-length inner space": _post("Content-Length: 3 3", body="abc"),
    "content-length then chunked": _post("Content-Length: 3", CHUNKED, body="3\r\nabc\r\n0\r\n\r\n"),
    "chunked then content-length": _post(CHUNKED, "Content-Length: 3", body="3\r\nabc\r\n0\r\n\r\n"),
    "chunked twice": _post(CHUNKED, CHUNKED, body="3\r\nabc\r\n0\r\n\r\n"),
    "chunked not last": _post("Transfer-Encoding: chunked, identity", body="3\r\nabc\r\n0\r\n\r\n"),
    "gzip before chunked": _post("Transfer-Encoding: gzip, chunked", body="3\r\nabc\r\n0\r\n\r\n"),
    "identity": _post("Transfer-Encoding: identity", body="abc"),
    "almost chunked": _post("Transfer-Encoding: xchunked", body="3\r\nabc\r\n0\r\n\r\n"),
    "vertical tab before chunked": _post("Transfer-Encoding: \x0bchunked", body="3\r\nabc\r\n0\r\n\r\n"),
    "chunked in 1.0": _post(CHUNKED, body="3\r\nabc\r\n0\r\n\r\n", version="1.0"),
    "space before the colon": _post("Content-Length : 3", body="abc"),
    "folded header": _post("X: a", " b"),
    "folded transfer-encoding": _post("Transfer-Encoding:", " chunked", body="3\r\nabc\r\n0\r\n\r\n"),
    "bare LF everywhere": b"GET /x HTTP/1.1\nHost: a\n\n",
    "bare LF in a header": b"GET /x HTTP/1.1\r\nHost: a\nX: b\r\n\r\n",
    "bare LF at the end": b"GET /x HTTP/1.1\r\nHost: a\r\n\n",
    "bare CR": b"GET /x HTTP/1.1\r\nHost: a\rX: b\r\n\r\n",
    "NUL in a value": b"GET /x HTTP/1.1\r\nHost: a\x00b\r\n\r\n",
    "control character in a value": b"GET /x HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n",
    "space in a name": b"GET /x HTTP/1.1\r\nHost: a\r\nX Y: b\r\n\r\n",
    "no name": b"GET /x HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n",
    "no colon": b"GET /x HTTP/1.1\r\nHost: a\r\nnonsense\r\n\r\n",
    "space before the first header": b"GET /x HTTP/1.1\r\n Host: a\r\n\r\n",
    "no host": b"GET /x HTTP/1.1\r\n\r\n",
    "two hosts": b"GET /x HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two authorizations": b"GET /x HTTP/1.1\r\nHost: a\r\nAuthorization: x\r\nauthorization: y\r\n\r\n",
    "chunk size is no number": _post(CHUNKED, body="zz\r\nabc\r\n0\r\n\r\n"),
    "chunk size 0x3": _post(CHUNKED, body="0x3\r\nabc\r\n0\r\n\r\n"),
    "chunk size -3": _post(CHUNKED, body="-3\r\nabc\r\n0\r\n\r\n"),
    "chunk size overflow": _post(CHUNKED, body="fffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
    "chunk size with a space": _post(CHUNKED, body="3 \r\nabc\r\n0\r\n\r\n"),
    "chunk size ended by LF": _post(CHUNKED, body="3\nabc\r\n0\r\n\r\n"),
    "chunk extension ended by LF": _post(CHUNKED, body="3;a\nabc\r\n0\r\n\r\n"),
    "chunk longer than its size": _post(CHUNKED, body="3\r\nabcd\r\n0\r\n\r\n"),
    "HTTP/0.9": b"GET /x\r\n\r\n",
    "HTTP/1.2": b"GET /x HTTP/1.2\r\nHost: a\r\n\r\n",
    "HTTP/2.0": b"GET /x HTTP/2.0\r\nHost: a\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "lower-case method": b"get /x HTTP/1.1\r\nHost: a\r\n\r\n",
    "tab in the request line": b"GET\t/x HTTP/1.1\r\nHost: a\r\n\r\n",
    "control character in the target": b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n",
    "target without a slash": b"GET x HTTP/1.1\r\nHost: a\r\n\r\n",
    "TLS client hello": bytes.fromhex("16030100c8010000c40303"),
    "garbage": b"\xff\xfe\xfd\xfc",
}
"""Each is refused, and nothing that follows it on the connection is read as a request."""

SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


@pytest.mark.parametrize("name", SMUGGLING)
@pytest.mark.parametrize("cut", [0, 1])
def test_smuggling_attempts_are_refused_and_end_the_connection(name: str, cut: int) -> None:
    """In one piece or byte by byte: one refusal with status 4xx or 5xx, then silence."""
    parser = _parse(SMUGGLING[name] + SMUGGLED, cut=cut)
    assert parser.phase is Phase.CLOSED
    assert [request.refusal is not None for request in parser.requests] == [True]
    assert parser.requests[0].is_last
    assert all("/smuggled" not in request.target for request in parser.requests)


GOOD: dict[str, bytes] = {
    "get": b"GET /a?b=c HTTP/1.1\r\nHost: a\r\n\r\n",
    "body": _post("Content-Length: 3", body="abc"),
    "zero body": _post("Content-Length: 0"),
    "chunks": _post(CHUNKED, body="3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
    "chunk extension and trailer": _post(CHUNKED, body="3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n"),
    "upper-case chunked": _post("Transfer-Encoding: Chunked", body="A\r\n0123456789\r\n0\r\n\r\n"),
    "1.0": b"GET / HTTP/1.0\r\n\r\n",
    "closed": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    "pipelined": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n" * 3 + _post("Content-Length: 2", body="hi"),
    "obs-text": b"GET / HTTP/1.1\r\nHost: a\r\nX: \xe4\r\n\r\n",
    "two values": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\nX: 2\r\n\r\n",
}


def _h11(data: bytes) -> list[tuple[str, str, bytes]] | None:
    """Read requests with h11, answering each; None if it refuses any."""
    connection = h11.Connection(h11.SERVER)
    connection.receive_data(data)
    found: list[tuple[str, str, bytes]] = []
    method, target, body = "", "", b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                method, target, body = event.method.decode(), event.target.decode("latin-1"), b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                found.append((method, target, body))
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is h11.MUST_CLOSE or connection.their_state is h11.MUST_CLOSE:
                    return found
                connection.start_next_cycle()
            else:
                return found
    except h11.RemoteProtocolError:
        return None


def _ours(parser: RequestParser) -> list[tuple[str, str, bytes]]:
    return [(r.method, r.target, r.body) for r in parser.requests if r.refusal is None]


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("cut", [0, 1, 7])
def test_good_requests_read_as_h11_reads_them(name: str, cut: int) -> None:
    """Methods, targets, bodies and their number are the same, however the bytes are cut."""
    theirs = _h11(GOOD[name])
    assert theirs
    parser = _parse(GOOD[name], cut=cut)
    assert _ours(parser) == theirs
    assert all(request.refusal is None for request in parser.requests)


def test_what_h11_is_stricter_about_is_read_as_the_rfc_says() -> None:
    """Blank lines before a request are skipped (RFC 9112, 2.2), and HTTP/1.0 may ask to be kept alive."""
    assert _ours(_parse(b"\r\n\r\nGET /a HTTP/1.1\r\nHost: a\r\n\r\n")) == [("GET", "/a", b"")]
    kept = _parse(b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\nGET /b HTTP/1.0\r\n\r\n")
    assert [(r.target, r.is_last) for r in kept.requests] == [("/a", False), ("/b", True)]


_pieces = st.sampled_from(
    [
        *(
            b"GET / HTTP/1.1\r\n",
            b"POST /p HTTP/1.1\r\n",
            b"POST /q HTTP/1.0\r\n",
            b"Host: a\r\n",
            b"\r\n",
            b"\n",
            b"\r",
        ),
        *(
            b"Content-Length: 3\r\n",
            b"Content-Length: 0\r\n",
            b"Content-Length: 4\r\n",
            b"Transfer-Encoding: chunked\r\n",
        ),
        *(
            b"Connection: close\r\n",
            b"Connection: keep-alive\r\n",
            b"X: y\r\n",
            b" folded\r\n",
            b"abc",
            b"3\r\nabc\r\n",
        ),
        *(b"0\r\n\r\n", b"0\r\n", b"1;x=y\r\nz\r\n", b":", b" ", b"\x00", b"Transfer-Encoding: identity\r\n"),
    ]
)


@settings(max_examples=400, deadline=None)
@given(st.lists(_pieces, max_size=14).map(b"".join), st.integers(1, 40))
def test_no_byte_stream_means_more_requests_here_than_to_h11(data: bytes, cut: int) -> None:
    """Differential: where both accept, they agree; what h11 refuses may at most share its good beginning."""
    ours, theirs = _ours(_parse(data, cut=cut)), _h11(data)
    if theirs is not None:
        assert ours == theirs[: len(ours)]
    assert _ours(_parse(data)) == ours


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.integers(1, 50))
def test_random_bytes_never_raise(data: bytes, cut: int) -> None:
    """Garbage is a refusal or a wait, never an exception."""
    parser = _parse(data, cut=cut)
    assert len(parser.requests) <= 20


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /" + b"a" * 9_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /" + b"a" * 9_000, 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 20_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 200_000, 431),
        (_post("Content-Length: 1001", body="a" * 1001), 413),
        (_post(CHUNKED, body="400\r\n" + "a" * 1024 + "\r\n0\r\n\r\n"), 413),
        (_post(CHUNKED, body="1;" + "e" * 100_000 + "\r\na\r\n0\r\n\r\n"), 413),
        (_post(CHUNKED, body="0\r\n" + "X: y\r\n" * 200 + "\r\n"), 431),
        (_post("Content-Type: application/json"), 411),
        (_post("Expect: 200-maybe", "Content-Length: 3"), 417),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
    ],
)
@pytest.mark.parametrize("cut", [0, 1_000])
def test_every_limit_has_its_status(data: bytes, status: int, cut: int) -> None:
    """Path, header bytes and count, body by length and by chunks, chunk framing, trailers: nothing grows unbounded."""
    parser = _parse(data, cut=cut)
    assert [request.refusal.status for request in parser.requests if request.refusal] == [status]
    assert parser.phase is Phase.CLOSED


def test_a_refused_head_throws_its_body_away_and_the_connection_goes_on() -> None:
    """A 404 with a small body does not cost the connection; the body is not kept."""

    def admit(request: Request) -> int:
        if request.target == "/x":
            request.refusal = NoRoute("no")
        return BODY_MAX

    parser = RequestParser(HttpLimits(), admit)
    parser.feed(_post("Content-Length: 2000", body="a" * 2_000) + b"GET /y HTTP/1.1\r\nHost: a\r\n\r\n")
    first, second = parser.requests
    assert (first.refusal is not None, first.body, first.is_last) == (True, b"", False)
    assert (second.refusal, second.target) == (None, "/y")
    parser.feed(_post(f"Content-Length: {DISCARD_BYTES_MAX + 1}", body="a" * (DISCARD_BYTES_MAX + 1)))
    assert parser.requests[-1].is_last


def test_expect_continue_asks_for_an_answer_only_when_the_head_is_welcome() -> None:
    """The wish is seen after the head and gone with the first body byte; a refused head is answered at once."""
    parser = RequestParser(HttpLimits(), lambda request: BODY_MAX)
    parser.feed(_post("Content-Length: 3", "Expect: 100-continue"))
    assert parser.is_continue_wanted
    parser.feed(b"abc")
    assert not parser.is_continue_wanted
    assert parser.requests[0].body == b"abc"

    def refuse(request: Request) -> int:
        request.refusal = NoRoute("no")
        return 0

    parser = RequestParser(HttpLimits(), refuse)
    parser.feed(_post("Content-Length: 3", "Expect: 100-continue"))
    assert (parser.requests[0].is_last, parser.is_continue_wanted) == (True, False)


def test_an_absolute_target_names_the_host_that_counts() -> None:
    """RFC 9112 3.2.2: the Host header gives way to the host in the target."""
    parser = _parse(b"GET http://evil.example/v1?x=1 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (parser.requests[0].target, parser.requests[0].headers["host"]) == ("/v1?x=1", "evil.example")


def test_an_upgrade_is_not_spoken_and_what_follows_is_not_read() -> None:
    """The request is answered as if it had not asked, and the connection closes."""
    data = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n" + SMUGGLED
    parser = _parse(data)
    assert [(r.target, r.refusal, r.is_last) for r in parser.requests] == [("/", None, True)]


@pytest.mark.parametrize("cut", [0, 10_000, 16_384])
def test_large_requests_in_a_pipeline_are_not_taken_for_framing(cut: int) -> None:
    """A slice that holds the end of one body and the beginning of the next counts for neither's framing."""
    one = _post("Content-Length: 40000", body="x" * 40_000)
    parser = _parse(one * 5, cut=cut, body_max=40_000)
    assert [(request.refusal, len(request.body)) for request in parser.requests] == [(None, 40_000)] * 5

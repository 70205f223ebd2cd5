"""The HTTP listener on real sockets: correctness, limits, abuse, draining."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
from http_fixtures import client, serving

from frys_node.base.errors import NotFound
from frys_node.kernel.kernel import Kernel
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.observe.metrics import Counter, Gauge


async def _echo(request: HttpRequest) -> HttpResponse:
    await trio.lowlevel.checkpoint()
    return HttpResponse.json(
        {"method": request.method, "params": request.params, "query": request.query, "size": len(request.body)}
    )


def _counted(kernel: Kernel, name: str) -> float:
    metric = next(metric for metric in kernel.metrics if metric.name == name)
    assert isinstance(metric, Counter)
    return sum(metric.values.values())


async def test_requests_are_answered_on_one_connection_in_order(tmp_path: Path) -> None:
    """Keep-alive, then fifty pipelined requests of different kinds: answers come in the order of the questions."""
    async with serving(tmp_path) as (_, http), client(http) as c:
        http.route("POST", "/things/{name}", _echo, scope="write")
        answer = await c.get("/things/a%2Fb?x=1", method="POST", body=b"hello")
        assert answer.json() == {"method": "POST", "params": {"name": "a/b"}, "query": {"x": "1"}, "size": 5}
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["date"].endswith("GMT")
        wanted = []
        for i in range(50):
            if i % 3 == 0:
                await c.stream.send_all(b"GET /nope HTTP/1.1\r\nHost: localhost\r\n\r\n")
                wanted.append(404)
            else:
                body = b"1\r\nx\r\n" * i + b"0\r\n\r\n"
                head = b"POST /things/%d HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % i
                await c.stream.send_all(head + body)
                wanted.append(200)
        answers = [await c.read() for _ in range(50)]
        assert [answer.status for answer in answers] == wanted
        assert [a.json()["size"] for a in answers if a.status == 200] == [i for i in range(50) if i % 3]


async def test_a_flood_of_pipelined_requests_is_answered_completely(tmp_path: Path) -> None:
    """Five thousand requests in one write: all answered, though only a few wait in memory at a time."""
    async with serving(tmp_path, pipelined=8) as (_, http), client(http) as c, trio.open_nursery() as nursery:
        request = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
        nursery.start_soon(c.stream.send_all, request * 5_000)
        for _ in range(5_000):
            assert (await c.read()).status == 200


async def test_errors_have_one_envelope_and_the_right_headers(tmp_path: Path) -> None:
    """404, 405 with Allow, a handler's own error, and an unforeseen one that is not shown to the client."""

    async def missing(request: HttpRequest) -> HttpResponse:
        raise NotFound("no such thing", hint="look elsewhere")

    async def broken(request: HttpRequest) -> HttpResponse:
        raise ZeroDivisionError("secret detail")

    async with serving(tmp_path) as (_, http), client(http) as c:
        http.route("GET", "/missing", missing, scope="read")
        http.route("GET", "/broken", broken, scope="read")
        assert (await c.get("/missing")).json() == {
            "error": {"code": "request.not_found", "message": "no such thing", "hint": "look elsewhere"}
        }
        answer = await c.get("/broken")
        assert (answer.status, answer.json()["error"]["code"]) == (500, "http.internal")
        assert b"secret detail" not in answer.body
        assert (await c.get("/nope")).json()["error"]["code"] == "http.no_route"
        answer = await c.get("/missing", method="DELETE")
        assert (answer.status, answer.headers["allow"]) == (405, "GET, HEAD")


async def test_head_has_the_headers_of_get_and_no_body(tmp_path: Path) -> None:
    """The length is told, the bytes are not sent, and the connection stays in step."""
    async with serving(tmp_path) as (_, http), client(http) as c:
        answer = await c.get("/livez", method="HEAD")
        assert (answer.status, answer.headers["content-length"], answer.body) == (200, "3", b"")
        assert (await c.get("/livez")).body == b"ok\n"


async def test_expect_continue_is_answered_before_the_body_and_not_for_a_refused_head(tmp_path: Path) -> None:
    """100 comes for a welcome request; a refused one gets its answer and the end of the connection."""
    async with serving(tmp_path) as (_, http):
        http.route("PUT", "/up", _echo, scope="write", body_bytes_max=10)
        async with client(http) as c:
            await c.stream.send_all(
                b"PUT /up HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
            )
            assert await c.until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            await c.stream.send_all(b"hello")
            assert (await c.read()).json()["size"] == 5
        for path, length, status in (("/nope", 5, 404), ("/up", 11, 413)):
            async with client(http) as c:
                answer = await c.get(path, "Expect: 100-continue", f"Content-Length: {length}", method="PUT")
                assert (answer.status, answer.headers["connection"]) == (status, "close")
                assert await c.is_closed()


@pytest.mark.parametrize("size", [500_000, 12_000_000])
async def test_a_body_over_the_routes_limit_is_answered_and_the_connection_ends(tmp_path: Path, size: int) -> None:
    """The client sees 413, not a reset, although it goes on sending."""
    async with serving(tmp_path) as (_, http), client(http) as c:
        http.route("PUT", "/up", _echo, scope="write", body_bytes_max=1_000)
        await c.stream.send_all(b"PUT /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size)
        await c.stream.send_all(b"x" * (size - 1))
        answer = await c.read()
        assert (answer.status, answer.json()["error"]["code"]) == (413, "http.body_too_large")
        assert await c.is_closed()


async def test_a_deeply_nested_json_body_is_refused(tmp_path: Path) -> None:
    """Before any decoder meets it."""
    async with serving(tmp_path) as (_, http), client(http) as c:
        http.route("POST", "/json", _echo, scope="write")
        deep = b"[" * 100_000 + b"]" * 100_000
        answer = await c.get("/json", "Content-Type: application/json", method="POST", body=deep)
        assert (answer.status, "nests deeper" in answer.json()["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    ("sent", "limits", "status"),
    [
        (b"GET / HT", {"header_s": 0.1}, 408),
        (b"PUT /up HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab", {"body_s": 0.1}, 408),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n", {"idle_s": 0.1}, 200),
    ],
)
async def test_slow_requests_are_answered_408_and_idle_connections_closed(
    tmp_path: Path, sent: bytes, limits: dict[str, float], status: int
) -> None:
    """Header, body and idle deadlines end the connection; the first two say so."""
    async with serving(tmp_path, **limits) as (_, http), client(http) as c:
        http.route("PUT", "/up", _echo, scope="open")
        await c.stream.send_all(sent)
        assert (await c.read()).status == status
        assert await c.is_closed()


async def test_a_reset_in_the_middle_of_anything_never_ends_the_listener(tmp_path: Path) -> None:
    """Fifty connections are reset: idle, in a head, in a body, while a handler runs; the listener goes on."""
    entered = 0

    async def slow(request: HttpRequest) -> HttpResponse:
        nonlocal entered
        entered += 1
        await trio.sleep(0.01)
        return HttpResponse(body=b"x" * 1_000_000)

    async with serving(tmp_path) as (kernel, http):
        http.route("GET", "/slow", slow, scope="read")
        starts = [b"", b"GET / HT", b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nab"]
        for i in range(51):
            async with client(http) as c:
                sock = c.stream.socket
                await c.stream.send_all([*starts, b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n"][i % 4] or b"\r\n")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        async with client(http) as c:
            assert (await c.get("/livez")).status == 200
        assert kernel.control.is_ready()
        assert [view.restarts for view in kernel.control.components()] == [0, 0]
        assert _counted(kernel, "frys_network_connections_broken_total") > 0
        assert entered > 0


async def test_connections_are_limited_in_total_and_by_address(tmp_path: Path) -> None:
    """One too many is answered 503 at once; the others stay; the admin socket still has room."""
    async with serving(tmp_path, connections_per_address=2, connections=3) as (_, http):
        async with client(http) as one, client(http) as two, client(http) as three:
            assert (await one.get("/livez")).status == (await two.get("/livez")).status == 200
            answer = await three.read()
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            assert await three.is_closed()
            async with client(tmp_path / "admin.sock") as admin:
                assert (await admin.get("/livez")).status == 200
        async with client(http) as c:
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert (await c.get("/livez")).status == 200


async def test_a_stream_is_chunked_and_ends_with_the_client(tmp_path: Path) -> None:
    """Pieces come as they are made; HTTP/1.0 gets them bare until the end of the connection."""
    ended = trio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        try:
            for i in range(3):
                yield b"piece %d\n" % i
        finally:
            ended.set()

    async def handler(request: HttpRequest) -> HttpResponse:
        return HttpResponse(stream=pieces(), content_type="text/plain")

    async with serving(tmp_path) as (_, http):
        http.route("GET", "/stream", handler, scope="read")
        async with client(http) as c:
            answer = await c.get("/stream")
            assert answer.headers["transfer-encoding"] == "chunked"
            text = await c.until(b"0\r\n\r\n")
            assert text == b"8\r\npiece 0\n\r\n8\r\npiece 1\n\r\n8\r\npiece 2\n\r\n0\r\n\r\n"
            await ended.wait()
            assert (await c.get("/livez")).status == 200
        async with client(http) as c:
            await c.stream.send_all(b"GET /stream HTTP/1.0\r\nHost: localhost\r\n\r\n")
            assert (await c.read()).headers["connection"] == "close"
            assert await c.until(b"piece 2\n") == b"piece 0\npiece 1\npiece 2\n"
            assert await c.is_closed()


async def test_a_client_that_does_not_take_its_answer_is_cut(tmp_path: Path) -> None:
    """The connection and the memory of its answer are given back after `write_s`."""

    async def big(request: HttpRequest) -> HttpResponse:
        return HttpResponse(body=b"x" * 50_000_000)

    async with serving(tmp_path, write_s=0.2) as (kernel, http), client(http) as c, client(http) as other:
        http.route("GET", "/big", big, scope="read")
        await c.stream.send_all(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        gauge = next(metric for metric in kernel.metrics if metric.name == "frys_network_connections")
        assert isinstance(gauge, Gauge)
        assert gauge.source is not None
        while gauge.source() != 1:
            assert (await other.get("/livez")).status == 200
            await trio.sleep(0.02)


async def test_a_node_that_stops_ends_its_event_streams(tmp_path: Path) -> None:
    """An endless answer does not hold up the drain."""
    async with serving(tmp_path) as (kernel, http), client(http) as c:
        await c.stream.send_all(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await c.until(b": events of this node\n\n")
        with trio.fail_after(2):
            await kernel.control.unload("network")
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await c.until(b"never")


async def test_unloading_lets_requests_finish_and_closes_idle_connections(tmp_path: Path) -> None:
    """A request in flight gets its answer with `Connection: close`; nobody new gets in."""
    release = trio.Event()

    async def slow(request: HttpRequest) -> HttpResponse:
        await release.wait()
        return HttpResponse(body=b"done")

    async with serving(tmp_path) as (kernel, http), client(http) as idle, client(http) as busy:
        http.route("GET", "/slow", slow, scope="read")
        assert (await idle.get("/livez")).status == 200
        async with trio.open_nursery() as nursery:
            await busy.stream.send_all(b"GET /slow HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await trio.testing.wait_all_tasks_blocked(0.02)
            nursery.start_soon(kernel.control.unload, "network")
            assert await idle.is_closed()
            release.set()
            answer = await busy.read()
            assert (answer.body, answer.headers["connection"]) == (b"done", "close")
        with pytest.raises(OSError, match="failed"):
            await trio.open_tcp_stream("127.0.0.1", int(_port(http)))
        assert not (tmp_path / "admin.sock").exists()


def _port(http: Http) -> str:
    return http.address.rpartition(":")[2]

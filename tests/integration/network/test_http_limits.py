"""What one client may take of the HTTP listener, and what a web page may: over real sockets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio
from http_fixtures import TOKEN, Client, client, serving

from frys_node.base.access import Principal
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.observe.metrics import Counter
from frys_node.testing.access import FakeAccess

READER = Principal("token:00000001", "read", token_id="00000001")
OTHER = Principal("token:00000002", "read", token_id="00000002")
OUTSIDE = "0.0.0.0:0"


async def _ok(request: HttpRequest) -> HttpResponse:
    return HttpResponse.json({"who": request.principal.name})


def bearer(text: str) -> str:
    """The header."""
    return f"Authorization: Bearer {text}"


async def many(c: Client, count: int, *headers: str, path: str = "/x") -> list[int]:
    """Ask as often and return the statuses."""
    return [(await c.get(path, *headers)).status for _ in range(count)]


async def test_a_token_over_its_pace_is_answered_429_and_no_other_token_is(tmp_path: Path) -> None:
    """The bucket is the token's, over all connections; Retry-After says when; what was refused was not done."""
    done: list[str] = []

    async def note(request: HttpRequest) -> HttpResponse:
        done.append(request.principal.name)
        return HttpResponse()

    access = FakeAccess(TOKEN, reader=READER, other=OTHER)
    async with serving(tmp_path, http=OUTSIDE, access=access, requests_per_s=0.5, requests_burst=3) as (_, http):
        http.route("GET", "/x", note, scope="read")
        async with client(http) as c, client(http) as d:
            assert await many(c, 2, bearer("reader")) == [200, 200]
            assert await many(d, 2, bearer("reader")) == [200, 429]
            refused = await d.get("/x", bearer("reader"))
            assert refused.json()["error"]["code"] == "http.too_many_requests"
            assert 1 <= int(refused.headers["retry-after"]) <= 2
            assert await many(d, 3, bearer("other")) == [200] * 3
        assert done == [READER.name] * 3 + [OTHER.name] * 3
        async with client(tmp_path / "admin.sock") as admin:
            assert await many(admin, 20) == [200] * 20


async def test_an_address_without_a_token_is_paced_and_tokens_from_it_are_not(tmp_path: Path) -> None:
    """Strangers' 401 and 404 share a bucket; whoever shows a token from the same address is served."""
    async with serving(tmp_path, http=OUTSIDE, token=True, strangers_per_s=0.5, strangers_burst=4) as (_, http):
        http.route("GET", "/x", _ok, scope="read")
        async with client(http) as c:
            assert (await c.get("/x")).status == 401
            assert (await c.get("/x", bearer("wrong"))).status == 401
            assert (await c.get("/nothing")).status == 404
            assert (await c.get("/nothing")).status == 404
            assert await many(c, 2, bearer("wrong")) == [429, 429]
            assert await many(c, 20, bearer(TOKEN)) == [200] * 20


async def test_probes_are_never_paced(tmp_path: Path) -> None:
    """A flood from the address that the kubelet's probes come from does not have the node restarted."""
    limits = {"strangers_per_s": 0.01, "strangers_burst": 1}
    async with serving(tmp_path, http=OUTSIDE, token=True, **limits) as (_, http), client(http) as c:
        assert await many(c, 3) == [404, 429, 429]
        assert await many(c, 5, path="/livez") == [200] * 5
        assert await many(c, 5, path="/readyz") == [200] * 5
        assert await many(c, 1, path="/") == [429]


async def test_what_a_valid_token_may_not_or_does_not_find_is_charged_to_the_token(tmp_path: Path) -> None:
    """Its 403 and 404 leave the strangers' bucket as it was, and take of its own."""
    limits = {"strangers_per_s": 0.01, "strangers_burst": 1, "requests_per_s": 0.01, "requests_burst": 6}
    async with serving(tmp_path, http=OUTSIDE, access=FakeAccess(reader=READER), **limits) as (_, http):
        http.route("GET", "/x", _ok, scope="admin")
        async with client(http) as c:
            assert await many(c, 3, bearer("reader")) == [403] * 3
            assert await many(c, 4, bearer("reader"), path="/nothing") == [404, 404, 404, 429]
            assert await many(c, 2) == [401, 429]


async def test_a_token_that_is_revoked_while_its_body_arrives_does_nothing(tmp_path: Path) -> None:
    """The head was let in; the handler runs only if the token still stands then."""
    access, done = FakeAccess(reader=READER), []

    async def note(request: HttpRequest) -> HttpResponse:
        done.append(request.principal.name)
        return HttpResponse()

    async with serving(tmp_path, http=OUTSIDE, access=access) as (_, http):
        http.route("POST", "/x", note, scope="read")
        async with client(http) as c:
            lines = ["POST /x HTTP/1.1", "Host: x", bearer("reader"), "Content-Length: 2", "Expect: 100-continue"]
            await c.stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n")
            await c.until(b"100 Continue\r\n\r\n")
            access.tokens.clear()
            await c.stream.send_all(b"{}")
            assert (await c.read()).status == 401
    assert done == []


async def test_strangers_that_fill_the_places_turn_themselves_out(tmp_path: Path) -> None:
    """Silent ones and those that only probe go, the oldest first; who has shown a token stays and newcomers get in."""
    limits = {"connections": 4, "connections_per_address": 4}
    async with (
        serving(tmp_path, http=OUTSIDE, token=True, **limits) as (kernel, http),
        client(http) as known,
        client(http) as probe,
    ):
        http.route("GET", "/x", _ok, scope="read")
        assert await many(probe, 1, path="/livez") == [200]
        assert await many(known, 1, bearer(TOKEN)) == [200]
        async with client(http) as silent, client(http) as newcomer:
            assert await many(newcomer, 1, bearer(TOKEN)) == [200]
            with pytest.raises((EOFError, trio.BrokenResourceError)):
                await probe.until(b"never")
            async with client(http) as third, client(http) as fourth:
                assert await many(third, 1, bearer(TOKEN)) == [200]
                with pytest.raises((EOFError, trio.BrokenResourceError)):
                    await silent.until(b"never")
                assert await many(fourth, 1, bearer(TOKEN)) == [200]
                for each in (known, newcomer, third, fourth):
                    assert await many(each, 1, bearer(TOKEN)) == [200]
                async with client(http) as fifth:
                    assert (await fifth.read()).status == 503
        refused = next(metric for metric in kernel.metrics if metric.name == "frys_network_connections_refused_total")
        assert isinstance(refused, Counter)
        assert refused.values == {("strangers",): 2, ("total",): 1}


async def test_loopback_has_no_limit_unless_one_is_set(tmp_path: Path) -> None:
    """By default a local program is not paced, wrong tokens included; with a limit its address is."""
    async with serving(tmp_path, token=True, strangers_per_s=1.0, strangers_burst=1) as (_, http):
        http.route("GET", "/x", _ok, scope="read")
        async with client(http) as c:
            assert await many(c, 30) == [200] * 30
            assert await many(c, 5, bearer("wrong")) == [401] * 5
    async with serving(tmp_path, requests_per_s=0.1, requests_burst=2) as (_, http):
        http.route("GET", "/x", _ok, scope="read")
        async with client(http) as c:
            assert await many(c, 3) == [200, 200, 429]


async def test_a_stream_ends_with_its_token(tmp_path: Path) -> None:
    """Revoked, the token of an event stream ends it, though nobody asks for anything."""
    access = FakeAccess(reader=READER, other=OTHER)
    async with (
        serving(tmp_path, http=OUTSIDE, access=access, header_s=0.3) as (_, http),
        client(http) as c,
        client(http) as d,
    ):
        for each, token in ((c, "reader"), (d, "other")):
            head = f"GET /v1/events HTTP/1.1\r\nHost: x\r\n{bearer(token)}\r\n\r\n"
            await each.stream.send_all(head.encode())
            await each.until(b"\r\n\r\n")
        del access.tokens["reader"]
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await c.until(b"never")
        with trio.move_on_after(0.5) as scope:
            await d.until(b"never")
        assert scope.cancelled_caught


async def test_an_idle_connection_goes_with_its_token(tmp_path: Path) -> None:
    """It would keep a place that only those have who are known; one whose token stands, or that showed none, stays."""
    access = FakeAccess(reader=READER, other=OTHER)
    async with (
        serving(tmp_path, http=OUTSIDE, access=access, header_s=0.3) as (_, http),
        client(http) as c,
        client(http) as d,
        client(http) as probe,
    ):
        http.route("GET", "/x", _ok, scope="read")
        assert await many(c, 1, bearer("reader")) == await many(d, 1, bearer("other")) == [200]
        assert await many(probe, 1, path="/livez") == [200]
        del access.tokens["reader"]
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await c.until(b"never")
        assert await many(d, 1, bearer("other")) == [200]
        assert await many(probe, 1, path="/livez") == [200]


async def test_dripping_bytes_hold_a_connection_no_longer_than_the_limits(tmp_path: Path) -> None:
    """One byte at a time, in the head and in the body: the deadline is of the whole, not of each byte (slowloris)."""
    heads = [b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 10_000]
    heads.append(b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9999\r\n\r\n" + b"y" * 9_000)
    async with serving(tmp_path, header_s=0.3, body_s=0.3) as (_, http):
        http.route("POST", "/x", _ok, scope="write")
        for head in heads:
            async with client(http) as c:

                async def drip(c: Client = c, head: bytes = head) -> None:
                    for byte in head:
                        await c.stream.send_all(bytes([byte]))
                        await trio.sleep(0.005)

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(drip)
                    answer = await c.read()
                    nursery.cancel_scope.cancel()
                assert answer.status == 408


SIMPLE = ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x")
TYPES = (*SIMPLE, "application/json", "", "text/plain; x=application/json")
PAGES = (
    ("Host: localhost", "Origin: https://evil.example"),
    ("Host: localhost", "Origin: null"),
    ("Host: localhost", "Origin: http://localhost.evil.example"),
    ("Host: localhost", "Origin: http://127.0.0.1.evil.example:8080"),
    ("Host: localhost", "Origin: https://evil.example", "Cookie: token=x"),
    ("Host: localhost", "Sec-Fetch-Site: cross-site"),
    ("Host: evil.example:8080",),
    ("Host: evil.example", "Origin: http://evil.example"),
    ("Host: 127.0.0.1.nip.io",),
    ("Host: localhost@evil.example",),
    ("Host: ",),
)


async def raw(http: Http, method: str, path: str, fields: tuple[str, ...], body: bytes) -> int:
    """Send a request with exactly these fields on a connection of its own; return the status."""
    async with client(http) as c:
        lines = [f"{method} {path} HTTP/1.1", *fields, f"Content-Length: {len(body)}"]
        await c.stream.send_all("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
        return (await c.read()).status


@pytest.mark.parametrize("content_type", TYPES)
async def test_no_page_posts_to_this_machine_whatever_it_calls_its_body(tmp_path: Path, content_type: str) -> None:
    """Types that a browser sends without asking first, and those that it asks for: refused by who sends them."""
    done: list[str] = []

    async def note(request: HttpRequest) -> HttpResponse:
        done.append(request.headers.get("origin", ""))
        return HttpResponse()

    async with serving(tmp_path, token=True) as (_, http):
        for method in ("POST", "PUT", "DELETE", "GET"):
            http.route(method, "/x", note, scope="write")
        typed = (f"Content-Type: {content_type}",) if content_type else ()
        for page in PAGES:
            for method in ("POST", "PUT", "DELETE", "GET"):
                status = await raw(http, method, "/x", (*page, *typed), b"{}")
                assert status in (400, 403), (page, method)
        assert done == []
        own = ("Host: localhost:8080", "Origin: http://localhost:8080", "Sec-Fetch-Site: same-origin")
        assert await raw(http, "POST", "/x", (*own, *typed), b"{}") == 200
        # A program names no origin; a bearer is what no page can add without having asked first.
        assert await raw(http, "POST", "/x", ("Host: 127.0.0.1", *typed), b"{}") == 200
        bearing = ("Host: evil.example", "Origin: http://evil.example", bearer(TOKEN))
        assert await raw(http, "POST", "/x", (*bearing, *typed), b"{}") == 200


async def test_a_browser_that_asks_first_is_told_nothing_that_lets_it(tmp_path: Path) -> None:
    """A preflight gets no CORS header, on any route, so no page may send a bearer or a JSON body."""
    async with serving(tmp_path, token=True) as (_, http):
        http.route("POST", "/x", _ok, scope="write")
        for path in ("/x", "/v1/members", "/nothing"):
            async with client(http) as c:
                answer = await c.get(
                    path, "Origin: https://evil.example", "Access-Control-Request-Method: POST", method="OPTIONS"
                )
                assert answer.status in (404, 405)
                assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    "headers",
    [
        (f"Cookie: token={TOKEN}; Authorization=Bearer {TOKEN}",),
        (f"Authorization: Basic {TOKEN}",),
        (f"Authorization: {TOKEN}",),
        (f"Proxy-Authorization: Bearer {TOKEN}",),
        (f"X-Api-Key: {TOKEN}",),
        (f"Authorization: Bearer {TOKEN}", "api-key: reader"),
        (f"Authorization: Bearer {TOKEN}x",),
        (f"Authorization: Bearer {'x' * 9_000}",),
    ],
)
async def test_nothing_but_a_bearer_or_an_api_key_is_a_credential(tmp_path: Path, headers: tuple[str, ...]) -> None:
    """Cookies, passwords, other headers, fields of the query, and two that differ: all are 401 off loopback."""
    access = FakeAccess(TOKEN, reader=READER)
    async with serving(tmp_path, http=OUTSIDE, access=access) as (_, http), client(http) as c:
        http.route("GET", "/x", _ok, scope="read")
        assert (await c.get(f"/x?token={TOKEN}&access_token={TOKEN}&api-key={TOKEN}", *headers)).status == 401
        assert (await c.get("/x", f"api-key: {TOKEN}")).json() == {"who": "admin"}
        assert (await c.get("/x", "authorization: bearer reader", "API-Key: reader")).json() == {"who": READER.name}


async def test_credentials_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    """Which of them counts is not left to chance."""
    for name in ("Authorization: Bearer", "api-key:"):
        async with serving(tmp_path, http=OUTSIDE, token=True) as (_, http), client(http) as c:
            assert (await c.get("/v1/members", f"{name} x", f"{name} {TOKEN}")).status == 400


async def test_a_node_that_knows_no_tokens_yet_says_so(tmp_path: Path) -> None:
    """503 with Retry-After for what looks like an API token, 401 for the rest: a newcomer turns no good client away."""
    access = FakeAccess(TOKEN)
    access.is_told = False
    async with serving(tmp_path, http=OUTSIDE, access=access) as (_, http), client(http) as c:
        http.route("GET", "/x", _ok, scope="read")
        answer = await c.get("/x", bearer("frys_00000001_" + "a" * 52))
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert await many(c, 1, bearer("wrong")) == [401]
        assert await many(c, 1, bearer(TOKEN)) == [200]


@pytest.mark.parametrize("kind", ["application/json", "text/plain", ""])
@pytest.mark.parametrize("brackets", ["[]", "{}", "mixed", "strings"])
async def test_deep_json_is_a_400_whatever_it_is_called(tmp_path: Path, kind: str, brackets: str) -> None:
    """Depths around the limit, the interpreter's own, and far beyond: no RecursionError becomes a 500."""

    async def decode(request: HttpRequest) -> HttpResponse:
        request.json(object)
        return HttpResponse()

    async def recurse(request: HttpRequest) -> HttpResponse:
        raise RecursionError

    openers = {"[]": ("[", "]"), "{}": ('{"a":', "}"), "mixed": ('[{"a":', "}]"), "strings": ('["]",', "]")}
    opener, closer = openers[brackets]
    async with serving(tmp_path) as (_, http), client(http) as c:
        http.route("POST", "/json", decode, scope="write")
        http.route("POST", "/deep", recurse, scope="write")
        headers = (f"Content-Type: {kind}",) if kind else ("Content-Type: a/b",)
        for depth in (1_000, 5_000, 60_000):
            body = (opener * depth + "0" + closer * depth).encode()
            answer = await c.get("/json", *headers, method="POST", body=body)
            assert (answer.status, "nest" in answer.json()["error"]["message"]) == (400, True), depth
        assert (await c.get("/deep", *headers, method="POST", body=b"{}")).status == 400


STRANGER = """
import os, socket, sys
directory = os.open(sys.argv[1], os.O_PATH)
os.setgid(65534)
os.setuid(65534)
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect(f"/proc/self/fd/{directory}/admin.sock")
    sys.stdout.buffer.write(sock.recv(4096))
"""


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
async def test_another_user_gets_nothing_from_the_admin_socket_even_if_its_file_is_open_to_all(tmp_path: Path) -> None:
    """The kernel says who is at the other end; permissions of files are the first line, not the only one."""
    async with serving(tmp_path, token=True) as (kernel, http):
        http.route("POST", "/v1/leave", _ok, scope="admin")
        for path, mode in ((tmp_path, 0o777), (tmp_path / "admin.sock", 0o666)):
            await trio.Path(path).chmod(mode)
        done = await trio.run_process([sys.executable, "-c", STRANGER, str(tmp_path)], capture_stdout=True)
        assert done.stdout.startswith(b"HTTP/1.1 403 ")
        async with client(tmp_path / "admin.sock") as own:
            assert (await own.get("/v1/leave", method="POST")).json() == {"who": "admin"}
        refused = next(m for m in kernel.metrics if m.name == "frys_network_connections_refused_total")
        assert isinstance(refused, Counter)
        assert refused.values == {("uid",): 1}


async def test_the_admin_socket_works_below_a_directory_of_any_length(tmp_path: Path) -> None:
    """A socket's path has 107 bytes at most; the data directory here has 400, and the command line gets through."""
    deep = tmp_path.joinpath(*["d" * 100] * 4)
    await trio.Path(deep).mkdir(parents=True)
    async with serving(deep) as (kernel, _):
        path = deep / "admin.sock"
        assert len(str(path)) > 400
        assert (await trio.Path(path).stat()).st_mode & 0o777 == 0o600
        done = await trio.run_process(
            [sys.executable, "-m", "frys_node", "status", "--json", "--data-dir", str(deep)], capture_stdout=True
        )
        assert kernel.name in done.stdout.decode()

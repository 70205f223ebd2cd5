"""Routing, access and nesting rules of the HTTP listener, without a socket."""

from __future__ import annotations

import pytest

from frys_node.base.access import Forbidden, Kind, Level, Need
from frys_node.base.errors import FrysError, PluginError
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.plugins.network.access import authorise, host_of, is_loopback, kind_of
from frys_node.plugins.network.body import is_too_deep
from frys_node.plugins.network.errors import CrossSite, HttpError, MethodNotAllowed, NoRoute, Unauthorised
from frys_node.plugins.network.respond import error_response, head_bytes
from frys_node.plugins.network.router import ROUTES_MAX, Router, split_target
from frys_node.plugins.network.server import http_date
from frys_node.testing.access import FakeAccess


async def _handler(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


def _router(*templates: str) -> Router:
    router = Router()
    for template in templates:
        router.route("GET", template, _handler, scope="read")
    return router


def test_literal_segments_win_over_names_and_names_over_the_rest() -> None:
    """The most literal template serves a path, whatever the order of registration."""
    router = _router("/a/{rest...}", "/a/{x}", "/a/b", "/a/{x}/c", "/a/b/{y}")
    found = {path: router.find("GET", path).route.template for path in ("/a/b", "/a/z", "/a/z/c", "/a/b/c", "/a/1/2/3")}
    assert found == {
        "/a/b": "/a/b",
        "/a/z": "/a/{x}",
        "/a/z/c": "/a/{x}/c",
        "/a/b/c": "/a/b/{y}",
        "/a/1/2/3": "/a/{rest...}",
    }


def test_names_are_decoded_after_the_split() -> None:
    """An encoded slash stays inside its segment; bad encodings are refused."""
    router = _router("/cache/{ns}/{key}", "/files/{path...}")
    assert router.find("GET", "/cache/a%20b/c%2Fd").params == {"ns": "a b", "key": "c/d"}
    assert router.find("GET", "/files/x/y%25").params == {"path": "x/y%"}
    with pytest.raises(HttpError, match="UTF-8"):
        router.find("GET", "/cache/a/%ff")
    with pytest.raises(NoRoute):
        router.find("GET", "/cache//b")


def test_wrong_methods_list_the_right_ones_and_head_is_served_by_get() -> None:
    """405 carries Allow; GET implies HEAD."""
    router = _router("/a", "/b/{x}")
    router.route("PUT", "/b/{y}", _handler, scope="write")
    assert router.find("HEAD", "/a").route.method == "GET"
    assert router.find("PUT", "/b/1").params == {"y": "1"}
    with pytest.raises(MethodNotAllowed) as caught:
        router.find("DELETE", "/b/1")
    assert caught.value.allow == ("GET", "HEAD", "PUT")
    assert error_response(caught.value).headers["Allow"] == "GET, HEAD, PUT"


def test_a_route_cannot_be_taken_twice_and_goes_with_its_prefix() -> None:
    """The first plugin keeps its path; unroute removes one plugin's and nothing else."""
    router = _router("/a/{x}", "/a", "/b")
    with pytest.raises(PluginError, match="served already"):
        router.route("GET", "/a/{other}", _handler, scope="read")
    router.unroute("/a")
    assert [route.template for route in router.routes] == ["/b"]


def test_routes_are_bounded_and_those_that_went_make_room() -> None:
    """A plugin that comes and goes finds the room that it had, also if it spells names of a template otherwise."""
    router = _router(*(f"/a/{number}/{{x}}" for number in range(ROUTES_MAX)))
    with pytest.raises(PluginError, match="routes"):
        router.route("GET", "/b", _handler, scope="read")
    router.unroute("/a/7")
    router.route("GET", "/a/7/{y}", _handler, scope="read")
    assert router.find("GET", "/a/7/z").params == {"y": "z"}
    with pytest.raises(NoRoute):
        router.find("GET", "/a/70/z")
    assert len(router.routes) < ROUTES_MAX


def test_queries_are_decoded_and_bounded() -> None:
    """Blank values stay, the last of a repeated field counts, a thousand fields are refused."""
    assert split_target("/x?a=1&b=&a=2+3") == ("/x", {"a": "2 3", "b": ""})
    assert split_target("/x") == ("/x", {})
    with pytest.raises(HttpError):
        split_target("/x?" + "&".join(f"a{i}=1" for i in range(1_000)))


ACCESS = FakeAccess("letmein-please")
GOOD = {"authorization": "Bearer letmein-please"}
BAD = {"authorization": "Bearer letmein"}
NAMES = {"api.example.org"}
N = None


@pytest.mark.parametrize(
    ("kind", "scope", "headers", "outcome"),
    [
        (Kind.UNIX, "admin", {}, "admin"),
        (Kind.UNIX, "open", {}, "admin"),
        (Kind.LOOPBACK, "open", {}, "anonymous"),
        (Kind.LOOPBACK, "read", {}, "local"),
        (Kind.LOOPBACK, "write", {"host": "localhost:8080"}, "local"),
        (Kind.LOOPBACK, "admin", {}, Forbidden),
        (Kind.LOOPBACK, "admin", GOOD, "admin"),
        (Kind.LOOPBACK, "read", BAD, Unauthorised),
        (Kind.LOOPBACK, "open", {"host": "evil.example"}, CrossSite),
        (Kind.LOOPBACK, "read", {"host": "127.0.0.1.evil.example:8080"}, CrossSite),
        (Kind.LOOPBACK, "write", {"host": "localhost", "origin": "https://evil.example"}, CrossSite),
        (Kind.LOOPBACK, "write", {"host": "localhost", "origin": "null"}, CrossSite),
        (Kind.LOOPBACK, "write", {"host": "[::1]:80", "origin": "http://localhost:3000"}, "local"),
        (Kind.TOKEN, "open", {}, "anonymous"),
        (Kind.TOKEN, "read", {}, Unauthorised),
        (Kind.TOKEN, "write", BAD, Unauthorised),
        (Kind.TOKEN, "write", {"authorization": "Basic letmein-please"}, Unauthorised),
        (Kind.TOKEN, "write", GOOD, "admin"),
        (Kind.TOKEN, "admin", GOOD, "admin"),
        (Kind.INSECURE, "write", {"host": "10.0.0.5:8080"}, "local"),
        (Kind.INSECURE, "admin", {}, Forbidden),
        (Kind.INSECURE, "write", {"host": "10.0.0.5:8080", "origin": "http://evil.example"}, CrossSite),
        (Kind.INSECURE, "read", {"host": "evil.example:8080"}, CrossSite),
        (Kind.INSECURE, "write", {"host": "evil.example", "origin": "http://evil.example"}, CrossSite),
        (Kind.INSECURE, "open", {"host": "evil.example"}, "anonymous"),
        (Kind.INSECURE, "write", {"host": "evil.example"} | GOOD, "admin"),
        (Kind.INSECURE, "write", {"host": "frys-1:8080"}, "local"),
        (Kind.INSECURE, "write", {"host": "[2001:db8::5]:8080"}, "local"),
        (Kind.INSECURE, "write", {"host": "API.example.org.:80", "origin": "http://API.example.org.:80"}, "local"),
    ],
)
def test_the_access_table(kind: Kind, scope: str, headers: dict[str, str], outcome: str | type[FrysError]) -> None:
    """Listener, scope and headers decide: default deny off loopback, web pages kept out, admin never by accident."""
    if isinstance(outcome, str):
        assert authorise(kind, Need(Level(scope)), headers, ACCESS, NAMES).name == outcome
        return
    with pytest.raises(outcome):
        authorise(kind, Need(Level(scope)), headers, ACCESS, NAMES)


def test_without_a_token_to_check_nothing_off_loopback_is_served() -> None:
    """A missing check is a refusal, not an open door."""
    with pytest.raises(Unauthorised):
        authorise(Kind.TOKEN, Need(Level.READ), GOOD, None)


def test_listeners_are_judged_by_the_address_they_are_bound_to() -> None:
    """Loopback literals and names are this machine; everything else is the network."""
    assert [kind_of(h, insecure=False) for h in ("127.0.0.1", "::1", "localhost", "127.9.9.9")] == [Kind.LOOPBACK] * 4
    assert [kind_of(h, insecure=False) for h in ("0.0.0.0", "::", "10.0.0.1", "localhost.example")] == [Kind.TOKEN] * 4
    assert kind_of("0.0.0.0", insecure=True) is Kind.INSECURE
    assert [host_of(a) for a in ("a:1", "a", "[::1]:8", "[::1]", "::1")] == ["a", "a", "::1", "::1", "::1"]
    assert is_loopback("LOCALHOST.")


@pytest.mark.parametrize(
    ("body", "deep"),
    [
        (b"[" * 65 + b"]" * 65, True),
        (b"[" * 64 + b"]" * 64, False),
        (b'{"a":' * 70 + b"1" + b"}" * 70, True),
        (b"[" + b"[1,2]," * 1_000 + b"[3]]", False),
        (b'["' + b"[" * 200 + b'"]', False),
        (b'["\\"' + b"{" * 200 + b'"]', False),
        (b"[" * 100_000, True),
        (b'"' + b"]" * 50 + b'"' + b"[" * 300, True),
    ],
)
def test_nesting_is_measured_without_being_fooled_by_strings(body: bytes, deep: bool) -> None:
    """Brackets in strings do not count; many shallow ones are fine."""
    assert is_too_deep(body, 64) is deep


def test_a_handler_cannot_split_a_response() -> None:
    """A line break in a header is an error of the handler, never two headers."""
    response = HttpResponse(headers={"X": "a\r\nSet-Cookie: b"})
    with pytest.raises(PluginError, match="line break"):
        head_bytes(response, fields=b"", is_last=False, version="1.1", length=0)


def test_dates_are_written_as_http_wants_them() -> None:
    """The example of RFC 9110, and the epoch."""
    assert http_date(784_111_777_000_000_000) == b"Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
    assert http_date(0) == b"Date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"

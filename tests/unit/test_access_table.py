"""The decision about every route, for every listener and everybody who may ask."""

from __future__ import annotations

from pathlib import Path

import pytest

from frys_node.base.access import ADMIN, Kind, Level, Need, Principal, Resource, Verdict, decide
from frys_node.base.errors import PluginError
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.plugins.network.router import Router

ROUTES = [line.split() for line in (Path(__file__).parents[1] / "golden" / "routes.txt").read_text().splitlines()]
"""Method, template, role, resource of everything that a node serves; the same file is compared with a live node's."""

READER = Principal("token:1", "read", token_id="1")
WRITER = Principal("token:2", "write", token_id="2")
BOSS = Principal("token:3", "admin", token_id="3")
DOCS = Principal("token:4", "write", ("docs",), (), "4")
SESSIONS = Principal("token:5", "read", (), ("sessions",), "5")

A, U, F = Verdict.ALLOW, Verdict.AUTHENTICATE, Verdict.FORBID

BY_ROLE: dict[tuple[str, Principal | None], tuple[Verdict, Verdict, Verdict, Verdict]] = {
    # Who asks, off loopback: open, read, write, admin.
    ("token", None): (A, U, U, U),
    ("token", READER): (A, A, F, F),
    ("token", WRITER): (A, A, A, F),
    ("token", BOSS): (A, A, A, A),
    ("token", ADMIN): (A, A, A, A),
    # Without a token the machine, or everybody who reaches an insecure address, may do all but administer.
    ("loopback", None): (A, A, A, F),
    ("loopback", READER): (A, A, F, F),
    ("loopback", WRITER): (A, A, A, F),
    ("loopback", BOSS): (A, A, A, A),
    ("insecure", None): (A, A, A, F),
    ("insecure", READER): (A, A, F, F),
    ("insecure", BOSS): (A, A, A, A),
    # The admin socket knows by the kernel who is there; a token makes nobody less there.
    ("unix", None): (A, A, A, A),
    ("unix", READER): (A, A, A, A),
}
LEVELS = ("open", "read", "write", "admin")


def need(role: str, resource: str, name: str = "docs") -> Need:
    """What a route needs for a collection or namespace."""
    return Need(Level(role), Resource(resource), name)


@pytest.mark.parametrize(("kind", "who"), BY_ROLE)
def test_every_route_allows_exactly_the_roles_that_it_declares(kind: str, who: Principal | None) -> None:
    """Route by route: the verdict is that of the route's role, on this listener, whatever the route is about."""
    for method, template, role, resource in ROUTES:
        wanted = BY_ROLE[kind, who][LEVELS.index(role)]
        verdict, _ = decide(Kind(kind), who, need(role, resource))
        assert verdict is wanted, (method, template)


@pytest.mark.parametrize("kind", [Kind.TOKEN, Kind.LOOPBACK, Kind.INSECURE])
def test_a_token_with_scopes_reaches_what_they_name_and_nothing_of_the_cluster(kind: Kind) -> None:
    """Named collections and namespaces of its role, what every token may see, and what is open: no other route."""
    for method, template, role, resource in ROUTES:
        is_its_own = {"collection": ("docs", DOCS), "namespace": ("sessions", SESSIONS)}.get(resource)
        for who in (DOCS, SESSIONS):
            for name in ("docs", "sessions", "other", "", "Docs", "docs/", "docs%00", "*"):
                allowed = role == "open" or (
                    who.has(Level(role)) and (resource == "shared" or is_its_own == (name, who))
                )
                verdict, _ = decide(kind, who, need(role, resource, name))
                assert (verdict is A) == allowed, (method, template, who.name, name)
                assert verdict is not U


@pytest.mark.parametrize("kind", [Kind.TOKEN, Kind.LOOPBACK, Kind.INSECURE])
def test_a_wrong_token_is_never_taken_for_none(kind: Kind) -> None:
    """Whoever shows one that is nobody's is asked again on every route that is not open, on loopback too."""
    for _, template, role, resource in ROUTES:
        verdict, who = decide(kind, None, need(role, resource), is_wrong=True)
        assert verdict is (A if role == "open" else U), template
        assert who.name == "anonymous"


def test_a_principal_without_a_role_gets_nothing() -> None:
    """A role that this version does not know is none."""
    for role in ("", "node", "root"):
        verdict, _ = decide(Kind.TOKEN, Principal("token:9", role, token_id="9"), need("read", "shared"))
        assert verdict is not A


async def _handler(request: HttpRequest) -> HttpResponse:
    return HttpResponse()


@pytest.mark.parametrize(
    ("template", "scope", "resource"),
    [
        ("/v1/x/{collection}", "read", Resource.CLUSTER),
        ("/v1/x/{namespace}/{key...}", "read", Resource.SHARED),
        ("/v1/x/{namespace}", "read", Resource.COLLECTION),
        ("/v1/x", "read", Resource.COLLECTION),
        ("/v1/x/{name}", "write", Resource.NAMESPACE),
        ("/v1/x", "everybody", Resource.CLUSTER),
        ("/v1/x", "", Resource.CLUSTER),
    ],
)
def test_a_route_that_does_not_say_what_it_names_is_not_served(template: str, scope: str, resource: Resource) -> None:
    """A collection or namespace in the path is declared, or the plugin does not load: scopes could not hold there."""
    with pytest.raises(PluginError):
        Router().route("GET", template, _handler, scope=scope, resource=resource)

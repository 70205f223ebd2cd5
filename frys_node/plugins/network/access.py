"""Who may do what over HTTP (D15): credentials out of headers, web pages kept out, and `decide` for the rest.

Sans-I/O. A listener is one of four kinds. The unix socket's peers are checked by the kernel and are ``admin``. On
loopback the machine is trusted (``local``: everything but the level ``admin``), so web pages must be kept out: Host and
Origin have to be loopback names, which stops DNS rebinding and cross-site requests. Any other address demands a token,
unless the operator wrote ``insecure``. A token that is shown decides everywhere, also where none is needed.

Credentials are in ``Authorization: Bearer`` or, as Qdrant's clients send them, in ``api-key``: a browser adds neither
by itself. Cookies, passwords and fields of the query are not looked at.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container, Mapping
from functools import lru_cache

from frys_node.base.access import Kind, Level, Need, Principal, Verdict, decide, forbidden
from frys_node.base.errors import NotReady
from frys_node.kernel.services.access import Access
from frys_node.plugins.network.errors import CrossSite, Unauthorised

HOSTS_MAX = 256
"""Hosts whose verdict is remembered: each request names one, and an address takes microseconds to read."""

_LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


def kind_of(host: str, *, insecure: bool) -> Kind:
    """Return the kind of a TCP listener bound to a literal address or name."""
    if is_loopback(host):
        return Kind.LOOPBACK
    return Kind.INSECURE if insecure else Kind.TOKEN


def _is_own(host: str, names: Container[str]) -> bool:
    """True for what no page of the web can be at: an address, a name without dots, loopback, or one of `names`."""
    name = host.lower().rstrip(".")
    return "." not in name or is_loopback(host) or name in names or _is_literal(name)


@lru_cache(maxsize=HOSTS_MAX)
def _is_literal(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


@lru_cache(maxsize=HOSTS_MAX)
def is_loopback(host: str) -> bool:
    """True if the host, without port and brackets, can only be this machine."""
    name = host.lower().rstrip(".")
    if name in _LOCAL_NAMES or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def host_of(authority: str) -> str:
    """Return the host of ``host[:port]`` or ``[v6][:port]``."""
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.rpartition(":")[0] if authority.count(":") == 1 else authority


def identify(kind: Kind, headers: Mapping[str, str], access: Access | None) -> Principal | None:
    """Return whose credentials a request shows; None without any, or if they are nobody's."""
    if kind is Kind.UNIX or access is None or not ("authorization" in headers or "api-key" in headers):
        return None
    bearer = bearer_of(headers)
    return access.authenticate(bearer) if bearer else None


def authorise(
    kind: Kind, need: Need, headers: Mapping[str, str], access: Access | None, names: Container[str] = ()
) -> Principal:
    """Return who asks, if that may be; for the level ``open`` it may be ``anonymous``.

    `names` are those that the node is known by, in small letters, besides its address.

    Raises:
        CrossSite: The request comes from a web page.
        NotReady: It shows an API token, and this node has not heard yet which there are.
        Unauthorised: A token is needed and is missing, or is nobody's, for whatever reason.
        Forbidden: The role or the scopes do not reach; whether what the request names exists is not said.
    """
    shown: Principal | None = None
    bearer, is_wrong = "", False
    if kind is not Kind.UNIX:
        if "authorization" in headers or "api-key" in headers:
            bearer = bearer_of(headers)
            shown = access.authenticate(bearer) if access is not None and bearer else None
            # What is there and not understood is wrong, too.
            is_wrong = shown is None
        if shown is None:
            _refuse_pages(kind, headers)
            if kind is Kind.INSECURE and need.level is not Level.OPEN:
                _refuse_rebinding(headers, names)
    verdict, principal = decide(kind, shown, need, is_wrong=is_wrong)
    if verdict is Verdict.ALLOW:
        return principal
    if verdict is Verdict.AUTHENTICATE:
        if bearer.startswith("frys_") and access is not None and not access.is_told:
            raise NotReady("this node does not know the cluster's API tokens yet", hint="retry, or ask another node")
        raise unauthorised()
    raise forbidden(need.level)


def unauthorised() -> Unauthorised:
    """Return the refusal of a request without a valid token."""
    return Unauthorised(
        "this needs a token that is valid here",
        hint="send 'Authorization: Bearer <token>'; make one with: frys-node token create --role read|write|admin",
    )


def bearer_of(headers: Mapping[str, str]) -> str:
    """Return the token that a request shows, empty if none, or two that differ."""
    scheme, _, text = headers.get("authorization", "").partition(" ")
    bearer = text.strip() if scheme.lower() == "bearer" else ""
    key = headers.get("api-key", "").strip()
    if "authorization" in headers and "api-key" in headers:
        return bearer if bearer == key else ""
    return bearer or key


def _refuse_rebinding(headers: Mapping[str, str], names: Container[str]) -> None:
    """Refuse hosts that may be a page's own, made to resolve to this node: then Host and Origin agree."""
    host = host_of(headers.get("host", "localhost"))
    if not _is_own(host, names):
        raise CrossSite(
            f"this node does not know the host '{host[:128]}' as its own",
            hint="use its address in the URL, or add the name to [plugins.network] tls_names",
        )


def _refuse_pages(kind: Kind, headers: Mapping[str, str]) -> None:
    host = host_of(headers.get("host", "localhost"))
    if kind is Kind.LOOPBACK and not is_loopback(host):
        raise CrossSite(f"the host '{host[:128]}' is not this machine", hint="use localhost or 127.0.0.1 in the URL")
    origin = headers.get("origin")
    if origin is None:
        # Browsers send no Origin with what a page merely loads; to this machine they say whose page it is all the same.
        if kind is Kind.LOOPBACK and headers.get("sec-fetch-site", "").strip().lower() == "cross-site":
            raise CrossSite("requests of other sites' pages are refused", hint="type the URL, or call from a program")
        return
    origin_host = host_of(origin.partition("://")[2])
    is_own = is_loopback(origin_host) if kind is Kind.LOOPBACK else origin_host == host
    if not is_own:
        raise CrossSite(f"requests from pages of '{origin[:128]}' are refused", hint="call from a program, not a page")

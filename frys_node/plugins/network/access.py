"""Who may do what over HTTP (D15): one decision function for every route.

Sans-I/O. A listener is one of four kinds. The unix socket's peers are checked by the kernel and are ``admin``. On
loopback the machine is trusted (``local``: everything but the scope ``admin``), so web pages must be kept out: Host and
Origin have to be loopback names, which stops DNS rebinding and cross-site requests. Any other address demands the admin
token, unless the operator wrote ``insecure``.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from enum import Enum

from frys_node.kernel.services.access import BearerCheck
from frys_node.plugins.network.errors import CrossSite, Forbidden, Unauthorised

_LOCAL_NAMES = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})


class Kind(Enum):
    """How a listener is reached."""

    UNIX = "unix"
    LOOPBACK = "loopback"
    TOKEN = "token"  # noqa: S105 (the kind's name)
    INSECURE = "insecure"


def kind_of(host: str, *, insecure: bool) -> Kind:
    """Return the kind of a TCP listener bound to a literal address or name."""
    if is_loopback(host):
        return Kind.LOOPBACK
    return Kind.INSECURE if insecure else Kind.TOKEN


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


def authorise(kind: Kind, scope: str, headers: Mapping[str, str], tokens: BearerCheck | None) -> str:
    """Return the principal, ``admin`` or ``local``; for the scope ``open`` it may be ``anonymous``.

    Raises:
        CrossSite: The request comes from a web page.
        Unauthorised: A token is needed and is missing or wrong.
        Forbidden: The scope ``admin`` over loopback without the token.
    """
    if kind is Kind.UNIX:
        return "admin"
    has_token = _has_token(headers, tokens)
    if not has_token:
        _refuse_pages(kind, headers)
    if has_token:
        return "admin"
    if scope == "open":
        return "anonymous"
    if kind is Kind.TOKEN or "authorization" in headers:
        raise Unauthorised(
            "this needs the admin token",
            hint="send 'Authorization: Bearer <token>'; the token is in the data directory of the cluster's first node",
        )
    if scope == "admin":
        raise Forbidden("this is for administrators", hint="use the frys-node command on the machine, or the token")
    return "local"


def _has_token(headers: Mapping[str, str], tokens: BearerCheck | None) -> bool:
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    return tokens is not None and scheme.lower() == "bearer" and tokens.check(bearer.strip())


def _refuse_pages(kind: Kind, headers: Mapping[str, str]) -> None:
    host = host_of(headers.get("host", "localhost"))
    if kind is Kind.LOOPBACK and not is_loopback(host):
        raise CrossSite(f"the host '{host[:128]}' is not this machine", hint="use localhost or 127.0.0.1 in the URL")
    origin = headers.get("origin")
    if origin is None:
        return
    origin_host = host_of(origin.partition("://")[2])
    is_own = is_loopback(origin_host) if kind is Kind.LOOPBACK else origin_host == host
    if not is_own:
        raise CrossSite(f"requests from pages of '{origin[:128]}' are refused", hint="call from a program, not a page")

"""What this node listens on, and what keeps strangers out of each: a page of `frys-node status --security`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from frys_node.base.access import Kind
from frys_node.base.types import Address
from frys_node.config import NodeConfig
from frys_node.plugins.network.access import kind_of

ADMIN_SOCKET = "admin.sock"

_KINDS = {
    Kind.LOOPBACK: "this machine only; admin routes by the admin socket or a token",
    Kind.TOKEN: "bearer token on every route",
    Kind.INSECURE: "NOTHING: insecure = true, anybody who reaches it may read and write",
}


def _told(kind: Kind, *, is_tls: bool) -> str:
    if is_tls:
        return f"TLS 1.3; {_KINDS[kind]}"
    return _KINDS[kind] if kind is Kind.LOOPBACK else f"{_KINDS[kind]}; NOT ENCRYPTED"


def listeners(config: NodeConfig, cluster: Address, http: Callable[[], str]) -> list[dict[str, str]]:
    """Return each listener with its address and how it is protected; `http` returns where HTTP listens, if it does."""
    allowed = f"; addresses in {', '.join(config.cluster.allow)} only" if config.cluster.allow else ""
    knock = "; answers members only, and joins while a token is valid" if config.cluster.knock == "on" else ""
    found = [
        ("cluster, TCP", str(cluster), f"TLS 1.3 with certificates on both sides; joins by token{knock}{allowed}"),
        ("cluster, UDP", str(cluster), f"AES-256-GCM with the gossip keys, no replays{allowed}"),
    ]
    enabled = {spec.name for spec in config.specs}
    if http():
        network: Any = config.plugins["network"]
        kind = kind_of(Address.parse(http()).host, insecure=network.insecure)
        found.append(("HTTP", http(), _told(kind, is_tls=network.is_tls)))
    cache: Any = config.plugins.get("cache")
    if cache is not None and "cache" in enabled and cache.resp:
        kind = kind_of(Address.parse(cache.resp).host, insecure=cache.resp_insecure)
        is_tls = bool(cache.resp_tls or cache.resp_tls_certificate)
        found.append(("Redis", cache.resp, _told(kind, is_tls=is_tls)))
    found.append(("admin", ADMIN_SOCKET, "unix socket of the node's own user, checked by the kernel"))
    return [{"what": what, "address": address, "protection": protection} for what, address, protection in found]

"""Settings of the HTTP listener: where it listens, who may talk to it, and the limits on what they send."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from frys_node.base.types import Address

_LIVE = {"reload": "live"}
_FIXED = {"reload": "restart"}
_Seconds = Annotated[float, msgspec.Meta(gt=0, le=3_600, extra=_LIVE)]


class HttpLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one client may take of the node."""

    header_bytes: Annotated[int, msgspec.Meta(ge=1_024, le=1 << 20, extra=_LIVE)] = 16_384
    """Request line and headers together; more is answered 431."""
    header_count: Annotated[int, msgspec.Meta(ge=8, le=1_024, extra=_LIVE)] = 100
    """Header fields; more is answered 431."""
    target_bytes: Annotated[int, msgspec.Meta(ge=64, le=65_536, extra=_LIVE)] = 8_192
    """Path and query; more is answered 414."""
    header_s: _Seconds = 10.0
    """From a request's first byte to the end of its headers; more is answered 408."""
    body_s: _Seconds = 60.0
    """From the end of the headers to the end of the body; more is answered 408."""
    idle_s: _Seconds = 75.0
    """A connection between requests is closed after this."""
    write_s: _Seconds = 30.0
    """A client that takes no bytes for this long is cut."""
    connections: Annotated[int, msgspec.Meta(ge=1, le=65_536, extra=_LIVE)] = 1_024
    """Open at a time; one more is answered 503."""
    connections_per_address: Annotated[int, msgspec.Meta(ge=1, le=65_536, extra=_LIVE)] = 256
    """Open at a time from one address (an IPv6 /64); one more is answered 503. Where tokens are needed, connections
    that have shown none make room first, and hold half of `connections` at most."""
    handshakes_per_s: Annotated[float, msgspec.Meta(ge=0, le=1_000_000, extra=_LIVE)] = 50.0
    """With TLS, off loopback: handshakes of one address (an IPv6 /64); 0: no limit. More are hung up on."""
    handshakes_burst: Annotated[int, msgspec.Meta(ge=1, le=1_000_000, extra=_LIVE)] = 500
    """Handshakes that may come at once after a pause."""
    pipelined: Annotated[int, msgspec.Meta(ge=1, le=4_096, extra=_LIVE)] = 128
    """Requests of one connection that wait for their turn; beyond it the connection is not read."""
    requests_per_s: Annotated[float, msgspec.Meta(ge=0, le=10_000_000, extra=_LIVE)] = 0.0
    """Requests of one token, or of one address (an IPv6 /64) that needs none; 0: no limit. More is answered 429."""
    requests_burst: Annotated[int, msgspec.Meta(ge=1, le=10_000_000, extra=_LIVE)] = 1_000
    """Requests that may come at once after a pause, where `requests_per_s` is a limit."""
    strangers_per_s: Annotated[float, msgspec.Meta(ge=0, le=10_000_000, extra=_LIVE)] = 20.0
    """Requests of one address without a valid token, where one is needed; 0: no limit. More is answered 429."""
    strangers_burst: Annotated[int, msgspec.Meta(ge=1, le=10_000_000, extra=_LIVE)] = 200
    """Such requests that may come at once after a pause."""
    json_depth: Annotated[int, msgspec.Meta(ge=4, le=512, extra=_LIVE)] = 64
    """Nesting of a JSON body; more is answered 400."""


class NetworkPluginConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP API."""

    http: str = "127.0.0.1:8080"
    """Where HTTP listens. On loopback it is open to this machine; elsewhere it demands tokens (docs/access.md)."""
    insecure: bool = False
    """True: serve HTTP without a token off loopback. Anybody who reaches the address may read and write. `Host` has to
    be an address, a name without dots, the node's own name or one of `tls_names`: pages of the web are kept out."""
    tls: Annotated[Literal["", "cluster"], msgspec.Meta(extra=_FIXED)] = ""
    """`cluster`: HTTP over TLS, with a certificate of the cluster's authority, which clients have to trust (`ca.pem` in
    the data directory). Empty: without TLS, unless `tls_certificate` is set."""
    tls_certificate: Annotated[str, msgspec.Meta(extra=_FIXED)] = ""
    """HTTP over TLS with the certificate in this PEM file, followed by its chain. Read again when it changes."""
    tls_key: Annotated[str, msgspec.Meta(extra=_FIXED)] = ""
    """PEM file of the certificate's key, without a passphrase and not readable by everybody."""
    tls_names: Annotated[tuple[str, ...], msgspec.Meta(max_length=16, extra=_FIXED)] = ()
    """With `tls = "cluster"`: names that the certificate is for, besides the node's, its address and loopback. The
    issuer issues only those that stand in its own setting."""
    tls_classical: Annotated[bool, msgspec.Meta(extra=_FIXED)] = False
    """True: clients without ML-KEM may connect by X25519 alone. Whoever records that can read it when quantum computers
    can. For browsers, and tools with an OpenSSL before 3.5."""
    limits: HttpLimits = HttpLimits()

    @property
    def is_tls(self) -> bool:
        """True if HTTP is served over TLS."""
        return bool(self.tls or self.tls_certificate)

    def __post_init__(self) -> None:
        Address.parse(self.http)
        if bool(self.tls_certificate) != bool(self.tls_key):
            raise ValueError("tls_certificate and tls_key go together")
        if self.tls and self.tls_certificate:
            raise ValueError("tls_certificate takes the place of tls: set one of them")

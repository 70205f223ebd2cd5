"""Settings of ``[plugins.cache]``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from frys_node.base.types import Address, Consistency
from frys_node.plugins.cache.policy import PolicyName

_LIVE = {"reload": "live"}
_Seconds = Annotated[float, Meta(gt=0, le=86_400, extra=_LIVE)]


class ScanScope(StrEnum):
    """Which keys SCAN and DBSIZE of one node are about."""

    CLUSTER = "cluster"
    OWN = "own"


class RespLimits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one Redis client may take of the node."""

    clients: Annotated[int, Meta(ge=1, le=65_536, extra=_LIVE)] = 1_024
    """Connections at a time; one more is told so and closed."""
    clients_per_address: Annotated[int, Meta(ge=1, le=65_536, extra=_LIVE)] = 512
    """Connections at a time of one address (an IPv6 /64); one more is told so and closed. Where tokens are needed,
    clients that have shown none make room first, and hold half of `clients` at most."""
    handshakes_per_s: Annotated[float, Meta(ge=0, le=1_000_000, extra=_LIVE)] = 50.0
    """With TLS, where tokens are needed: handshakes of one address (an IPv6 /64); 0: no limit. More are hung up on."""
    handshakes_burst: Annotated[int, Meta(ge=1, le=1_000_000, extra=_LIVE)] = 500
    """Handshakes that may come at once after a pause."""
    auth_s: _Seconds = 10.0
    """To shake hands, with TLS, and then to show a token, where one is needed; a client that takes longer is cut."""
    requests_per_s: Annotated[float, Meta(ge=0, le=100_000_000, extra=_LIVE)] = 0.0
    """Commands of one token, or of one address that needs none; 0: no limit. A client over it is not read meanwhile."""
    requests_burst: Annotated[int, Meta(ge=1, le=100_000_000, extra=_LIVE)] = 10_000
    """Commands that may come at once after a pause, where `requests_per_s` is a limit."""
    strangers_per_s: Annotated[float, Meta(ge=0, le=100_000_000, extra=_LIVE)] = 20.0
    """Commands of one address without a valid token, where one is needed; 0: no limit. They wait; one that shows a
    valid token does not."""
    strangers_burst: Annotated[int, Meta(ge=1, le=100_000_000, extra=_LIVE)] = 200
    """Such commands that may come at once after a pause."""
    pipelined: Annotated[int, Meta(ge=1, le=65_536, extra=_LIVE)] = 1_024
    """Commands of one connection that are carried out together; more of a pipeline wait for their turn."""
    arguments: Annotated[int, Meta(ge=16, le=1_048_576, extra=_LIVE)] = 4_096
    """Words of one command; more end the connection."""
    request_bytes: Annotated[int, Meta(ge=65_536, le=1 << 30, extra=_LIVE)] = 16 * 1024 * 1024
    """One command with all its words; more end the connection."""
    output_bytes: Annotated[int, Meta(ge=65_536, le=1 << 30, extra=_LIVE)] = 32 * 1024 * 1024
    """Replies or messages that wait for a client that does not read them; more end the connection."""
    subscriptions: Annotated[int, Meta(ge=1, le=1 << 20, extra=_LIVE)] = 1_024
    """Channels and patterns of one connection; more are refused."""
    idle_s: _Seconds = 3_600.0
    """A connection without requests is closed after this; one with subscriptions is not."""
    request_s: _Seconds = 60.0
    """From a request's first byte to its last; a slower one ends the connection."""
    write_s: _Seconds = 30.0
    """A client that takes no bytes for this long is cut."""


class CacheConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Bounds of the cache on this node, and where it speaks the Redis protocol."""

    memory_bytes_max: Annotated[int, Meta(ge=65_536, extra=_LIVE)] = 64 * 1024 * 1024
    """Keys, values and their bookkeeping on this node; what `policy` thinks least of goes first."""

    policy: Annotated[PolicyName, Meta(extra=_LIVE)] = PolicyName.LRU
    """Which entries go when memory is short: `lru`, `sieve` or `lfu`. A change begins anew with what is held."""

    quotas: Annotated[dict[str, int], Meta(max_length=256, extra=_LIVE)] = {}
    """Bytes that a namespace may hold on this node, of `memory_bytes_max`. Beyond it its own entries go first; up to it
    they stay while there are entries of namespaces without a quota."""

    key_bytes_max: Annotated[int, Meta(ge=1, le=4_096, extra=_LIVE)] = 512
    """Longest key, in UTF-8 bytes."""

    value_bytes_max: Annotated[int, Meta(ge=1, le=720_896, extra=_LIVE)] = 512 * 1024
    """Largest value; one value travels in one frame of 1 MiB at most."""

    batch_items_max: Annotated[int, Meta(ge=1, le=10_000, extra=_LIVE)] = 1_000
    """Most keys in one batch request."""

    sweep_interval_s: Annotated[float, Meta(gt=0, le=3_600, extra={"reload": "restart"})] = 1.0
    """How often expired values give their memory back; reads never see them, swept or not."""

    resp: Annotated[str, Meta(extra={"reload": "restart"})] = ""
    """Where Redis clients are served, such as `127.0.0.1:6379`; empty: nowhere. On loopback it is open to this machine;
    elsewhere clients must AUTH with a token (docs/access.md)."""

    resp_insecure: Annotated[bool, Meta(extra={"reload": "restart"})] = False
    """True: serve Redis clients without a token off loopback. Anybody who reaches the address may read and write."""

    resp_tls: Annotated[Literal["", "cluster"], Meta(extra={"reload": "restart"})] = ""
    """`cluster`: Redis clients over TLS (`rediss://`), with a certificate of the cluster's authority (`ca.pem` in the
    data directory). Empty: in the clear, unless `resp_tls_certificate` is set."""

    resp_tls_certificate: Annotated[str, Meta(extra={"reload": "restart"})] = ""
    """Redis clients over TLS with the certificate in this PEM file and its chain. Read again when it changes."""

    resp_tls_key: Annotated[str, Meta(extra={"reload": "restart"})] = ""
    """PEM file of the certificate's key, without a passphrase and not readable by everybody."""

    resp_tls_classical: Annotated[bool, Meta(extra={"reload": "restart"})] = False
    """True: Redis clients without ML-KEM may connect by X25519 alone, as most have to, with an OpenSSL before 3.5."""

    resp_read: Annotated[Consistency, Meta(extra=_LIVE)] = Consistency.ONE
    """How many replicas a Redis client's reads ask: `one`, `quorum` or `all`."""

    resp_write: Annotated[Consistency, Meta(extra=_LIVE)] = Consistency.QUORUM
    """How many replicas acknowledge a Redis client's writes before it is answered."""

    resp_scan: Annotated[ScanScope, Meta(extra=_LIVE)] = ScanScope.CLUSTER
    """What `SCAN` and `DBSIZE` of a node are about: `cluster`: every key, as plain clients expect; `own`: those that
    CLUSTER SLOTS gives to this node first, as clients in cluster mode do, which ask every node and add up."""

    resp_limits: RespLimits = RespLimits()

    def __post_init__(self) -> None:
        if self.resp:
            Address.parse(self.resp)
        if bool(self.resp_tls_certificate) != bool(self.resp_tls_key):
            raise ValueError("resp_tls_certificate and resp_tls_key go together")
        if self.resp_tls and self.resp_tls_certificate:
            raise ValueError("resp_tls_certificate takes the place of resp_tls: set one of them")
        if sum(self.quotas.values()) > self.memory_bytes_max or min(self.quotas.values(), default=1) < 1:
            raise ValueError("quotas are positive, and together at most memory_bytes_max")

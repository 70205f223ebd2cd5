"""What travels inside ``frys-join/1`` connections: the way into a cluster for a node without a certificate.

Sans-I/O. Theory of operation. The joiner asks (`InfoRequest`) and the seed says which cluster it belongs to
(`ClusterInfo`), unauthenticated: the joiner checks the authority's certificate in it against the token's hash and
against the certificate that the TLS handshake proved. Then the joiner proves that it knows the token's secret on this
very connection (`JoinRequest`), and the issuer proves the same back (`JoinAccepted`). A seed that is not the issuer
answers `JoinRedirect`, which is followed once, because the proofs are bound to one connection's exporter.

A member that was away while the cluster's authority changed cannot speak ``frys/1``: it and the others trust nobody in
common. It asks here too, believes the seed's authority by the links from the one that it trusts, and proves its node
key (`ReturnRequest`, `Returned`).
"""

from __future__ import annotations

from typing import Final

from frys_node.wire.codec import Codec, Message

JOIN_BYTES_MAX = 65_536
"""What one side may send in a whole join."""

HOME_BYTES_MAX = 4 * JOIN_BYTES_MAX
"""What a seed may send in all to a member that comes home: the links of many changes, twice."""

JOIN_S = 5.0
"""Deadline of a whole join connection, handshake included."""

PEERS_MAX: Final = 64


class InfoRequest(Message, frozen=True, tag=1):
    """Which cluster is this?"""

    protocol_min: int
    protocol_max: int
    trusted: tuple[str, ...] = ()
    """Of a member that was away: hashes of the authorities that it trusts. Only the links that follow them are told."""


class ClusterInfo(Message, frozen=True, tag=2):
    """The seed's cluster."""

    protocol_min: int
    protocol_max: int
    cluster_id: str
    cluster_name: str
    ca_certificate: bytes
    node_id: str
    node_name: str
    is_issuer: bool
    issuer_address: str
    """``host:port``; empty if the seed does not know where the issuer is."""
    links: tuple[bytes, ...] = ()
    """How the authority followed those before it, DER, oldest first: for members that were away."""


class JoinRequest(Message, frozen=True, tag=3):
    """Let me in."""

    token_id: str
    proof: bytes
    signing_request: bytes
    name: str
    is_name_chosen: bool
    address: str
    expect_cluster: str = ""


class PeerAddress(Message, frozen=True, tag=16):
    """A member and where to dial it."""

    node_id: str
    name: str
    address: str


class JoinAccepted(Message, frozen=True, tag=4):
    """You are in. The keyring follows on the first ``frys/1`` connection."""

    proof: bytes
    certificate: bytes
    ca_certificate: bytes
    cluster_id: str
    cluster_name: str
    name: str
    issuer: str
    peers: tuple[PeerAddress, ...]
    also_trusted: tuple[bytes, ...] = ()
    retired: tuple[bytes, ...] = ()


class JoinRefused(Message, frozen=True, tag=5):
    """No, and why."""

    code: str
    message: str
    hint: str


class JoinRedirect(Message, frozen=True, tag=6):
    """Ask the issuer."""

    address: str


class ReturnRequest(Message, frozen=True, tag=7):
    """I am a member that missed a change of the authority: renew my certificate."""

    certificate: bytes
    """The last one, DER, of an authority that has been followed by another."""
    signing_request: bytes
    proof: bytes
    """The node key's signature over this connection's exporter."""


class Returned(Message, frozen=True, tag=8):
    """You are home: your certificate by the authority that issues now."""

    certificate: bytes
    also_trusted: tuple[bytes, ...]
    links: tuple[bytes, ...]
    retired: tuple[bytes, ...]


JoinMessage = (
    InfoRequest | ClusterInfo | JoinRequest | JoinAccepted | JoinRefused | JoinRedirect | ReturnRequest | Returned
)

JOIN_CODEC: Codec[JoinMessage] = Codec(JoinMessage)

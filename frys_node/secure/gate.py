"""What is checked after every handshake, before the first byte is believed (D1, security study 3.2).

Each refusal has a reason that is also the label of `frys_channel_refused_total`. The checks repeat what the TLS
profile pins already: if a future OpenSSL or binding ignored the pins, connections would be refused, not weakened.
"""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from cryptography import x509
from OpenSSL import SSL

from frys_node.base.types import NodeId
from frys_node.secure import certificates
from frys_node.secure.errors import ForeignCluster, HandshakeRefused, InvalidCertificate
from frys_node.secure.identity import Identity
from frys_node.secure.tls import ALPN_CHANNEL, CIPHER, GROUP, VERSION


class Peer(NamedTuple):
    """The authenticated other side."""

    node: NodeId
    name: str
    certificate: x509.Certificate
    is_in_grace: bool = False
    """True if the certificate has expired and is accepted all the same, for `certificates.EXPIRY_GRACE_S`."""


class Session(NamedTuple):
    """What protects a connection, as OpenSSL says it."""

    version: str
    cipher: str
    group: str

    @property
    def is_post_quantum(self) -> bool:
        """True if the key exchange has a part that no quantum computer breaks."""
        return "MLKEM" in self.group.upper()


def session_of(connection: SSL.Connection) -> Session:
    """Return what a connection agreed on."""
    return Session(
        connection.get_protocol_version_name(),
        connection.get_cipher_name() or "",
        connection.get_group_name() or "",
    )


def check_profile(connection: SSL.Connection, alpn: bytes) -> None:
    """Check version, cipher, group and protocol.

    Raises:
        HandshakeRefused: Reason ``tls_version``, ``cipher``, ``group`` or ``alpn``.
    """
    agreed = (
        ("tls_version", connection.get_protocol_version_name(), VERSION),
        ("cipher", connection.get_cipher_name(), CIPHER),
        ("group", connection.get_group_name(), GROUP),
        ("alpn", connection.get_alpn_proto_negotiated(), alpn),
    )
    for reason, found, wanted in agreed:
        if found != wanted:
            raise HandshakeRefused(reason, f"the handshake agreed on {reason} {found!r} instead of {wanted!r}")


def check_peer(
    connection: SSL.Connection,
    identity: Identity,
    *,
    unix_ns: int,
    revoked: Container[NodeId] = (),
    expected: NodeId | None = None,
) -> Peer:
    """Check a ``frys/1`` connection whole and return who is at its other end.

    Args:
        connection: After its handshake.
        identity: This node.
        unix_ns: Wall time, for the certificate's life only.
        revoked: Node ids that were expelled.
        expected: The node that was dialled, None if any member will do.

    Raises:
        HandshakeRefused: Reason ``no_certificate``, ``chain``, ``san``, ``eku``, ``expired``, ``revoked``, ``self``,
            ``wrong_node`` or one of `check_profile`.
    """
    check_profile(connection, ALPN_CHANNEL)
    certificate = connection.get_peer_certificate(as_cryptography=True)
    if certificate is None:
        raise HandshakeRefused("no_certificate", "the other side showed no certificate")
    try:
        subject = certificates.verify_member(certificate, identity.authorities, unix_ns)
    except ForeignCluster as error:
        raise HandshakeRefused("chain", error.message) from error
    except InvalidCertificate as error:
        raise HandshakeRefused(_certificate_reason(certificate, unix_ns), error.message) from error
    if subject.cluster != identity.cluster_id:
        raise HandshakeRefused("san", "the certificate names another cluster")
    if subject.node in revoked:
        raise HandshakeRefused("revoked", f"node {subject.name} ({subject.node}) was expelled")
    if subject.node == identity.node_id:
        raise HandshakeRefused("self", "this node reached itself")
    if expected is not None and subject.node != expected:
        raise HandshakeRefused("wrong_node", f"node {subject.node} answered where {expected} was expected")
    is_in_grace = certificates.life_state(certificate, unix_ns) == "grace"
    return Peer(subject.node, subject.name, certificate, is_in_grace)


def _certificate_reason(certificate: x509.Certificate, unix_ns: int) -> str:
    if not certificates.has_both_usages(certificate):
        return "eku"
    return "san" if certificates.within_life(certificate, unix_ns) else "expired"

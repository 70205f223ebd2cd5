"""The cluster's certificate authority and the certificates it issues.

Sans-I/O: bytes, keys and wall time come in as arguments. A node certificate binds the node's key to the SAN URI
``frys://<cluster id>/<node id>``; the authority is confined to that cluster id by a name constraint, so that a
certificate signed by another cluster's authority can never pass here. All keys of a cluster are of one kind, the
authority's: a classical node key under a post-quantum authority would make the cluster's promise untrue.
`not_before` lies 24 h back, because clocks differ and X.509 validity is the only use of wall time in the channel
(security study 3.6).
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from frys_node.base.types import ClusterId, NodeId
from frys_node.secure.errors import ForeignCluster, InvalidCertificate
from frys_node.secure.signing_keys import Kind, PrivateKey, PublicKey, kind_of, public_key

_UNREADABLE = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What `cryptography` raises for certificates and requests that a hostile other side made."""

BACKDATE_S = 86_400
CA_LIFE_DAYS = 3_650
NODE_LIFE_DAYS = 365
EXPIRY_GRACE_S = 7 * 86_400
"""An expired certificate of a member that is not revoked is accepted this long (security study 3.6)."""

_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?")
_URI = re.compile(r"frys://([0-9a-f]{32})/([0-9a-f]{32})")


class Subject(NamedTuple):
    """Whom a node certificate names."""

    cluster: ClusterId
    node: NodeId
    name: str


def node_id_of(key: PublicKey) -> NodeId:
    """Return the node id of a public key: the first 16 bytes of SHA-256 over its raw bytes, as hex."""
    return NodeId(hashlib.sha256(raw_public(key)).hexdigest()[:32])


def raw_public(key: PublicKey) -> bytes:
    """Return the raw bytes of a public key: 32, or 1,952 of ML-DSA-65."""
    return key.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)


def spki_hash(certificate: x509.Certificate) -> str:
    """Return the first 16 bytes of SHA-256 over the certificate's SubjectPublicKeyInfo, as hex: what a token pins."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return hashlib.sha256(spki).hexdigest()[:32]


def valid_name(name: str) -> str:
    """Return the name if it may name a node: 1-63 lower-case letters, digits, dots or dashes.

    Raises:
        InvalidCertificate: It may not. Nothing was changed.
    """
    if _NAME.fullmatch(name) is None:
        raise InvalidCertificate(
            f"'{name[:80]}' cannot be a node's name",
            hint="use 1-63 lower-case letters, digits, dots or dashes, beginning and ending with a letter or digit",
        )
    return name


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def instant(unix_ns: int) -> dt.datetime:
    """Return wall time as certificates write it."""
    return dt.datetime.fromtimestamp(unix_ns // 1_000_000_000, tz=dt.UTC)


def create_authority(
    key: PrivateKey, cluster: ClusterId, cluster_name: str, unix_ns: int, *, is_first: bool = True
) -> x509.Certificate:
    """Return a self-signed authority of a cluster, confined to its cluster id.

    One that is not the first has a part of its key's hash in its name: OpenSSL looks for an issuer by its name.
    """
    suffix = "" if is_first else f" {node_id_of(key.public_key())[:8]}"
    subject = _common_name(f"frys {cluster_name}"[: 64 - len(suffix)] + suffix)
    start = instant(unix_ns) - dt.timedelta(seconds=BACKDATE_S)
    end = start + dt.timedelta(days=CA_LIFE_DAYS)
    return authority_builder(key.public_key(), cluster, subject, subject, start, end).sign(key, None)


def authority_builder(
    key: CertificatePublicKeyTypes,
    cluster: ClusterId,
    subject: x509.Name,
    issuer: x509.Name,
    start: dt.datetime,
    end: dt.datetime,
) -> x509.CertificateBuilder:
    """Return an authority's certificate, confined to its cluster id, ready to be signed."""
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.NameConstraints([x509.UniformResourceIdentifier(cluster)], None), critical=True)
        .add_extension(
            x509.KeyUsage(
                digital_signature=False,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=True,
                crl_sign=True,
                encipher_only=False,
                decipher_only=False,
            ),
            critical=True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def create_request(key: PrivateKey) -> bytes:
    """Return a DER signing request: it proves possession of the key; every name in the certificate is the issuer's."""
    request = x509.CertificateSigningRequestBuilder().subject_name(_common_name("frys node")).sign(key, None)
    return request.public_bytes(serialization.Encoding.DER)


def read_request(der: bytes, kind: Kind | None = None) -> PublicKey:
    """Return the key of a signing request whose own signature is right.

    Args:
        der: The request.
        kind: The kind that the key must be of; None for either.

    Raises:
        InvalidCertificate: It is malformed, badly signed or of another kind. Nothing was issued.
    """
    try:
        request = x509.load_der_x509_csr(der)
        key = public_key(request.public_key())
        is_signed = request.is_signature_valid
    except _UNREADABLE as error:
        raise InvalidCertificate(f"not a signing request: {error}") from error
    if not is_signed:
        raise InvalidCertificate("the signing request is not signed with its own key")
    if kind not in (None, kind_of(key)):
        raise InvalidCertificate(f"the signing request has a key of kind {kind_of(key)}; this cluster's is {kind}")
    return key


def issue(
    ca_key: PrivateKey,
    ca: x509.Certificate,
    key: PublicKey,
    *,
    subject: Subject,
    unix_ns: int,
) -> x509.Certificate:
    """Issue a node certificate for TLS client and server use."""
    start = instant(unix_ns) - dt.timedelta(seconds=BACKDATE_S)
    uri = f"frys://{subject.cluster}/{subject.node}"
    end = min(start + dt.timedelta(days=NODE_LIFE_DAYS), ca.not_valid_after_utc)
    return (
        x509.CertificateBuilder()
        .subject_name(_common_name(valid_name(subject.name)))
        .issuer_name(ca.subject)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(end)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
        .sign(ca_key, None)
    )


def load_der(der: bytes) -> x509.Certificate:
    """Read a DER certificate.

    Raises:
        InvalidCertificate: It is malformed. It was not used.
    """
    try:
        return x509.load_der_x509_certificate(der)
    except _UNREADABLE as error:
        raise InvalidCertificate(f"not a certificate: {error}") from error


def der(certificate: x509.Certificate) -> bytes:
    """Return the certificate's DER bytes."""
    return certificate.public_bytes(serialization.Encoding.DER)


def read_subject(certificate: x509.Certificate) -> Subject:
    """Return whom a node certificate names.

    Raises:
        InvalidCertificate: It has not exactly one ``frys://`` URI, or no common name.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    except _UNREADABLE as error:
        raise InvalidCertificate("the certificate carries no frys:// name") from error
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    match = _URI.fullmatch(uris[0]) if len(uris) == 1 else None
    if match is None or len(common) != 1:
        raise InvalidCertificate("the certificate does not carry exactly one frys:// name")
    return Subject(ClusterId(match[1]), NodeId(match[2]), str(common[0].value))


def has_both_usages(certificate: x509.Certificate) -> bool:
    """True if the certificate may be used as TLS client and as TLS server."""
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except _UNREADABLE:
        return False
    return ExtendedKeyUsageOID.CLIENT_AUTH in usages and ExtendedKeyUsageOID.SERVER_AUTH in usages


def verify_issued(certificate: x509.Certificate, ca: x509.Certificate, unix_ns: int) -> Subject:
    """Check a node certificate against the authority without TLS and return whom it names.

    Raises:
        ForeignCluster: Another authority signed it, or it names another cluster than the authority's constraint.
        InvalidCertificate: It is malformed, lacks a usage or is out of its time (with the grace of 7 days).
    """
    subject = verify_binding(certificate, ca)
    if not within_life(certificate, unix_ns):
        raise InvalidCertificate("the certificate has expired or is not yet valid", hint="check the clocks")
    return subject


def verify_member(certificate: x509.Certificate, authorities: Sequence[x509.Certificate], unix_ns: int) -> Subject:
    """Check a node certificate against whichever of the trusted authorities issued it; raises as `verify_issued`."""
    for authority in authorities[1:]:
        if certificate.issuer == authority.subject:
            return verify_issued(certificate, authority, unix_ns)
    return verify_issued(certificate, authorities[0], unix_ns)


def verify_binding(certificate: x509.Certificate, ca: x509.Certificate) -> Subject:
    """Check whom a certificate binds its key to, at whatever time: `verify_issued` without the life.

    Raises:
        ForeignCluster, InvalidCertificate: See `verify_issued`.
    """
    try:
        certificate.verify_directly_issued_by(ca)
    except (*_UNREADABLE, InvalidSignature) as error:
        raise ForeignCluster("the certificate was not issued by this cluster's authority") from error
    subject = read_subject(certificate)
    if subject.cluster != authority_cluster(ca):
        raise ForeignCluster("the certificate names another cluster than its authority may speak for")
    if not has_both_usages(certificate):
        raise InvalidCertificate("the certificate is not for TLS clients and servers")
    kind, wanted = kind_of(certificate.public_key()), kind_of(ca.public_key())
    if kind != wanted:
        raise InvalidCertificate(f"the certificate has a key of kind {kind}; this cluster's is {wanted}")
    return subject


def left_s(certificate: x509.Certificate, unix_ns: int) -> float:
    """Return the seconds until a certificate expires; negative afterwards."""
    return (certificate.not_valid_after_utc - instant(unix_ns)).total_seconds()


def life_s(certificate: x509.Certificate) -> float:
    """Return the seconds from the beginning to the end of a certificate's life."""
    return (certificate.not_valid_after_utc - certificate.not_valid_before_utc).total_seconds()


def life_state(certificate: x509.Certificate, unix_ns: int) -> str:
    """Return ``valid``; ``grace`` if it has expired and is still accepted; ``expired``; ``early`` before its life."""
    if instant(unix_ns) < certificate.not_valid_before_utc:
        return "early"
    left = left_s(certificate, unix_ns)
    return "valid" if left >= 0 else "grace" if left >= -EXPIRY_GRACE_S else "expired"


def within_life(certificate: x509.Certificate, unix_ns: int) -> bool:
    """True if the instant lies in the certificate's life, extended by `EXPIRY_GRACE_S`."""
    return life_state(certificate, unix_ns) in ("valid", "grace")


def authority_cluster(ca: x509.Certificate) -> ClusterId:
    """Return the cluster id to which an authority is confined.

    Raises:
        InvalidCertificate: It is not a cluster authority.
    """
    try:
        constraint = ca.extensions.get_extension_for_class(x509.NameConstraints).value
        basic = ca.extensions.get_extension_for_class(x509.BasicConstraints).value
    except _UNREADABLE as error:
        raise InvalidCertificate("not a cluster authority: no name constraint") from error
    permitted = constraint.permitted_subtrees or []
    if not basic.ca or len(permitted) != 1 or not isinstance(permitted[0], x509.UniformResourceIdentifier):
        raise InvalidCertificate("not a cluster authority")
    return ClusterId(permitted[0].value)

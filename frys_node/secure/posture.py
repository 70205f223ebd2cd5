"""What this node's cryptography protects and what it does not, in words that promise no more than is true.

Sans-I/O.
"""

from __future__ import annotations

from typing import Final

import msgspec
from cryptography import x509

from frys_node.secure import certificates
from frys_node.secure.signing_keys import Kind, kind_of
from frys_node.secure.stored import ED25519, ML_DSA_65

WORDING: Final[dict[str, str]] = {
    ED25519: "post-quantum confidentiality, classical authentication",
    ML_DSA_65: "post-quantum confidentiality and authentication",
}
"""By kind of identity. The key exchange is post-quantum in both; who is who, only with ML-DSA."""

VOICES: Final = "ed25519"
TLS_VERSION: Final = "TLSv1.3"
TLS_GROUP: Final = "X25519MLKEM768"
TLS_CIPHER: Final = "TLS_AES_256_GCM_SHA384"


class Posture(msgspec.Struct, frozen=True, kw_only=True):
    """For ``status --security``."""

    identity: Kind
    """Kind of every key of the cluster: ``ed25519`` or ``ml-dsa-65``."""
    summary: str
    """One of `WORDING`."""
    voices: str = VOICES
    """What gossip is signed with, whatever the identities are: classical."""
    tls: str = TLS_VERSION
    group: str = TLS_GROUP
    cipher: str = TLS_CIPHER
    certificate_days_left: float
    """Until this node's certificate expires; negative afterwards."""
    certificate_state: str
    """``valid``, ``grace`` (expired, still accepted for `certificates.EXPIRY_GRACE_S`), ``expired`` or ``early``."""
    authority: str
    """Hash of the authority's key, as join tokens pin it: 32 hex digits."""
    authority_days_left: float


def posture(certificate: x509.Certificate, authority: x509.Certificate, unix_ns: int) -> Posture:
    """Describe a node by its certificate and its cluster's authority.

    Args:
        certificate: The node's own.
        authority: The one that issues now.
        unix_ns: Wall time.
    """
    kind = kind_of(authority.public_key())
    return Posture(
        identity=kind,
        summary=WORDING[kind],
        certificate_days_left=round(certificates.left_s(certificate, unix_ns) / 86_400, 2),
        certificate_state=certificates.life_state(certificate, unix_ns),
        authority=certificates.spki_hash(authority),
        authority_days_left=round(certificates.left_s(authority, unix_ns) / 86_400, 2),
    )

"""Can the installed `cryptography` do what a node needs? Asked at the start, before anything else is built on it.

A distribution's build against an older OpenSSL imports well and fails later, in the middle of a handshake, with an
error that names no fix.
"""

from __future__ import annotations

from typing import NamedTuple

from frys_node.secure.errors import CryptographyTooOld
from frys_node.secure.stored import ML_DSA_65


class Abilities(NamedTuple):
    """What a build of `cryptography` can do."""

    version: str
    has_ml_kem: bool
    has_ml_dsa: bool


def installed() -> Abilities:
    """Ask the installed library."""
    import cryptography
    from cryptography.hazmat.backends.openssl import backend

    return Abilities(
        cryptography.__version__,
        # Versions from before the algorithms lack even the question.
        bool(getattr(backend, "mlkem_supported", bool)()),
        bool(getattr(backend, "mldsa_supported", bool)()),
    )


def check_cryptography(kind: str, found: Abilities | None = None) -> None:
    """Make sure that the key exchange and the cluster's kind of identity work here.

    Args:
        kind: ``ed25519`` or ``ml-dsa-65``.
        found: What the library can do; None asks the installed one.

    Raises:
        CryptographyTooOld: They do not. Nothing was started.
    """
    found = found or installed()
    lacks = []
    if not found.has_ml_kem:
        lacks.append("ML-KEM (the post-quantum key exchange of every connection)")
    if kind == ML_DSA_65 and not found.has_ml_dsa:
        lacks.append("ML-DSA (identities of kind ml-dsa-65)")
    if lacks:
        raise CryptographyTooOld(
            f"the installed cryptography {found.version} cannot do {' and '.join(lacks)}",
            hint="pip install --only-binary :all: 'cryptography>=50': its wheels bring an OpenSSL that can",
        )

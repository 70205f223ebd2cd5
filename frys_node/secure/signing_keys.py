"""The two kinds of key that nodes and authorities sign with: Ed25519, and ML-DSA-65 (FIPS 204).

Sans-I/O. A cluster has one kind, that of its authority, chosen when it is made. Both kinds are made from 32 random
bytes, the seed, which is also what is copied where a key is handed over. Sizes: Ed25519 public key 32, signature 64
bytes; ML-DSA-65 public key 1,952, signature 3,309 bytes.
"""

from __future__ import annotations

from typing import Final, Literal

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey, MLDSA65PublicKey

from frys_node.base.ports import Entropy
from frys_node.secure.errors import InvalidCertificate
from frys_node.secure.stored import ED25519, ML_DSA_65

Kind = Literal["ed25519", "ml-dsa-65"]
PrivateKey = Ed25519PrivateKey | MLDSA65PrivateKey
PublicKey = Ed25519PublicKey | MLDSA65PublicKey

SEED_BYTES: Final = 32


def new_key(entropy: Entropy, kind: Kind = ED25519) -> PrivateKey:
    """Return a fresh key of a kind."""
    return key_from_seed(entropy.token_bytes(SEED_BYTES), kind)


def key_from_seed(seed: bytes, kind: Kind) -> PrivateKey:
    """Return the key that a seed of `SEED_BYTES` makes.

    Raises:
        ValueError: The seed has another length.
    """
    return MLDSA65PrivateKey.from_seed_bytes(seed) if kind == ML_DSA_65 else Ed25519PrivateKey.from_private_bytes(seed)


def kind_of(key: object) -> Kind:
    """Return the kind of a private or public key.

    Raises:
        InvalidCertificate: It is neither of the two. It was not used.
    """
    if isinstance(key, (Ed25519PrivateKey, Ed25519PublicKey)):
        return ED25519
    if isinstance(key, (MLDSA65PrivateKey, MLDSA65PublicKey)):
        return ML_DSA_65
    raise InvalidCertificate(f"a key must be {ED25519} or {ML_DSA_65}")


def public_key(key: object) -> PublicKey:
    """Return a certificate's key as one of the two kinds.

    Raises:
        InvalidCertificate: It is of another kind. It was not used.
    """
    if isinstance(key, (Ed25519PublicKey, MLDSA65PublicKey)):
        return key
    raise InvalidCertificate(f"a key must be {ED25519} or {ML_DSA_65}")


def load_key(pem: str) -> PrivateKey:
    """Read a PKCS#8 PEM key.

    Raises:
        ValueError, TypeError: It is damaged, or of another kind.
    """
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, (Ed25519PrivateKey, MLDSA65PrivateKey)):
        raise TypeError(f"the key is neither {ED25519} nor {ML_DSA_65}")
    return key


def key_pem(key: PrivateKey) -> str:
    """Return the PKCS#8 PEM of a key, not encrypted: for a file that its owner alone may read."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()

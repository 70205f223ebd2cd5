"""A 32-byte key for the holder of an ML-KEM-768 key: HPKE (RFC 9180) in base mode, over the `Kem` port.

Sans-I/O. The suite is ML-KEM-768 (0x0041, draft-ietf-hpke-pq), HKDF-SHA384, AES-256-GCM. The key schedule is written
out here because `cryptography`'s own HPKE takes only OpenSSL's keys, and takes its `info` before there is a ciphertext;
a test has that implementation open what this one wraps.

`info` is label, ciphertext and public key. ML-KEM's secret depends on the public key but says nothing of the
ciphertext's form, and no analysis has to be relied on for what the derivation names itself (the lesson of PQXDH's
proofs: Bhargavan et al., USENIX Security 2024).
"""

from __future__ import annotations

import hmac
from typing import Final, NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from frys_node.secure.kem import Kem

KEY_BYTES: Final = 32
WRAPPED_BYTES: Final = KEY_BYTES + 16
HASH_BYTES: Final = 48
NONCE_BYTES: Final = 12

_SUITE: Final = b"HPKE" + bytes.fromhex("004100020002")


class Wrapped(NamedTuple):
    """A key that only one holder can unwrap: the KEM's ciphertext (1,088 bytes) and the sealed key (48)."""

    ciphertext: bytes
    sealed: bytes


def hkdf(secret: bytes, info: bytes, size: int, salt: bytes = b"") -> bytes:
    """Return `size` (at most 48) bytes of HKDF-SHA384 (RFC 5869): one block of the expansion."""
    return _expand(_extract(salt, secret), info, size)


def wrap(kem: Kem, public: bytes, key: bytes, label: bytes) -> Wrapped:
    """Wrap a 32-byte key for a public key.

    Raises:
        KemError: The public key is not one. Nothing was made.
    """
    sent = kem.encapsulate(public)
    wrapping, nonce = _schedule(sent.secret, label + sent.ciphertext + public)
    return Wrapped(sent.ciphertext, AESGCM(wrapping).encrypt(nonce, key, b""))


def unwrap(kem: Kem, private: bytes, public: bytes, wrapped: Wrapped, label: bytes) -> bytes | None:
    """Return the key, or None if it was wrapped for another key, under another label, or changed since.

    Raises:
        KemError: The private key or the ciphertext has the wrong size.
    """
    secret = kem.decapsulate(private, wrapped.ciphertext)
    wrapping, nonce = _schedule(secret, label + wrapped.ciphertext + public)
    try:
        return AESGCM(wrapping).decrypt(nonce, wrapped.sealed, b"")
    except InvalidTag:
        return None


def _schedule(secret: bytes, info: bytes) -> tuple[bytes, bytes]:
    """Return key and nonce: RFC 9180, 5.1, mode 0 and sequence number 0, as one message is all that is ever sent."""
    context = b"\x00" + _labelled(b"", b"psk_id_hash", b"") + _labelled(b"", b"info_hash", info)
    root = _labelled(secret, b"secret", b"")
    return _labelled_expand(root, b"key", context, KEY_BYTES), _labelled_expand(
        root, b"base_nonce", context, NONCE_BYTES
    )


def _labelled(salt: bytes, label: bytes, secret: bytes) -> bytes:
    return _extract(salt, b"HPKE-v1" + _SUITE + label + secret)


def _labelled_expand(root: bytes, label: bytes, info: bytes, size: int) -> bytes:
    return _expand(root, size.to_bytes(2, "big") + b"HPKE-v1" + _SUITE + label + info, size)


def _extract(salt: bytes, secret: bytes) -> bytes:
    return hmac.digest(salt or bytes(HASH_BYTES), secret, "sha384")


def _expand(root: bytes, info: bytes, size: int) -> bytes:
    assert size <= HASH_BYTES
    return hmac.digest(root, info + b"\x01", "sha384")[:size]

"""The knock: 48 bytes in front of a TLS handshake by which a member shows that it holds a gossip key.

Sans-I/O. ``nonce 16 | HMAC-SHA-256(knock key, nonce | node id of the server 16)``, the knock key derived from an epoch
key of the keyring. It costs a microsecond to check, so that strangers do not reach the handshake's asymmetric code, and
a scanner that does not know a key gets no byte out of the port. The nonce's first bit is set, which no TLS record's
first byte has: both may come on one port. A member that does not know whom it dials (a seed) names nobody.

It keeps nobody out who was let in: certificates decide as ever. A knock that is heard again is refused, within the
bound of what is remembered; beyond it a replay buys no more than the handshake that it was meant to spare.
"""

from __future__ import annotations

import hmac
from typing import Final

from frys_node.base.types import NodeId
from frys_node.secure.keyring import EpochKey, Keyring

KNOCK_BYTES: Final = 48
NONCES_MAX = 16_384
"""Knocks that are remembered; the one heard longest ago is forgotten."""

_NONCE_BYTES: Final = 16
_ANYBODY: Final = bytes(16)
_FIRST_BIT: Final = 0x80


def is_knock(first: int) -> bool:
    """True if a connection that begins with this byte begins with a knock."""
    return bool(first & _FIRST_BIT)


class Knocker:
    """One node's knocks, and its ear for those of others. The keyring may change at any time."""

    __slots__ = ("_heard", "_keyring", "_keys", "_revision", "_self")

    def __init__(self, keyring: Keyring, node: NodeId) -> None:
        self._keyring = keyring
        self._self = bytes.fromhex(node)
        self._revision = -1
        self._keys: list[bytes] = []
        self._heard: dict[bytes, None] = {}

    def knock(self, server: NodeId | None, random_bytes: bytes) -> bytes:
        """Return the knock at a node's door, from 16 random bytes; empty while there is no key to knock with."""
        primary = self._keyring.primary
        if primary is None:
            return b""
        nonce = bytes((random_bytes[0] | _FIRST_BIT,)) + random_bytes[1:_NONCE_BYTES]
        return nonce + _tag(_knock_key(primary), nonce, _ANYBODY if server is None else bytes.fromhex(server))

    def hears(self, knock: bytes) -> bool:
        """True if a member knocks at this node's door, and not with a knock that was heard before."""
        if len(knock) != KNOCK_BYTES:
            return False
        if self._revision != self._keyring.revision:
            self._revision = self._keyring.revision
            self._keys = [_knock_key(key) for key in self._keyring.keys]
        nonce, shown = knock[:_NONCE_BYTES], knock[_NONCE_BYTES:]
        is_right = False
        for key in self._keys:
            for name in (self._self, _ANYBODY):
                is_right |= hmac.compare_digest(shown, _tag(key, nonce, name))
        if not is_right or nonce in self._heard:
            return False
        if len(self._heard) >= NONCES_MAX:
            del self._heard[next(iter(self._heard))]
        self._heard[nonce] = None
        return True


def _knock_key(key: EpochKey) -> bytes:
    return hmac.digest(key.key, b"frys knock v1", "sha256")


def _tag(key: bytes, nonce: bytes, server: bytes) -> bytes:
    return hmac.digest(key, nonce + server, "sha256")

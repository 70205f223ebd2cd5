"""The voices of members: which Ed25519 key signs what each of them says in gossip (`membership.voices`).

Sans-I/O. A node's voice is made from the seed of its identity's key, so that it needs no file and stays the same as
long as the identity does. Its statement is the voice's public key signed by the identity, certificate attached
(`frys_node.secure.signer`). No post-quantum signature fits into a packet, so with ML-DSA-65 identities too a voice is
classical: a member with a quantum computer could speak for others in gossip, though not in TLS, nor from outside.
Source: HKDF (RFC 5869) with SHA-384; Ed25519 (RFC 8032).
"""

from __future__ import annotations

import hashlib
from collections.abc import Container
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from frys_node.base.errors import MalformedFrame, SecurityError
from frys_node.base.types import NodeId
from frys_node.secure.identity import Identity
from frys_node.secure.signer import SIGNED_CODEC, NodeSigner

VOICES_MAX = 16_384
"""Voices kept; the one that was learnt first makes room, and is learnt again when it is heard."""

VERIFIED_MAX = 4_096
"""Signatures whose verdict is kept: a claim arrives a dozen times, and is verified once."""

_PREFIX: Final = b"frys voice v1\0"
_KEY_BYTES: Final = 32


class NodeVoices:
    """This node's voice, and those that it has been told of."""

    __slots__ = (
        "_certificate",
        "_identity",
        "_key",
        "_keys",
        "_known",
        "_revoked",
        "_signer",
        "_statements",
        "_trusted",
        "_verified",
        "verified",
    )

    def __init__(self, identity: Identity, revoked: Container[NodeId]) -> None:
        """Take who this node is, and who was expelled."""
        self._identity = identity
        self._revoked = revoked
        self._key = _voice_of(identity)
        self._keys: dict[NodeId, Ed25519PublicKey] = {}
        self._statements: dict[NodeId, bytes] = {}
        self._known: set[bytes] = set()
        self._verified: dict[bytes, bool] = {}
        self.verified = 0
        """Signatures that were verified, those remembered not counted."""
        self._follow()

    def _follow(self) -> None:
        """Follow the identity: its certificate is renewed, and authorities come and go.

        What an authority has certified that is trusted no more is worth nothing, so everybody is learnt anew.
        """
        identity = self._identity
        self._certificate, self._trusted = identity.certificate, identity.authorities
        self._signer = NodeSigner(identity, self._revoked, is_past_trusted=False)
        before, self._keys, self._statements, self._known = self._statements, {}, {}, set()
        public = self._key.public_key().public_bytes_raw()
        self.learn(SIGNED_CODEC.encode(self._signer.sign_with_certificate(_PREFIX + public)))
        for node, statement in before.items():
            if node != identity.node_id:
                self.learn(statement)

    @property
    def _is_behind(self) -> bool:
        identity = self._identity
        return self._certificate is not identity.certificate or self._trusted != identity.authorities

    def __len__(self) -> int:
        return len(self._keys)

    def sign(self, data: bytes) -> bytes:
        """Sign with this node's voice; 64 bytes."""
        return self._key.sign(data)

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool | None:
        """True if the node's voice signed; False if not, or if it was expelled; None if its voice is not known."""
        if node in self._revoked:
            return False
        if self._is_behind:
            self._follow()
        key = self._keys.get(node)
        if key is None:
            return None
        name = hashlib.blake2b(signature + node.encode() + b"\0" + data, digest_size=16).digest()
        verdict = self._verified.get(name)
        if verdict is None:
            verdict = self._verified[name] = _fits(key, data, signature)
            self.verified += 1
            if len(self._verified) > VERIFIED_MAX:
                del self._verified[next(iter(self._verified))]
        return verdict

    def learn(self, statement: bytes) -> NodeId | None:
        """Remember whose voice it is; returns the node, or None if the statement is not a member's."""
        try:
            signed = SIGNED_CODEC.decode(statement)
            node = self._signer.verify_signed(signed)
            if len(signed.data) != len(_PREFIX) + _KEY_BYTES or not signed.data.startswith(_PREFIX):
                return None
            key = Ed25519PublicKey.from_public_bytes(signed.data[len(_PREFIX) :])
        except (MalformedFrame, SecurityError, ValueError):
            return None
        self.forget(node)
        if len(self._keys) >= VOICES_MAX:
            self.forget(next(known for known in self._keys if known != self._identity.node_id or len(self._keys) == 1))
        self._keys[node], self._statements[node] = key, statement
        self._known.add(statement)
        return node

    def has(self, statement: bytes) -> bool:
        """True if that very statement has been learnt."""
        return statement in self._known

    def statement(self, node: NodeId) -> bytes:
        """Return the statement on a node's voice, for others to learn; empty if it is not known."""
        if self._is_behind:
            self._follow()
        return b"" if node in self._revoked else self._statements.get(node, b"")

    def forget(self, node: NodeId) -> None:
        """Drop a node's voice."""
        self._keys.pop(node, None)
        self._known.discard(self._statements.pop(node, b""))


def _voice_of(identity: Identity) -> Ed25519PrivateKey:
    """Return the key that an identity's seed makes; it says nothing about the seed."""
    kdf = HKDF(algorithm=SHA384(), length=_KEY_BYTES, salt=bytes.fromhex(identity.cluster_id), info=_PREFIX)
    return Ed25519PrivateKey.from_private_bytes(kdf.derive(identity.key.private_bytes_raw()))


def _fits(key: Ed25519PublicKey, data: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, data)
    except InvalidSignature:
        return False
    return True

"""What the cluster's authority says about keys and members, so that anybody may pass it on.

Sans-I/O. Four statements, signed by the authority's key like certificates are: the gossip key of an epoch, the node
ids that were expelled, those that have left, and which admin tokens count. They are believed whoever brings them (who
has left, from the issuer alone), and nobody else can make them: a member that is about to be expelled can neither plant
a key of its own nor keep its expulsion from members that were away. Expulsions only ever grow, so statements may come
in any order; the issuer signs one over all of them, which takes the place of the smaller.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Annotated, Any, Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes

from frys_node.base.errors import NotReady, UsageError
from frys_node.base.types import NodeId
from frys_node.secure.admin import ADMIN_NUMBER_MAX, HASHES_MAX, AdminWord
from frys_node.secure.identity import Identity
from frys_node.secure.keyring import EpochKey

REVOKED_MAX = 4_096
"""Nodes that a cluster can expel; every one is named whenever two members meet."""

EXPULSIONS_MAX = 4
"""Statements that are kept beside one another until the issuer has signed one over all of them."""

FORGED_KEPT = 256
"""Statements whose signature is not verified again."""

SIGNATURE_BYTES_MAX = 4_096
"""Longer than any signature of the kinds of keys there are."""

NodeIdText = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{32}$")]
"""A node id as it travels."""

_ID_HEX: Final = 32
_KEY_PREFIX: Final = b"frys gossip key v1"
_EXPULSION_PREFIX: Final = b"frys expulsion v1"
_DEPARTED_PREFIX: Final = b"frys departed v1"
_ADMIN_PREFIX: Final = b"frys admin tokens v1"


class Expulsion(msgspec.Struct, frozen=True, array_like=True):
    """These nodes are members no more, whatever their certificates say."""

    nodes: Annotated[tuple[NodeIdText, ...], msgspec.Meta(max_length=REVOKED_MAX)]
    """Node ids, sorted."""
    signature: Annotated[bytes, msgspec.Meta(max_length=SIGNATURE_BYTES_MAX)]


class Statements:
    """Signs with the authority's key where this node holds it, and verifies everywhere."""

    __slots__ = ("_authorities", "_forged", "_identity", "refused")

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._authorities = identity.authorities
        self._forged: dict[bytes, None] = {}
        """Hashes of the last ones that were refused, for these authorities: honest members repeat them."""
        self.refused = 0
        """How many statements were refused for their signature, each counted once."""

    @property
    def authority(self) -> bytes:
        """Fingerprint of the certificate whose key is signed and verified with now."""
        return self._identity.ca_certificate.fingerprint(hashes.SHA256())

    @property
    def can_sign(self) -> bool:
        """True if this node holds the authority's key."""
        return self._identity.ca_key is not None

    def sign_key(self, key: EpochKey) -> EpochKey:
        """Return the key with the authority's signature.

        Raises:
            NotReady: This node does not hold the authority's key.
        """
        return msgspec.structs.replace(key, signature=self._sign(self._key_bytes(key)))

    def is_ours(self, key: EpochKey, *, by_the_issuing: bool = False) -> bool:
        """True if an authority that is trusted, or the one that issues now, made the key."""
        return key.is_sound and self._fits(self._key_bytes(key), key.signature, by_the_issuing=by_the_issuing)

    def expel(self, nodes: Iterable[NodeId]) -> Expulsion:
        """Return the statement that these nodes are expelled.

        Raises:
            NotReady: This node does not hold the authority's key.
            UsageError: One of them is no node id: nobody would believe the statement.
        """
        ordered = tuple(sorted(set(nodes)))
        for node in ordered:
            check_node_id(node)
        return Expulsion(ordered, self._sign(self._expulsion_bytes(ordered)))

    def is_said(self, expulsion: Expulsion, *, by_the_issuing: bool = False) -> bool:
        """True if an authority that is trusted, or the one that issues now, made the statement."""
        nodes = expulsion.nodes
        is_sound = 0 < len(nodes) <= REVOKED_MAX and nodes == tuple(sorted(set(nodes))) and all(map(is_node_id, nodes))
        if not is_sound:
            return False
        return self._fits(self._expulsion_bytes(nodes), expulsion.signature, by_the_issuing=by_the_issuing)

    def sign_departed(self, nodes: tuple[str, ...]) -> bytes:
        """Return the authority's signature over the list of who has left, in this order.

        Raises:
            NotReady: This node does not hold the authority's key.
        """
        return self._sign(self._departed_bytes(nodes))

    def is_departed(self, nodes: tuple[str, ...], signature: bytes) -> bool:
        """True if an authority that is trusted signed the list."""
        return all(map(is_node_id, nodes)) and self._fits(self._departed_bytes(nodes), signature, by_the_issuing=False)

    def say_admin(self, number: int, admin_hashes: Iterable[bytes]) -> AdminWord:
        """Return the statement that these are the hashes of the admin tokens, and no others.

        Raises:
            NotReady: This node does not hold the authority's key.
        """
        ordered = tuple(sorted(set(admin_hashes)))
        return AdminWord(number, ordered, self._sign(self._admin_bytes(number, ordered)))

    def is_admin_word(self, word: AdminWord, *, by_the_issuing: bool = False) -> bool:
        """True if an authority that is trusted, or the one that issues now, made the statement."""
        is_sound = 1 <= word.number <= ADMIN_NUMBER_MAX and 0 < len(word.hashes) <= HASHES_MAX
        if not is_sound or any(len(one) != hashlib.sha256().digest_size for one in word.hashes):
            return False
        return self._fits(self._admin_bytes(word.number, word.hashes), word.signature, by_the_issuing=by_the_issuing)

    def _admin_bytes(self, number: int, admin_hashes: tuple[bytes, ...]) -> bytes:
        return _ADMIN_PREFIX + self._cluster() + number.to_bytes(8, "big") + b"".join(admin_hashes)

    def _key_bytes(self, key: EpochKey) -> bytes:
        numbers = b"".join(value.to_bytes(8, "big") for value in (key.epoch, key.made_unix_s, key.expelled))
        return _KEY_PREFIX + self._cluster() + numbers + hashlib.sha384(key.key).digest()

    def _expulsion_bytes(self, nodes: tuple[str, ...]) -> bytes:
        return _EXPULSION_PREFIX + self._cluster() + b"".join(map(bytes.fromhex, nodes))

    def _departed_bytes(self, nodes: tuple[str, ...]) -> bytes:
        return _DEPARTED_PREFIX + self._cluster() + b"".join(map(bytes.fromhex, nodes))

    def _cluster(self) -> bytes:
        return bytes.fromhex(self._identity.cluster_id)

    def _sign(self, data: bytes) -> bytes:
        key = self._identity.ca_key
        if key is None:
            raise NotReady(
                "this node does not hold the key of the cluster's authority",
                hint="hand the issuer's role to a node that does: frys-node issuer handover NAME",
            )
        signature: bytes = key.sign(data)
        return signature

    def _fits(self, data: bytes, signature: bytes, *, by_the_issuing: bool) -> bool:
        # Two count while one authority follows the other, and the issuer signs anew before the old one is dropped.
        authorities = self._identity.authorities
        if by_the_issuing:
            return _is_by(authorities[0], data, signature)
        if authorities != self._authorities:
            self._authorities, self._forged = authorities, {}
        name = hashlib.sha256(data + signature).digest()
        if name in self._forged:
            return False
        if any(_is_by(one, data, signature) for one in authorities):
            return True
        self.refused += 1
        self._forged[name] = None
        if len(self._forged) > FORGED_KEPT:
            del self._forged[next(iter(self._forged))]
        return False


def _is_by(authority: x509.Certificate, data: bytes, signature: bytes) -> bool:
    key: Any = authority.public_key()
    try:
        key.verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


def check_node_id(node: str) -> None:
    """Raise a `UsageError` unless the text has the form of a node id."""
    if not is_node_id(node):
        raise UsageError(f"'{node[:64]}' is no node id", hint="32 hex digits; frys-node members shows them")


def is_node_id(node: str) -> bool:
    """True if the text has the form of a node id."""
    return len(node) == _ID_HEX and all(digit in "0123456789abcdef" for digit in node)

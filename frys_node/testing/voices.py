"""Voices for simulated members and for tests.

`Ed25519Voices` signs with real keys, made from the node ids, so that a run is the same each time; whatever one member
has verified no other one verifies again, because a simulation has one processor for all. `FakeVoices` knows everybody
and signs with a keyed hash: for clusters that are too large for signatures, and for tests of other things.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from frys_node.base.types import NodeId

STATEMENT_BYTES = 484
"""Size of a statement with an Ed25519 identity."""

VERIFIED_MAX = 65_536


class FakeVoices:
    """The voice of one node; every other one is known."""

    __slots__ = ("_node",)

    def __init__(self, node: NodeId) -> None:
        self._node = node

    def sign(self, data: bytes) -> bytes:
        """Return what only the node says in a test that keeps to the rules."""
        return _mac(self._node, data)

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool | None:
        """True if the node signed."""
        return signature == _mac(node, data)

    def learn(self, statement: bytes) -> NodeId | None:
        """Return whose statement it is."""
        return _node(statement)

    def has(self, statement: bytes) -> bool:
        """Nothing needs to be learnt."""
        return True

    def statement(self, node: NodeId) -> bytes:
        """Return a node's statement."""
        return _padded(node.encode())

    def forget(self, node: NodeId) -> None:
        """Everybody is known for ever."""


class Ed25519Voices:
    """The voice of one node, and those that it has been told of."""

    __slots__ = ("_key", "_known")

    def __init__(self, node: NodeId) -> None:
        self._key = _key(node)
        self._known = {node: _public(node)}

    def sign(self, data: bytes) -> bytes:
        """Sign with this node's key."""
        return self._key.sign(data)

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool | None:
        """True if the node signed; None if its voice was never heard of."""
        public = self._known.get(node)
        return None if public is None else _is_signed(public, data, signature)

    def learn(self, statement: bytes) -> NodeId | None:
        """Remember a node's voice."""
        node = _node(statement[32:])
        if node is None or _public(node) != statement[:32]:
            return None
        self._known[node] = statement[:32]
        return node

    def has(self, statement: bytes) -> bool:
        """True if the voice is known."""
        return self._known.get(_node(statement[32:]) or NodeId("")) == statement[:32]

    def statement(self, node: NodeId) -> bytes:
        """Return a node's statement, empty if it is not known."""
        public = self._known.get(node)
        return b"" if public is None else _padded(public + node.encode())

    def forget(self, node: NodeId) -> None:
        """Drop a node's voice."""
        self._known.pop(node, None)


def _node(name: bytes) -> NodeId | None:
    try:
        return NodeId(name.rstrip(b"\0").decode())
    except UnicodeDecodeError:
        return None


def _padded(statement: bytes) -> bytes:
    """Return the statement with as many bytes as a real one has."""
    return statement.ljust(STATEMENT_BYTES, b"\0")


def _mac(node: NodeId, data: bytes) -> bytes:
    return hashlib.blake2b(data, key=node.encode()).digest()


@lru_cache(maxsize=4_096)
def _key(node: NodeId) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(node.encode()).digest())


@lru_cache(maxsize=4_096)
def _public(node: NodeId) -> bytes:
    return _key(node).public_key().public_bytes_raw()


@lru_cache(maxsize=VERIFIED_MAX)
def _is_signed(public: bytes, data: bytes, signature: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, data)
    except InvalidSignature:
        return False
    return True

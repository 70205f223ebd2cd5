"""Signatures by node keys, checked against certificates of the cluster's authority (design, fine print 3).

Sans-I/O. A signature stands for its node only together with the certificate that binds the key to the node id, so
`SignedBytes` carries it. Certificates are also remembered from connections and from `SignedBytes`, so that the plain
`Signer` port can verify by node id alone.
"""

from __future__ import annotations

from collections.abc import Container

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from frys_node.base.errors import SecurityError
from frys_node.base.types import NodeId
from frys_node.secure import certificates
from frys_node.secure.errors import InvalidCertificate
from frys_node.secure.identity import Identity
from frys_node.secure.signing_keys import PrivateKey, PublicKey, public_key
from frys_node.wire.codec import Codec, Message

CERTIFICATES_MAX = 16_384
_RETURN_PREFIX = b"frys return v1\0"
_PREFIX = b"frys signed v1\0"
"""Keeps these signatures apart from those that the same key makes in TLS and in signing requests."""


class BadSignature(SecurityError):
    """The signature does not fit the bytes and the certificate. They were not used."""

    code = "security.signature"


class SignedBytes(Message, frozen=True, tag=1):
    """Bytes, a signature over them, and the DER certificate of the key that made it."""

    data: bytes
    signature: bytes
    certificate: bytes


SIGNED_CODEC: Codec[SignedBytes] = Codec(SignedBytes)


class NodeSigner:
    """Signs with this node's key and verifies others'. Implements the `Signer` port."""

    __slots__ = ("_identity", "_is_past_trusted", "_keys", "_revoked", "_verified")

    def __init__(self, identity: Identity, revoked: Container[NodeId] = (), *, is_past_trusted: bool = True) -> None:
        """`is_past_trusted`: certificates of authorities that others have followed count, for what was signed then."""
        self._identity = identity
        self._is_past_trusted = is_past_trusted
        self._revoked = revoked
        self._keys: dict[NodeId, list[PublicKey]] = {}
        self._verified: dict[bytes, tuple[NodeId, PublicKey]] = {}
        self.learn(certificates.der(identity.certificate))

    def sign(self, data: bytes) -> bytes:
        """Sign with this node's key; 64 bytes, or 3,309 of ML-DSA-65."""
        return self._identity.key.sign(_PREFIX + data)

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool:
        """True if the signature is the node's; False too when its certificate was never seen, or it was expelled."""
        if node in self._revoked:
            return False
        return any(_fits(key, data, signature) for key in self._keys.get(node, ()))

    def sign_with_certificate(self, data: bytes) -> SignedBytes:
        """Sign, with this node's certificate attached."""
        return SignedBytes(data, self.sign(data), certificates.der(self._identity.certificate))

    def verify_signed(self, signed: SignedBytes) -> NodeId:
        """Return the node that signed.

        Raises:
            BadSignature: The signature does not fit, or the node was expelled.
            ForeignCluster, InvalidCertificate: The certificate is not one of this cluster's authority.
        """
        node, key = self._read(signed.certificate)
        if node in self._revoked:
            raise BadSignature(f"node {node} was expelled")
        if not _fits(key, signed.data, signed.signature):
            raise BadSignature(f"the signature is not that of node {node}")
        return node

    def learn(self, certificate: bytes) -> NodeId:
        """Remember a member's DER certificate, verified first; raises as `verify_signed` does."""
        return self._read(certificate)[0]

    def _read(self, der: bytes) -> tuple[NodeId, PublicKey]:
        verified = self._verified.get(der)
        if verified is not None:
            return verified
        certificate: x509.Certificate = certificates.load_der(der)
        identity = self._identity
        # What was signed long ago is signed still: neither the certificate's life nor that of its authority, which
        # may have been followed by another since, says anything about the signature.
        authorities = (*identity.authorities, *(identity.retired if self._is_past_trusted else ()))
        known = next((ca for ca in authorities if ca.subject == certificate.issuer), identity.ca_certificate)
        subject = certificates.verify_binding(certificate, known)
        key = public_key(certificate.public_key())
        if certificates.node_id_of(key) != subject.node:
            raise InvalidCertificate("the certificate names another node than its key's")
        if len(self._verified) >= CERTIFICATES_MAX:
            self._verified.pop(next(iter(self._verified)))
        self._verified[der] = (subject.node, key)
        keys = self._keys.setdefault(subject.node, [])
        if all(held != key for held in keys):
            # A renewed certificate may carry a new key; two are enough for the time in which both are about.
            self._keys[subject.node] = [*keys[-1:], key]
        return subject.node, key


def return_proof(key: PrivateKey, exporter: bytes) -> bytes:
    """Prove a node's key on one connection, on which there is no client certificate."""
    return key.sign(_RETURN_PREFIX + exporter)


def is_return_proof(key: PublicKey, proof: bytes, exporter: bytes) -> bool:
    """True if that is the key's proof on this very connection."""
    try:
        key.verify(proof, _RETURN_PREFIX + exporter)
    except InvalidSignature:
        return False
    return True


def _fits(key: PublicKey, data: bytes, signature: bytes) -> bool:
    try:
        key.verify(signature, _PREFIX + data)
    except InvalidSignature:
        return False
    return True

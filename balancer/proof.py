"""Who wrote a topology record: the writer's node key, with its certificate attached (design, fine print 3).

Sans-I/O.
"""

from __future__ import annotations

from typing import Protocol

from frys_node.base.errors import MalformedFrame, SecurityError
from frys_node.base.types import NodeId
from frys_node.secure.signer import SIGNED_CODEC, NodeSigner, SignedBytes


class RecordProofs(Protocol):
    """Makes and checks proofs over encoded records."""

    def prove(self, data: bytes) -> bytes:
        """Return this node's proof over the bytes."""
        ...

    def is_proof_of(self, node: NodeId, data: bytes, proof: bytes) -> bool:
        """True if the proof is that node's over these bytes, by a certificate of this cluster."""
        ...


class CertifiedProofs:
    """Proofs by node keys."""

    def __init__(self, signer: NodeSigner) -> None:
        self._signer = signer

    def prove(self, data: bytes) -> bytes:
        """Return signature and certificate; the bytes themselves travel beside them."""
        signed = self._signer.sign_with_certificate(data)
        return SIGNED_CODEC.encode(SignedBytes(b"", signed.signature, signed.certificate))

    def is_proof_of(self, node: NodeId, data: bytes, proof: bytes) -> bool:
        """True if the node signed the bytes; expelled nodes and foreign certificates are not believed."""
        try:
            attached = SIGNED_CODEC.decode(proof)
            return self._signer.verify_signed(SignedBytes(data, attached.signature, attached.certificate)) == node
        except (MalformedFrame, SecurityError):
            return False

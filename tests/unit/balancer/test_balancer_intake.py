"""Which records from the wire are believed."""

from __future__ import annotations

from collections import Counter

from balancer.intake import Intake
from balancer.record import FORMAT, RECORD, TopologyRecord
from balancer.spread import RingMember
from balancer.topology_messages import SignedRecord
from frys_node.base.types import ClusterId, Epoch, NodeId, Term

NODE = NodeId("n1")
CLUSTER = ClusterId("c" * 32)


class CountedProofs:
    """Believes the proof `good`, and counts how often it had to look."""

    def __init__(self) -> None:
        self.count = 0

    def prove(self, data: bytes) -> bytes:
        """Return the proof."""
        return b"good"

    def is_proof_of(self, node: NodeId, data: bytes, proof: bytes) -> bool:
        """Return whether it is."""
        self.count += 1
        return proof == b"good"


def encoded(seq: int, cluster: ClusterId = CLUSTER) -> bytes:
    """Return a record on the wire."""
    return RECORD.encode(
        TopologyRecord(
            format=FORMAT,
            cluster=cluster,
            epoch=Epoch(Term(1, NODE), seq),
            phase="stable",
            ring=(RingMember(node=NODE),),
            next_ring=(),
            parent=None,
            partitions=1,
            replication_factor=1,
            vnodes=4,
        )
    )


def test_a_record_that_everybody_pushes_is_verified_once() -> None:
    """The same bytes with the same proof are known; with another proof, or other bytes, they are looked at."""
    proofs, dropped = CountedProofs(), Counter[str]()
    intake = Intake(CLUSTER, proofs, lambda why: dropped.update([why]))
    first, second = encoded(1), encoded(2)
    for _ in range(3):
        assert intake.verified(SignedRecord(first, b"good")) == RECORD.decode(first)
    assert proofs.count == 1
    assert intake.verified(SignedRecord(first, b"forged")) is None
    assert intake.verified(SignedRecord(second, b"good")) == RECORD.decode(second)
    assert intake.verified(SignedRecord(encoded(3, ClusterId("d" * 32)), b"good")) is None
    assert proofs.count == 3
    assert dropped == {"signature": 1, "cluster": 1}

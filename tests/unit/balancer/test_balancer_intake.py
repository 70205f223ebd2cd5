"""Which records from the wire are believed."""

from __future__ import annotations

from collections import Counter

import pytest

from balancer.intake import SEQ_AHEAD_MAX, TERM_AHEAD_MAX, Intake
from balancer.record import FORMAT, RECORD, TopologyRecord
from balancer.spread import RingMember
from balancer.topology_messages import PromiseAsk, PromiseRefused, RecordDigest, Report, SignedRecord
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


FAR = Term(7 + TERM_AHEAD_MAX + 1, NODE)
NEAR = Term(7 + TERM_AHEAD_MAX, NODE)


@pytest.mark.parametrize("term", [FAR, NEAR])
def test_a_term_that_nobody_gets_to_is_dropped_whatever_names_it(term: Term) -> None:
    """A question that nobody signs could name the highest term there is: no issuer could write above it, ever."""
    dropped = Counter[str]()
    held = Epoch(Term(3, NODE), 5), Term(7, NODE)
    intake = Intake(CLUSTER, CountedProofs(), lambda why: dropped.update([why]), lambda: held)
    messages = [
        PromiseAsk(term),
        PromiseRefused(Term(4, NODE), term),
        RecordDigest(Epoch(term, 1), None),
        Report(Epoch(term, 1), True, True, 0),
        Report(held[0], True, True, 0, term),
    ]
    assert [intake.permits(message) for message in messages] == [term == NEAR] * len(messages)
    assert dropped == ({} if term == NEAR else {"number": len(messages)})


def test_a_record_with_a_number_that_nobody_gets_to_is_dropped_unverified() -> None:
    """Signed or not: after the highest number nobody could write another. A node without a record takes any."""
    dropped, held = Counter[str](), (Epoch(Term(1, NODE), 5), None)
    proofs = CountedProofs()
    intake = Intake(CLUSTER, proofs, lambda why: dropped.update([why]), lambda: held)
    far = SignedRecord(encoded(5 + SEQ_AHEAD_MAX + 1), b"good")
    assert intake.verified(far) is None
    assert (proofs.count, dropped) == (0, {"number": 1})
    assert intake.verified(SignedRecord(encoded(5 + SEQ_AHEAD_MAX), b"good")) is not None
    assert Intake(CLUSTER, proofs, lambda _why: None).verified(far) is not None
    assert intake.permits(RecordDigest(None, None))

"""Which records from the wire are believed."""

from __future__ import annotations

from collections import Counter

import pytest

from balancer.intake import SLACK, Intake
from balancer.record import FORMAT, RECORD, TopologyRecord
from balancer.spread import RingMember
from balancer.topology_messages import (
    PromiseAsk,
    PromiseRefused,
    RecordDigest,
    RecordGo,
    RecordReady,
    Report,
    SignedRecord,
)
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
    intake = Intake(CLUSTER, proofs, lambda why: dropped.update([why]), lambda: 1_800_000_000)
    first, second = encoded(1), encoded(2)
    for _ in range(3):
        assert intake.verified(SignedRecord(first, b"good")) == RECORD.decode(first)
    assert proofs.count == 1
    assert intake.verified(SignedRecord(first, b"forged")) is None
    assert intake.verified(SignedRecord(second, b"good")) == RECORD.decode(second)
    assert intake.verified(SignedRecord(encoded(3, ClusterId("d" * 32)), b"good")) is None
    assert proofs.count == 3
    assert dropped == {"signature": 1, "cluster": 1}


UNIX_S = 1_800_000_000
HIGHEST = UNIX_S + SLACK


def make_intake(proofs: CountedProofs, dropped: Counter[str], now_s: float = UNIX_S) -> Intake:
    """Return one at an instant."""
    return Intake(CLUSTER, proofs, lambda why: dropped.update([why]), lambda: now_s)


@pytest.mark.parametrize("number", [HIGHEST, HIGHEST + 1, 2**64 - 1])
def test_a_number_that_nobody_gets_to_is_dropped_whatever_names_it(number: int) -> None:
    """A question that nobody signs could name the highest term there is: no issuer could write above it, ever."""
    dropped, term = Counter[str](), Term(number, NODE)
    intake = make_intake(CountedProofs(), dropped)
    messages = [
        PromiseAsk(term),
        PromiseRefused(Term(4, NODE), term),
        *(RecordDigest(Epoch(term, 1), None), RecordDigest(None, Epoch(term, 1))),
        *(RecordReady(Epoch(term, 1)), RecordGo(Epoch(Term(1, NODE), number))),
        *(Report(Epoch(term, 1), True, True, 0), Report(Epoch(Term(3, NODE), 5), True, True, 0, term)),
    ]
    assert [intake.permits(NODE, message) for message in messages] == [number == HIGHEST] * len(messages)
    assert dropped == ({} if number == HIGHEST else {"number": len(messages)})


def test_above_the_highest_number_there_is_room_again_after_a_second() -> None:
    """Whatever a liar named, whoever takes over next names one more; nodes that were away draw the same line."""
    term = Term(HIGHEST + 1, NODE)
    assert not make_intake(CountedProofs(), Counter()).permits(NODE, PromiseAsk(term))
    assert make_intake(CountedProofs(), Counter(), UNIX_S + 1).permits(NODE, PromiseAsk(term))


def test_nobody_asks_for_a_promise_in_another_ones_name() -> None:
    """The asker of a term is the node that would reign in it."""
    dropped = Counter[str]()
    assert not make_intake(CountedProofs(), dropped).permits(NodeId("n2"), PromiseAsk(Term(2, NODE)))
    assert dropped == {"asker": 1}


def test_a_record_with_a_number_that_nobody_gets_to_is_dropped_unverified() -> None:
    """Signed or not: after the highest number nobody could write another."""
    proofs, dropped = CountedProofs(), Counter[str]()
    intake = make_intake(proofs, dropped)
    assert intake.verified(SignedRecord(encoded(HIGHEST + 1), b"good")) is None
    assert (proofs.count, dropped) == (0, {"number": 1})
    assert intake.verified(SignedRecord(encoded(HIGHEST), b"good")) is not None

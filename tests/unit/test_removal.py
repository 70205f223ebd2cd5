"""Which topology records a node believes, and what it does about one that removes it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from balancer.proof import CertifiedProofs
from balancer.record import RECORD, TopologyRecord, after, first_record, taken_over
from balancer.spread import RingMember
from balancer.topology_messages import SignedRecord
from frys_node.base.errors import CorruptData
from frys_node.base.types import NodeId, Term
from frys_node.channel.bootstrap import create_cluster
from frys_node.removal import NOTED_PATH, BelievedProofs, Removal
from frys_node.secure.identity import Identity
from frys_node.secure.signer import NodeSigner
from frys_node.testing.disk import FakeDisk
from frys_node.testing.identities import issue_member
from frys_node.transport.clock import SystemClock
from frys_node.transport.entropy import SystemEntropy
from frys_node.trust.authority import AuthorityHolder
from frys_node.trust.rotation_desk import RotationDesk

CLOCK, ENTROPY = SystemClock(), SystemEntropy()


def member_of(issuer: Identity, name: str) -> Identity:
    """Return another node with a certificate of the cluster's present authority."""
    return issue_member(issuer, name, ENTROPY, CLOCK)


def signed(identity: Identity, record: TopologyRecord) -> SignedRecord:
    """Sign a record as its writer does."""
    data = RECORD.encode(record)
    return SignedRecord(data, CertifiedProofs(NodeSigner(identity)).prove(data))


class Believer:
    """One node with the record in force, and what it was told of its removal."""

    def __init__(self) -> None:
        self.home = FakeDisk()
        self.own = create_cluster(self.home, ENTROPY, CLOCK, cluster_name="t", node_name="own")
        self.other = member_of(self.own, "other")
        ring = tuple(RingMember(node=node) for node in (self.own.node_id, self.other.node_id))
        first = first_record(self.own.cluster_id, ring[0])
        self.held: TopologyRecord | None = msgspec.structs.replace(first, ring=ring, next_ring=ring)
        self.revoked: set[NodeId] = set()
        self.stops: list[str] = []
        self.disk = FakeDisk()
        self.begin()

    def begin(self) -> None:
        """Begin another life on the same disk."""
        self.proofs = BelievedProofs(self.own, self.revoked, held=lambda: self.held)
        self.removal = Removal(
            self.disk,
            is_trusted=self.proofs.is_trusted,
            held=lambda: self.held,
            name_of=lambda node: "other" if node == self.other.node_id else node,
            stop=self.stops.append,
        )
        self.proofs.on_removed = self.removal.told

    def hears(self, writer: Identity, record: TopologyRecord) -> bool:
        """Return whether a record is believed."""
        said = signed(writer, record)
        return self.proofs.is_proof_of(record.epoch.term.node, said.data, said.proof)

    def without_own(self, record: TopologyRecord, **changes: Any) -> TopologyRecord:
        """Return the record with this node removed by an operator."""
        ring = tuple(member for member in record.ring if member.node != self.own.node_id)
        removed = (self.own.node_id,)
        return msgspec.structs.replace(record, ring=ring, next_ring=ring, removed=removed, **changes)


@pytest.fixture
def believer() -> Believer:
    """A node that serves."""
    made = Believer()
    assert made.removal.is_over()
    made.removal.is_serving = True
    return made


def test_a_record_that_removes_this_node_stops_it_and_ends_nothing(believer: Believer) -> None:
    """It is not adopted, whoever wrote it; in the next life it stands, and names the record, its writer and the fix."""
    assert believer.held is not None
    seized = taken_over(believer.held, Term(2, believer.other.node_id))
    assert not believer.hears(believer.other, believer.without_own(seized))
    (stop,) = believer.stops
    assert str(seized.epoch) in stop
    believer.begin()
    assert not believer.removal.is_over()
    trouble = believer.removal.trouble
    assert f"the record {seized.epoch} of other says that this node was removed" in trouble
    assert "move its data directory away" in trouble
    assert f"frys-node node revoke {believer.other.node_id}" in trouble
    assert not believer.hears(believer.other, believer.without_own(seized))
    assert len(believer.stops) == 1


def test_a_writer_that_first_takes_the_role_ends_nobody_either(believer: Believer) -> None:
    """A record that only changes the term is adopted; a removal under it is no more than one without that step."""
    assert believer.held is not None
    seized = taken_over(believer.held, Term(2, believer.other.node_id))
    assert believer.hears(believer.other, seized)
    believer.held = seized
    assert not believer.hears(believer.other, believer.without_own(after(seized)))
    assert len(believer.stops) == 1
    believer.begin()
    assert believer.removal.trouble


def test_one_that_writes_removal_after_removal_fills_neither_log_nor_disk(believer: Believer) -> None:
    """While one stands the others are neither noted nor told; they are not believed either."""
    assert believer.held is not None
    seized = taken_over(believer.held, Term(2, believer.other.node_id))
    assert not believer.hears(believer.other, believer.without_own(seized))
    noted = believer.disk.read(NOTED_PATH)
    for _ in range(3):
        seized = after(seized)
        assert not believer.hears(believer.other, believer.without_own(seized))
    assert believer.disk.read(NOTED_PATH) == noted
    assert len(believer.stops) == 1


def test_a_removal_is_over_once_its_writer_is_expelled(believer: Believer) -> None:
    """Then it is forgotten, in the next life too."""
    assert believer.held is not None
    believer.hears(believer.other, believer.without_own(taken_over(believer.held, Term(2, believer.other.node_id))))
    believer.begin()
    assert not believer.removal.is_over()
    believer.revoked.add(believer.other.node_id)
    assert believer.removal.is_over()
    assert believer.removal.trouble == ""
    believer.begin()
    assert believer.removal.is_over()


def test_a_removal_is_over_once_a_later_record_is_in_force(believer: Believer) -> None:
    """The cluster says that this node is a member; a record of before the removal says nothing."""
    assert believer.held is not None
    seized = taken_over(believer.held, Term(2, believer.other.node_id))
    believer.hears(believer.other, believer.without_own(seized))
    assert not believer.removal.is_over()
    later = taken_over(seized, Term(3, believer.other.node_id))
    assert believer.hears(believer.other, later)
    believer.held = later
    assert believer.removal.is_over()


def test_a_removal_of_before_the_record_in_force_stops_nobody(believer: Believer) -> None:
    """It is a promise's record, of a time before this node was taken in again; it counts as proved."""
    assert believer.held is not None
    old = believer.without_own(taken_over(believer.held, Term(2, believer.other.node_id)))
    believer.held = taken_over(believer.held, Term(3, believer.other.node_id))
    assert believer.hears(believer.other, old)
    assert believer.stops == []


def test_a_removed_node_that_still_has_a_place_works_on(believer: Believer) -> None:
    """Its partitions wait for its disk: it has to work under the record to hand them over."""
    assert believer.held is not None
    pinned = taken_over(believer.held, Term(2, believer.other.node_id))
    pinned = msgspec.structs.replace(pinned, removed=(believer.own.node_id,))
    assert believer.hears(believer.other, pinned)
    assert believer.stops == []


def test_who_has_stolen_a_retired_authoritys_key_writes_no_later_term(believer: Believer) -> None:
    """Before the change its records are believed, after it none of a higher term, also if it was met before.

    What was signed before still stands where no record is, and within the term in force.
    """
    ghost = member_of(believer.own, "ghost")
    assert believer.held is not None
    held = believer.held
    assert believer.hears(ghost, taken_over(held, Term(2, ghost.node_id)))
    holder = AuthorityHolder(believer.own, believer.home, ENTROPY, CLOCK, issuer=lambda: believer.own.node_id)
    desk = RotationDesk(believer.own, holder, believer.home, ENTROPY, CLOCK)
    desk.begin()
    assert believer.hears(ghost, taken_over(held, Term(3, ghost.node_id)))
    desk.switch()
    desk.retire()
    assert not believer.hears(ghost, taken_over(held, Term(9, ghost.node_id)))
    assert not believer.hears(ghost, believer.without_own(taken_over(held, Term(9, ghost.node_id))))
    assert believer.stops == []
    believer.held = taken_over(held, Term(2, ghost.node_id))
    assert believer.hears(ghost, after(believer.held))
    believer.held = None
    assert believer.hears(ghost, taken_over(held, Term(2, ghost.node_id)))


def test_a_removal_is_over_once_its_writers_authority_is_trusted_no_more(believer: Believer) -> None:
    """A member that was made with a stolen key need not be expelled beside that."""
    ghost = member_of(believer.own, "ghost")
    assert believer.held is not None
    believer.hears(ghost, believer.without_own(taken_over(believer.held, Term(2, ghost.node_id))))
    holder = AuthorityHolder(believer.own, believer.home, ENTROPY, CLOCK, issuer=lambda: believer.own.node_id)
    desk = RotationDesk(believer.own, holder, believer.home, ENTROPY, CLOCK)
    desk.begin()
    desk.switch()
    assert not believer.removal.is_over()
    desk.retire()
    assert believer.removal.is_over()


def test_a_full_disk_keeps_no_node_from_stopping(believer: Believer) -> None:
    """What was told could not be noted: it stops all the same, and is told again in its next life."""
    assert believer.held is not None
    believer.disk.fail_next()
    believer.hears(believer.other, believer.without_own(taken_over(believer.held, Term(2, believer.other.node_id))))
    assert len(believer.stops) == 1
    believer.begin()
    assert believer.removal.is_over()


def test_a_damaged_note_is_not_guessed_at(believer: Believer) -> None:
    """The error names the file and what to do; the file stays."""
    believer.disk.write(NOTED_PATH, b"\xc1")
    with pytest.raises(CorruptData, match=NOTED_PATH) as damaged:
        believer.begin()
    assert "remove" in damaged.value.hint
    assert believer.disk.read(NOTED_PATH) == b"\xc1"

"""What the topology machine asks its host to do.

Sans-I/O.
"""

from __future__ import annotations

from typing import NamedTuple

from balancer.record import TopologyRecord
from balancer.topology_messages import SignedRecord, TopologyMessage
from frys_node.base.types import Epoch, NodeId, Term


class SendTopology(NamedTuple):
    """Send a message, best effort."""

    to: NodeId
    message: TopologyMessage


class PersistRecord(NamedTuple):
    """Make the record durable, derive its placement, then call `persisted(epoch, placement)` (rule 20)."""

    record: TopologyRecord
    signed: SignedRecord


class PersistPromise(NamedTuple):
    """Make the promise durable, behind every record on its way there, then call `promise_kept(term)` (rule 21)."""

    term: Term


class TakeOver(NamedTuple):
    """Sign the record, put it into this node's register whatever that holds, then `proposed(...)` (rule 21)."""

    before: Epoch
    """The record whose content it has."""
    record: TopologyRecord


class Adopted(NamedTuple):
    """The record is in force on this node from now on; `work_for` says what it asks of this node."""

    epoch: Epoch


class Settled(NamedTuple):
    """A majority of every changed unit's set has adopted the stable record: sources may drop (rule 13)."""

    epoch: Epoch


class Propose(NamedTuple):
    """Issuer: sign the record and swap it into the register if that still holds `expected`, then `proposed(...)`."""

    expected: Epoch
    record: TopologyRecord

    @property
    def before(self) -> Epoch:
        """The record that it follows."""
        return self.expected


class Equivocation(NamedTuple):
    """Two records with one key were seen: an alarm for a human; the issuer's records are no longer taken."""

    epoch: Epoch


DiskWork = PersistRecord | PersistPromise | Propose | TakeOver | Settled | Equivocation
"""What is written in order, one at a time."""

TopologyEffect = SendTopology | PersistRecord | PersistPromise | Adopted | Settled | Propose | TakeOver | Equivocation

"""The topology record: the one value from which every node derives who holds what.

Sans-I/O. It is signed, changed one step at a time, and keyed by an epoch (replication rules 2, 6, 9, 20). `ring` gives
the current sets C; `next_ring` gives the next sets N while a change is under way. Nothing live ever enters it.
"""

from __future__ import annotations

import msgspec

from balancer.ring import VNODES, Ring, ring_with
from balancer.spread import RingMember
from frys_node.base.errors import UnsupportedVersion
from frys_node.base.types import ClusterId, Epoch, NodeId, Term
from frys_node.kernel.services.topology import Collection
from frys_node.wire.codec import Codec

STABLE = "stable"
JOINING = "joining"
JOINT = "joint"

FORMAT = 2
"""Version of the record's meaning: which sets follow from it. Nodes that would derive different sets from one record
must not work under it, so a node refuses every other format; golden files of all of them decode for ever (D14).

1: members without racks, one bound for all replicas. 2: racks, rounds with bounds of their own (`spread`)."""

PARTITIONS = 256
"""Workflow partitions and cache units, fixed when the cluster is created."""

REPLICATION_FACTOR = 3


class TopologyRecord(msgspec.Struct, frozen=True, array_like=True):
    """Who is on the ring, what exists, and which step of a change this is."""

    format: int
    cluster: ClusterId
    epoch: Epoch
    phase: str
    ring: tuple[RingMember, ...]
    next_ring: tuple[RingMember, ...]
    """Equal to `ring` when stable."""
    parent: Epoch | None = None
    """The record that this one replaces; None for the first."""
    collections: tuple[Collection, ...] = ()
    partitions: int = PARTITIONS
    replication_factor: int = REPLICATION_FACTOR
    vnodes: int = VNODES
    pinned: tuple[tuple[int, NodeId], ...] = ()
    """Workflow partitions whose owner was silent when it should have handed them over: they wait for its disk (D5)."""

    def members(self) -> tuple[NodeId, ...]:
        """Every node of either ring, sorted."""
        return tuple(sorted({member.node for member in (*self.ring, *self.next_ring)}))


RECORD: Codec[TopologyRecord] = Codec(TopologyRecord)


def first_record(
    cluster: ClusterId,
    founder: RingMember,
    *,
    partitions: int = PARTITIONS,
    replication_factor: int = REPLICATION_FACTOR,
) -> TopologyRecord:
    """Return the record of a new cluster: its founder alone on the ring."""
    return TopologyRecord(
        format=FORMAT,
        cluster=cluster,
        epoch=Epoch(Term(1, founder.node), 1),
        phase=STABLE,
        ring=(founder,),
        next_ring=(founder,),
        partitions=partitions,
        replication_factor=replication_factor,
    )


def check_format(record: TopologyRecord) -> None:
    """Let only a record pass from which this version derives the sets that its writer meant.

    Raises:
        UnsupportedVersion: It does not; nothing was adopted.
    """
    if record.format != FORMAT:
        raise UnsupportedVersion(
            f"the topology record {record.epoch} has format {record.format}, and this version works under {FORMAT}",
            hint=f"run the version of frys-node that wrote it, or start anew: a cluster of format {FORMAT}",
        )


def ring_of(record: TopologyRecord) -> Ring:
    """Return the ring of the current sets."""
    return ring_with(record.ring, record.vnodes)


def next_ring_of(record: TopologyRecord) -> Ring:
    """Return the ring of the next sets."""
    return ring_with(record.next_ring, record.vnodes)

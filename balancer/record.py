"""The topology record: the one value from which every node derives who holds what.

Sans-I/O. It is signed, changed one step at a time, and keyed by an epoch (replication rules 2, 6, 9, 20). `ring` gives
the current sets C; `next_ring` gives the next sets N while a change is under way. Nothing live ever enters it.
"""

from __future__ import annotations

import msgspec

from balancer.bypass import Bypass
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

1: members without racks, one bound for all replicas. 2: racks, rounds with bounds of their own (`spread`).
3: members that are passed over (`bypass`). Only a record that passes somebody over is of this format, so that nodes
of the version before work on under all others."""

FORMAT_BYPASS = 3
FORMATS = (FORMAT, FORMAT_BYPASS)
"""What this version derives the sets of."""

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

    next_replication_factor: int | None = None
    """The cluster's factor of the next sets; None: the same."""
    next_factors: tuple[tuple[str, int], ...] = ()
    """Factors of the next sets of single collections, by collection id."""
    lost: tuple[NodeId, ...] = ()
    """Members of `ring` whose data an operator gave up: a unit whose old set cannot be fenced without them goes on with
    what is left of it. They stay here until a stable record has a ring without them."""
    removed: tuple[NodeId, ...] = ()
    """Nodes that an operator removed, the latest last: whoever of them comes back is refused."""
    successor: NodeId | None = None
    """The issuer's last record names who writes the next one."""
    bypassed: tuple[Bypass, ...] = ()
    """Members that were dead when the sets came about: other members hold what they would have had to take over."""
    next_bypassed: tuple[Bypass, ...] = ()
    """The same of the next sets; empty when stable."""

    def members(self) -> tuple[NodeId, ...]:
        """Every node of either ring, sorted."""
        return tuple(sorted({member.node for member in (*self.ring, *self.next_ring)}))


REMOVED_MAX = 256
"""Removed nodes that a record remembers; an older one that comes back joins as new, which is as safe and less clear."""

RECORD_BYTES_MAX = 768 << 10
"""What a record may take for a collection to be added: it travels in one frame of 1 MiB, and members still may join."""

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
    if record.format not in FORMATS:
        raise UnsupportedVersion(
            f"the topology record {record.epoch} has format {record.format}, and this version works under "
            f"{FORMAT} and {FORMAT_BYPASS}",
            hint=f"run the version of frys-node that wrote it, or start anew: a cluster of format {FORMAT}",
        )


def ring_of(record: TopologyRecord) -> Ring:
    """Return the ring of the current sets."""
    return ring_with(weighted(record.ring), record.vnodes)


def next_ring_of(record: TopologyRecord) -> Ring:
    """Return the ring of the next sets."""
    return ring_with(weighted(record.next_ring), record.vnodes)


def weighted(ring: tuple[RingMember, ...]) -> tuple[RingMember, ...]:
    """Return the members that are walked. One of weight 0 keeps what is pinned to its disk, and nothing else."""
    return ring if all(member.weight for member in ring) else tuple(member for member in ring if member.weight)


def weight_of(ring: tuple[RingMember, ...], node: NodeId) -> int | None:
    """Return a node's weight on a ring; None if it is not there. Weight 0 holds only what is pinned to its disk."""
    return next((member.weight for member in ring if member.node == node), None)


def next_collections(record: TopologyRecord) -> tuple[Collection, ...]:
    """Return the catalogue with the factors of the next sets."""
    factors = dict(record.next_factors)
    return tuple(
        msgspec.structs.replace(held, replication_factor=factors.get(held.id, held.replication_factor))
        for held in record.collections
    )


def after(record: TopologyRecord, **changes: object) -> TopologyRecord:
    """Return the record with the next number in its term."""
    epoch = Epoch(record.epoch.term, record.epoch.seq + 1)
    return formatted(msgspec.structs.replace(record, epoch=epoch, parent=record.epoch, **changes))


def formatted(record: TopologyRecord) -> TopologyRecord:
    """Return the record under the number that its content needs."""
    if record.bypassed or record.next_bypassed:
        return msgspec.structs.replace(record, format=FORMAT_BYPASS)
    return msgspec.structs.replace(record, format=FORMAT) if record.format == FORMAT_BYPASS else record


def finished(record: TopologyRecord) -> TopologyRecord:
    """Return the stable record of the next sets of a ``joint`` one."""
    factor = record.next_replication_factor
    members = {member.node for member in record.next_ring}
    return after(
        record,
        phase=STABLE,
        ring=record.next_ring,
        collections=next_collections(record),
        replication_factor=record.replication_factor if factor is None else factor,
        next_replication_factor=None,
        next_factors=(),
        pinned=tuple((partition, node) for partition, node in record.pinned if node in members),
        lost=(),
        bypassed=record.next_bypassed,
        next_bypassed=(),
    )


def aborted(record: TopologyRecord) -> TopologyRecord:
    """Return the stable record of the old sets. What an operator gave up stays given up: it was counted without."""
    removed = tuple(node for node in record.removed if node in record.lost or not weight_of(record.ring, node))
    return after(
        record,
        phase=STABLE,
        next_ring=record.ring,
        next_replication_factor=None,
        next_factors=(),
        removed=removed,
        next_bypassed=(),
    )


def taken_over(record: TopologyRecord, term: Term) -> TopologyRecord:
    """Return the content under a new term (rule 21). A ``joint`` record keeps its parent: joiners have wiped for it."""
    parent = record.parent if record.phase == JOINT else record.epoch
    epoch = Epoch(term, record.epoch.seq + 1)
    return msgspec.structs.replace(record, epoch=epoch, parent=parent, successor=None)

"""What the composition root decides for the balancer of this node.

Sans-I/O.
"""

from __future__ import annotations

import msgspec

from balancer.record import PARTITIONS, REPLICATION_FACTOR, TopologyRecord, first_record
from balancer.spread import RingMember
from balancer.topology import TopologyConfig
from frys_node.base.types import ClusterId, NodeId


class BalancerSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The cluster, this node's place in it, and the patience of the topology."""

    cluster: ClusterId
    kinds: tuple[str, ...] = ("cache", "vector", "workflow")
    """Kinds of units whose plugins run here; the others are nobody's work on this node."""
    is_founder: bool = False
    """True on the first start of a cluster's first node: it writes the first record if there is none on its disk."""
    partitions: int = PARTITIONS
    replication_factor: int = REPLICATION_FACTOR
    weight: int = 100
    zone: str = ""
    rack: str = ""
    topology: TopologyConfig = TopologyConfig()

    def member(self, node: NodeId) -> RingMember:
        """Return a node as it wants to be on the ring."""
        return RingMember(node=node, weight=self.weight, zone=self.zone, rack=self.rack)

    def first_record(self, node: NodeId) -> TopologyRecord:
        """Return the record of a new cluster, with that node alone on the ring."""
        return first_record(
            self.cluster,
            self.member(node),
            partitions=self.partitions,
            replication_factor=self.replication_factor,
        )

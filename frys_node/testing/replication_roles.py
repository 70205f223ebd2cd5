"""Who is in a run of the replication scenario beside its nodes: clients, the observer, and what a seed draws.

Sans-I/O.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol

from balancer.placement import Placement
from balancer.record import RECORD
from balancer.steps import StepConfig
from balancer.topology_messages import SignedRecord
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication import effects as fx

if TYPE_CHECKING:
    from frys_node.testing.replication_node import ReplicationNode


@lru_cache(maxsize=256)
def placement_of(data: bytes) -> Placement:
    """Return the placement of an encoded record; nodes of one process share it."""
    return Placement(RECORD.decode(data))


class Command(NamedTuple):
    """A client's request to the node it is connected to."""

    number: int
    kind: str
    """``write``, ``read``, ``scan``; at the issuer ``join``, ``leave``, ``remove``, ``factor``, ``hand over`` and
    ``renew``; anywhere ``promote`` and ``give up``."""
    unit: UnitId = UnitId("")
    key: bytes = b""
    value: bytes | None = None
    node: NodeId = NodeId("")
    patience_s: float = 3.0
    factor: int = 0


class Observer(Protocol):
    """What watches the nodes of a run: the checker and the directed faults."""

    def written(self, number: int, version: Version) -> None:
        """A write was acknowledged."""
        ...

    def read(self, number: int, effect: fx.ReadDone) -> None:
        """A read was answered."""
        ...

    def scanned(self, number: int, effect: fx.ScanDone) -> None:
        """A scan was answered."""
        ...

    def failed(self, number: int) -> None:
        """A request found no quorum in time."""
        ...

    def adopted(self, node: ReplicationNode, signed: SignedRecord) -> None:
        """A node works under a record from now on."""
        ...

    def signed(self, placement: Placement, before: Epoch) -> None:
        """The issuer's register has taken a record that was made from another one."""
        ...

    def dead(self) -> Sequence[NodeId]:
        """Return who membership holds for dead, rightly or not."""
        ...

    def corrupted(self, node: str, effect: fx.Corrupted) -> None:
        """A replica saw one version with two values."""
        ...

    def emptied(self, effect: fx.StartedEmpty) -> None:
        """A unit in memory found nobody to refill from."""
        ...

    def lost(self, node: str, effect: fx.UnitLost) -> None:
        """A durable unit of a node lost state."""
        ...

    def freed(self, unit: UnitId, entry: Entry) -> None:
        """A replica has freed a tombstone."""
        ...

    def evicted(self) -> None:
        """A replica in memory had no room for an entry."""
        ...

    def copied(self) -> None:
        """A node has the chunks of a unit that it joins."""
        ...

    def held_back(self) -> None:
        """A copy has to wait for the rate of moves."""
        ...

    def renew(self, node: str) -> None:
        """A node needs another record, to refill what it lost."""
        ...


HURRIED = StepConfig(
    joining_patience_s=5.0,
    joint_patience_s=2.5,
    pin_patience_s=1.0,
    dead_patience_s=0.5,
    adopt_patience_s=2.0,
    return_patience_s=1.0,
    retry_pause_s=0.5,
)
"""Half of the seeds give steps up soon, so that there are many of them; the others have the patience of the product."""


class Knobs(NamedTuple):
    """What a seed draws for all nodes."""

    names: tuple[NodeId, ...]
    keeps_hints: bool
    repairs_reads: bool
    sync_interval_s: float
    fsync_s: float
    """Longest fsync."""
    catches_up: bool = False
    clock_drift_max_s: float = 60.0
    gc_min_age_s: float = 3_600.0
    gc_interval_s: float = math.inf
    bulk_by_chunks: bool = False
    memory_room: int | None = None
    """Entries of a unit in memory that a node has room for; None: all."""
    moves_rate_bytes_s: float = 0.0
    """What copies by messages are held to; 0: nothing."""
    steps: StepConfig = HURRIED

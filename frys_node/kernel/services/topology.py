"""Who owns what, from the topology record. Provided by `balancer`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from frys_node.base.errors import FrysError
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services import ServiceKey


class UnitSets(NamedTuple):
    """Replica sets of a unit under one record, in preference order. `next == current` when the record is stable.

    In ``joint``, quorums of both are needed, for writes and for reads.
    """

    epoch: Epoch
    phase: str
    """``stable``, ``joining`` or ``joint``."""
    current: tuple[NodeId, ...]
    next: tuple[NodeId, ...]


class Collection(msgspec.Struct, frozen=True, kw_only=True):
    """A vector collection's definition, part of the topology record (fine print 1)."""

    name: str
    id: str
    dimension: int
    distance: str
    """``Cosine``, ``Dot``, ``Euclid`` or ``Manhattan``."""
    shard_number: int = 4
    replication_factor: int = 3
    options: dict[str, Any] = {}


class Local(NamedTuple):
    """This node serves the unit."""

    epoch: Epoch


class Forward(NamedTuple):
    """Ask that node, telling it the epoch."""

    node: NodeId
    epoch: Epoch


class Unavailable(NamedTuple):
    """No member of the unit's set can be reached; `wanted` names them."""

    epoch: Epoch
    wanted: tuple[NodeId, ...]


Route = Local | Forward | Unavailable


class TopologyChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Published (conflated) on the bus when this node has durably adopted a record."""

    old: Epoch | None
    new: Epoch


class UnitMover(Protocol):
    """How units with one owner (workflow partitions) change hands; every call may come again after a failure.

    At most one call per kind runs at a time. An exception is logged and the call is made again after a pause.
    """

    async def start(self, unit: UnitId) -> None:
        """Own the unit: open its data (new if there is none) and serve it."""
        ...

    async def seal(self, unit: UnitId) -> None:
        """Stop writing the unit and make what is there durable; answer pulls of it from now on."""
        ...

    async def unseal(self, unit: UnitId) -> None:
        """The move was aborted: go on serving the sealed unit."""
        ...

    async def pull(self, unit: UnitId, source: NodeId) -> None:
        """Copy the sealed unit from its owner, durably, without starting it; raise `NotReady` until it is sealed."""
        ...

    async def drop(self, unit: UnitId) -> None:
        """Forget the unit's data here: another node owns it and that is settled, or the move was aborted."""
        ...


class Topology(Protocol):
    """The adopted record and the way to change it."""

    @property
    def epoch(self) -> Epoch:
        """Key of the adopted record."""
        ...

    @property
    def partitions(self) -> int:
        """Number of workflow partitions and of cache units (256 unless the cluster was created otherwise)."""
        ...

    def sets(self, unit: UnitId) -> UnitSets:
        """Replica sets of a unit: a pure function of the record."""
        ...

    def route(self, unit: UnitId) -> Route:
        """Where to send a request for the unit: this node if it is in the set, else its first usable member."""
        ...

    def collections(self) -> Sequence[Collection]:
        """The catalogue, sorted by name."""
        ...

    def register_mover(self, kind: str, mover: UnitMover) -> None:
        """Declare how units of a kind with one owner move; its units are started from now on."""
        ...

    async def refresh(self) -> None:
        """Catch up with the issuer's record, as far as it answers within a second: before a name is called unknown."""
        ...

    async def create_collection(self, collection: Collection) -> None:
        """Add to the catalogue through the issuer.

        Returns when this node has adopted the record and the new shards are writable.

        Raises:
            AlreadyExists: The name is taken.
            NotReady: A move is under way; retry.
            IssuerUnreachable: The issuer is down; retry when it is back.
        """
        ...

    async def delete_collection(self, name: str) -> None:
        """Remove from the catalogue through the issuer. `NotFound` if there is none."""
        ...


TOPOLOGY: ServiceKey[Topology] = ServiceKey("topology")


def adopted(topology: Topology | None) -> Epoch | None:
    """Return the epoch of the record that is in force here, None while there is none."""
    try:
        return topology.epoch if topology is not None else None
    except FrysError:
        return None

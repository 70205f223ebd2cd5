"""Calls about the topology: what nodes ask of the issuer, and how a step is shown to people.

Sans-I/O.
"""

from __future__ import annotations

from typing import Final

import msgspec

from balancer.spread import RingMember
from frys_node.base.types import Epoch, NodeId
from frys_node.kernel.services.rpc import Method
from frys_node.kernel.services.topology import Collection
from frys_node.wire.codec import Message


class JoinRing(Message, frozen=True):
    """Put me on the ring."""

    member: RingMember


class LeaveRing(Message, frozen=True):
    """Take me off the ring."""

    node: NodeId


class CreateCollection(Message, frozen=True):
    """Add to the catalogue."""

    collection: Collection


class DeleteCollection(Message, frozen=True):
    """Remove from the catalogue."""

    name: str


class RenewRecord(Message, frozen=True):
    """Write a record after this one: a replica that lost state is refilled under it (replication rule 14)."""

    epoch: Epoch


class Accepted(Message, frozen=True):
    """Done or queued; `epoch` is the key of the record that shows it, as far as it exists."""

    epoch: Epoch | None = None


class Nothing(Message, frozen=True):
    """An empty request."""


class StepView(Message, frozen=True):
    """The issuer's view of the step under way."""

    waits_for: list[str]
    queued: list[NodeId]
    is_settled: bool


class RingView(msgspec.Struct, frozen=True, kw_only=True):
    """The topology as ``/v1/ring`` shows it."""

    epoch: str
    phase: str
    issuer: NodeId
    issuer_answers: bool
    """False: joins, leaves and new collections wait until it is back."""
    settled: bool
    members: list[NodeId]
    next_members: list[NodeId]
    share: dict[str, float]
    """Part of the hash circle of each member, 0 to 1."""
    partitions: int
    replication_factor: int
    collections: list[str]
    pinned: list[str]
    """Workflow partitions that wait for their silent owner's disk."""
    bypassed: dict[str, int]
    """Members that were dead when the ring changed, and how many units others hold for them until they are back."""
    units_here: int
    moving: int
    """Copies that the change under way makes, over all nodes."""
    waiting_here: int
    """Units that this node still has to take over."""
    waits_for: list[str]
    """What the step under way waits for, as the issuer sees it; empty when the issuer does not answer."""
    queued: list[NodeId]


JOIN_RING: Final[Method[JoinRing, Accepted]] = Method("topology.join", JoinRing, Accepted)
LEAVE_RING: Final[Method[LeaveRing, Accepted]] = Method("topology.leave", LeaveRing, Accepted)
CREATE: Final[Method[CreateCollection, Accepted]] = Method("topology.create", CreateCollection, Accepted)
DELETE: Final[Method[DeleteCollection, Accepted]] = Method("topology.delete", DeleteCollection, Accepted)
RENEW: Final[Method[RenewRecord, Accepted]] = Method("topology.renew", RenewRecord, Accepted)
CURRENT: Final[Method[Nothing, Accepted]] = Method("topology.current", Nothing, Accepted)
STEP: Final[Method[Nothing, StepView]] = Method("topology.step", Nothing, StepView)

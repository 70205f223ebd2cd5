"""Calls about who writes the topology record and who is on it: removals, factors, the issuer itself.

Sans-I/O. Field order is frozen; new fields go at the end with defaults (D10).
"""

from __future__ import annotations

from typing import Final

from balancer.methods import Accepted, Nothing
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Method
from frys_node.wire.codec import Message

REPLICATION_FACTOR_MAX = 7
"""Highest replication factor of the cluster or of a collection."""


class RemoveNode(Message, frozen=True):
    """Replace a dead node."""

    node: NodeId
    accepts_loss: bool = False
    """Give up what only it and other dead nodes hold."""
    accepts_keyless: bool = False
    """It may have the only key of the cluster's authority: give that up."""


class AskRemoval(Message, frozen=True):
    """How far is the removal of a node?"""

    node: NodeId


class RemovalView(Message, frozen=True):
    """Where a removal stands."""

    state: str
    """``waiting``, ``moving``, ``removed``, ``unremoved`` (it was given up, or never asked for)."""
    blocked: list[str]
    """Units of which too few members answer."""
    partitions: int
    """Workflow partitions that wait for the node's disk."""
    waits_for: list[str]


class ChangeFactor(Message, frozen=True):
    """Have other replication factor; the collection's name, or empty for the cluster."""

    collection: str
    factor: int


class IssuerStanding(Message, frozen=True):
    """What the issuer says of itself."""

    can_admit: bool
    """It holds the authority's key, so that nodes can join."""
    standby: list[str]
    """Names of members that hold a copy of it."""


REMOVE_NODE: Final[Method[RemoveNode, Accepted]] = Method("topology.remove", RemoveNode, Accepted)
REMOVAL: Final[Method[AskRemoval, RemovalView]] = Method("topology.removal", AskRemoval, RemovalView)
CHANGE_FACTOR: Final[Method[ChangeFactor, Accepted]] = Method("topology.factor", ChangeFactor, Accepted)
STANDING: Final[Method[Nothing, IssuerStanding]] = Method("topology.standing", Nothing, IssuerStanding)

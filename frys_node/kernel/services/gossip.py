"""Events, queries and key/value state across the cluster. Provided by `membership`.

All of it is best made small and rare: it rides in gossip packets. Nothing here is a decision (D4): who must agree uses
a unit of the ring.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from frys_node.base.types import NodeId
from frys_node.kernel.services import ServiceKey


class ClusterEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Published on the bus once for each user event, on every node, the one that fired it included."""

    name: str
    payload: bytes
    origin: NodeId
    origin_name: str
    """Empty if this node does not know the origin yet."""
    boot: int
    sequence: int
    lamport: int
    """Grows along every chain of events that could have caused one another."""
    unix_ns: int
    """The origin's clock."""


class StateChanged(msgspec.Struct, frozen=True, kw_only=True):
    """Published on the bus when a key of a member's state changes; `value` is None when it is gone."""

    node: NodeId
    name: str
    """The member's; empty if this node does not know it yet."""
    key: str
    value: bytes | None
    version: int


class StateValue(msgspec.Struct, frozen=True, kw_only=True):
    """One key of one member's state. Versions count the changes of one boot of the owner."""

    key: str
    value: bytes
    version: int


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """What a query's handler gets."""

    name: str
    payload: bytes
    origin: NodeId


class Outcome(StrEnum):
    """What became of a query at one member."""

    ANSWERED = "answered"
    FAILED = "failed"
    """Its handler raised; the payload says what."""
    UNHANDLED = "unhandled"
    """It has no handler of that name."""
    ACKED = "acked"
    """It has received the query and did not answer in time."""
    SILENT = "silent"
    """Nothing was heard of it in time."""


class QueryAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The last word of one member on one query."""

    node: NodeId
    name: str
    outcome: Outcome
    payload: bytes
    after_s: float
    """Since the question."""


Responder = Callable[[Question], Awaitable[bytes]]


class Gossip(Protocol):
    """What may be said to the whole cluster, each kind bounded in size and rate."""

    def fire(self, name: str, payload: bytes = b"") -> ClusterEvent:
        """Tell every node; each delivers it once (`ClusterEvent`), this one now.

        Raises:
            GossipTooLarge: Name or payload are over their limit, or it fits into no packet. Nothing was sent.
            GossipTooFast: Over this node's rate. Nothing was sent.
            UsageError: The name is not printable. Nothing was sent.
        """
        ...

    def ask(
        self,
        name: str,
        payload: bytes = b"",
        *,
        nodes: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        timeout_s: float = 5.0,
    ) -> AsyncIterator[QueryAnswer]:
        """Ask the members named (by name or id; all if none) that have the tags; iterate over what they say.

        Each member that was asked gives exactly one answer, the silent ones when the time is up. Closing the iterator
        ends the query.

        Raises:
            GossipTooLarge, GossipTooFast, UsageError: See `fire`; a wait that is too long is a UsageError too.
        """
        ...

    def respond(self, name: str, responder: Responder) -> Callable[[], None]:
        """Answer queries of a name here; returns the function that ends it.

        Raises:
            AlreadyExists: Something answers that name here. State is unchanged.
        """
        ...

    def put(self, key: str, value: bytes) -> StateValue:
        """Set a key of this node's state. It is gone when this node restarts.

        Raises:
            GossipTooLarge: Over a limit of size or number. The former value stands.
            GossipTooFast: Over this node's rate. The former value stands.
            UsageError: The key is not printable. The former value stands.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove a key of this node's state.

        Raises:
            NotFound: There is no such key. State is unchanged.
            GossipTooFast: Over this node's rate. State is unchanged.
        """
        ...

    def state(self, node: NodeId) -> Sequence[StateValue]:
        """A member's keys as far as they have come here, in order; empty for an unknown member."""
        ...


GOSSIP: ServiceKey[Gossip] = ServiceKey("gossip")

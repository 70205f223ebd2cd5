"""What the membership machine asks its driver to do, and what it counts.

Sans-I/O.
"""

from __future__ import annotations

from typing import NamedTuple

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import MemberChanged


class Peer(NamedTuple):
    """Somebody to join: an address, and the node id when it is known (empty otherwise)."""

    node: NodeId
    address: Address


class SendPacket(NamedTuple):
    """Seal and send a datagram, best effort."""

    address: Address
    payload: bytes


class PushPull(NamedTuple):
    """Exchange the whole state with a node over the reliable channel, in the background."""

    node: NodeId
    address: Address


class Emit(NamedTuple):
    """Take a change, and publish it unless the member flaps."""

    event: MemberChanged
    is_damped: bool = False
    """True if subscribers are not to hear of it (see `membership.damping`)."""


class PersistPeers(NamedTuple):
    """Write the peers to disk for the next start."""

    peers: tuple[Peer, ...]


class RoundTrip(NamedTuple):
    """A direct ping was answered after `rtt_s` seconds."""

    node: NodeId
    rtt_s: float


class LeaveAcknowledged(NamedTuple):
    """Some member has heard that this node leaves."""

    node: NodeId


class Superseded(NamedTuple):
    """The cluster knows a higher boot of this very node: a twin runs, or an old data directory was restored."""

    boot: int


Effect = SendPacket | PushPull | Emit | PersistPeers | RoundTrip | LeaveAcknowledged | Superseded

Counts = dict[tuple[str, ...], float]


class Tallies:
    """Running totals by label values, in the shape of `frys_node.observe.metrics.Counter.values`.

    The driver makes these dictionaries the values of its counters, so that counting costs nothing twice.
    """

    __slots__ = ("dropped", "events", "packets", "rumours")

    def __init__(self) -> None:
        self.packets: Counts = {}
        """By direction and type."""
        self.dropped: Counts = {}
        """By reason."""
        self.events: Counts = {}
        """By event: suspicions, confirmations, refutations, deaths, probes saved by a helper and the like."""
        self.rumours: Counts = {}
        """By direction (or why it went no further) and kind."""

    @staticmethod
    def add(counts: Counts, *labels: str) -> None:
        """Count one."""
        counts[labels] = counts.get(labels, 0) + 1

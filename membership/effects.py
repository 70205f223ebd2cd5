"""What the membership machine asks its driver to do, and what it counts.

Sans-I/O.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import MemberChanged

if TYPE_CHECKING:
    from membership.queries import Said
    from membership.rumours import Query, StateEntry, UserEvent


class Peer(NamedTuple):
    """Somebody to join: an address, and the node id when it is known (empty otherwise)."""

    node: NodeId
    address: Address


class SendPacket(NamedTuple):
    """Seal and send a datagram, best effort."""

    address: Address
    payload: bytes
    is_short: bool = False
    """The receiver knows this boot of this node: a short header will do."""


class PushPull(NamedTuple):
    """Exchange the whole state with a node over the reliable channel, in the background."""

    node: NodeId
    address: Address


class Emit(NamedTuple):
    """Take a change, and publish it unless the member flaps."""

    event: MemberChanged
    is_damped: bool = False
    """True if subscribers are not to hear of it (see `membership.damping`)."""
    is_turn: bool = False
    """True if the member's status is another than before, though subscribers may have known it so all along."""


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


class EventHeard(NamedTuple):
    """Deliver a user event."""

    event: UserEvent


class StateHeard(NamedTuple):
    """A key of a member's state has changed."""

    node: NodeId
    entry: StateEntry


class QueryAsked(NamedTuple):
    """Have a query answered by its handler here."""

    query: Query


class QuerySaid(NamedTuple):
    """A member's last word on a query of this node."""

    said: Said


class QueryEnded(NamedTuple):
    """A query of this node is over."""

    sequence: int


class SendRumour(NamedTuple):
    """Send a rumour that fits into no packet over the reliable channel, in the background."""

    node: NodeId
    address: Address
    data: bytes


class SendBatch(NamedTuple):
    """Send a node what it lacks over the reliable channel, in the background; its answer goes to `take_batch_reply`."""

    node: NodeId
    address: Address
    data: bytes


class AskVoices(NamedTuple):
    """Ask a node over the reliable channel, in the background, whose voices these are (`Membership.learn_voices`)."""

    node: NodeId
    voices: tuple[NodeId, ...]


class KeepLifelines(NamedTuple):
    """Keep a connection to each of these nodes, and no longer than wanted to any other."""

    nodes: tuple[NodeId, ...]


class Nudge(NamedTuple):
    """Send a byte on the lifeline to this boot and say who answered (`findings.Nudged`)."""

    node: NodeId
    boot: int
    patience_s: float = 0.0
    """How long the process may take to answer itself once its kernel has acknowledged, round trips not counted."""


class Reconnect(NamedTuple):
    """The lifeline to this boot broke: dial anew, by racing attempts (`findings.Tried`)."""

    node: NodeId
    boot: int
    address: Address


class TryPort(NamedTuple):
    """Look whether a port refuses, accepts or says nothing, and who is behind it (`findings.Tried`)."""

    node: NodeId
    boot: int
    address: Address
    patience_s: float | None = None
    """How long whoever accepts may take to answer a greeting, round trips not counted; None: nobody is greeted."""


class SendRefused(NamedTuple):
    """Tell the log that this node's own system refuses to send to a member."""

    node: NodeId
    address: Address


class PhiSeen(NamedTuple):
    """A watcher's phi when a beat came, or when it crossed a threshold."""

    phi: float


class SuspicionEnded(NamedTuple):
    """A member was refuted, buried or let go after it had been suspected for so long."""

    lasted_s: float


Talking = EventHeard | StateHeard | QueryAsked | QuerySaid | QueryEnded | SendRumour | SendBatch
"""Effects of events, queries and state."""

Effect = (
    Talking
    | SendPacket
    | PushPull
    | AskVoices
    | Emit
    | PersistPeers
    | RoundTrip
    | LeaveAcknowledged
    | Superseded
    | KeepLifelines
    | Nudge
    | Reconnect
    | TryPort
    | SendRefused
    | PhiSeen
    | SuspicionEnded
)


Counts = dict[tuple[str, ...], float]


class Tallies:
    """Running totals by label values, in the shape of `frys_node.observe.metrics.Counter.values`.

    The driver makes these dictionaries the values of its counters, so that counting costs nothing twice.
    """

    __slots__ = ("dropped", "events", "oversized", "packets", "rumours", "rumours_dropped")

    def __init__(self) -> None:
        self.packets: Counts = {}
        """By direction and type."""
        self.dropped: Counts = {}
        """By reason."""
        self.events: Counts = {}
        """By event: suspicions, confirmations, refutations, deaths, probes saved by a helper and the like."""
        self.oversized: Counts = {}
        """Claims that did not fit whole, by form."""
        self.rumours: Counts = {}
        """By direction and kind."""
        self.rumours_dropped: Counts = {}
        """By reason and kind; what is known already is the commonest reason."""

    @staticmethod
    def add(counts: Counts, *labels: str) -> None:
        """Count one."""
        counts[labels] = counts.get(labels, 0) + 1

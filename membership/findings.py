"""What the driver finds out about members by TCP, and tells the machine.

Sans-I/O. The answers to the effects `KeepLifelines`, `Reconnect`, `TryPort` and `Nudge`, and the ends of connections.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from frys_node.base.types import NodeId


class PortState(StrEnum):
    """What came of dialling a member."""

    REFUSED = "refused"
    """ECONNREFUSED on a SYN: nobody listens there. The only outcome that testifies of a crash."""
    OPEN = "open"
    """A connection was accepted and stayed open."""
    SILENT = "silent"
    """No answer in time."""
    OTHER = "other"
    """Unreachable, not permitted, reset after it was accepted, or somebody else: says nothing either way."""


class LifelineEnd(StrEnum):
    """How a connection to a member ended."""

    LOST = "lost"
    """By an end or a reset that nobody announced."""
    GOODBYE = "goodbye"
    """Announced, or wanted by this side, or by a timeout."""
    STOPPED = "stopped"
    """Announced by the member, whose process is being stopped."""


class LifelineUp(NamedTuple):
    """A connection to this boot of a member stands, authenticated, whoever made it."""

    node: NodeId
    boot: int


class LifelineDown(NamedTuple):
    """The connection to this boot of a member has ended."""

    node: NodeId
    boot: int
    end: LifelineEnd


class Tried(NamedTuple):
    """What came of `Reconnect` or `TryPort`."""

    node: NodeId
    boot: int
    state: PortState


class Nudged(NamedTuple):
    """Whether the member's kernel acknowledged a nudge."""

    node: NodeId
    boot: int
    is_acked: bool


Finding = LifelineUp | LifelineDown | Tried | Nudged

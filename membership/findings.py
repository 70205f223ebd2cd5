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
    GREETED = "greeted"
    """The member greeted and was greeted, in the very life that was asked for."""
    OPEN = "open"
    """A connection was accepted and stayed open, and nobody answered a greeting: a kernel, for a process that does not
    run."""
    ACCEPTED = "accepted"
    """A connection was accepted and stayed open. Who is there was not asked: it may be anybody."""
    SILENT = "silent"
    """No answer in time."""
    OTHER = "other"
    """Unreachable, not permitted, reset after it was accepted, or a process that runs and is not this life of the
    member: says nothing either way."""


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


class Response(StrEnum):
    """What a nudge brought about."""

    ANSWERED = "answered"
    """The process itself sent something after it: it runs, whatever becomes of packets to it."""
    ACKNOWLEDGED = "acknowledged"
    """Only its kernel did, or accepted a connection where none stood and nobody answered a greeting: the process exists
    and does not run."""
    SILENT = "silent"
    """Neither, on a connection that stood: not even a kernel is there, or nothing gets through to it."""
    UNKNOWN = "unknown"
    """There was no connection to ask on, and its port told nothing, or a process answered that is somebody else."""


class Nudged(NamedTuple):
    """What came of `Nudge`."""

    node: NodeId
    boot: int
    response: Response
    patience_s: float = 0.0
    """How long the process might have taken to answer itself."""


class Refused(NamedTuple):
    """One more dial for a connection that is wanted was refused. By itself it is no evidence of anything."""

    node: NodeId


Finding = LifelineUp | LifelineDown | Tried | Nudged | Refused

"""What travels inside ``frys/1`` connections.

Sans-I/O. Frames of kind `KIND_CHANNEL` carry one `ChannelMessage` each. The first message of each side is `Hello`;
`Credentials` follow, and again whenever they change.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from frys_node.trust.messages import Credentials
from frys_node.wire.codec import Codec, Message

KIND_CHANNEL: Final = 1
KIND_JOIN: Final = 2

BODY_BYTES_MAX = 1 << 20
"""Largest body of a request, reply or note; larger things travel in chunks."""

FRAME_BYTES_MAX = BODY_BYTES_MAX + 4_096
NAME_BYTES_MAX = 128


class Hello(Message, frozen=True, tag=1):
    """Who speaks, and which protocol versions it knows."""

    protocol_min: int
    protocol_max: int
    cluster_id: str
    cluster_name: str
    node_name: str
    boot: Annotated[int, msgspec.Meta(ge=0)]
    address: str
    """``host:port`` under which the sender can be dialled."""
    roles: tuple[str, ...] = ()


class Request(Message, frozen=True, tag=3):
    """A call. `budget_ms` is how long the caller still waits."""

    id: int
    method: str
    budget_ms: int
    body: bytes


class Reply(Message, frozen=True, tag=4):
    """The answer to a call."""

    id: int
    body: bytes


class Failure(Message, frozen=True, tag=5):
    """The error that answers a call."""

    id: int
    code: str
    message: str
    hint: str = ""


class Note(Message, frozen=True, tag=6):
    """A one-way message."""

    name: str
    body: bytes


class Cancel(Message, frozen=True, tag=7):
    """The caller does not wait any more."""

    id: int


class Ping(Message, frozen=True, tag=8):
    """Are you there?"""

    nonce: int


class Pong(Message, frozen=True, tag=9):
    """I am."""

    nonce: int


SHUTDOWN = "shutdown"
"""The reason of a process that is being stopped."""

EXPELLED = "expelled"
"""The reason of a node that is not a member any more; the statement that says so comes before."""

DEPARTED = "departed"
"""The reason of a node whose admission is over; what says so, if anything does, comes before."""

REPLACED = "replaced"
"""The reason of a connection in whose place there is a new one."""

OVERDUE = "overdue"
"""The reason of a connection that has to be made anew: there is no new one yet, and calls under way are finished."""

HEARD = "heard"
"""The answer to the other side's `GoAway`: nothing comes behind it."""


class GoAway(Message, frozen=True, tag=10):
    """No new calls or notes on this connection; each side says it once. It closes when the calls under way are done."""

    reason: str


ChannelMessage = Hello | Credentials | Request | Reply | Failure | Note | Cancel | Ping | Pong | GoAway

CHANNEL_CODEC: Codec[ChannelMessage] = Codec(ChannelMessage)

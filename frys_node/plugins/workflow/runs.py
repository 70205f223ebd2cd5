"""One live run in memory, and what the store keeps of it. Sans-I/O.

A run that sleeps is only this handle: its host is evicted, its journal is on disk, and it is rebuilt when something
arrives for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from frys_node.base.errors import FrysError
from frys_node.plugins.workflow.journal import Entry, RunError
from frys_node.wire.codec import Codec, Message

STATUSES = ("pending", "running", "waiting", "suspended", "completed", "faulted", "cancelled", "stalled")
"""Every status of a run. ``suspended`` is reserved for runs that an operator holds."""
FINAL = frozenset(("completed", "faulted", "cancelled"))
"""Statuses that never change."""


class RunMeta(Message, frozen=True):
    """What is fixed for a run; its input is in the journal's first entry."""

    namespace: str
    name: str
    version: str


class RunState(Message, frozen=True):
    """What became of a run so far."""

    output: bytes = b""
    error: RunError | None = None


META: Codec[RunMeta] = Codec(RunMeta)
STATE: Codec[RunState] = Codec(RunState)

WorkflowKey = tuple[str, str, str]
Input = Callable[[Any, float], Entry | None]
"""Makes the entry for something that happened to a run, given its host and the time; None if it came too late."""


class Arrival:
    """Something that happened to a run and waits for its turn."""

    __slots__ = ("commit", "error", "make", "taken")

    def __init__(self, make: Input, taken: Any = None) -> None:
        self.make = make
        self.taken = taken
        """Event for the one who brought it, set when it was taken or refused."""
        self.commit: Any = None
        """The commit that it led to; None if it came too late or a second time."""
        self.error: FrysError | None = None

    def refuse(self, error: FrysError) -> None:
        """Tell the one who brought it that it will not be taken."""
        self.error = error
        if self.taken is not None:
            self.taken.set()


class RunHandle:
    """A live run of this node."""

    __slots__ = (
        "bodies",
        "ended",
        "host",
        "id",
        "in_flight",
        "inbox",
        "is_dropped",
        "is_loading",
        "key",
        "partition",
        "seq",
        "stall",
        "status",
        "used_s",
        "wake_at_s",
    )

    def __init__(self, id_: str, partition: Any, key: WorkflowKey, *, seq: int = 0, status: str = "pending") -> None:
        self.id = id_
        self.partition = partition
        self.key = key
        self.seq = seq
        """Journal length, queued appends included."""
        self.status = status
        """As of the last commit."""
        self.host: Any = None
        self.inbox: deque[Arrival] = deque()
        self.in_flight = 0
        """Appends that are queued and not answered yet."""
        self.is_loading = False
        self.is_dropped = False
        """True once this node must not touch the run any more."""
        self.bodies: dict[str, Any] = {}
        self.ended: Any = None
        """Event for those who wait for the end, made when somebody waits."""
        self.stall: RunError | None = None
        self.used_s = 0.0
        self.wake_at_s: float | None = None


def error_of(code: str, message: str, hint: str = "") -> RunError:
    """Describe an engine error as a run's error."""
    return RunError(type=code, message=message, detail=hint)


def as_plain(data: bytes) -> Any:
    """Decode journaled data for people; what JSON cannot say is shown as text."""
    value = msgspec.msgpack.decode(data)
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return repr(value)
    return value

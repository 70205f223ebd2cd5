"""Requests that travel to the node that owns a run. Sans-I/O."""

from __future__ import annotations

from frys_node.base.types import Epoch, UnitId
from frys_node.kernel.services.rpc import Method
from frys_node.wire.codec import Message

REPLY_BYTES_MAX = 960 << 10
"""Largest reply between nodes; a run that is larger is answered without its tasks, then without its input."""


class StartRun(Message, frozen=True, tag=1):
    """Start a run; with the id of a run of the same workflow and input, attach to that one."""

    run: str
    namespace: str
    name: str
    version: str
    """Empty: the newest that the owner serves."""
    input: bytes
    wait: bool


class ShowRun(Message, frozen=True, tag=2):
    """Show a run, at its end if `wait`."""

    run: str
    wait: bool


class CancelRun(Message, frozen=True, tag=3):
    """Ask a run to cancel."""

    run: str
    reason: str


class SignalRun(Message, frozen=True, tag=4):
    """Deliver a signal."""

    run: str
    name: str
    signal: str
    value: bytes


class ListRuns(Message, frozen=True, tag=5):
    """List runs of the node that gets this."""

    workflow: str
    """``namespace/name``, empty for all."""
    status: str
    limit: int


class AskSealed(Message, frozen=True, tag=6):
    """Ask whether a partition is sealed and may be copied."""

    partition: int


RunRequest = StartRun | ShowRun | CancelRun | SignalRun
Request = StartRun | ShowRun | CancelRun | SignalRun | ListRuns | AskSealed


class Envelope(Message, frozen=True):
    """A request and the epoch that it was routed under."""

    epoch: Epoch
    request: Request


class Reply(Message, frozen=True):
    """The JSON body to hand to the client."""

    body: bytes


REQUEST: Method[Envelope, Reply] = Method("workflow.request", Envelope, Reply)


def partition_number(unit: UnitId) -> int:
    """Return the partition of a unit's name."""
    return int(unit.partition("/")[2])

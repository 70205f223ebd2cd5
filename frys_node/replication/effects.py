"""What the machines of this package ask their host to do.

Sans-I/O. The simulator and the trio driver interpret the same vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication.messages import LogRecord, ReplicationMessage
from frys_node.replication.version import Stamp


class Send(NamedTuple):
    """Send a message, best effort. To this node itself: hand it over without the codec."""

    to: NodeId
    message: ReplicationMessage


class Persist(NamedTuple):
    """Append to the log in order, sync, then call `persisted(token)`. An empty list waits for what went before."""

    token: int
    records: tuple[LogRecord, ...]


class ShareRecord(NamedTuple):
    """The node works under an older record: send it this node's."""

    to: NodeId


class WantRecord(NamedTuple):
    """The node works under a newer record: ask it for that."""

    source: NodeId


class BulkPull(NamedTuple):
    """Copy the unit from one of the sources, then call `bulk_finished` (or `bulk_failed`)."""

    unit: UnitId
    epoch: Epoch
    sources: tuple[NodeId, ...]


class BulkFinished(NamedTuple):
    """The unit's bulk under the ``joining`` record is durable here."""

    unit: UnitId
    epoch: Epoch


class PassFinished(NamedTuple):
    """The unit's pass under the ``joint`` record is durable here (rules 10, 11)."""

    unit: UnitId
    epoch: Epoch


class Corrupted(NamedTuple):
    """One version with two values (rule 3). The first is kept; a human must look."""

    unit: UnitId
    key: bytes
    version: Version


class StartedEmpty(NamedTuple):
    """A unit in memory found too few members to refill from: what lies below the floor is lost here."""

    unit: UnitId
    floor: Version


class WriteDone(NamedTuple):
    """A write has its quorum under this version."""

    request: int
    version: Version


class ReadDone(NamedTuple):
    """A read has its quorum; `entries` or, for a read of versions, `stamps` in the order of the keys."""

    request: int
    entries: list[Entry | None]
    stamps: list[Stamp | None]


class ScanDone(NamedTuple):
    """A verified page of live keys (ascending); continue after the last key if there is more."""

    request: int
    keys: list[bytes]
    entries: list[Entry]
    next_after: bytes | None


class RequestFailed(NamedTuple):
    """Too few answered before the deadline; `answered` did. A write may still appear later."""

    request: int
    unit: UnitId
    answered: tuple[NodeId, ...]
    wanted: tuple[NodeId, ...]
    refused: tuple[NodeId, ...] = ()
    """Their disks take no writes."""
    code: str = ""
    """Why not, if these are so many that no quorum was left to wait for."""


Effect = (
    Send
    | Persist
    | ShareRecord
    | WantRecord
    | BulkPull
    | BulkFinished
    | PassFinished
    | Corrupted
    | StartedEmpty
    | WriteDone
    | ReadDone
    | ScanDone
    | RequestFailed
)

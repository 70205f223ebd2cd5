"""What the machines of this package ask their host to do.

Sans-I/O. The simulator and the trio driver interpret the same vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
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


class UnitLost(NamedTuple):
    """A durable unit lost state here; it counts for nothing until it is refilled through the register (rule 14)."""

    unit: UnitId
    is_for_good: bool = False
    """True: nobody else holds it, so an operator has to restore what there is."""


class NeedRecord(NamedTuple):
    """Ask the issuer for another record with the same content: a replica that lost state is refilled under it."""


class StartedEmpty(NamedTuple):
    """A unit in memory found too few members to refill from: what lies below the floor is lost here."""

    unit: UnitId
    floor: Version


class WriteDone(NamedTuple):
    """A write has its quorum under this version; `seqs` say where in the unit's changes the replicas had put it."""

    request: int
    version: Version
    seqs: Mapping[NodeId, int] = {}


class ReadDone(NamedTuple):
    """A read has its quorum; `entries` or, for a read of versions, `stamps` in the order of the keys."""

    request: int
    entries: list[Entry | None]
    stamps: list[Stamp | None]
    seqs: Mapping[NodeId, int] = {}
    """Replicas that gave this very result, with how far they had come in the unit."""
    is_of_one: bool = False
    """One replica was asked, and has come as far as the session had."""


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
    """They take no such write."""
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
    | UnitLost
    | NeedRecord
    | WriteDone
    | ReadDone
    | ScanDone
    | RequestFailed
)

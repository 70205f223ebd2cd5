"""What replicas and coordinators say to one another, and what a replica writes to its log.

Sans-I/O. Every message carries the key of the record it was made under (rule 6). Tags and field order are frozen;
new fields go at the end with defaults (D10).
"""

from __future__ import annotations

from typing import Final

from frys_node.base.types import Epoch, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication.version import Stamp
from frys_node.wire.codec import Codec, Message

ITEMS_BYTES_MAX = 512 * 1024
"""Writes above this are split; a note must stay below the frame limit of 1 MiB."""

VALUE_BYTES_MAX = 768 * 1024
"""The largest key and value together."""

PAGE_BYTES_MAX = 256 * 1024
"""Size of a page of a pass or an exchange, one entry at least."""

SCAN_KEYS_MAX = 1_000
"""Keys in one page of a scan."""


class Write(Message, tag=1, frozen=True):
    """A coordinator's write of many keys of one unit under one version."""

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    version: Version
    items: list[tuple[bytes, bytes | None]]


class WriteAck(Message, tag=2, frozen=True):
    """Durable here. `highest` is the highest version now held for any of the keys (rule 4)."""

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    highest: Version


class Read(Message, tag=3, frozen=True):
    """Asks for keys: whole entries, or only versions (the verify round of rule 7)."""

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    keys: list[bytes]
    versions_only: bool = False


class ReadReply(Message, tag=4, frozen=True):
    """What is held, in the order of the keys; empty and not complete when the replica must give no data (rule 8)."""

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    is_complete: bool
    entries: list[Entry | None]
    stamps: list[Stamp | None]


class Scan(Message, tag=5, frozen=True):
    """Asks for a page of live keys after a key, ascending."""

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    after: bytes
    limit: int


class ScanReply(Message, tag=6, frozen=True):
    """Candidates: keys that are live here. They are verified by versions before anyone sees them (rule 7)."""

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    is_complete: bool
    keys: list[bytes]
    has_more: bool


class Refused(Message, tag=7, frozen=True):
    """The request was made under another record, or this node does not hold the unit; `epoch` is the replica's own."""

    epoch: Epoch | None
    unit: UnitId
    request: int
    attempt: int


class Repair(Message, tag=8, frozen=True):
    """Existing entries handed on: a replayed hint (acknowledged) or a read repair (`request` 0, not acknowledged)."""

    epoch: Epoch
    unit: UnitId
    request: int
    entries: list[Entry]


class RepairAck(Message, tag=9, frozen=True):
    """The entries of a hint are durable here."""

    epoch: Epoch
    unit: UnitId
    request: int


class TreeAsk(Message, tag=10, frozen=True):
    """Begins a pass or an exchange: send the hash tree of the unit, unless its root is this one."""

    epoch: Epoch
    unit: UnitId
    pull: int
    root: bytes = b""


class Tree(Message, tag=11, frozen=True):
    """The leaves of a complete replica; an incomplete one says so and sends none (rule 8)."""

    epoch: Epoch
    unit: UnitId
    pull: int
    is_complete: bool
    leaves: bytes
    floor: Version | None = None
    """Below it the replica knows nothing: it is in memory, and had to start without a refill."""
    is_equal: bool = False
    """The roots are equal: there is nothing to take, and the leaves are left out."""


class LeafAsk(Message, tag=12, frozen=True):
    """Asks for the entries of some leaves with keys above `after` (empty: from the first)."""

    epoch: Epoch
    unit: UnitId
    pull: int
    leaves: bytes
    after: bytes
    is_first: bool


class LeafPage(Message, tag=13, frozen=True):
    """Entries in key order; `after` echoes the request, so that a late page is not taken for another."""

    epoch: Epoch
    unit: UnitId
    pull: int
    after: bytes
    is_complete: bool
    entries: list[Entry]
    has_more: bool


class WriteRefused(Message, tag=14, frozen=True):
    """The replica's disk takes no writes now, for the reason of the code. The write is not durable here."""

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    code: str


ReplicaRequest = Write | Read | Scan | Repair | TreeAsk | LeafAsk
CoordinatorReply = WriteAck | WriteRefused | ReadReply | ScanReply | Refused | RepairAck
PullReply = Tree | LeafPage
ReplicationMessage = ReplicaRequest | CoordinatorReply | PullReply

MESSAGES: Final[Codec[ReplicationMessage]] = Codec(ReplicationMessage)


class EntriesRecord(Message, tag=1, frozen=True):
    """Log: entries taken into a unit."""

    unit: UnitId
    entries: list[Entry]


class WipedRecord(Message, tag=2, frozen=True):
    """Log: the unit was emptied to join under the record `join_key` (rule 12); it is incomplete from here on."""

    unit: UnitId
    join_key: Epoch


class CompletedRecord(Message, tag=3, frozen=True):
    """Log: the unit is complete; everything before it in the log is what completed it."""

    unit: UnitId


class DroppedRecord(Message, tag=4, frozen=True):
    """Log: this node no longer holds the unit."""

    unit: UnitId


EVERY_UNIT = UnitId("*")
"""In a `DamagedRecord`."""


class DamagedRecord(Message, tag=5, frozen=True):
    """Log: acknowledged records of the unit could not be read any more; it is incomplete from here on (rule 14)."""

    unit: UnitId
    """`EVERY_UNIT`: nobody can tell which lost something, so each that the log does not hold is suspect too, until a
    `CompletedRecord` of the same name says that they have been told one by one."""


LogRecord = EntriesRecord | WipedRecord | CompletedRecord | DroppedRecord | DamagedRecord
LOG_RECORDS: Final[Codec[list[LogRecord]]] = Codec(list[LogRecord])

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

KEY_BYTES_MAX = 64 * 1024
"""The largest key: a page has an entry beside a key."""

VALUE_BYTES_MAX = 768 * 1024
"""The largest key and value together: one such entry always fits."""

READ_BYTES_MAX = 512 * 1024
"""Entries or versions in one answer to a read, one at least; the rest is asked for again."""

KEYS_BYTES_MAX = 256 * 1024
"""Keys in one read, and in one page of a scan, one at least."""

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
    clock_ms: int = 0
    """The coordinator's wall clock, in milliseconds since 1970; 0 from a node that does not say (rule 5)."""


class WriteAck(Message, tag=2, frozen=True):
    """Durable here. `highest` is the highest version now held for any of the keys (rule 4)."""

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    highest: Version
    seq: int = 0
    """Place of this write among the changes of the unit at this replica; 0 from one that does not count them."""


class Read(Message, tag=3, frozen=True):
    """Asks for keys: whole entries, or only versions (the verify round of rule 7)."""

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    keys: list[bytes]
    versions_only: bool = False
    least: int = 0
    """A replica that has not come so far in its changes of the unit gives no data (session tokens)."""
    in_parts: bool = False
    """The answer may be that of the first keys only. Without it a replica answers everything or gives no data."""


class ReadReply(Message, tag=4, frozen=True):
    """What is held, in the order of the keys; empty and not complete when the replica must give no data (rule 8).

    Of a read in parts there are as many as fit in READ_BYTES_MAX, one at least.
    """

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    is_complete: bool
    entries: list[Entry | None]
    stamps: list[Stamp | None]
    seq: int = 0
    """How far the replica had come in its changes of the unit; 0 while it does not know what it missed."""


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
    """What could be taken of the entries is durable here."""

    epoch: Epoch
    unit: UnitId
    request: int
    is_held: bool = True
    """All of them are held in that version or a newer one; False: some are too old to be taken (rule 17)."""


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
    write_floor: Version | None = None
    """The source takes no coordinator's write below this (rule 17)."""
    purge_floor: Version | None = None
    """Below this all members agreed, and the tombstones are gone (rule 16)."""
    evict_floor: Version | None = None
    """Below this the replica, in memory, may have forgotten what it does not hold (`Evicting`)."""


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
    evict_floor: Version | None = None
    """As in `Tree`, as of this page."""


class WriteRefused(Message, tag=14, frozen=True):
    """The replica takes no such write now, for the reason of the code. The write is not durable here."""

    epoch: Epoch
    unit: UnitId
    request: int
    attempt: int
    code: str
    floor: Version | None = None
    """Too old: the version must be above this (rule 17)."""


class Seal(Message, tag=15, frozen=True):
    """Take no coordinator's write below the floor any more, durably, then say what is held below it (rule 16)."""

    epoch: Epoch
    unit: UnitId
    request: int
    floor: Version
    purged: Version | None = None
    """Tombstones below this, the highest purge floor heard of, are left out: some members have freed them already."""


class Sealed(Message, tag=16, frozen=True):
    """The floor is durable here; the digest is over what was held below it when it was raised."""

    epoch: Epoch
    unit: UnitId
    request: int
    is_ready: bool
    """False: not complete, or the floor is ahead of this node's clock."""
    digest: bytes = b""
    purge_floor: Version | None = None


class Purge(Message, tag=17, frozen=True):
    """All members of the set hold the same below the floor: free the tombstones there (rule 16)."""

    epoch: Epoch
    unit: UnitId
    request: int
    floor: Version


class Purged(Message, tag=18, frozen=True):
    """The purge floor is durable here."""

    epoch: Epoch
    unit: UnitId
    request: int


class Batch(Message, tag=19, frozen=True):
    """Several encoded messages of one turn for one node."""

    parts: list[bytes]


ReplicaRequest = Write | Read | Scan | Repair | TreeAsk | LeafAsk | Seal | Purge
CoordinatorReply = WriteAck | WriteRefused | ReadReply | ScanReply | Refused | RepairAck
PullReply = Tree | LeafPage
PurgeReply = Sealed | Purged
ReplicationMessage = ReplicaRequest | CoordinatorReply | PullReply | PurgeReply

MESSAGES: Final[Codec[ReplicationMessage | Batch]] = Codec(ReplicationMessage | Batch)


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


class FloorsRecord(Message, tag=5, frozen=True):
    """Log: the unit's floors; tombstones below the purge floor are gone (rules 16 to 18)."""

    unit: UnitId
    write_floor: Version | None
    purge_floor: Version | None


class RightedRecord(Message, tag=6, frozen=True):
    """Log: below a source's purge floor the source was right (rule 18): keys dropped, entries put back as they are."""

    unit: UnitId
    dropped: list[bytes]
    entries: list[Entry]


class LostRecord(Message, tag=7, frozen=True):
    """Log: this node lost some of what it held of the unit; only a pass under a later record ends that (rule 14)."""

    unit: UnitId
    epoch: Epoch


EVERY_UNIT = UnitId("*")
"""In a `DamagedRecord`, and in the `CompletedRecord` that ends it."""


class DamagedRecord(Message, tag=8, frozen=True):
    """Log: acknowledged records of the unit could not be read any more; it is incomplete from here on (rule 14)."""

    unit: UnitId
    """`EVERY_UNIT`: nobody can tell which lost something, so each that the log does not hold is suspect too, until a
    `CompletedRecord` of the same name says that they have been told one by one."""


LogRecord = (
    EntriesRecord
    | WipedRecord
    | CompletedRecord
    | DroppedRecord
    | FloorsRecord
    | RightedRecord
    | LostRecord
    | DamagedRecord
)
LOG_RECORDS: Final[Codec[list[LogRecord]]] = Codec(list[LogRecord])


def lost_records(unit: UnitId, epoch: Epoch) -> list[LogRecord]:
    """Return what the log is told of a loss that was found under a record: all holes before it are known by now."""
    return [DamagedRecord(unit), LostRecord(unit, epoch)]

"""What a replica answers to a read or a scan, from one unit that it holds.

Sans-I/O. A replica that is not complete says so and gives nothing (rule 8).
"""

from __future__ import annotations

from frys_node.kernel.services.replication import Entry
from frys_node.replication.messages import Read, ReadReply, Scan, ScanReply
from frys_node.replication.unit import HeldUnit
from frys_node.replication.version import Stamp


def answer_read(held: HeldUnit, message: Read) -> ReadReply:
    """Return what is held of the keys: entries, or only their versions; nothing to a session that has seen more."""
    entries: list[Entry | None] = []
    stamps: list[Stamp | None] = []
    seq = held.seq if held.complete and not held.is_behind else 0
    is_complete = held.complete and message.least <= seq
    if is_complete:
        entries = held.get(message.keys)
        if message.versions_only:
            stamps = [None if entry is None else Stamp(entry.version, entry.value is None) for entry in entries]
            entries = []
    return ReadReply(message.epoch, message.unit, message.request, message.attempt, is_complete, entries, stamps, seq)


def answer_scan(held: HeldUnit, message: Scan) -> ScanReply:
    """Return a page of the keys that are live here."""
    keys: list[bytes] = []
    if held.complete:
        keys = sorted(e.key for e in held.store.entries() if e.value is not None and e.key > message.after)
    page = keys[: message.limit]
    return ScanReply(
        message.epoch,
        message.unit,
        message.request,
        message.attempt,
        held.complete,
        page,
        len(keys) > len(page),
    )

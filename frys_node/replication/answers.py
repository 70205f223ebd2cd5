"""What a replica answers to a read or a scan, from one unit that it holds.

Sans-I/O. A replica that is not complete says so and gives nothing (rule 8). What does not fit in a message is left out
at the end, and asked for again.
"""

from __future__ import annotations

from frys_node.kernel.services.replication import Entry
from frys_node.replication.batches import first_keys
from frys_node.replication.messages import READ_BYTES_MAX, Read, ReadReply, Scan, ScanReply
from frys_node.replication.unit import HeldUnit
from frys_node.replication.version import STAMP_BYTES, Stamp, sent_bytes

STEP_KEYS = 64
"""Keys looked up at a time: of thousands only a few may fit."""


def answer_read(held: HeldUnit, message: Read) -> ReadReply:
    """Return what is held of the keys: entries, or only their versions; nothing to a session that has seen more."""
    entries: list[Entry | None] = []
    stamps: list[Stamp | None] = []
    seq = held.seq if held.complete and not held.is_behind else 0
    is_complete = held.complete and message.least <= seq
    if is_complete:
        entries = _first_held(held, message)
        if len(entries) < len(message.keys) and not message.in_parts:
            is_complete, entries = False, []
        if message.versions_only:
            stamps = [None if entry is None else Stamp(entry.version, entry.value is None) for entry in entries]
            entries = []
    return ReadReply(message.epoch, message.unit, message.request, message.attempt, is_complete, entries, stamps, seq)


def _first_held(held: HeldUnit, message: Read) -> list[Entry | None]:
    """Return what is held of the first keys, as many as fit in an answer, one at least."""
    found: list[Entry | None] = []
    size_bytes = 0
    for start in range(0, len(message.keys), STEP_KEYS):
        for entry in held.get(message.keys[start : start + STEP_KEYS]):
            if entry is None:
                size_bytes += 1
            else:
                size_bytes += STAMP_BYTES if message.versions_only else sent_bytes(entry)
            if found and size_bytes > READ_BYTES_MAX:
                return found
            found.append(entry)
    return found


def answer_scan(held: HeldUnit, message: Scan) -> ScanReply:
    """Return a page of the keys that are live here."""
    keys: list[bytes] = []
    if held.complete:
        keys = sorted(e.key for e in held.store.entries() if e.value is not None and e.key > message.after)
    page = list(first_keys(keys[: message.limit]))
    return ScanReply(
        message.epoch,
        message.unit,
        message.request,
        message.attempt,
        held.complete,
        page,
        len(keys) > len(page),
    )

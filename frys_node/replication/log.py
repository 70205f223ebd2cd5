"""The write-ahead log of durable units: one per node, grouped commits, checkpoints.

Frame: magic ``FRL1``, u32 length of the body, u32 CRC-32 of it, u64 sequence, body (MessagePack list of log records).
A group of commits is one frame, appended and synced before the next is written. So a broken frame at the very end is a
torn write that nobody was told about, and is cut; a broken frame with a whole one behind it had been synced, and is
reported as `CorruptData`. A checkpoint is a file of the same frames that ends with an empty one; it holds every unit
as it was after the logs below its number, and because merging is idempotent it may hold more.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import suppress

from frys_node.base.errors import CorruptData, MalformedFrame, StorageError
from frys_node.base.ports import Disk
from frys_node.base.types import Epoch, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication.messages import (
    LOG_RECORDS,
    CompletedRecord,
    DroppedRecord,
    EntriesRecord,
    FloorsRecord,
    LogRecord,
    LostRecord,
    RightedRecord,
    WipedRecord,
)
from frys_node.replication.unit import HeldUnit, highest, pages
from frys_node.transport.errors import StorageFull, StorageReadOnly

DIRECTORY = "replication"
CHECKPOINT_BYTES = 64 * 1024 * 1024
"""A log this long is replaced by a checkpoint."""

_MAGIC = b"FRL1"
_HEADER = struct.Struct(">4sIIQ")


class Recovered:
    """What the log held of one unit."""

    __slots__ = ("complete", "entries", "join_key", "lost", "purge_floor", "write_floor")

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.complete = True
        self.join_key: Epoch | None = None
        self.lost: Epoch | None = None
        self.write_floor: Version | None = None
        self.purge_floor: Version | None = None

    def apply(
        self,
        record: EntriesRecord | WipedRecord | CompletedRecord | FloorsRecord | RightedRecord | LostRecord,
    ) -> None:
        """Replay one record."""
        if isinstance(record, EntriesRecord):
            for entry in record.entries:
                held = self.entries.get(entry.key)
                if held is None or held.version < entry.version:
                    self.entries[entry.key] = entry
        elif isinstance(record, WipedRecord):
            self.entries.clear()
            self.complete = False
            self.join_key = record.join_key
            self.lost = self.write_floor = self.purge_floor = None
        elif isinstance(record, FloorsRecord):
            self._raise_floors(record)
        elif isinstance(record, RightedRecord):
            for key in record.dropped:
                self.entries.pop(key, None)
            self.entries.update({entry.key: entry for entry in record.entries})
        elif isinstance(record, LostRecord):
            self.complete = False
            self.lost = record.epoch
        else:
            self.complete = True
            self.lost = None

    def _raise_floors(self, record: FloorsRecord) -> None:
        """Raise the floors, and free the tombstones that the purge floor freed."""
        self.write_floor = highest(self.write_floor, record.write_floor)
        floor = self.purge_floor = highest(self.purge_floor, record.purge_floor)
        if floor is not None:
            kept = self.entries.values()
            self.entries = {e.key: e for e in kept if e.value is not None or e.version >= floor}


def encode_frame(sequence: int, records: Sequence[LogRecord]) -> bytes:
    """Return one frame."""
    body = LOG_RECORDS.encode(list(records))
    return _HEADER.pack(_MAGIC, len(body), zlib.crc32(body), sequence) + body


def _frame_at(data: bytes, offset: int) -> tuple[int, bytes] | None:
    """Return sequence and body of the whole frame at the offset, or None."""
    if offset + _HEADER.size > len(data):
        return None
    magic, length, crc, sequence = _HEADER.unpack_from(data, offset)
    body = data[offset + _HEADER.size : offset + _HEADER.size + length]
    if magic != _MAGIC or len(body) != length or zlib.crc32(body) != crc:
        return None
    return sequence, body


def read_frames(path: str, data: bytes) -> tuple[list[list[LogRecord]], int]:
    """Return the groups of a log and how many bytes of it are whole.

    Raises:
        CorruptData: A frame that had been synced is broken. Nothing was changed.
    """
    groups: list[list[LogRecord]] = []
    offset = 0
    while offset < len(data):
        frame = _frame_at(data, offset)
        if frame is None:
            behind = data.find(_MAGIC, offset + 1)
            while behind >= 0:
                if _frame_at(data, behind) is not None:
                    raise CorruptData(
                        f"'{path}' is damaged at byte {offset}, before data that was synced",
                        hint="remove this node from the ring and join it again with an empty data directory",
                    )
                behind = data.find(_MAGIC, behind + 1)
            break
        try:
            groups.append(LOG_RECORDS.decode(frame[1]))
        except MalformedFrame as error:
            raise CorruptData(f"'{path}' holds a record of another version: {error.message}") from error
        offset += _HEADER.size + len(frame[1])
    return groups, offset


class Log:
    """The files; every method blocks, so the driver calls them in its executor, one at a time."""

    def __init__(self, disk: Disk, directory: str = DIRECTORY) -> None:
        self._disk = disk
        self._directory = directory
        self._number = 0
        self._sequence = 0
        self.size_bytes = 0

    def _path(self, kind: str, number: int) -> str:
        return f"{self._directory}/{kind}-{number:08d}"

    def _numbers(self, kind: str) -> list[int]:
        prefix = f"{kind}-"
        names = self._disk.list(self._directory)
        return sorted(int(name[len(prefix) :]) for name in names if name.startswith(prefix))

    def replay(self) -> dict[UnitId, Recovered]:
        """Read checkpoint and logs, cut a torn tail, and go on in the last log.

        Raises:
            CorruptData: Synced data is damaged; the message names the file. Nothing was changed.
        """
        units: dict[UnitId, Recovered] = {}
        base = self._base(units)
        numbers = [number for number in self._numbers("log") if number >= base]
        for number in numbers:
            path = self._path("log", number)
            data = self._disk.read(path) or b""
            groups, whole_bytes = read_frames(path, data)
            if whole_bytes < len(data):
                if number != numbers[-1]:
                    raise CorruptData(f"'{path}' ends in a broken frame although a later log exists")
                self._disk.truncate(path, whole_bytes)
            for group in groups:
                self._sequence += 1
                _apply(units, group)
            self.size_bytes = whole_bytes
        self._number = numbers[-1] if numbers else base
        return units

    def _base(self, units: dict[UnitId, Recovered]) -> int:
        """Read the newest whole checkpoint; return the number of the first log behind it."""
        for number in reversed(self._numbers("checkpoint")):
            path = self._path("checkpoint", number)
            groups, _whole_bytes = read_frames(path, self._disk.read(path) or b"")
            if groups and not groups[-1]:
                for group in groups:
                    _apply(units, group)
                return number
        return 0

    def append(self, records: Sequence[LogRecord]) -> StorageError | None:
        """Append one group and sync it; see `write`.

        Raises:
            StorageError: The disk failed; nothing of the group may be acknowledged and the log is not used again.
        """
        refusal = self.write(records)
        if refusal is None:
            self.sync()
        return refusal

    def write(self, records: Sequence[LogRecord]) -> StorageError | None:
        """Append one group; it counts only after `sync`, and the next is written only then.

        Returns:
            Why the disk takes no writes now: nothing was written, and the same group may be tried again.
        """
        frame = encode_frame(self._sequence + 1, records)
        try:
            self._disk.append(self._path("log", self._number), frame)
        except (StorageFull, StorageReadOnly) as refusal:
            return refusal
        self._sequence += 1
        self.size_bytes += len(frame)
        return None

    def sync(self) -> None:
        """Make what was written durable."""
        self._disk.sync(self._path("log", self._number))

    def rotate(self) -> int:
        """Go on in a new log and return its number; a checkpoint of that number may then be written."""
        self._number += 1
        self.size_bytes = 0
        return self._number

    def write_checkpoint(
        self, number: int, groups: Iterator[list[LogRecord]] | Sequence[list[LogRecord]]
    ) -> StorageError | None:
        """Write a checkpoint, then remove what it replaces; until its last frame is synced the old files count.

        Returns:
            Why the disk has no room for it: the old files count on, and the next one may fit.
        """
        path = self._path("checkpoint", number)
        self._disk.remove(path)
        try:
            for group in groups:
                if group:
                    self._disk.append(path, encode_frame(0, group))
            self._disk.append(path, encode_frame(0, []))
        except (StorageFull, StorageReadOnly) as refusal:
            with suppress(StorageError):  # without its last frame it counts for nothing
                self._disk.remove(path)
            return refusal
        self._disk.sync(path)
        for kind in ("log", "checkpoint"):
            for old in self._numbers(kind):
                if old < number:
                    self._disk.remove(self._path(kind, old))
        return None


def _apply(units: dict[UnitId, Recovered], group: Sequence[LogRecord]) -> None:
    for record in group:
        if isinstance(record, DroppedRecord):
            units.pop(record.unit, None)
        else:
            units.setdefault(record.unit, Recovered()).apply(record)


def dump_unit(unit: UnitId, found: Recovered | HeldUnit, entries: list[Entry]) -> list[list[LogRecord]]:
    """Return the groups of a checkpoint that hold one unit."""
    groups: list[list[LogRecord]] = []
    if found.join_key is not None:
        groups.append([WipedRecord(unit, found.join_key)])
    groups += [[EntriesRecord(unit, page)] for page in pages(entries)]
    if found.write_floor is not None or found.purge_floor is not None:
        groups.append([FloorsRecord(unit, found.write_floor, found.purge_floor)])
    if found.complete:
        groups.append([CompletedRecord(unit)])
    elif found.lost is not None:
        groups.append([LostRecord(unit, found.lost)])
    return groups

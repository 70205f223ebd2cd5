"""The write-ahead log of durable units: one per node, grouped commits, checkpoints. `frames` has the bytes.

One log and not one per unit: a sync costs the same for one unit as for all, and there is one torn end to judge
(ADR 0020). Damage is another matter: it costs the units that it hit, and these are told.

A checkpoint is a file of the same frames, one unit each, that ends with a mark; it holds every unit as it was after the
logs below its number, and because merging is idempotent it may hold more. Its end is written only when all before it is
synced, and what it replaces is removed only when the end is. So one without an end does not count while the files below
it are there, and is damaged when they are not.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from typing import NamedTuple

from frys_node.base.errors import CorruptData, MalformedFrame, StorageError
from frys_node.base.ports import Disk
from frys_node.base.types import Epoch, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication.frames import Damage, FrameWriter, LogReader, Taken, end_of, records_of
from frys_node.replication.messages import (
    EVERY_UNIT,
    CompletedRecord,
    DamagedRecord,
    DroppedRecord,
    EntriesRecord,
    FloorsRecord,
    LogRecord,
    LostRecord,
    RightedRecord,
    WipedRecord,
    lost_records,
)
from frys_node.replication.unit import HeldUnit, pages
from frys_node.replication.version import highest
from frys_node.transport.errors import StorageFull, StorageReadOnly

DIRECTORY = "replication"
CHECKPOINT_BYTES = 64 * 1024 * 1024
"""A log this long is replaced by a checkpoint."""

SYNC_BYTES = 4 * 1024 * 1024
"""How much of a checkpoint is written between two syncs."""


class Hole(NamedTuple):
    """Synced bytes of a file that could not be read."""

    path: str
    start: int
    size_bytes: int
    units: tuple[UnitId, ...] | None
    """The units that lost something; None: any may have."""


class TornEnd(NamedTuple):
    """The end of a file that had never been synced, and was cut."""

    path: str
    start: int
    size_bytes: int


class Rotation(NamedTuple):
    """A log that goes on in a new file: what a checkpoint of everything before that has to be told."""

    number: int
    """Of the new file, and of the checkpoint."""
    covers: int
    """Number of the last group before it."""


class Recovered:
    """What the log held of one unit."""

    __slots__ = ("_is_full", "_lacks", "entries", "is_damaged", "join_key", "lost", "purge_floor", "write_floor")

    def __init__(self) -> None:
        self.entries: dict[bytes, Entry] = {}
        self.join_key: Epoch | None = None
        self.is_damaged = False
        """True if acknowledged records of the unit are lost, and it was not completed since."""
        self.lost: Epoch | None = None
        """Under which record that was found (rule 14); None of damage that no record has been seen with yet."""
        self.write_floor: Version | None = None
        self.purge_floor: Version | None = None
        self._is_full = True
        self._lacks = False
        """A hole was met since the unit was wiped, and no record tells that it was known."""

    @property
    def complete(self) -> bool:
        """True if the unit held everything that its set had acknowledged, and still does."""
        return self._is_full and not self._lacks

    def lose(self) -> None:
        """Note a hole: whatever later records say of completeness was said without knowing of it."""
        self.is_damaged = self._lacks = True
        # What was acknowledged under a later record than that of an earlier loss may be in the hole.
        self.lost = None

    def apply(self, record: LogRecord) -> None:
        """Replay one record of the unit; that it was dropped is the caller's to know."""
        match record:
            case EntriesRecord():
                for entry in record.entries:
                    held = self.entries.get(entry.key)
                    if held is None or held.version < entry.version:
                        self.entries[entry.key] = entry
            case WipedRecord():
                self.entries.clear()
                self._is_full = self._lacks = self.is_damaged = False
                self.join_key = record.join_key
                self.lost = self.write_floor = self.purge_floor = None
            case FloorsRecord():
                self._raise_floors(record)
            case RightedRecord():
                for key in record.dropped:
                    self.entries.pop(key, None)
                self.entries.update({entry.key: entry for entry in record.entries})
            case DamagedRecord():
                self._is_full = self._lacks = False
                self.is_damaged = True
                self.lost = None
            case LostRecord():
                self._is_full = False
                self.is_damaged = True
                self.lost = record.epoch
            case CompletedRecord():
                self._is_full = True
                self.is_damaged = self._lacks
                self.lost = None

    def _raise_floors(self, record: FloorsRecord) -> None:
        """Raise the floors, and free the tombstones that the purge floor freed."""
        self.write_floor = highest(self.write_floor, record.write_floor)
        floor = self.purge_floor = highest(self.purge_floor, record.purge_floor)
        if floor is not None:
            kept = self.entries.values()
            self.entries = {e.key: e for e in kept if e.value is not None or e.version >= floor}


class _Replay:
    """What the records say, one after the other."""

    def __init__(self) -> None:
        self.units: dict[UnitId, Recovered] = {}
        self.is_anything_lost = False
        self.touched: list[tuple[int, UnitId]] = []

    def take(self, paths: Sequence[str], files: Sequence[bytes], reader: LogReader) -> list[Hole]:
        """Apply what is read; returns the holes, except those in which nothing lay but marks.

        Raises:
            CorruptData: A record of a version that this one does not know. Nothing was changed.
        """
        holes = []
        for step in reader:
            if isinstance(step, Damage):
                self.lose(step.units)
                if step.units != ():
                    holes.append(Hole(paths[step.file], step.start, step.size_bytes, step.units))
                continue
            try:
                records = records_of(files[step.file], step.section)
            except MalformedFrame as error:
                raise CorruptData(
                    f"'{paths[step.file]}' holds a record of another version: {error.message}",
                    hint="start the version that wrote it, or a newer one",
                ) from error
            for record in records:
                self.apply(record)
        return holes

    def lose(self, units: tuple[UnitId, ...] | None) -> None:
        """Note that units lost something; None: any may have, also those of which nothing was found yet."""
        if units is None:
            self.is_anything_lost = True
            units = tuple(self.units)
        for unit in units:
            self._unit(unit).lose()

    def apply(self, record: LogRecord) -> None:
        """Replay one record."""
        if record.unit == EVERY_UNIT:
            self.is_anything_lost = isinstance(record, DamagedRecord)
        elif isinstance(record, DroppedRecord):
            self.units.pop(record.unit, None)
        else:
            self._unit(record.unit).apply(record)

    def _unit(self, unit: UnitId) -> Recovered:
        found = self.units.get(unit)
        if found is None:
            found = self.units[unit] = Recovered()
            if self.is_anything_lost:
                found.lose()
        return found


class Log:
    """The files; every method blocks, so the driver calls them in its executor, one at a time.

    Except `write_checkpoint`: it touches files of its own, and the log behind it may be written meanwhile.
    """

    def __init__(self, disk: Disk, directory: str = DIRECTORY) -> None:
        self._disk = disk
        self._directory = directory
        self._number = 0
        self._writer = FrameWriter()
        self.holes: list[Hole] = []
        """What `replay` could not read although it had been synced."""
        self.torn: list[TornEnd] = []
        """What `replay` cut."""
        self.is_anything_lost = False
        """True if units may have lost all that the log ever held of them."""

    @property
    def size_bytes(self) -> int:
        """Bytes in the log behind the last checkpoint."""
        return self._writer.size_bytes

    def _path(self, kind: str, number: int) -> str:
        return f"{self._directory}/{kind}-{number:08d}"

    def _numbers(self, kind: str) -> list[int]:
        prefix = f"{kind}-"
        names = self._disk.list(self._directory)
        return sorted(int(name[len(prefix) :]) for name in names if name.startswith(prefix))

    def replay(self) -> dict[UnitId, Recovered]:
        """Read checkpoint and logs, cut a torn end, and go on in the last log; `holes` and `torn` tell what was wrong.

        Raises:
            CorruptData: A record of a version that this one does not know. Nothing was changed.
            StorageError: The disk cannot be read, or not cut.
        """
        replay = _Replay()
        base, covered = self._base(replay)
        numbers = [number for number in self._numbers("log") if number >= base]
        paths = [self._path("log", number) for number in numbers]
        files = [self._disk.read(path) or b"" for path in paths]
        reader = LogReader(files, covered)
        self.holes += replay.take(paths, files, reader)
        for path, data, end in zip(paths, files, reader.ends, strict=True):
            if end < len(data):
                self._disk.truncate(path, end)
                self.torn.append(TornEnd(path, end, len(data) - end))
        self._number = numbers[-1] if numbers else base
        self._writer = reader.writer
        self._writer.size_bytes = reader.ends[-1] if files else 0
        self.is_anything_lost = replay.is_anything_lost
        return replay.units

    def _base(self, replay: _Replay) -> tuple[int, int | None]:
        """Read the newest checkpoint that counts; return the first log behind it and the last group that it covers."""
        numbers = self._numbers("checkpoint")
        for number in reversed(numbers):
            path = self._path("checkpoint", number)
            data = self._disk.read(path) or b""
            end = end_of(data)
            is_ended = _is_whole_first_version(data) if end is None else end.covers is not None
            has_older = number != numbers[0] or any(log < number for log in self._numbers("log"))
            if not is_ended and has_older:
                continue
            self.holes += replay.take([path], [data], LogReader([data], 0))
            if not is_ended:
                replay.lose(None)
                self.holes.append(Hole(path, len(data), 0, None))
            return number, None if end is None else end.covers
        return 0, 0

    def begin(self) -> StorageError | None:
        """Let there be a log: one mark, synced, before anything is replayed or written.

        Returns:
            Why the disk takes no writes now: nothing was written.
        """
        path = self._path("log", self._number)
        try:
            self._disk.append(path, self._writer.mark())
        except (StorageFull, StorageReadOnly) as refusal:
            return refusal
        self._disk.sync(path)
        return None

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
        frame = self._writer.group(records)
        try:
            self._disk.append(self._path("log", self._number), frame)
        except (StorageFull, StorageReadOnly) as refusal:
            return refusal
        self._writer.wrote(frame, records)
        return None

    def sync(self) -> None:
        """Make what was written durable, and mark it so: the mark itself needs no sync to be believed."""
        path = self._path("log", self._number)
        self._disk.sync(path)
        mark = self._writer.mark()
        # Without it the group is only known to be synced once the next one stands behind it.
        with suppress(StorageFull, StorageReadOnly):
            self._disk.append(path, mark)
            self._writer.wrote(mark)

    def rotate(self) -> Rotation:
        """Go on in a new log; a checkpoint of what was there before may then be written. Nothing is being appended."""
        self._number += 1
        self._writer.size_bytes = 0
        return Rotation(self._number, self._writer.number)

    def write_checkpoint(self, rotation: Rotation, groups: Iterable[list[LogRecord]]) -> StorageError | None:
        """Write a checkpoint, then remove what it replaces; until its end is synced the old files count.

        It holds all that the logs before the rotation did. It may hold more: that is in the log behind it as well, and
        is replayed on top.

        Returns:
            Why the disk has no room for it: the old files count on, and the next one may fit.
        """
        number = rotation.number
        path = self._path("checkpoint", number)
        self._disk.remove(path)
        writer, synced_bytes = FrameWriter(), 0
        try:
            for group in groups:
                if group:
                    frame = writer.group(group)
                    self._disk.append(path, frame)
                    writer.wrote(frame, group)
                if writer.size_bytes - synced_bytes >= SYNC_BYTES:
                    # One sync of all of it would have those of the log wait behind it.
                    self._disk.sync(path)
                    synced_bytes = writer.size_bytes
            self._disk.sync(path)
            for _ in range(2):  # rot in one end must not make the whole look unfinished
                end = writer.mark(covers=rotation.covers)
                self._disk.append(path, end)
                writer.wrote(end)
        except (StorageFull, StorageReadOnly) as refusal:
            with suppress(StorageError):  # without its end it counts for nothing
                self._disk.remove(path)
            return refusal
        self._disk.sync(path)
        for kind in ("log", "checkpoint"):
            for old in self._numbers(kind):
                if old < number:
                    self._disk.remove(self._path(kind, old))
        return None


def _is_whole_first_version(data: bytes) -> bool:
    """True for a checkpoint of the first version whose groups can all be read, up to the empty one at its end."""
    final: Taken | None = None
    for step in LogReader([data], None):
        if isinstance(step, Damage):
            return False
        final = step
    return final is not None and not final.section.unit and not records_of(data, final.section)


def dump_unit(unit: UnitId, found: Recovered | HeldUnit, entries: Iterable[Entry]) -> Iterator[list[LogRecord]]:
    """Return the groups of a checkpoint that hold one unit as it is now; its entries are only read when asked for."""
    head: list[list[LogRecord]] = []
    if found.join_key is not None:
        head.append([WipedRecord(unit, found.join_key)])
    # Before the entries: what says that a loss was known must not stand for rot in what is written only now.
    if not found.complete and (found.is_damaged or found.join_key is None):
        head.append([DamagedRecord(unit)] if found.lost is None else lost_records(unit, found.lost))
    tail: list[list[LogRecord]] = []
    if found.write_floor is not None or found.purge_floor is not None:
        tail.append([FloorsRecord(unit, found.write_floor, found.purge_floor)])
    if found.complete:
        tail.append([CompletedRecord(unit)])
    return chain(head, ([EntriesRecord(unit, page)] for page in pages(entries)), tail)

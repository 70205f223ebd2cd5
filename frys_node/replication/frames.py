"""The bytes of a log: groups of records in frames that say which units they touch, and what a reader makes of damage.

Sans-I/O. A *group* is what one sync makes durable. Its frame is a header ``FRL2 | u32 table bytes | u32 CRC | u64
number``, a table, and one *section* of records for each unit with a CRC of its own, so that a broken bit costs one
unit. The header's CRC is also over its place in the file. Right behind the sync a *mark* follows, a frame without
sections and with the group's number: it is not synced itself, and whoever finds it, or a later group, knows that
everything before it had been. So a group that cannot be read is

* the torn end of a write that nobody was told about, if nothing readable follows it: it is cut;
* *damage* otherwise: something that was synced, and perhaps acknowledged, is gone.

Groups are numbered without gaps, and each table names the units touched last with the number of that group, at least
`TOUCHED_UNITS` of them. So the first frame behind a hole tells exactly which units lost something in it; only where the
hole reaches further back than its table is every unit suspect.

Sections and tables never hold the bytes ``FRL``: these are escaped. A value that somebody stored cannot be taken for
a frame, wherever the reader has to begin anew.

Frames of the first version (``FRL1``, one CRC for a whole group, no units named) are read, and no longer written.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Final, NamedTuple

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import UnitId
from frys_node.replication.messages import LOG_RECORDS, LogRecord
from frys_node.wire.codec import Codec, Message

TOUCHED_UNITS = 32
"""Units that a table names at least, if so many were touched."""

_PREFIX, _ESCAPED = b"FRL", b"FRL\0"
_MAGIC_1, _MAGIC = b"FRL1", b"FRL2"
_HEADER = struct.Struct(">4sIIQ")
_COUNTS = struct.Struct(">QIQ")


class Table(Message, frozen=True):
    """What a frame holds, and what was touched before it."""

    sections: list[tuple[UnitId, int, int]]
    """Unit, bytes and CRC-32 of each section."""
    since: int
    """Number of a group: every unit touched in a later one, up to this frame, is in `touched`."""
    touched: list[tuple[UnitId, int]]
    covers: int | None = None
    """In the last frames of a checkpoint: the number of the last group that it replaces."""


_TABLES: Final[Codec[Table]] = Codec(Table)


class Section(NamedTuple):
    """Where the records of one unit lie in a file."""

    unit: UnitId
    start: int
    end: int
    is_whole: bool


class Frame(NamedTuple):
    """A frame whose header could be read; `table` is None in the first version, which has one section of all units."""

    start: int
    end: int
    number: int
    sections: tuple[Section, ...]
    table: Table | None

    @property
    def attested(self) -> int:
        """Number of the last group that had been synced before this frame was written."""
        return self.number - bool(self.sections)


class Taken(NamedTuple):
    """Records that can be read: of one unit, or (first version) of any."""

    file: int
    section: Section


class Damage(NamedTuple):
    """Synced bytes that cannot be read. Nothing is lost if `units` is empty; None: nobody can tell which lose."""

    file: int
    start: int
    size_bytes: int
    units: tuple[UnitId, ...] | None


class FrameWriter:
    """Makes frames, one behind the other."""

    def __init__(self, number: int = 0, size_bytes: int = 0) -> None:
        self.number = number
        """Number of the last group."""
        self.size_bytes = size_bytes
        """Where the next frame will stand in its file."""
        self._touched: dict[UnitId, int] = {}
        """Number of the last group that touched a unit, the latest unit last."""
        self._since = number
        self._last_units = 0

    def group(self, records: Iterable[LogRecord]) -> bytes:
        """Return the frame of the next group; call `wrote` once it is in the file."""
        by_unit: dict[UnitId, list[LogRecord]] = {}
        for record in records:
            by_unit.setdefault(record.unit, []).append(record)
        bodies = [_escape(LOG_RECORDS.encode(found)) for found in by_unit.values()]
        sections = [(unit, len(body), zlib.crc32(body)) for unit, body in zip(by_unit, bodies, strict=True)]
        return b"".join([self._head(self.number + 1, sections), *bodies])

    def wrote(self, frame: bytes, records: Sequence[LogRecord] = ()) -> None:
        """Note that a group was appended to the file, or (without records) a mark."""
        self.size_bytes += len(frame)
        if records:
            self.touch(self.number + 1, {record.unit for record in records})

    def touch(self, number: int, units: Iterable[UnitId]) -> None:
        """Note which units a group touched: this writer's, or one that a reader found."""
        self.number = number
        count = 0
        for unit in sorted(units):
            self._touched.pop(unit, None)
            self._touched[unit] = number
            count += 1
        self._last_units = count

    def mark(self, covers: int | None = None) -> bytes:
        """Return the frame that tells that all before it was synced."""
        return self._head(self.number, [], covers)

    def _head(self, number: int, sections: list[tuple[UnitId, int, int]], covers: int | None = None) -> bytes:
        wanted = max(TOUCHED_UNITS, self._last_units)
        latest = list(islice(reversed(self._touched.items()), wanted + 1))
        since = latest.pop()[1] if len(latest) > wanted else self._since
        table = _escape(_TABLES.encode(Table(sections, since, latest, covers)))
        return _HEADER.pack(_MAGIC, len(table), _crc(self.size_bytes, number, table), number) + table


def _crc(place: int, number: int, table: bytes) -> int:
    return zlib.crc32(table, zlib.crc32(_COUNTS.pack(place, len(table), number)))


def _escape(data: bytes) -> bytes:
    return data.replace(_PREFIX, _ESCAPED)


def records_of(data: bytes, section: Section) -> list[LogRecord]:
    """Return the records of a section.

    Raises:
        MalformedFrame: They are whole, and of a version that this one does not know.
    """
    body = data[section.start : section.end]
    return LOG_RECORDS.decode(body.replace(_ESCAPED, _PREFIX) if section.unit else body)


def _frame_at(data: bytes, start: int) -> Frame | None:
    """Return the frame that begins there, if its header can be read and it lies within the data."""
    view = memoryview(data)
    if start + _HEADER.size > len(data):
        return None
    magic, length, crc, number = _HEADER.unpack_from(data, start)
    body = start + _HEADER.size
    end = body + length
    if magic not in (_MAGIC, _MAGIC_1) or end > len(data):
        return None
    if magic == _MAGIC_1:
        is_whole = zlib.crc32(view[body:end]) == crc
        return Frame(start, end, number, (Section(UnitId(""), body, end, True),), None) if is_whole else None
    head = data[body:end]
    if _crc(start, number, head) != crc:
        return None
    try:
        table = _TABLES.decode(head.replace(_ESCAPED, _PREFIX))
    except MalformedFrame:
        return None
    sections = []
    for unit, size_bytes, section_crc in table.sections:
        at, end = end, end + size_bytes
        sections.append(Section(unit, at, end, zlib.crc32(view[at:end]) == section_crc))
    return Frame(start, end, number, tuple(sections), table) if end <= len(data) else None


def frames_of(data: bytes) -> Iterator[Frame]:
    """Yield every frame that can be found; what lies between two that do not touch cannot be read."""
    at = 0
    while at >= 0:
        frame = _frame_at(data, at)
        if frame is None:
            at = data.find(_PREFIX, at + 1)
        else:
            yield frame
            at = frame.end


class LogReader:
    """Reads the files of a log, oldest first. Iterate it once for the steps; the attributes count after that."""

    def __init__(self, files: Sequence[bytes], number: int | None) -> None:
        """Begin behind the group with that number; None: nobody knows it."""
        self._files = files
        self._held: tuple[int, Frame] | None = None
        self._gap: Damage | None = None
        self._good_until = (0, 0)
        self.number = number
        """Number of the last group; None behind a group of the first version, which does not tell."""
        self.writer = FrameWriter(number or 0)
        """Goes on behind what was read."""

    @property
    def ends(self) -> list[int]:
        """Length of each file without its torn end."""
        last_file, end = self._good_until
        return [len(data) if file < last_file else end * (file == last_file) for file, data in enumerate(self._files)]

    def __iter__(self) -> Iterator[Taken | Damage]:
        """Yield what can be read and what is damaged, in order; a torn end is neither."""
        for file, data in enumerate(self._files):
            at = 0
            for frame in frames_of(data):
                self._skip(file, at, frame.start)
                yield from self._take(file, frame)
                at = frame.end
            self._skip(file, at, len(data))
        # Behind a group that is not whole nothing tells that it had been synced.
        self._held = None

    def _skip(self, file: int, start: int, end: int) -> None:
        """Note bytes that cannot be read; a frame behind them will tell what they were."""
        if start < end and self._gap is None:
            self._gap = Damage(file, start, end - start, None)

    def _take(self, file: int, frame: Frame) -> Iterator[Taken | Damage]:
        hole = self._hole_before(file, frame)
        if self._held is not None:
            yield from self._steps(*self._held, is_synced=True)
            self._held = None
        if hole is not None:
            yield hole
            self.writer = FrameWriter(frame.attested)
        self.number = None if frame.table is None else frame.number
        if all(section.is_whole for section in frame.sections):
            yield from self._steps(file, frame, is_synced=False)
            self._good_until = (file, frame.end)
        else:
            self._held = (file, frame)
            self._good_until = (file, frame.start)

    def _steps(self, file: int, frame: Frame, *, is_synced: bool) -> Iterator[Taken | Damage]:
        for section in frame.sections:
            if section.is_whole:
                yield Taken(file, section)
            else:
                yield Damage(file, section.start, section.end - section.start, (section.unit,))
        if frame.table is not None and frame.sections:
            self.writer.touch(frame.number, {section.unit for section in frame.sections})

    def _hole_before(self, file: int, frame: Frame) -> Damage | None:
        """Tell from a frame which units lost something between it and the one before."""
        gap, self._gap = self._gap, None
        table, number = frame.table, self.number
        if table is None or number is None:
            return gap
        if gap is None and frame.attested == number:
            return None
        is_told = table.since <= number <= frame.attested
        units = tuple(unit for unit, touched in table.touched if touched > number) if is_told else None
        return (gap or Damage(file, frame.start, 0, None))._replace(units=units)


def end_of(data: bytes) -> Table | None:
    """Return the table of the last frame that can be found near the end, of the newest version only."""
    at = len(data)
    for _ in range(2):
        at = data.rfind(_MAGIC, 0, max(at, 0))
        frame = _frame_at(data, at) if at >= 0 else None
        if frame is not None:
            return frame.table
    return None

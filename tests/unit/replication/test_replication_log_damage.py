"""Every cut and every flipped bit of a log: a torn end is cut, damage is told and costs the units that it hit alone."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterable
from typing import NamedTuple

import pytest

from frys_node.base.types import Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication.frames import TOUCHED_UNITS, Damage, FrameWriter, LogReader, Taken
from frys_node.replication.log import Log, Recovered, dump_unit
from frys_node.replication.messages import (
    EVERY_UNIT,
    LOG_RECORDS,
    CompletedRecord,
    DamagedRecord,
    DroppedRecord,
    EntriesRecord,
    LogRecord,
    LostRecord,
    WipedRecord,
)
from frys_node.testing.disk import FakeDisk
from tests.unit.replication.test_replication_log import unit_of

UNITS = [UnitId(f"vector/a/{number}") for number in range(5)]
KEY = Epoch(Term(1, NodeId("n1")), 3)
PATH = "replication/log-00000000"
LOG_BYTES_MAX = 8 * 1024


def put(number: int, unit: UnitId, value: bytes = b"v") -> EntriesRecord:
    """A record with one entry that nobody else writes."""
    return EntriesRecord(unit, [Entry(b"k%d" % number, Version(number, 0, NodeId("n1"), 1), value)])


def group_of(writer: FrameWriter, records: list[LogRecord]) -> bytes:
    """Write the next group."""
    frame = writer.group(records)
    writer.wrote(frame, records)
    return frame


def mark_of(writer: FrameWriter) -> bytes:
    """Write a mark."""
    frame = writer.mark()
    writer.wrote(frame)
    return frame


class Piece(NamedTuple):
    """A stretch of the log: a header with its table or a mark (no unit), or the records of one unit."""

    start: int
    end: int
    group: int
    unit: UnitId | None
    is_mark: bool


class Golden:
    """A log close to 8 KiB, every group of it synced and marked, and where its pieces lie."""

    def __init__(self, groups: Iterable[list[LogRecord]]) -> None:
        writer = FrameWriter()
        self.data = b""
        self.pieces: list[Piece] = []
        self.units: list[set[UnitId]] = [set()]
        """By number of the group."""
        for records in groups:
            at = writer.size_bytes
            self.data += group_of(writer, records)
            mark_at = writer.size_bytes
            self.data += mark_of(writer)
            sections = [s.section for s in LogReader([self.data], 0) if isinstance(s, Taken) and s.section.start > at]
            self.pieces.append(Piece(at, sections[0].start, writer.number, None, False))
            self.pieces += [Piece(s.start, s.end, writer.number, s.unit, False) for s in sections]
            self.pieces.append(Piece(mark_at, len(self.data), writer.number, None, True))
            self.units.append({section.unit for section in sections})

    def lost_with(self, piece: Piece) -> set[UnitId]:
        """Units that lose something when the piece cannot be read."""
        if piece.is_mark:
            return set()
        return self.units[piece.group] if piece.unit is None else {piece.unit}


def golden() -> Golden:
    """A log with small and big groups, of one unit and of many, with wipes, drops and values that look like frames."""
    frame = FrameWriter().group([put(1, UNITS[0], b"a forged value")])
    a, b, c, d, e = UNITS
    groups: list[list[LogRecord]] = [
        [put(1, a, b"v" * 600), put(2, b)],
        [put(3, a, frame + b"FRL1FRL2" * 9), put(4, c, b"x" * 300), put(5, a)],
        [put(6, d, b"y" * 900)],
        [WipedRecord(e, KEY), put(7, e, b"z" * 500), put(8, b, b"w" * 400)],
        [CompletedRecord(e), put(9, c, frame * 3)],
        [DroppedRecord(d), put(10, a, b"u" * 600)],
        [put(20 + number, unit, b"t" * 120) for number, unit in enumerate(UNITS)],
        [put(30, b, b"s" * 1_000), put(31, e, b"r" * 200)],
        [put(32, a), put(33, c, frame * 2)],
    ]
    return Golden(groups)


GOLDEN = golden()


def replayed(data: bytes) -> tuple[Log, dict[UnitId, Recovered]]:
    """Replay a log of these bytes."""
    disk = FakeDisk()
    disk.write(PATH, data)
    log = Log(disk)
    return log, log.replay()


def state(found: Recovered | None) -> tuple[bool, bool, Epoch | None, dict[bytes, Entry]] | None:
    """Return a unit in comparable form."""
    return None if found is None else (found.complete, found.is_damaged, found.join_key, found.entries)


def named(units: tuple[UnitId, ...] | None) -> tuple[UnitId, ...]:
    """Return the units of a hole."""
    return (EVERY_UNIT,) if units is None else units


def flipped(data: bytes, bit: int) -> bytes:
    """Return the bytes with one bit flipped."""
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << (bit % 8)
    return bytes(changed)


def test_every_flipped_bit_of_eight_kib_costs_the_units_that_it_hit_and_no_other() -> None:
    """Exactly these are told, all other records are read unchanged; a flip in the last mark is only a torn end."""
    data, last = GOLDEN.data, GOLDEN.pieces[-1]
    assert 7_000 < len(data) <= LOG_BYTES_MAX
    whole = [step.section for step in LogReader([data], 0) if isinstance(step, Taken)]
    for piece in GOLDEN.pieces:
        lost = GOLDEN.lost_with(piece)
        kept = [s for s in whole if not (piece.start <= s.start < piece.end)]
        if piece.unit is None and not piece.is_mark:
            beyond = next(p.end for p in reversed(GOLDEN.pieces) if p.group == piece.group and not p.is_mark)
            kept = [s for s in whole if not (piece.start <= s.start < beyond)]
        for bit in range(piece.start * 8, piece.end * 8):
            reader = LogReader([flipped(data, bit)], 0)
            steps = list(reader)
            told = {unit for step in steps if isinstance(step, Damage) for unit in named(step.units)}
            assert told == lost, f"bit {bit}"
            assert [step.section for step in steps if isinstance(step, Taken)] == kept, f"bit {bit}"
            assert reader.ends == [last.start if piece is last else len(data)], f"bit {bit}"


def test_every_cut_of_eight_kib_is_a_torn_end_behind_the_last_group_that_is_whole() -> None:
    """What stays is exactly the groups before the cut; nothing is taken for damage, and the log goes on there."""
    data = GOLDEN.data
    groups = [[p for p in GOLDEN.pieces if p.group == number] for number in range(1, GOLDEN.pieces[-1].group + 1)]
    for size in range(len(data)):
        reader = LogReader([data[:size]], 0)
        steps = list(reader)
        assert not [step for step in steps if isinstance(step, Damage)]
        whole = [pieces for pieces in groups if pieces[-2].end <= size]
        assert [s.section.start for s in steps if isinstance(s, Taken)] == [p.start for w in whole for p in w if p.unit]
        end = (whole[-1][-1].end if whole[-1][-1].end <= size else whole[-1][-2].end) if whole else 0
        assert (reader.ends, reader.writer.number) == ([end], len(whole))


@pytest.mark.parametrize(
    "piece", GOLDEN.pieces, ids=lambda p: f"{p.group}-{p.unit or ('mark' if p.is_mark else 'head')}"
)
def test_units_beside_a_damaged_one_come_back_as_if_nothing_had_happened(piece: Piece) -> None:
    """Hit ones are incomplete and damaged, unless a later wipe or drop made that good; file and place are told."""
    log, units = replayed(flipped(GOLDEN.data, piece.start * 8 + 133 % ((piece.end - piece.start) * 8)))
    _, before = replayed(GOLDEN.data)
    lost = GOLDEN.lost_with(piece)
    for unit in UNITS:
        found = units.get(unit)
        if unit not in lost:
            assert state(found) == state(before.get(unit))
        elif found is not None:
            was_wiped = unit == UNITS[4] and piece.group < 4
            was_dropped = unit == UNITS[3] and piece.group < 6
            is_harmless = was_wiped or was_dropped
            assert (found.complete, found.is_damaged) == (is_harmless, not is_harmless)
    assert len(log.holes) == bool(lost)
    assert all(hole.path == PATH and piece.start <= hole.start <= piece.end for hole in log.holes)
    assert bool(log.torn) is (piece is GOLDEN.pieces[-1])


def test_holes_anywhere_never_lose_a_record_of_a_unit_that_is_not_told() -> None:
    """Zeros, junk and copies of other parts over any stretch before the last mark: silent units are as they were."""
    rng = random.Random(11)
    _, before = replayed(GOLDEN.data)
    told = 0
    for number in range(1_500):
        data = bytearray(GOLDEN.data)
        for _ in range(rng.randint(1, 3)):
            size = int(2 ** rng.uniform(0, 12))
            at = rng.randrange(0, GOLDEN.pieces[-1].start - 1)
            size = min(size, GOLDEN.pieces[-1].start - at)
            source = rng.randrange(0, len(data) - size)
            data[at : at + size] = rng.choice([bytes(size), rng.randbytes(size), GOLDEN.data[source : source + size]])
        log, units = replayed(bytes(data))
        told += bool(log.holes)
        if log.is_anything_lost:
            assert all(found.is_damaged or found.join_key for found in units.values())
            continue
        for unit in UNITS:
            found = units.get(unit)
            if found is None or not found.is_damaged:
                assert state(found) == state(before.get(unit)), f"case {number}"
    assert told > 1_000


def test_a_sector_of_zeros_over_many_small_groups_is_told_unit_by_unit() -> None:
    """A table names more than the last group: other units do not suffer, however many groups the hole has."""
    writer, data = FrameWriter(), b""
    many = [UnitId(f"vector/b/{number}") for number in range(TOUCHED_UNITS)]
    starts = []
    for number in range(200):
        record = put(number, many[number % 20 if number < 150 else 20 + number % 12])
        starts.append(len(data))
        data += group_of(writer, [record]) + mark_of(writer)
    begin, end = starts[160], starts[190]
    assert end - begin > 4_096
    log, units = replayed(data[:begin] + bytes(end - begin) + data[end:])
    assert not log.is_anything_lost
    assert {unit for unit, found in units.items() if found.is_damaged} == set(many[20:])


def test_a_hole_beyond_every_table_makes_each_unit_suspect_also_those_that_the_log_lost_whole() -> None:
    """Nobody can tell what lay in it, so nothing is served before it was filled again."""
    writer, data = FrameWriter(), b""
    starts = []
    for number in range(120):
        record = put(number, UnitId(f"vector/b/{number}"))
        starts.append(len(data))
        data += group_of(writer, [record])
    log, units = replayed(data[: starts[20]] + bytes(starts[100] - starts[20]) + data[starts[100] :])
    assert log.is_anything_lost
    assert len(units) == 40
    assert not any(found.complete for found in units.values())


@pytest.mark.parametrize("is_first_gone", [True, False])
def test_a_log_file_that_vanished_is_a_hole(is_first_gone: bool) -> None:
    """Groups are numbered over files: what stood in the missing one is told by the table behind it."""
    disk = FakeDisk()
    log = Log(disk)
    log.replay()
    for number, unit in enumerate(UNITS[:3]):
        log.append([put(number, unit)])
        log.rotate()
    log.append([put(9, UNITS[3])])
    disk.remove("replication/log-0000000" + "01"[not is_first_gone])
    again = Log(disk)
    units = again.replay()
    gone = UNITS[0 if is_first_gone else 1]
    assert [hole.units for hole in again.holes] == [(gone,)]
    assert [unit for unit, found in units.items() if found.is_damaged] == [gone]


def checkpointed() -> FakeDisk:
    """A disk with a checkpoint of four units, and nothing behind it."""
    disk = FakeDisk()
    log = Log(disk)
    log.replay()
    log.append([put(number, unit) for number, unit in enumerate(UNITS)])
    groups: list[list[LogRecord]] = []
    for number, unit in enumerate(UNITS[:4]):
        groups += dump_unit(unit, unit_of(unit), list(put(number, unit, b"v" * 50).entries))
    log.write_checkpoint(log.rotate(), groups)
    return disk


def test_every_flipped_bit_of_a_checkpoint_is_told_or_costs_nothing() -> None:
    """One unit at most, never another; a flip at the end of the file costs nothing, since it is written twice."""
    path = "replication/checkpoint-00000001"
    disk = checkpointed()
    data = disk.read(path)
    assert data is not None
    before = Log(disk).replay()
    costs = set()
    for bit in range(len(data) * 8):
        disk.write(path, flipped(data, bit))
        log = Log(disk)
        units = log.replay()
        hit = {unit for unit, found in units.items() if found.is_damaged}
        told = {unit for hole in log.holes for unit in named(hole.units)}
        assert hit == told, f"bit {bit}"
        assert len(hit) <= 1, f"bit {bit}"
        for unit in UNITS[:4]:
            if unit not in hit:
                assert state(units.get(unit)) == state(before[unit]), f"bit {bit}"
        costs.add(len(hit))
    assert costs == {0, 1}


def test_a_checkpoint_that_lost_its_end_after_the_old_files_were_removed_makes_every_unit_suspect() -> None:
    """It is not taken for one that was never finished: then all that it held would be gone without a word."""
    disk = checkpointed()
    path = "replication/checkpoint-00000001"
    disk.truncate(path, disk.size_bytes(path) - 150)
    log = Log(disk)
    units = log.replay()
    assert log.is_anything_lost
    assert log.holes[-1].path == path
    assert not any(found.complete for found in units.values())


def test_a_known_loss_is_made_good_by_the_records_behind_it_and_an_unknown_one_is_not() -> None:
    """Completeness that was noted before anyone knew of the hole counts for nothing; a wipe forgets hole and all."""
    found = Recovered()
    found.lose()
    found.apply(CompletedRecord(UNITS[0]))
    assert (found.complete, found.is_damaged) == (False, True)
    found.apply(DamagedRecord(UNITS[0]))
    found.apply(CompletedRecord(UNITS[0]))
    assert (found.complete, found.is_damaged) == (True, False)
    found.apply(LostRecord(UNITS[0], KEY))
    found.lose()
    assert found.lost is None, "what the hole took may have been acknowledged under a later record"
    found.apply(WipedRecord(UNITS[0], KEY))
    assert (found.complete, found.is_damaged) == (False, False)
    found.apply(CompletedRecord(UNITS[0]))
    assert (found.complete, found.is_damaged) == (True, False)


def test_a_checkpoint_keeps_what_is_damaged_damaged() -> None:
    """Damaged units, and the word that any unit may be one, survive the removal of the file with the hole."""
    disk = FakeDisk()
    log = Log(disk)
    log.replay()
    groups: list[list[LogRecord]] = [[DamagedRecord(EVERY_UNIT)]]
    damaged = unit_of(UNITS[0], complete=False)
    damaged.join_key, damaged.is_damaged = KEY, True
    groups += dump_unit(UNITS[0], damaged, list(put(1, UNITS[0]).entries))
    groups += dump_unit(UNITS[1], unit_of(UNITS[1], complete=False), [])
    log.write_checkpoint(log.rotate(), groups)
    again = Log(disk)
    units = again.replay()
    assert again.is_anything_lost
    assert [(units[unit].complete, units[unit].is_damaged) for unit in UNITS[:2]] == [(False, True)] * 2
    again.append([CompletedRecord(EVERY_UNIT), CompletedRecord(UNITS[0]), put(2, UNITS[2])])
    third = Log(disk)
    units = third.replay()
    assert not third.is_anything_lost
    assert [units[unit].complete for unit in UNITS[:3]] == [True, False, True]


def test_rot_in_a_checkpoint_that_knew_of_a_loss_is_told_anew() -> None:
    """The word that the loss is known stands before the entries: it cannot make good what went bad after it."""
    disk = FakeDisk()
    log = Log(disk)
    log.replay()
    lost = unit_of(UNITS[0], complete=False)
    lost.lost, lost.is_damaged = KEY, True
    log.write_checkpoint(log.rotate(), dump_unit(UNITS[0], lost, list(put(1, UNITS[0], b"v" * 99).entries)))
    log.append([CompletedRecord(UNITS[0])])
    (found,) = Log(disk).replay().values()
    assert (found.complete, found.is_damaged) == (True, False)
    path = "replication/checkpoint-00000001"
    disk.flip_bit(path, (disk.read(path) or b"").index(b"vvv") * 8)
    (found,) = Log(disk).replay().values()
    assert (found.complete, found.is_damaged) == (False, True)


@pytest.mark.parametrize("bit", [5, 8 * 60])
def test_damage_in_a_log_of_the_first_version_makes_every_unit_suspect(bit: int) -> None:
    """Its frames name no units; what is readable is kept, and what follows in the new version is read."""
    old = _first_version([put(1, UNITS[0], b"v" * 100)]) + _first_version([put(2, UNITS[1])])
    writer = FrameWriter(size_bytes=len(old))
    new = group_of(writer, [put(3, UNITS[2])]) + mark_of(writer)
    log, units = replayed(flipped(old, bit) + new)
    assert log.is_anything_lost
    assert set(units) == {UNITS[1], UNITS[2]}
    assert not any(found.complete for found in units.values())
    log, units = replayed(old + new)
    assert log.holes == []
    assert all(found.complete for found in units.values())


def _first_version(records: list[LogRecord]) -> bytes:
    """Return a frame as the first version wrote it."""
    body = LOG_RECORDS.encode(records)
    return struct.pack(">4sIIQ", b"FRL1", len(body), zlib.crc32(body), 1) + body


def test_a_checkpoint_of_the_first_version_is_read_and_replaced() -> None:
    """A data directory of the first version goes on: its checkpoint, its log, then groups of this one."""
    disk = FakeDisk()
    disk.write("replication/checkpoint-00000002", _first_version([put(1, UNITS[0])]) + _first_version([]))
    disk.write("replication/log-00000002", _first_version([put(2, UNITS[1])]))
    log = Log(disk)
    log.replay()
    log.append([put(3, UNITS[2])])
    for _ in range(2):
        again = Log(disk)
        units = again.replay()
        assert (again.holes, again.torn) == ([], [])
        assert {unit: found.complete for unit, found in units.items()} == dict.fromkeys(UNITS[:3], True)
        again.write_checkpoint(
            again.rotate(),
            [group for u, f in units.items() for group in dump_unit(u, f, list(f.entries.values()))],
        )

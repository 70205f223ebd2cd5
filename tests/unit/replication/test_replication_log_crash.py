"""Power lost inside each disk call of appends, a rotation and a checkpoint: what was acknowledged always comes back."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from frys_node.base.errors import StorageError
from frys_node.base.types import UnitId
from frys_node.replication.log import Log, dump_unit
from frys_node.replication.messages import LogRecord
from frys_node.testing.disk import Failure, FakeDisk, PowerLost, Tear
from tests.unit.replication.test_replication_log import OTHER, held, put, unit_of

State = dict[UnitId, tuple[bool, dict[bytes, bytes | None]]]
TEARS = [(Tear.LOST, 1), (Tear.KEPT, 1), (Tear.TORN, 6), (Tear.SECTORS, 6)]
"""What a crash does to what was not synced, and how many draws of it."""


class Life:
    """A log on a disk, and what it promised: the state that was acknowledged, and with what is under way."""

    def __init__(self, disk: FakeDisk) -> None:
        self.disk = disk
        self.log = Log(disk)
        self.acked: State = held(self.log.replay())
        self.under_way = self.acked

    def append(self, *records: LogRecord) -> None:
        """Append a group and note that it was acknowledged."""
        copy = FakeDisk()
        mirror = Log(copy)
        for unit, (_complete, entries) in self.acked.items():
            mirror.append([put(int((value or b"v0")[1:]), unit) for value in entries.values()])
        mirror.append(records)
        self.under_way = held(Log(copy).replay())
        assert self.log.append(records) is None
        self.acked = self.under_way

    def checkpoint(self) -> None:
        """Replace the log by what it holds, as the driver does."""
        number = self.log.rotate()
        groups = [
            group
            for unit, (complete, entries) in self.acked.items()
            for record in [put(int((value or b"v0")[1:]), unit) for value in entries.values()]
            for group in dump_unit(unit, unit_of(unit, complete), list(record.entries))
        ]
        assert self.log.write_checkpoint(number, groups) is None

    def whole(self) -> None:
        """Live through appends and two checkpoints."""
        for number in range(1, 4):
            self.append(put(number), put(number + 10, OTHER))
        self.checkpoint()
        self.append(put(4))
        self.append(put(15, OTHER))
        self.checkpoint()
        self.append(put(6), put(16, OTHER))


def crashes() -> Iterator[tuple[int, Tear, int]]:
    """Yield every call of a life, with every kind and draw of a tear."""
    disk = FakeDisk()
    Life(disk).whole()
    for call in range(1, disk.calls + 1):
        for tear, draws in TEARS:
            for seed in range(draws):
                yield call, tear, seed


def test_power_lost_in_any_call_loses_nothing_acknowledged_and_is_never_taken_for_damage() -> None:
    """What comes back is the acknowledged state, with or without the group under way; the log goes on from there."""
    count = 0
    for call, tear, seed in crashes():
        disk = FakeDisk()
        disk.crash_call(call)
        life = Life(disk)
        with pytest.raises(PowerLost):
            life.whole()
        disk.crash(tear, random.Random(seed))
        again = Life(disk)
        at = f"call {call}, {tear}, draw {seed}"
        assert again.acked in (life.acked, life.under_way), at
        again.append(put(20), put(21, OTHER))
        third = Life(disk)
        assert third.acked == again.acked, at
        for lived in (again, third):
            assert (lived.log.holes, lived.log.is_anything_lost) == ([], False), at
        count += 1
    assert count > 400


def test_power_lost_in_any_call_of_a_recovery_loses_nothing() -> None:
    """The torn end is cut again by the next start."""
    for call in range(1, 3):
        disk = FakeDisk()
        life = Life(disk)
        life.append(put(1))
        life.log.write([put(2)])
        disk.crash(keep_bytes={"replication/log-00000000": 40})
        disk.crash_call(disk.calls + call)
        try:
            Life(disk)
        except PowerLost:
            disk.crash()
        again = Life(disk)
        assert again.acked == life.acked
        assert again.log.holes == []


@pytest.mark.parametrize("failure", list(Failure))
def test_a_mark_that_finds_no_room_changes_nothing(failure: Failure) -> None:
    """It may fail for want of room without a word; a disk that fails otherwise ends the log at the next write."""
    disk = FakeDisk()
    life = Life(disk)
    life.append(put(1))
    disk.fail_call(disk.calls + 3, failure)
    if failure is Failure.IO:
        with pytest.raises(StorageError, match="Input/output error"):
            life.append(put(2))
        return
    life.append(put(2))
    life.append(put(3))
    disk.crash()
    again = Life(disk)
    assert again.acked == life.acked
    assert again.log.holes == []

"""The write-ahead log: what comes back after crashes, and checkpoints that replace logs at any failing call."""

from __future__ import annotations

import random

import pytest

from frys_node.base.errors import StorageError
from frys_node.base.types import Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication.log import Log, Recovered
from frys_node.replication.messages import CompletedRecord, DroppedRecord, EntriesRecord, LogRecord, WipedRecord
from frys_node.replication.unit import HeldUnit
from frys_node.testing.data_cluster import DictStore
from frys_node.testing.disk import Failure, FakeDisk, Tear

UNIT, OTHER = UnitId("vector/a/0"), UnitId("vector/a/1")
KEY = Epoch(Term(1, NodeId("n1")), 3)
PATH = "replication/log-00000000"


def put(number: int, unit: UnitId = UNIT) -> EntriesRecord:
    """Return a record with one entry."""
    version = Version(number, 0, NodeId("n1"), 1)
    return EntriesRecord(unit, [Entry(f"k{number % 7}".encode(), version, f"v{number}".encode())])


def unit_of(unit: UnitId, complete: bool = True) -> HeldUnit:
    """A durable unit without entries."""
    return HeldUnit(unit, DictStore(), durable=True, complete=complete, join_key=None)


def held(units: dict[UnitId, Recovered]) -> dict[UnitId, tuple[bool, dict[bytes, bytes | None]]]:
    """Return what was recovered in comparable form."""
    return {
        unit: (found.complete, {entry.key: entry.value for entry in found.entries.values()})
        for unit, found in units.items()
    }


def test_replay_gives_back_units_flags_and_the_newest_entries() -> None:
    """Wipes forget, completions complete, drops remove, older versions lose."""
    disk = FakeDisk()
    log = Log(disk)
    log.replay()
    log.append([put(9), put(2)])
    log.append([put(1, OTHER), WipedRecord(OTHER, KEY), put(3, OTHER)])
    units = Log(disk).replay()
    assert held(units) == {UNIT: (True, {b"k2": b"v9"}), OTHER: (False, {b"k3": b"v3"})}
    assert units[OTHER].join_key == KEY
    log.append([CompletedRecord(OTHER), DroppedRecord(UNIT)])
    assert held(Log(disk).replay()) == {OTHER: (True, {b"k3": b"v3"})}


@pytest.mark.parametrize("tear", [Tear.LOST, Tear.TORN, Tear.SECTORS, Tear.KEPT])
@pytest.mark.parametrize("seed", range(25))
def test_a_crash_during_a_group_loses_only_that_group(tear: Tear, seed: int) -> None:
    """Whatever the disk makes of an unsynced frame, all synced ones come back and the log goes on."""
    disk, rng = FakeDisk(), random.Random(seed)
    log = Log(disk)
    log.replay()
    for number in range(5):
        log.append([put(number)])
    log.write([put(100), put(101), put(102)])
    disk.crash(tear, rng)
    again = Log(disk)
    units = held(again.replay())
    synced = {f"k{number}".encode(): f"v{number}".encode() for number in range(5)}
    whole = synced | {b"k2": b"v100", b"k3": b"v101", b"k4": b"v102"}
    assert units[UNIT][1] in (synced, whole)
    again.append([put(200)])
    assert held(Log(disk).replay())[UNIT][1][b"k4"] == b"v200"


@pytest.mark.parametrize("failure", [Failure.IO, Failure.FULL])
def test_a_checkpoint_replaces_the_log_at_every_failing_call(failure: Failure) -> None:
    """Fail each disk call of a checkpoint in turn: what was acknowledged is always recovered."""
    for failing in range(1, 40):
        disk = FakeDisk()
        log = Log(disk)
        log.replay()
        log.append([put(1), put(2, OTHER)])
        groups: list[list[LogRecord]] = [[put(1)], [CompletedRecord(UNIT)], [put(2, OTHER)]]
        calls = disk.calls
        disk.fail_call(calls + failing, failure)
        try:
            number = log.rotate()
            log.write_checkpoint(number, groups)
            done = log.append([put(3)]) is None
        except StorageError:
            done = False
        is_over = not disk.failures_met
        disk.crash(Tear.LOST)
        units = held(Log(disk).replay())
        assert units[UNIT][1][b"k1"] == b"v1"
        assert units[OTHER][1] == {b"k2": b"v2"}
        if done:
            assert units[UNIT][1][b"k3"] == b"v3"
        if is_over:
            return
    pytest.fail("the checkpoint never went through")

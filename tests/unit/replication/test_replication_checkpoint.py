"""A checkpoint that is made while the node works holds, with the log behind it, what the log alone would have told."""

from __future__ import annotations

import random
from collections.abc import Iterable
from itertools import chain
from typing import Any

import pytest

from frys_node.base.types import Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication.log import Log, Recovered, Rotation
from frys_node.replication.messages import (
    CompletedRecord,
    DroppedRecord,
    EntriesRecord,
    FloorsRecord,
    LogRecord,
    RightedRecord,
    WipedRecord,
)
from frys_node.replication.recovery import Recovery
from frys_node.replication.replica import ReplicaMachine
from frys_node.replication.unit import HeldUnit
from frys_node.testing.data_cluster import DictStore
from frys_node.testing.disk import FakeDisk

N1 = NodeId("n1")
UNITS = [UnitId(f"vector/c/{number}") for number in range(3)]
STEPS = 40


class Node:
    """Durable units that change at random, each change logged as the replica would."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.machine = ReplicaMachine(N1, random.Random(1))
        self.logs = [Log(FakeDisk()), Log(FakeDisk())]
        self.disks = [log._disk for log in self.logs]
        for log in self.logs:
            log.replay()
        self.number = 0

    def step(self) -> None:
        """Change one unit, in memory and in both logs."""
        unit, self.number = self.rng.choice(UNITS), self.number + 1
        records = self._change(unit, self.machine.table.units.get(unit))
        for log in self.logs:
            assert log.append(records) is None

    def _change(self, unit: UnitId, held: HeldUnit | None) -> list[LogRecord]:
        if held is None:
            join_key = Epoch(Term(1, N1), self.number)
            held = HeldUnit(unit, DictStore(), durable=True, complete=False, join_key=None)
            held.wipe(join_key)
            self.machine.table.units[unit] = held
            return [WipedRecord(unit, join_key)]
        match self.rng.randrange(12):
            case 0:
                del self.machine.table.units[unit]
                return [DroppedRecord(unit)]
            case 1:
                held.wipe(Epoch(Term(1, N1), self.number))
                assert held.join_key is not None
                return [WipedRecord(unit, held.join_key)]
            case 2:
                held.complete = True
                return [CompletedRecord(unit)]
            case 3:
                floor = Version(self.rng.randrange(1, self.number + 1), 0, N1, 1)
                held.raise_floors(floor, floor)
                return [FloorsRecord(unit, held.write_floor, held.purge_floor)]
            case 4:
                dropped, back = self._key(), Entry(self._key(), Version(1, 0, N1, 1), b"back")
                held.right([dropped], [back])
                return [RightedRecord(unit, [dropped], [back])]
            case _:
                found = [Entry(self._key(), Version(self.number, 0, N1, 1), self.rng.choice([b"v", b"w", None]))]
                return [EntriesRecord(unit, held.merge(found).taken)]

    def _key(self) -> bytes:
        return b"k%d" % self.rng.randrange(6)

    def told(self, number: int) -> dict[UnitId, Any]:
        """Return what a log tells after a crash."""
        self.disks[number].crash()
        log = Log(self.disks[number])
        units = log.replay()
        assert (log.holes, log.torn) == ([], [])
        return {unit: _state(found) for unit, found in units.items()}


def _state(found: Recovered) -> tuple[Any, ...]:
    return found.entries, found.join_key, found.complete, found.write_floor, found.purge_floor


@pytest.mark.parametrize("seed", range(60))
def test_units_may_change_while_the_others_are_captured(seed: int) -> None:
    """Entries, wipes, floors, righted keys and drops at any place between the captures and before the end."""
    rng = random.Random(seed)
    node = Node(rng)
    for _ in range(STEPS):
        node.step()
    rotation: Rotation = node.logs[0].rotate()
    captured: list[Iterable[list[LogRecord]]] = []
    for unit in Recovery(node.disks[0], node.logs[0], node.machine).dump():
        captured.append(unit)
        for _ in range(rng.randrange(8)):
            node.step()
    assert node.logs[0].write_checkpoint(rotation, chain.from_iterable(captured)) is None
    for _ in range(rng.randrange(4)):
        node.step()
    assert node.disks[0].list("replication") == ["checkpoint-00000001", "log-00000001"] or not node.number
    assert node.told(0) == node.told(1)


def test_a_kind_that_is_declared_while_the_others_are_captured_is_in_the_checkpoint() -> None:
    """What nobody had asked for yet is captured first, so that it does not fall between the two."""
    disk = FakeDisk()
    log = Log(disk)
    log.replay()
    log.append([EntriesRecord(UNITS[0], [Entry(b"k", Version(1, 0, N1, 1), b"v")])])
    machine, log = ReplicaMachine(N1, random.Random(1)), Log(disk)
    recovery = Recovery(disk, log, machine)
    recovery.read()
    rotation, dump = log.rotate(), recovery.dump()
    captured = [next(dump)]
    machine.declare("vector", lambda _unit: DictStore(), durable=True)
    recovery.load("vector")
    captured += dump
    assert log.write_checkpoint(rotation, chain.from_iterable(captured)) is None
    assert Log(disk).replay()[UNITS[0]].entries == {b"k": Entry(b"k", Version(1, 0, N1, 1), b"v")}

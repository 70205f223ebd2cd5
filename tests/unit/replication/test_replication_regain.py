"""A durable replica that lost state counts for nothing until it was refilled through the register (rule 14)."""

from __future__ import annotations

from msgspec.structs import replace

from frys_node.base.types import NodeId
from frys_node.replication import effects as fx
from frys_node.replication.log import DIRECTORY, Log, Recovered
from frys_node.replication.messages import (
    EVERY_UNIT,
    CompletedRecord,
    DamagedRecord,
    LostRecord,
    WriteAck,
    lost_records,
)
from frys_node.replication.regain import Regain
from frys_node.replication.unit import HeldUnit, UnitTable
from frys_node.replication.witness import WITNESS_PATH, is_log_lost
from frys_node.testing.data_cluster import DictStore
from frys_node.testing.disk import FakeDisk
from frys_node.testing.replica_desk import UNIT, Desk, record_of

RING = ["n1", "n2", "n3"]
N1, N3 = NodeId("n1"), NodeId("n3")


def lose(desk: Desk, seq: int) -> None:
    """Restart n3 without its log, under the record of that number."""
    desk.boot("n3").regain.lose_all()
    desk.adopt(record_of(seq, RING), "n3")


def test_a_lost_replica_gives_no_data_and_is_refilled_only_under_a_later_record() -> None:
    """Under the record of the loss it asks for another one; under the next it takes a pass and is complete."""
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    desk.write("n1", b"v")
    lose(desk, 2)
    held = desk.replicas[N3].table.units[UNIT]
    assert not held.complete
    assert (N3, fx.NeedRecord()) in desk.told
    desk.pass_time(5.0)
    assert not held.complete
    assert desk.told.count((N3, fx.NeedRecord())) > 1
    desk.adopt(record_of(3, RING))
    assert held.complete
    assert held.lost is None
    entry = desk.held("n3")
    assert entry is not None
    assert entry.value == b"v"


def test_an_acknowledgement_from_before_the_loss_is_not_worth_anything_after_the_refill() -> None:
    """The write counts n3's ack of before its loss and n2's of after: n3 must have it, or it is on n2 alone.

    Under the old record n2 takes it only after n3 was refilled from n1 and n2; under the new one n2 refuses it.
    """
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    desk.cut = {("n1", "n1")}
    desk.keeps = lambda _a, target, message: target == "n2" and type(message).__name__ == "Write"
    assert desk.write("n1", b"v") is None
    lose(desk, 2)
    desk.adopt(record_of(3, RING), "n2", "n3")
    desk.keeps = lambda _a, target, message: isinstance(message, WriteAck)
    desk.release()
    desk.pass_time(3.0)
    done = [effect for effect in desk.done.values() if isinstance(effect, fx.WriteDone)]
    assert done == []


def test_a_lost_replica_takes_writes_and_acknowledges_none_before_it_is_whole() -> None:
    """It has forgotten what is newer, so with it a quorum would put a write below one acknowledged before.

    Found by seeds 35, 96 and 102 of the simulator with a log removed: a clock that is behind, and n1 not reached.
    """
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    desk.cut = {("n1", "n2"), ("n2", "n1")}
    assert isinstance(desk.write("n1", b"new"), fx.WriteDone)
    lose(desk, 2)
    desk.cut |= {("n2", "n1"), ("n1", "n3"), ("n3", "n1")}
    assert desk.write("n2", b"old") is None
    entry = desk.held("n3")
    assert entry is not None
    assert entry.value == b"old"


def test_the_loss_is_remembered_over_a_second_restart_and_ends_with_completeness() -> None:
    """The log keeps what is left, the record of the loss, and forgets it when the unit is complete again."""
    found, record = Recovered(), record_of(4, RING).record
    found.apply(LostRecord(UNIT, record.epoch))
    assert (found.complete, found.lost) == (False, record.epoch)
    found.apply(CompletedRecord(UNIT))
    assert (found.complete, found.lost) == (True, None)


def test_what_a_damaged_log_still_holds_is_kept_while_the_rest_is_fetched() -> None:
    """A unit loaded as incomplete is lost from the record on that is in force then."""
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    desk.write("n1", b"v")
    entry = desk.held("n3")
    assert entry is not None
    replica = desk.boot("n3")
    replica.load(UNIT, [entry], complete=False, join_key=None)
    desk.adopt(record_of(2, RING), "n3")
    assert [record for record in desk.logs[N3] if isinstance(record, LostRecord)] == [
        LostRecord(UNIT, record_of(2, RING).record.epoch)
    ]
    assert replica.local(UNIT) is None
    desk.adopt(record_of(3, RING))
    assert replica.local(UNIT) is not None


def test_a_set_of_one_that_lost_everything_gives_nothing_until_an_operator_has_restored_it() -> None:
    """Nobody else holds anything, so no record helps; once what there was is merged, it is whole, durably."""
    desk = Desk(1)
    replica = desk.boot("n1")
    replica.regain.lose_all()
    desk.adopt(record_of(2, ["n1"]))
    desk.adopt(record_of(3, ["n1"]))
    assert (N1, fx.UnitLost(UNIT, True)) in desk.told
    assert (N1, fx.NeedRecord()) not in desk.told
    assert replica.local(UNIT) is None
    desk.take(N1, replica.restored(UNIT, desk.now_s))
    assert desk.logs[N1][-1] == CompletedRecord(UNIT)
    assert desk.read("n1") is None
    assert replica.restored(UNIT, desk.now_s) == []


def test_a_restore_makes_no_damaged_replica_of_several_whole() -> None:
    """What the others hold is newer than any snapshot, so it is filled from them."""
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    lose(desk, 2)
    replica = desk.replicas[N3]
    assert replica.restored(UNIT, desk.now_s) == []
    assert replica.local(UNIT) is None


def test_a_unit_with_a_hole_forgets_its_purge_floor_so_that_what_it_lost_comes_back() -> None:
    """Below the floor what is not here counts as dead; what lay in the hole is not here, and lives."""
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    desk.write("n1", b"v")
    entry = desk.held("n1")
    assert entry is not None
    above = replace(entry.version, hlc_ms=entry.version.hlc_ms + 1)
    replica = desk.boot("n3")
    replica.load(UNIT, [], complete=False, join_key=None, is_damaged=True, floors=(above, above))
    desk.adopt(record_of(2, RING), "n3")
    desk.adopt(record_of(3, RING))
    assert replica.local(UNIT) is not None
    assert desk.held("n3") == entry


def test_a_hole_that_nobody_can_name_costs_only_what_the_log_does_not_hold() -> None:
    """A unit that the log told of whole, wiped behind the hole, stays so; from then on a new unit is new."""
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    replica = desk.boot("n3")
    replica.load(UNIT, [], complete=True, join_key=record_of(1, RING).record.epoch)
    replica.regain.lose_all(but=[UNIT])
    assert replica.regain.dump() == [DamagedRecord(EVERY_UNIT)]
    desk.adopt(record_of(2, RING), "n3")
    assert replica.local(UNIT) is not None
    assert desk.logs[N3][-1] == CompletedRecord(EVERY_UNIT)
    assert replica.regain.dump() == []


def test_a_checkpoint_keeps_in_mind_what_was_lost_of_a_kind_that_nobody_has_declared_yet() -> None:
    """The log that named it is replaced: without a word in the new file the unit would be born empty and whole."""
    table = UnitTable()
    regain = Regain(N3, table)
    regain.lose_all()
    placement = record_of(2, RING)
    assert regain.adopt(placement) == (*lost_records(UNIT, placement.record.epoch), CompletedRecord(EVERY_UNIT))
    assert regain.dump() == lost_records(UNIT, placement.record.epoch)
    held = HeldUnit(UNIT, DictStore(), durable=True, complete=True, join_key=None)
    regain.opened(held)
    assert (held.complete, held.is_damaged, held.lost) == (False, True, placement.record.epoch)
    assert regain.dump() == []


def test_two_lost_replicas_of_three_stay_incomplete_and_the_third_is_no_quorum() -> None:
    """Fewer complete members than a fence: acknowledged writes may be gone, so nothing pretends to be whole."""
    desk = Desk(3)
    desk.adopt(record_of(2, RING))
    desk.write("n1", b"v")
    lose(desk, 2)
    desk.boot("n2").regain.lose_all()
    desk.adopt(record_of(2, RING), "n2")
    desk.adopt(record_of(3, RING))
    desk.pass_time(5.0)
    assert [desk.replicas[NodeId(name)].table.units[UNIT].complete for name in RING] == [True, False, False]


def test_a_log_that_was_here_and_is_gone_is_told_from_one_that_never_was() -> None:
    """First start: begun and witnessed. Log removed: lost. An old directory without witness: taken as it is."""
    disk = FakeDisk()
    assert not is_log_lost(disk, Log(disk))
    assert disk.read(WITNESS_PATH) is not None
    assert not is_log_lost(disk, Log(disk))
    log = Log(disk)
    log.replay()
    log.append([CompletedRecord(UNIT)])
    again = Log(disk)
    assert list(again.replay()) == [UNIT]
    assert (again.holes, again.torn) == ([], []), "the mark of the first start is no group"
    disk.remove(DIRECTORY)
    assert is_log_lost(disk, Log(disk))
    assert is_log_lost(disk, Log(disk)), "a crash before the loss is on the disk must not make it forgotten"
    Log(disk).append([LostRecord(UNIT, record_of(2, RING).record.epoch)])
    assert not is_log_lost(disk, Log(disk))
    disk.remove(WITNESS_PATH)
    assert not is_log_lost(disk, Log(disk))


def test_a_unit_in_memory_is_never_lost_it_is_refilled_as_after_any_restart() -> None:
    """A lost log names the units of every kind, since kinds may be declared later; memory has nothing to regain.

    Found by seed 2108 of the simulator: the only replica of a cache unit waited for a pass from nobody.
    """
    desk = Desk(1, durable=False)
    replica = desk.boot("n1")
    replica.load(UNIT, [], complete=False, join_key=None, lost=record_of(1, ["n1"]).record.epoch)
    desk.adopt(record_of(2, ["n1"]))
    desk.pass_time(5.0)
    assert replica.local(UNIT) is not None

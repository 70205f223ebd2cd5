"""Reads that wait for repair count only who holds what they show."""

from __future__ import annotations

from msgspec.structs import replace

from frys_node.base.types import Consistency, NodeId
from frys_node.kernel.services.replication import Entry
from frys_node.replication import effects as fx
from frys_node.replication.coordinator import CoordinatorConfig
from frys_node.replication.messages import Repair, RepairAck
from frys_node.testing.replica_desk import UNIT, Desk, record_of

N1, N2, N3 = NodeId("n1"), NodeId("n2"), NodeId("n3")
RING = ["n1", "n2", "n3"]
ALONE = CoordinatorConfig(repairs_reads=False, keeps_hints=False)


def begin(desk: Desk, name: str) -> int:
    """Begin a read of the key that waits for repair; returns its number."""
    request, effects = desk.coordinators[NodeId(name)].read(
        UNIT, [b"k"], Consistency.QUORUM, deadline_s=desk.now_s + 5.0, now_s=desk.now_s, waits_repair=True
    )
    desk.take(NodeId(name), effects)
    desk.run()
    return request


def value_of(desk: Desk, request: int) -> bytes | None:
    """Return the value that a finished read found."""
    done = desk.done[request]
    assert isinstance(done, fx.ReadDone), done
    return None if done.entries[0] is None else done.entries[0].value


def half_written(desk: Desk, value: bytes | None = b"half") -> Entry:
    """Put a value on n2 only, and then raise every write floor above it."""
    desk.adopt(record_of(2, RING))
    desk.cut = {("n2", "n1"), ("n2", "n3")}
    assert desk.write("n2", value) is None
    desk.cut = set()
    entry = desk.held("n2")
    assert entry is not None
    for replica in desk.replicas.values():
        replica.table.units[UNIT].raise_floors(replace(entry.version, hlc_ms=entry.version.hlc_ms + 1), None)
    desk.coordinators[N2]._operations.clear()  # whoever wrote it is gone
    return entry


def test_a_replica_that_drops_a_repair_does_not_count_as_holding_it() -> None:
    """Below its write floor it may not take the value (rule 17): the read fails and says so, and the value stays."""
    desk = Desk(3, coordinating=ALONE)
    half_written(desk)
    desk.cut = {("n1", "n3"), ("n3", "n1")}
    request = begin(desk, "n1")
    assert request not in desk.done
    desk.pass_time(6.0)
    failed = desk.done[request]
    assert isinstance(failed, fx.RequestFailed)
    assert failed.code == "replication.not_repaired"
    assert failed.refused == (N1,)
    assert desk.held("n1") is None


def test_a_read_that_waits_ends_once_anti_entropy_has_brought_what_a_repair_may_not() -> None:
    """The same version is held then, or a newer one; the repair that is sent again is told so."""
    desk = Desk(3, coordinating=ALONE)
    entry = half_written(desk)
    desk.cut = {("n1", "n3"), ("n3", "n1")}
    request = begin(desk, "n1")
    desk.take(N1, desk.replicas[N1].restore(UNIT, [entry], lambda _at_s: [], desk.now_s) or [])
    desk.pass_time(2.0)
    assert value_of(desk, request) == b"half"
    assert desk.read("n3") in (None, b"half")
    desk.cut = {("n2", "n1"), ("n1", "n2"), ("n2", "n3"), ("n3", "n2")}
    assert desk.read("n3") == b"half"


def test_a_tombstone_that_a_replica_has_freed_counts_as_held() -> None:
    """All had agreed on it (rule 16): nothing older is anywhere, and no read that waits need fail for it."""
    desk = Desk(3, coordinating=ALONE)
    entry = half_written(desk, None)
    floor = replace(entry.version, hlc_ms=entry.version.hlc_ms + 1)
    for name in (N1, N3):
        desk.replicas[name].table.units[UNIT].raise_floors(floor, floor)
    assert value_of(desk, begin(desk, "n1")) is None


def test_a_hint_that_is_too_old_is_acknowledged_all_the_same() -> None:
    """It would be too old the next time as well; its sender need not keep it."""
    desk = Desk(3, coordinating=ALONE)
    entry = half_written(desk)
    replica = desk.replicas[N1]
    (effect,) = [
        one
        for one in replica.receive(N2, Repair(desk.coordinators[N1]._epoch, UNIT, 77, [entry]), 0.0)
        if isinstance(one, fx.Persist)
    ]
    (ack,) = replica.persisted(effect.token, 0.0)
    assert isinstance(ack, fx.Send)
    assert ack.message == RepairAck(desk.coordinators[N1]._epoch, UNIT, 77, False)

"""Clocks that run ahead (rule 5), versions that are too old (17), and stamps that are never made twice (3)."""

from __future__ import annotations

from frys_node.base.types import NodeId
from frys_node.kernel.services.replication import Version
from frys_node.replication import effects as fx
from frys_node.replication.errors import ClockDrift
from frys_node.replication.hlc import HybridClock
from frys_node.testing.replica_desk import START_MS, UNIT, Desk, record_of

N1, N2 = NodeId("n1"), NodeId("n2")
YEAR_MS = 365 * 86_400 * 1_000


def test_a_coordinator_a_minute_ahead_is_served_and_one_beyond_is_refused_and_told_why() -> None:
    """The bound is `clock_drift_max_s` (60 s) over each replica's own clock; the refusals are counted."""
    desk = Desk(3)
    desk.adopt(record_of(2, ["n1", "n2", "n3"]))
    desk.wall_ms[N1] = START_MS + 60_000
    assert isinstance(desk.write("n1", b"served"), fx.WriteDone)
    desk.wall_ms[N1] = START_MS + 60_001
    failed = desk.write("n1", b"refused")
    assert isinstance(failed, fx.RequestFailed)
    assert failed.code == ClockDrift.code
    assert set(failed.refused) == {"n2", "n3"}
    assert desk.replicas[N2].serving.refused[ClockDrift.code] == 1
    assert desk.read("n2") == b"served"


def test_a_version_that_was_forced_upward_by_an_existing_one_is_accepted() -> None:
    """A year ahead on one replica, the right clock at the coordinator: it stamps above once and is acknowledged."""
    desk = Desk(3)
    desk.adopt(record_of(2, ["n1", "n2", "n3"]))
    for name in desk.names:
        desk.wall_ms[name] += YEAR_MS
    first = desk.write("n1", b"of next year")
    for name in desk.names:
        desk.wall_ms[name] -= YEAR_MS
    second = desk.write("n2", b"now")
    assert isinstance(first, fx.WriteDone)
    assert isinstance(second, fx.WriteDone)
    assert second.version > first.version
    assert desk.read("n3") == b"now"


def test_a_clock_that_was_set_right_stamps_with_the_right_time_again() -> None:
    """What a refused clock had stamped is disowned: it does not drag the versions of later writes with it."""
    desk = Desk(3)
    desk.adopt(record_of(2, ["n1", "n2", "n3"]))
    desk.cut = {("n1", "n1")}
    desk.wall_ms[N1] += YEAR_MS
    assert isinstance(desk.write("n1", b"refused"), fx.RequestFailed)
    desk.wall_ms[N1] -= YEAR_MS
    done = desk.write("n1", b"right")
    assert isinstance(done, fx.WriteDone)
    assert done.version.hlc_ms == START_MS


def test_no_stamp_is_made_twice_however_often_the_clock_is_disowned() -> None:
    """Counters go on above all used ones, also after a version of the disowned time was observed again."""
    clock = HybridClock(N1, 7)
    made = [clock.stamp(wall_ms) for wall_ms in (1_000, 9_000, 9_000, 9_001)]
    clock.disown()
    made += [clock.stamp(1_000), clock.stamp(1_000), clock.stamp(1_001)]
    clock.observe(made[1])
    made += [clock.stamp(1_001), clock.stamp(9_000), clock.stamp(9_001)]
    clock.disown()
    made += [clock.stamp(wall_ms) for wall_ms in (1_000, 9_000, 9_001, 9_002)]
    assert len(set(made)) == len(made)
    assert made[4].hlc_ms == 1_000


def test_a_write_below_the_floor_is_stamped_anew_above_it_and_acknowledged() -> None:
    """Rule 17: `too_old` costs a round trip, not the write, and rule 4 holds for the new attempt too."""
    desk = Desk(3)
    desk.adopt(record_of(2, ["n1", "n2", "n3"]))
    floor = Version(START_MS + 500, 0, NodeId(""), 0)
    for replica in desk.replicas.values():
        replica.table.units[UNIT].raise_floors(floor, None)
    done = desk.write("n1", b"v")
    assert isinstance(done, fx.WriteDone)
    assert done.version > floor
    assert desk.read("n2") == b"v"
    assert desk.coordinators[N1].restamp_count == 1

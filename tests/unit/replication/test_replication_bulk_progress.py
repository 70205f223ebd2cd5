"""How far newcomers are with units in memory, of which nobody knows the size before they are here."""

from __future__ import annotations

from balancer.placement import cache_unit
from frys_node.base.types import Consistency, NodeId
from frys_node.replication.bulk_progress import BulkProgress, KindProgress
from frys_node.replication.messages import LeafPage
from frys_node.testing.replica_desk import UNIT, Desk, record_of

N1, N4 = NodeId("n1"), NodeId("n4")


def test_what_is_to_come_is_judged_by_what_has_come() -> None:
    """A quarter of 8 units in 10 s: 30 s more, and four times the bytes; without any there is no estimate."""
    bulks = BulkProgress()
    assert bulks.under_way() == []
    for number in range(8):
        bulks.begin(cache_unit(number), (N1,), 100.0 + number)
    (none,) = bulks.under_way()
    assert none == KindProgress("cache", 8, 0, 0, N1, 100.0)
    assert (none.eta_s(110.0), none.rate_bytes_s(110.0), none.bytes_total) == (None, 0.0, 0)
    for number in (0, 1, 1):
        bulks.took(cache_unit(number), 500)
        bulks.done(cache_unit(number))
    (quarter,) = bulks.under_way()
    assert (quarter.units, quarter.units_done, quarter.bytes_done, quarter.bytes_total) == (8, 2, 1_500, 6_000)
    assert (quarter.eta_s(110.0), quarter.rate_bytes_s(110.0)) == (30.0, 150.0)
    for number in range(8):
        bulks.done(cache_unit(number))
    assert bulks.under_way() == []


def test_a_newcomer_tells_of_its_copies_until_they_are_done_or_another_record_is_in_force() -> None:
    """Counted are the bulk copies of `joining`, and nothing of passes, refills and anti-entropy."""
    desk = Desk(3, durable=False)
    desk.adopt(record_of(2, ["n1", "n2", "n3"]))
    desk.pass_time(4.0)
    assert desk.write("n1", b"value", consistency=Consistency.ALL) is not None
    joiner = desk.boot("n4")
    desk.names.append(N4)
    desk.wall_ms[N4] = desk.wall_ms[N1]
    desk.keeps = lambda _a, _b, message: isinstance(message, LeafPage)
    members = ["n1", "n2", "n3"]
    desk.adopt(record_of(3, members, [*members, "n4"], "joining"))
    (found,) = joiner.bulks.under_way()
    assert (found.units, found.units_done, found.bytes_done) == (1, 0, 0)
    desk.release()
    assert joiner.bulks.under_way() == []
    assert desk.held("n4") is not None
    desk.keeps = lambda _a, _b, message: isinstance(message, LeafPage)
    desk.adopt(record_of(4, members, phase="stable"))
    desk.adopt(record_of(5, members, [*members, "n4"], "joining"))
    assert [bulk.units for bulk in joiner.bulks.under_way()] == [1]
    assert [desk.replicas[NodeId(name)].bulks.under_way() for name in members] == [[]] * 3
    desk.adopt(record_of(6, members, phase="stable"))
    assert joiner.bulks.under_way() == []
    assert UNIT not in joiner.table.units


def test_what_comes_again_is_counted_once() -> None:
    """A pull that was begun anew brings the same; another source, or another round of questions, is more."""
    bulks = BulkProgress()
    for size_bytes in (100, 300, 100, 300):
        bulks.pulled(UNIT, N1, 1, size_bytes)
    assert bulks.pulled_bytes == 300
    bulks.pulled(UNIT, N4, 1, 50)
    bulks.pulled(UNIT, N1, 2, 7)
    assert bulks.pulled_bytes == 357
    bulks.clear()
    assert bulks.pulled_bytes == 0

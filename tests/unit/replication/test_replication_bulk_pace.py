"""Which questions wait while moves are held back, at the source and at the newcomer, and what both count."""

from __future__ import annotations

from trio.testing import MockClock

from balancer.record import JOINING, JOINT, STABLE
from frys_node.base.types import NodeId
from frys_node.kernel.services.replication import ENTRY_BYTES, Entry
from frys_node.kernel.turns import ASKED_REST_RATIO, ASKED_S, REST_RATIO, Turns
from frys_node.replication import hashtree
from frys_node.replication.bulk_pace import EQUAL_BYTES, TREE_BYTES, BulkPace
from frys_node.replication.effects import Send
from frys_node.replication.messages import LeafAsk, LeafPage, Read, Tree, TreeAsk
from frys_node.replication.version import ZERO
from frys_node.testing.clock import FakeClock
from tests.unit.replication.test_replication_machines import N1, N2, N3, UNIT, key, record, write


class Pace:
    """A rate that is at its end, or not, and what was counted."""

    def __init__(self) -> None:
        self.is_free = False
        self.given: list[tuple[NodeId, int]] = []
        self.taken: list[int] = []
        self.asked_count = 0

    def may_give(self) -> bool:
        """As set."""
        return self.is_free

    def gave(self, receiver: NodeId, size_bytes: int) -> None:
        """Note it."""
        self.given.append((receiver, size_bytes))

    def may_take(self) -> bool:
        """As set."""
        return self.is_free

    def took(self, size_bytes: int) -> None:
        """Note it."""
        self.taken.append(size_bytes)

    def asked(self) -> None:
        """Count it."""
        self.asked_count += 1


def bulk_of(node: NodeId, pace: Pace | None) -> BulkPace:
    """Return what decides on that node."""
    return BulkPace(node, pace, lambda: None)


JOINS = record(2, JOINING, [N1, N2], [N1, N2, N3])
ASKS = [TreeAsk(key(2), UNIT, 9), LeafAsk(key(2), UNIT, 9, b"\x01", b"", True)]


def test_only_a_newcomers_bulk_is_put_off() -> None:
    """Writes, members' anti-entropy, and the passes of ``joint`` are answered however slow moves have to be."""
    pace = Pace()
    bulk = bulk_of(N1, pace)
    for ask in ASKS:
        assert bulk.puts_off(N3, ask, JOINS)
        assert not bulk.puts_off(N2, ask, JOINS)
        assert not bulk.puts_off(N3, ask, record(2, JOINT, [N1, N2], [N1, N2, N3]))
        assert not bulk.puts_off(N3, ask, record(2, STABLE, [N1, N2]))
        assert not bulk.puts_off(N3, ask, None)
        assert not bulk_of(N1, None).puts_off(N3, ask, JOINS)
    assert not bulk.puts_off(N3, write(2), JOINS)
    pace.is_free = True
    assert not bulk.puts_off(N3, ASKS[0], JOINS)


def test_a_newcomer_keeps_back_what_it_would_ask_too_early() -> None:
    """It has requests to serve for other units, whatever the source could give; nothing else that it sends waits."""
    pace = Pace()
    for ask in ASKS:
        assert bulk_of(N3, pace).keeps_back(ask, JOINS)
        assert not bulk_of(N2, pace).keeps_back(ask, JOINS)
        assert not bulk_of(N3, pace).keeps_back(ask, record(2, JOINT, [N1, N2], [N1, N2, N3]))
        assert not bulk_of(N3, None).keeps_back(ask, JOINS)
    assert not bulk_of(N3, pace).keeps_back(write(2), JOINS)
    pace.is_free = True
    assert not bulk_of(N3, pace).keeps_back(ASKS[0], JOINS)


async def test_what_others_ask_makes_rests_longer_and_moves_begin_slowly(autojump_clock: MockClock) -> None:
    """A node may serve nobody but other nodes, and quorums wait for it. What moves units is no request."""
    pace, turns = Pace(), Turns(FakeClock())
    bulk = BulkPace(N1, pace, turns.asked)
    for message in ASKS:
        bulk.puts_off(N3, message, JOINS)
    assert (pace.asked_count, turns.rest_ratio) == (0, REST_RATIO)
    bulk.puts_off(N2, write(2), JOINS)
    bulk.puts_off(N2, Read(key(2), UNIT, 1, 1, [b"k"]), None)
    assert (pace.asked_count, turns.rest_ratio) == (2, ASKED_REST_RATIO)
    autojump_clock.jump(ASKED_S)
    assert turns.rest_ratio == REST_RATIO


def test_trees_and_entries_that_newcomers_get_are_counted() -> None:
    """A tree has a flat price, less if it is equal, a page that of its entries; what members get is not counted."""
    pace = Pace()
    bulk = bulk_of(N1, pace)
    page = LeafPage(key(2), UNIT, 9, b"", True, [Entry(b"k", ZERO, b"value"), Entry(b"gone", ZERO, None)], False)
    bulk.moved(N3, ASKS[0], JOINS, [Send(N3, Tree(key(2), UNIT, 9, True, hashtree.build(page.entries)))])
    bulk.moved(N3, ASKS[0], JOINS, [Send(N3, Tree(key(2), UNIT, 9, True, b"", None, True))])
    bulk.moved(N3, ASKS[1], JOINS, [Send(N3, page)])
    bulk.moved(N2, ASKS[1], JOINS, [Send(N2, page)])
    assert pace.taken == []
    assert pace.given == [(N3, TREE_BYTES), (N3, EQUAL_BYTES), (N3, 2 * ENTRY_BYTES + len(b"kvaluegone"))]


def test_a_newcomer_counts_what_it_gets() -> None:
    """The same prices as at the source, so that the stricter of the two holds a copy back."""
    pace = Pace()
    bulk = bulk_of(N3, pace)
    tree = Tree(key(2), UNIT, 9, True, b"")
    bulk.moved(N1, tree, JOINS, [])
    bulk.moved(N1, LeafPage(key(2), UNIT, 9, b"", True, [Entry(b"k", ZERO, b"value")], False), JOINS, [])
    bulk.moved(N1, tree, record(2, JOINT, [N1, N2], [N1, N2, N3]), [])
    assert pace.taken == [EQUAL_BYTES, ENTRY_BYTES + len(b"kvalue")]
    assert pace.given == []

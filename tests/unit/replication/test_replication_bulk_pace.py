"""Which questions a source puts off while moves are held back, and what it counts."""

from __future__ import annotations

from balancer.record import JOINING, JOINT, STABLE
from frys_node.base.types import NodeId
from frys_node.kernel.services.replication import ENTRY_BYTES, Entry
from frys_node.replication.bulk_pace import TREE_BYTES, BulkPace
from frys_node.replication.effects import Send
from frys_node.replication.messages import LeafAsk, LeafPage, Tree, TreeAsk
from frys_node.replication.version import ZERO
from tests.unit.replication.test_replication_machines import N1, N2, N3, UNIT, key, record, write


class Pace:
    """A rate that is at its end, or not, and what was counted."""

    def __init__(self) -> None:
        self.is_free = False
        self.given: list[tuple[NodeId, int]] = []

    def may_give(self) -> bool:
        """As set."""
        return self.is_free

    def gave(self, receiver: NodeId, size_bytes: int) -> None:
        """Note it."""
        self.given.append((receiver, size_bytes))


ASKS = [TreeAsk(key(2), UNIT, 9), LeafAsk(key(2), UNIT, 9, b"\x01", b"", True)]


def test_only_a_newcomers_bulk_is_put_off() -> None:
    """Writes, members' anti-entropy, and the passes of ``joint`` are answered however slow moves have to be."""
    pace = Pace()
    bulk = BulkPace(pace)
    joining = record(2, JOINING, [N1, N2], [N1, N2, N3])
    for ask in ASKS:
        assert bulk.puts_off(N3, ask, joining)
        assert not bulk.puts_off(N2, ask, joining)
        assert not bulk.puts_off(N3, ask, record(2, JOINT, [N1, N2], [N1, N2, N3]))
        assert not bulk.puts_off(N3, ask, record(2, STABLE, [N1, N2]))
        assert not bulk.puts_off(N3, ask, None)
        assert not BulkPace(None).puts_off(N3, ask, joining)
    assert not bulk.puts_off(N3, write(2), joining)
    assert bulk.put_off_count == 2
    pace.is_free = True
    assert not bulk.puts_off(N3, ASKS[0], joining)


def test_trees_and_entries_that_newcomers_get_are_counted() -> None:
    """A tree has a flat price, a page that of its entries; what members get is not counted."""
    pace = Pace()
    bulk = BulkPace(pace)
    joining = record(2, JOINING, [N1, N2], [N1, N2, N3])
    page = LeafPage(key(2), UNIT, 9, b"", True, [Entry(b"k", ZERO, b"value"), Entry(b"gone", ZERO, None)], False)
    bulk.gave(N3, ASKS[0], joining, [Send(N3, Tree(key(2), UNIT, 9, True, b""))])
    bulk.gave(N3, ASKS[1], joining, [Send(N3, page)])
    bulk.gave(N2, ASKS[1], joining, [Send(N2, page)])
    assert pace.given == [(N3, TREE_BYTES), (N3, 2 * ENTRY_BYTES + len(b"kvaluegone"))]

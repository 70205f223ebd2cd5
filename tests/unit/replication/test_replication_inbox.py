"""What other nodes send: writes at once, what compares and moves units in turns, all of it bounded."""

from __future__ import annotations

from collections.abc import Sequence

import trio
from trio.testing import MockClock

from frys_node.base.types import Epoch, NodeId, Term, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.kernel.turns import TURN_S, Turns
from frys_node.observe.metrics import Metrics
from frys_node.replication.inbox import WAITING_MAX, Inbox
from frys_node.replication.messages import MESSAGES, Batch, LeafAsk, LeafPage, ReplicationMessage, Tree, TreeAsk, Write
from frys_node.testing.clock import FakeClock

NODE = NodeId("a" * 32)
EPOCH = Epoch(Term(1, NODE), 7)
UNIT = UnitId("cache/0")
WRITE = Write(EPOCH, UNIT, 1, 1, Version(1, 0, NODE, 1), [(b"k", b"v")])
PULLS: list[ReplicationMessage] = [
    TreeAsk(EPOCH, UNIT, 1, b"r" * 16),
    Tree(EPOCH, UNIT, 1, True, b""),
    LeafAsk(EPOCH, UNIT, 1, b"\1", b"", True),
    LeafPage(EPOCH, UNIT, 1, b"", True, [Entry(b"k", Version(1, 0, NODE, 1), b"v")], False),
]


class Desk:
    """An inbox and what came out of it; every message takes a turn."""

    def __init__(self, clock: MockClock) -> None:
        self.clock = clock
        self.heard: list[ReplicationMessage] = []
        self._heard = trio.Event()
        self.dropped = Metrics().counter("frys_dropped_total", "Dropped.", ("why",))
        self.inbox = Inbox(self._hear, Turns(FakeClock()), self.dropped)

    def _hear(self, source: NodeId, messages: Sequence[ReplicationMessage]) -> None:
        assert source == NODE
        self.heard += messages
        self.clock.jump(TURN_S)
        self._heard.set()

    async def hear(self, count: int) -> None:
        """Run the inbox until so many messages were heard."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.inbox.run)
            with trio.fail_after(1):
                while len(self.heard) < count:
                    self._heard = trio.Event()
                    await self._heard.wait()
            nursery.cancel_scope.cancel()


async def test_the_write_in_a_note_does_not_wait_for_the_pages_before_it(autojump_clock: MockClock) -> None:
    """It is handed out as the note comes; the others later, in their order, and with a rest after each turn."""
    desk = Desk(autojump_clock)
    desk.inbox.take(NODE, MESSAGES.encode(Batch([MESSAGES.encode(one) for one in (*PULLS, WRITE)])))
    assert desk.heard == [WRITE]
    begun_s = trio.current_time()
    await desk.hear(1 + len(PULLS))
    assert desk.heard == [WRITE, *PULLS]
    assert round((trio.current_time() - begun_s) / TURN_S, 3) >= 2 * len(PULLS) - 1


async def test_each_message_of_a_pull_waits_its_turn_also_alone(autojump_clock: MockClock) -> None:
    """All four kinds are known by their first bytes, without being decoded."""
    for message in PULLS:
        desk = Desk(autojump_clock)
        desk.inbox.take(NODE, MESSAGES.encode(message))
        assert desk.heard == []
    desk = Desk(autojump_clock)
    desk.inbox.take(NODE, MESSAGES.encode(WRITE))
    assert desk.heard == [WRITE]


async def test_pulls_beyond_the_bound_are_dropped_and_counted_and_junk_among_them_too(
    autojump_clock: MockClock,
) -> None:
    """Whoever pulls asks again; what cannot be read does not stop what comes behind it."""
    desk = Desk(autojump_clock)
    desk.inbox.take(NODE, MESSAGES.encode(PULLS[0])[:2] + b"\xc1")
    for _ in range(WAITING_MAX):
        desk.inbox.take(NODE, MESSAGES.encode(PULLS[0]))
    assert desk.dropped.values[("pulls",)] == 1
    await desk.hear(1)
    assert desk.dropped.values[("malformed",)] == 1

"""What other nodes send: requests and their answers at once, what compares and moves units in turns.

A note holds up to half a megabyte of messages. A unit's hash tree or a page of its entries takes up to some
milliseconds, and a move brings hundreds of them. They may be late and out of order, as messages may at any time; the
writes that came with them must not wait for them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import trio

from frys_node.base.errors import MalformedFrame
from frys_node.base.types import NodeId
from frys_node.kernel.turns import Turns
from frys_node.observe.metrics import Counter
from frys_node.replication.messages import MESSAGES, Batch, LeafAsk, LeafPage, ReplicationMessage, Tree, TreeAsk

MOVING: Final = frozenset(kind.__struct_config__.tag for kind in (TreeAsk, LeafAsk, Tree, LeafPage))
"""Tags of the messages of pulls: passes, bulk copies of units in memory, refills, anti-entropy."""

WAITING_MAX = 4_096
"""Messages of pulls that wait for their turn; more are dropped, and asked for again. A node has 64 pulls under way."""


class Inbox:
    """Hands messages to the machines, each when it is its turn."""

    def __init__(
        self,
        handle: Callable[[NodeId, Sequence[ReplicationMessage]], None],
        turns: Turns,
        dropped: Counter,
    ) -> None:
        self._handle = handle
        self._turns = turns
        self._dropped = dropped
        self._waiting: deque[tuple[NodeId, bytes]] = deque()
        self._wake = trio.Event()

    def take(self, source: NodeId, payload: bytes) -> None:
        """Take a note of another node; one with junk in it is dropped whole, unless the junk is of a pull."""
        if _is_moving(payload):
            self._queue(source, payload)
            return
        try:
            found = MESSAGES.decode(payload)
            if not isinstance(found, Batch):
                self._handle(source, (found,))
                return
            urgent = [MESSAGES.decode(part) for part in found.parts if not _is_moving(part)]
        except MalformedFrame:
            self._dropped.inc("malformed")
            return
        for part in found.parts:
            if _is_moving(part):
                self._queue(source, part)
        if urgent:
            self._handle(source, [message for message in urgent if not isinstance(message, Batch)])

    def _queue(self, source: NodeId, part: bytes) -> None:
        if len(self._waiting) >= WAITING_MAX:
            self._dropped.inc("pulls")
            return
        self._waiting.append((source, part))
        self._wake.set()

    async def run(self) -> None:
        """Hand out what waits, until cancelled."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                while self._waiting:
                    async with self._turns.turn():
                        self._work()
        finally:
            self._waiting.clear()

    def _work(self) -> None:
        """Hand out one message, and more while the turn lasts."""
        while self._waiting:
            source, part = self._waiting.popleft()
            try:
                message = MESSAGES.decode(part)
            except MalformedFrame:
                self._dropped.inc("malformed")
                continue
            if not isinstance(message, Batch):
                self._handle(source, (message,))
            if self._turns.is_over:
                return


def _is_moving(part: bytes) -> bool:
    """Return whether an encoded message is of a pull, without decoding it: a short array that begins with its tag."""
    return len(part) > 1 and part[0] & 0xF0 == 0x90 and part[1] in MOVING

"""Bulk copies that go by messages (units in memory) keep to the rate of moves, at both ends.

Sans-I/O. A source puts a newcomer's question off by not answering it, and a newcomer one that it would ask too early by
not sending it: it asks again after a pause that grows, and asks for other units meanwhile. Only the bulk of ``joining``
is held back. Passes, refills and anti-entropy are not: quorums or readers wait for them.

What others ask of this node's replicas is noted on the way, for a node may serve nobody but other nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from balancer.placement import Placement
from balancer.record import JOINING
from frys_node.base.types import NodeId, UnitId
from frys_node.replication.effects import Effect, Send
from frys_node.replication.messages import LeafAsk, LeafPage, Read, ReplicationMessage, Scan, Tree, TreeAsk, Write

TREE_BYTES = 16 << 10
"""What making and sending a unit's hash tree counts for."""

EQUAL_BYTES = 2 << 10
"""The same where both hold the same, mostly nothing: an empty cache should not keep a newcomer for seconds."""


class MovePace(Protocol):
    """The rate of moves on this node (`Snapshots` has it)."""

    def may_give(self) -> bool:
        """True unless what was given already has to be paid for first, or moves stand still."""
        ...

    def gave(self, receiver: NodeId, size_bytes: int) -> None:
        """Count bytes given beside a snapshot."""
        ...

    def may_take(self) -> bool:
        """True unless what was taken already has to be paid for first, or moves stand still."""
        ...

    def took(self, size_bytes: int) -> None:
        """Count bytes taken beside a snapshot."""
        ...

    def asked(self) -> None:
        """A node asks for what somebody waits for."""
        ...


class BulkPace:
    """Decides which questions of newcomers are answered now, and which of this node's own are asked."""

    def __init__(self, node: NodeId, pace: MovePace | None, asked: Callable[[], None]) -> None:
        """`asked` is called with each question of a coordinator, whatever the pace."""
        self._node = node
        self._pace = pace
        self._asked = asked

    def puts_off(self, source: NodeId, message: ReplicationMessage, placement: Placement | None) -> bool:
        """Return whether a message is a newcomer's question that has to wait."""
        if isinstance(message, Write | Read | Scan):
            self._asked()
            if self._pace is not None and source != self._node:
                self._pace.asked()
            return False
        pace = self._pace
        return pace is not None and _asks_for_bulk(source, message, placement) and not pace.may_give()

    def keeps_back(self, message: ReplicationMessage, placement: Placement | None) -> bool:
        """Return whether a message of this node is a newcomer's question that is not asked yet."""
        pace = self._pace
        return pace is not None and _asks_for_bulk(self._node, message, placement) and not pace.may_take()

    def moved(
        self, source: NodeId, message: ReplicationMessage, placement: Placement | None, answers: Sequence[Effect]
    ) -> None:
        """Count what the answers to a newcomer's question are, or the answer to one of this node's own."""
        if self._pace is None:
            return
        if isinstance(message, Tree | LeafPage):
            if _joins(self._node, message.unit, placement):
                self._pace.took(_bytes_of(message))
        elif _asks_for_bulk(source, message, placement):
            for answer in answers:
                if isinstance(answer, Send) and isinstance(answer.message, Tree | LeafPage):
                    self._pace.gave(source, _bytes_of(answer.message))


def _asks_for_bulk(node: NodeId, message: ReplicationMessage, placement: Placement | None) -> bool:
    """Return whether a message of that node asks for the bulk of a unit that it joins."""
    return isinstance(message, TreeAsk | LeafAsk) and _joins(node, message.unit, placement)


def _joins(node: NodeId, unit: UnitId, placement: Placement | None) -> bool:
    if placement is None or placement.record.phase != JOINING or unit not in placement:
        return False
    return node not in placement.sets(unit).current


def _bytes_of(message: Tree | LeafPage) -> int:
    if isinstance(message, Tree):
        return TREE_BYTES if message.leaves else EQUAL_BYTES
    return sum(entry.size_bytes for entry in message.entries)

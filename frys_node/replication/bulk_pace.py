"""Bulk copies that go by messages (units in memory) keep to the rate of moves, at the source.

Sans-I/O. A newcomer's question is put off by not being answered: it asks again after a pause that grows, and asks for
other units meanwhile. Only the bulk of ``joining`` is held back. Passes, refills and anti-entropy are not: quorums or
readers wait for them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from balancer.placement import Placement
from balancer.record import JOINING
from frys_node.base.types import NodeId
from frys_node.kernel.services.replication import ENTRY_BYTES
from frys_node.replication.effects import Effect, Send
from frys_node.replication.messages import LeafAsk, LeafPage, ReplicationMessage, TreeAsk

TREE_BYTES = 16 << 10
"""What making and sending a unit's hash tree counts for."""


class MovePace(Protocol):
    """The rate of moves on this node (`Snapshots` has it)."""

    def may_give(self) -> bool:
        """True unless what was given already has to be paid for first, or moves stand still."""
        ...

    def gave(self, receiver: NodeId, size_bytes: int) -> None:
        """Count bytes given beside a snapshot."""
        ...


class BulkPace:
    """Decides which questions of newcomers are answered now."""

    def __init__(self, pace: MovePace | None) -> None:
        self._pace = pace
        self.put_off_count = 0

    def puts_off(self, source: NodeId, message: ReplicationMessage, placement: Placement | None) -> bool:
        """Return whether a message is a newcomer's question that has to wait."""
        if self._pace is None or not _is_bulk(source, message, placement) or self._pace.may_give():
            return False
        self.put_off_count += 1
        return True

    def gave(
        self, receiver: NodeId, message: ReplicationMessage, placement: Placement | None, answers: Sequence[Effect]
    ) -> None:
        """Count what the answers to a newcomer's question are."""
        if self._pace is None or not _is_bulk(receiver, message, placement):
            return
        for answer in answers:
            if isinstance(answer, Send) and isinstance(answer.message, LeafPage):
                entries = answer.message.entries
                size_bytes = sum(ENTRY_BYTES + len(each.key) + len(each.value or b"") for each in entries)
                self._pace.gave(receiver, size_bytes)
            elif isinstance(answer, Send):
                self._pace.gave(receiver, TREE_BYTES)


def _is_bulk(source: NodeId, message: ReplicationMessage, placement: Placement | None) -> bool:
    """Return whether a node that joins a unit asks for its bulk."""
    if not isinstance(message, TreeAsk | LeafAsk) or placement is None or placement.record.phase != JOINING:
        return False
    return message.unit in placement and source not in placement.sets(message.unit).current

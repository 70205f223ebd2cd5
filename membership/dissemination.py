"""The piggyback queue: which updates ride in the next packet.

Sans-I/O. The least-sent update goes first and, among equals, the newest; a newer update about a node replaces the
older one; each is sent `limit` times and then forgotten (SWIM's infection style, so O(log n) rounds reach everyone).
"""

from __future__ import annotations

import math
from bisect import insort

from frys_node.base.types import NodeId
from membership.messages import UPDATES, Update


def transmit_limit(multiplier: int, live_count: int) -> int:
    """Return how often one node sends one update: multiplier * ceil(log10(n + 1))."""
    return multiplier * math.ceil(math.log10(live_count + 1)) if live_count > 0 else multiplier


class _Entry:
    """A queued update; `order` sorts by fewest transmits, then newest."""

    __slots__ = ("order", "size_bytes", "transmits", "update")

    def __init__(self, update: Update, sequence: int) -> None:
        self.update = update
        self.size_bytes = len(UPDATES.encode(update))
        self.transmits = 0
        self.order = (0, -sequence)

    def __lt__(self, other: _Entry) -> bool:
        return self.order < other.order


class Dissemination:
    """Updates waiting to be passed on, at most one per node."""

    __slots__ = ("_by_node", "_queue", "_sequence", "_size_bytes_max", "oversized")

    def __init__(self, size_bytes_max: int) -> None:
        self._by_node: dict[NodeId, _Entry] = {}
        self._queue: list[_Entry] = []
        self._sequence = 0
        self._size_bytes_max = size_bytes_max
        self.oversized = 0
        """Updates that fit into no packet; they travel by push-pull alone."""

    def __len__(self) -> int:
        return len(self._by_node)

    def put(self, update: Update) -> None:
        """Queue an update in place of any older one about the same node."""
        self._sequence += 1
        entry = _Entry(update, self._sequence)
        if entry.size_bytes > self._size_bytes_max:
            self.oversized += 1
            self.drop(update.node)
            return
        self.drop(update.node)
        self._by_node[update.node] = entry
        insort(self._queue, entry)

    def drop(self, node: NodeId) -> None:
        """Forget what is queued about a node."""
        old = self._by_node.pop(node, None)
        if old is not None:
            self._queue.remove(old)

    def take(self, budget_bytes: int, limit: int, count_max: int, skip: tuple[NodeId, ...] = ()) -> list[Update]:
        """Return the updates for one packet and count them as sent.

        Args:
            budget_bytes: Room in the packet.
            limit: Transmits after which an update is forgotten.
            count_max: Most updates that one message may carry.
            skip: Nodes that the packet speaks about already.
        """
        if not self._queue:
            return []
        taken: list[_Entry] = []
        for entry in self._queue:
            if len(taken) >= count_max:
                break
            if entry.size_bytes <= budget_bytes and entry.update.node not in skip:
                budget_bytes -= entry.size_bytes
                taken.append(entry)
        if not taken:
            return []
        sent = {id(entry) for entry in taken}
        self._queue = [entry for entry in self._queue if id(entry) not in sent]
        for entry in taken:
            entry.transmits += 1
            if entry.transmits >= limit:
                del self._by_node[entry.update.node]
            else:
                entry.order = (entry.transmits, entry.order[1])
                insort(self._queue, entry)
        return [entry.update for entry in taken]

"""The piggyback queue: which updates ride in the next packet, and in which form.

Sans-I/O. The least-sent update goes first and, among equals, the newest; a newer update about a node replaces the
older one; each is sent `limit` times and then forgotten (SWIM's infection style, so O(log n) rounds reach everyone).
One that no packet can hold whole goes without the member's attributes (`membership.briefs`).
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort

from frys_node.base.types import NodeId
from membership.briefs import BRIEFS, brief_of
from membership.messages import UPDATES, Brief, Update

PACKET_CLAIMS = 5
"""What a packet holds of signed claims, about: three less than before they were signed."""


def transmit_limit(multiplier: int, live_count: int) -> int:
    """Return how often one node sends one update: multiplier * ceil(log10(n + 1))."""
    return multiplier * math.ceil(math.log10(live_count + 1)) if live_count > 0 else multiplier


class _Entry:
    """A queued claim, how large it is and how often it was sent."""

    __slots__ = ("claim", "key", "size_bytes")

    def __init__(self, claim: Update | Brief, size_bytes: int, sequence: int) -> None:
        self.claim = claim
        self.size_bytes = size_bytes
        self.key = (0, -sequence)
        """Transmits, then newest first; no two entries have the same."""


_Queued = tuple[tuple[int, int], _Entry]
"""Sorted by the key alone, because no two are equal."""


class Dissemination:
    """Updates waiting to be passed on, at most one per node."""

    __slots__ = ("_by_node", "_queue", "_sequence", "_size_bytes_max", "_size_bytes_min")

    def __init__(self, size_bytes_max: int) -> None:
        self._by_node: dict[NodeId, _Entry] = {}
        self._queue: list[_Queued] = []
        self._sequence = 0
        self._size_bytes_max = size_bytes_max
        self._size_bytes_min = size_bytes_max
        """No update ever queued was smaller: with less room than this there is no need to look."""

    def __len__(self) -> int:
        return len(self._by_node)

    def fanout(self, usual: int) -> int:
        """Return how many members a round of gossip tells: twice as many while one packet does not hold it all."""
        return 2 * usual if len(self) > PACKET_CLAIMS else usual

    def put(self, update: Update) -> None:
        """Queue an update in place of any older one about the same node."""
        self._sequence += 1
        claim: Update | Brief = update
        size_bytes = len(UPDATES.encode(update))
        self.drop(update.node)
        if size_bytes > self._size_bytes_max:
            claim = brief_of(update)
            size_bytes = len(BRIEFS.encode(claim))
        self._size_bytes_min = min(self._size_bytes_min, size_bytes)
        entry = self._by_node[update.node] = _Entry(claim, size_bytes, self._sequence)
        insort(self._queue, (entry.key, entry))

    def drop(self, node: NodeId) -> None:
        """Forget what is queued about a node."""
        old = self._by_node.pop(node, None)
        if old is not None:
            del self._queue[bisect_left(self._queue, (old.key,))]

    def take(
        self, budget_bytes: int, limit: int, count_max: int, skip: tuple[NodeId, ...] = ()
    ) -> list[Update | Brief]:
        """Return the claims for one packet and count them as sent.

        Args:
            budget_bytes: Room in the packet.
            limit: Transmits after which an update is forgotten.
            count_max: Most updates that one message may carry.
            skip: Nodes that the packet speaks about already.
        """
        taken: list[_Entry] = []
        passed: list[_Queued] = []
        looked_at = 0
        # A queue of thousands (a cluster that starts) is not walked to its end for a packet that is full.
        for queued in self._queue:
            if len(taken) >= count_max or budget_bytes < self._size_bytes_min:
                break
            looked_at += 1
            entry = queued[1]
            if entry.size_bytes <= budget_bytes and entry.claim.node not in skip:
                budget_bytes -= entry.size_bytes
                taken.append(entry)
            else:
                passed.append(queued)
        if not taken:
            return []
        self._queue[:looked_at] = passed
        for entry in taken:
            transmits, age = entry.key
            if transmits + 1 >= limit:
                del self._by_node[entry.claim.node]
            else:
                entry.key = (transmits + 1, age)
                insort(self._queue, (entry.key, entry))
        return [entry.claim for entry in taken]

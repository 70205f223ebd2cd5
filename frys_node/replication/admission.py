"""Requests made under another record than the one in force here.

Sans-I/O. A request under an older record is refused, always: that refusal is what makes the fence of replication rule
10 true. One under a newer record only comes early: its sender has made durable what this node is about to. It is
refused as well, so that the sender shares the record, and kept for the adoption, where it is served like a message that
was late on its way: without that a writer waits out a pause whenever a quorum is slower to adopt than its coordinator.
What other replicas ask of their own accord is not kept: they ask again, at the pace that moves are held to.
"""

from __future__ import annotations

from collections import deque

from frys_node.base.types import Epoch, NodeId
from frys_node.replication.effects import Effect, Send, ShareRecord, WantRecord
from frys_node.replication.messages import (
    LeafAsk,
    Purge,
    Read,
    Refused,
    Repair,
    ReplicaRequest,
    Scan,
    Seal,
    TreeAsk,
    Write,
)
from frys_node.replication.version import sent_bytes

EarlyRequest = Write | Read | Scan | Repair

EARLY_MAX = 1_024
"""Requests kept for the adoption of a newer record; of more the first are forgotten, and their senders ask again."""

EARLY_BYTES_MAX = 8 << 20
"""What the keys and values of those may take."""


class Admission:
    """Refuses requests under another record and keeps those that only came early."""

    def __init__(self) -> None:
        self.refused_count = 0
        self.early_count = 0
        self._early: deque[tuple[NodeId, EarlyRequest, int]] = deque()
        self._early_bytes = 0

    def __len__(self) -> int:
        return len(self._early)

    def refuse(self, source: NodeId, message: ReplicaRequest, mine: Epoch | None) -> list[Effect]:
        """Refuse a request, and help whichever of the two records is older."""
        self.refused_count += 1
        if isinstance(message, Seal | Purge):
            return []  # bound to the record: the leader begins anew
        request = 0 if isinstance(message, TreeAsk | LeafAsk) else message.request
        attempt = message.attempt if isinstance(message, Write | Read | Scan) else 0
        effects: list[Effect] = [Send(source, Refused(mine, message.unit, request, attempt))]
        if mine is None or mine < message.epoch:
            if isinstance(message, Write | Read | Scan | Repair):
                self._keep(source, message)
            effects.append(WantRecord(source))
        elif mine > message.epoch:
            effects.append(ShareRecord(source))
        return effects

    def _keep(self, source: NodeId, message: EarlyRequest) -> None:
        size = _size(message)
        self._early.append((source, message, size))
        self._early_bytes += size
        while len(self._early) > EARLY_MAX or self._early_bytes > EARLY_BYTES_MAX:
            self._early_bytes -= self._early.popleft()[2]

    def take(self, epoch: Epoch) -> list[tuple[NodeId, EarlyRequest]]:
        """Return, in order of arrival, what came early for the record adopted now; for later ones it stays here."""
        now = [(source, message) for source, message, _size in self._early if message.epoch == epoch]
        self.early_count += len(now)
        self._early = deque(kept for kept in self._early if kept[1].epoch > epoch)
        self._early_bytes = sum(size for _source, _message, size in self._early)
        return now


def _size(message: EarlyRequest) -> int:
    """Return about how many bytes of keys and values a request holds."""
    if isinstance(message, Write):
        return sum(len(key) + len(value or b"") for key, value in message.items)
    if isinstance(message, Read):
        return sum(map(len, message.keys))
    return sum(map(sent_bytes, message.entries)) if isinstance(message, Repair) else 0

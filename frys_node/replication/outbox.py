"""Messages to other nodes: those of one turn of the event loop for one node leave together.

A pipeline that writes many units asks the same few replicas once for each; sent one by one they cost a frame, a
wake-up and a reply each. What one turn has produced goes out at the end of it, so nothing waits for a timer.
"""

from __future__ import annotations

import trio

from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Rpc
from frys_node.observe.metrics import Counter
from frys_node.replication.messages import ITEMS_BYTES_MAX, MESSAGES, Batch, ReplicationMessage

PART_OVERHEAD_BYTES = 5
"""What MessagePack puts in front of a part."""


class Outbox:
    """The messages of a turn, by node."""

    def __init__(self, rpc: Rpc, note: str, dropped: Counter) -> None:
        self._rpc = rpc
        self._note = note
        self._dropped = dropped
        self._parts: dict[NodeId, list[bytes]] = {}
        self._wake = trio.Event()
        self.messages_count = 0
        self.notes_count = 0

    def add(self, node: NodeId, message: ReplicationMessage) -> None:
        """Queue a message until the end of the turn."""
        self._parts.setdefault(node, []).append(MESSAGES.encode(message))
        self._wake.set()

    async def run(self) -> None:
        """Send until cancelled."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            self.flush()

    def flush(self) -> None:
        """Send what is queued."""
        queued, self._parts = self._parts, {}
        for node, parts in queued.items():
            for batch in _cut(parts):
                self.messages_count += len(batch)
                self.notes_count += 1
                payload = batch[0] if len(batch) == 1 else MESSAGES.encode(Batch(batch))
                if not self._rpc.note(node, self._note, payload):
                    self._dropped.inc("unsent", by=len(batch))


def _cut(parts: list[bytes]) -> list[list[bytes]]:
    """Cut the parts for one node into batches of at most ITEMS_BYTES_MAX, one part at least."""
    batches: list[list[bytes]] = [[]]
    size_bytes = 0
    for part in parts:
        if batches[-1] and size_bytes + len(part) > ITEMS_BYTES_MAX:
            batches.append([])
            size_bytes = 0
        batches[-1].append(part)
        size_bytes += len(part) + PART_OVERHEAD_BYTES
    return batches

"""Messages to other nodes: those of one turn of the event loop for one node leave together.

A pipeline that writes many units asks the same few replicas once for each; sent one by one they cost a frame, a
wake-up and a reply each. What one turn has produced goes out at the end of it, so nothing waits for a timer.

Every message is built to fit a frame. One that does not all the same is dropped and told: whoever waits for it asks
again and fails in the end, and the node goes on.
"""

from __future__ import annotations

import logging

import trio

from frys_node.base.errors import FrameTooLarge, FrysError
from frys_node.base.types import NodeId
from frys_node.kernel.services.rpc import Rpc
from frys_node.observe.metrics import Counter
from frys_node.replication.batches import batches
from frys_node.replication.messages import MESSAGES, Batch, ReplicationMessage

_log = logging.getLogger(__name__)


class Outbox:
    """The messages of a turn, by node."""

    def __init__(self, rpc: Rpc, note: str, dropped: Counter) -> None:
        self._rpc = rpc
        self._note = note
        self._dropped = dropped
        self._parts: dict[NodeId, list[bytes]] = {}
        self._wake = trio.Event()
        self._told: set[str] = set()
        """Kinds of messages that were too large once: each is logged once."""
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
            for batch in batches(parts):
                self.messages_count += len(batch)
                self.notes_count += 1
                payload = batch[0] if len(batch) == 1 else MESSAGES.encode(Batch(batch))
                try:
                    if not self._rpc.note(node, self._note, payload):
                        self._dropped.inc("unsent", by=len(batch))
                except FrameTooLarge as error:
                    self._dropped.inc("too_large", by=len(batch))
                    self._tell(node, batch[0], error)
                except FrysError:
                    self._dropped.inc("unsent", by=len(batch))

    def _tell(self, node: NodeId, part: bytes, error: FrameTooLarge) -> None:
        message = MESSAGES.decode(part)
        kind = type(message).__name__
        if kind not in self._told and not isinstance(message, Batch):
            self._told.add(kind)
            _log.error(
                "replication.message_too_large",
                extra={"kind": kind, "unit": message.unit, "to": node, "error": error.message, "is_told": "once"},
            )

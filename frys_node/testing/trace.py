"""The record of a simulated run: a digest of every input, and the last ones in readable form.

Sans-I/O. Two runs with the same seed and code have the same digest, in any process and under any hash seed; where
they differ, something iterated a set, read a clock or drew from a generator that was not its own.
"""

from __future__ import annotations

import hashlib
import struct
from collections import deque
from typing import NamedTuple

TAIL_MAX = 60
"""Events kept for the report of a failed run."""

_BATCH = 512
_HEAD = struct.Struct("<dHBI")


class TraceEvent(NamedTuple):
    """One input of one node, or a verb of the simulator (then `node` is empty)."""

    at_s: float
    node: str
    kind: str
    detail: str

    def __str__(self) -> str:
        return f"{self.at_s:12.6f}  {self.node or '-':<10} {self.kind:<8} {self.detail}"


class Trace:
    """Hashes events in batches; keeps the last few as text only when asked to."""

    __slots__ = ("_hash", "_pending", "events", "tail")

    def __init__(self, *, keep_tail: bool = False) -> None:
        self._hash = hashlib.blake2b(digest_size=16)
        self._pending: list[bytes] = []
        self.events = 0
        self.tail: deque[TraceEvent] | None = deque(maxlen=TAIL_MAX) if keep_tail else None

    def record(self, at_s: float, node: int, kind: int, data: bytes, source: int = 0) -> None:
        """Add one event; nodes by their index."""
        self.events += 1
        pending = self._pending
        pending.append(_HEAD.pack(at_s, node, kind, source) + data)
        if len(pending) >= _BATCH:
            self._hash.update(b"".join(pending))
            pending.clear()

    def note(self, event: TraceEvent) -> None:
        """Keep a readable event, if this trace keeps any."""
        if self.tail is not None:
            self.tail.append(event)

    @property
    def digest(self) -> str:
        """Hex digest of everything recorded so far."""
        self._hash.update(b"".join(self._pending))
        self._pending.clear()
        return self._hash.hexdigest()

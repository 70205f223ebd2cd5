"""Asks one node the same kind of question all the time and keeps what happened: the latency strip."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from typing import NamedTuple

from frys_node.base.errors import FrysError
from frys_node.demo.cluster import NodeProcess
from frys_node.demo.console import Console, block_of
from frys_node.demo.digits import Digit

PAUSE_S = 0.015
SHOWN = 60


class Sample(NamedTuple):
    """One request: when it was sent, how long it took (None: it failed), on the monotonic clock."""

    sent_s: float
    latency_s: float | None


class Strip(threading.Thread):
    """Queries in the background from start to `finish`."""

    def __init__(self, node: NodeProcess, collection: str, queries: Sequence[Digit], console: Console) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self.caption = ""
        self._node, self._path, self._queries, self._console = node, _query_path(collection), queries, console
        self._end = threading.Event()

    def run(self) -> None:
        """Query until told to end; draw the last requests as one line."""
        number = 0
        while not self._end.is_set():
            digit = self._queries[number % len(self._queries)]
            number += 1
            sent = time.monotonic()
            try:
                self._node.call("POST", self._path, {"query": list(digit.pixels), "limit": 3})
                latency = time.monotonic() - sent
            except FrysError:
                latency = None
            self.samples.append(Sample(sent, latency))
            if self.caption:
                shown = "".join(
                    block_of(None if s.latency_s is None else s.latency_s * 1e3) for s in self.samples[-SHOWN:]
                )
                self._console.progress(f"  {shown} {self.caption}", key=self.caption)
            self._end.wait(PAUSE_S)

    def finish(self) -> None:
        """End and wait for the request in flight."""
        self._end.set()
        self.join()

    def gap_ms(self, since_s: float) -> float:
        """Return the longest time without an answer after an instant: between one answer's end and the next one's."""
        answered = [s.sent_s + s.latency_s for s in self.samples if s.latency_s is not None]
        after = [instant for instant in answered if instant >= since_s]
        before = [instant for instant in answered if instant < since_s]
        points = [*(before[-1:] or [since_s]), *after]
        return max((b - a for a, b in itertools.pairwise(points)), default=0.0) * 1e3

    def failed(self, since_s: float) -> int:
        """Return how many requests sent after an instant failed."""
        return sum(1 for s in self.samples if s.sent_s >= since_s and s.latency_s is None)


def _query_path(collection: str) -> str:
    return f"/collections/{collection}/points/query"

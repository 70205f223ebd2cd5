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
SHOWN = 44
KILLED = "|"
"""Stands in the strip where the node was killed."""


class Sample(NamedTuple):
    """One request: when it was sent, how long it took (None: it failed), on the monotonic clock."""

    sent_s: float
    latency_s: float | None


class Strip(threading.Thread):
    """Queries in the background from start to `finish`."""

    def __init__(self, node: NodeProcess, collection: str, queries: Sequence[Digit], console: Console) -> None:
        super().__init__(daemon=True)
        self.samples: list[Sample] = []
        self.killed_s: float | None = None
        self._node, self._path, self._queries, self._console = node, _query_path(collection), queries, console
        self._end = threading.Event()

    def run(self) -> None:
        """Query until told to end; the last requests lead the console's progress line."""
        self._console.lead = self.line
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
            self._console.redraw()
            self._end.wait(PAUSE_S)

    def finish(self) -> None:
        """End and wait for the request in flight."""
        self._end.set()
        self.join()
        self._console.lead = None

    def line(self, shown: int = SHOWN) -> str:
        """Return the last requests as one line of blocks, with a mark where the node was killed."""
        text = ""
        samples = self.samples[-shown:]
        is_marked = self.killed_s is None or (len(samples) > 0 and samples[0].sent_s >= self.killed_s)
        for sample in samples:
            if not is_marked and self.killed_s is not None and sample.sent_s >= self.killed_s:
                text, is_marked = text + KILLED, True
            text += block_of(None if sample.latency_s is None else sample.latency_s * 1e3)
        return text

    def around_kill(self) -> str:
        """Return the strip from a dozen requests before the kill on."""
        killed = self.killed_s or 0.0
        after = sum(sample.sent_s >= killed for sample in self.samples)
        return self.line(after + 12)[:SHOWN]

    def gap_ms(self, since_s: float, until_s: float) -> float:
        """Return the longest time without an answer between two instants, from one answer's end to the next one's.

        The end counts as an answer: a service that fell silent and stayed so has a gap, not none.
        """
        answered = [s.sent_s + s.latency_s for s in self.samples if s.latency_s is not None]
        after = [instant for instant in answered if since_s <= instant < until_s]
        before = [instant for instant in answered if instant < since_s]
        points = [*(before[-1:] or [since_s]), *after, until_s]
        return max(b - a for a, b in itertools.pairwise(points)) * 1e3

    def failed(self, since_s: float) -> int:
        """Return how many requests sent after an instant failed."""
        return sum(1 for s in self.samples if s.sent_s >= since_s and s.latency_s is None)


def _query_path(collection: str) -> str:
    return f"/collections/{collection}/points/query"

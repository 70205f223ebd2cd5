"""Clients that never stop: one kind of request each, at a steady pace, on one connection, with what became of each."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from frys_node.bench.runner import percentile

TIMEOUT_S = 30.0


class Request(NamedTuple):
    """What a client sends."""

    method: str
    path: str
    body: bytes
    content_type: str = "application/json"
    ok: tuple[int, ...] = (200,)
    """Statuses that are no failure."""


class Sample(NamedTuple):
    """One request: when it was sent, how long it took, and its status (0: no answer)."""

    sent_s: float
    latency_s: float
    status: int
    is_ok: bool


class Client(threading.Thread):
    """Sends requests of one kind from `start` to `finish`."""

    def __init__(self, name: str, port: int, pace_s: float, next_request: Callable[[int], Request]) -> None:
        super().__init__(name=name, daemon=True)
        self.samples: list[Sample] = []
        self._port = port
        self._pace_s = pace_s
        self._next = next_request
        self._end = threading.Event()

    def run(self) -> None:
        """Send, and note what came of it; a connection that broke is made anew for the next request."""
        connection = self._connect()
        number = 0
        due_s = time.monotonic()
        while not self._end.is_set():
            request = self._next(number)
            number += 1
            sent_s = time.monotonic()
            try:
                connection.request(request.method, request.path, request.body, {"Content-Type": request.content_type})
                response = connection.getresponse()
                response.read()
                status = response.status
            except (OSError, http.client.HTTPException):
                connection.close()
                connection, status = self._connect(), 0
            now_s = time.monotonic()
            self.samples.append(Sample(sent_s, now_s - sent_s, status, status in request.ok))
            # What fell due while an answer was late is not caught up with: a client waits, it does not storm.
            due_s = max(due_s + self._pace_s, now_s)
            self._end.wait(due_s - now_s)
        connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)

    def finish(self) -> None:
        """End behind the request in flight."""
        self._end.set()
        self.join()


class Span(NamedTuple):
    """A stretch of time, on the monotonic clock."""

    begun_s: float
    ended_s: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.ended_s - self.begun_s

    def of(self, samples: Sequence[Sample]) -> list[Sample]:
        """Return the requests that were on their way within it."""
        return [s for s in samples if s.sent_s < self.ended_s and s.sent_s + s.latency_s >= self.begun_s]


def failed(samples: Sequence[Sample]) -> int:
    """Return how many got no answer, or one that is an error."""
    return sum(not sample.is_ok for sample in samples)


def p99_ms(samples: Sequence[Sample]) -> float:
    """Return the 99th percentile of latencies; 0 without requests."""
    return percentile([sample.latency_s for sample in samples], 99) * 1e3 if samples else 0.0


def pause_ms(samples: Sequence[Sample]) -> float:
    """Return the longest wait for one answer; 0 without requests."""
    return max((sample.latency_s for sample in samples), default=0.0) * 1e3

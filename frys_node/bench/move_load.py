"""Clients that never stop: one kind of request each, at a steady pace, with what became of each.

Plain ones speak HTTP to one node, on one connection. Those of the library are the shipped `frys_node.client`, which
goes to the owner of what it asks for, learns from answers that the ring has changed, and then goes elsewhere.
"""

from __future__ import annotations

import http.client
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

from frys_node.base.errors import FrysError
from frys_node.base.types import Address
from frys_node.bench.runner import percentile
from frys_node.client.blocking import SyncEngine, SyncServices
from frys_node.client.core import Core
from frys_node.client.pool import CONNECTIONS_MAX
from frys_node.client.settings import TIMEOUT_S as OPERATION_S

TIMEOUT_S = 30.0
"""For the answer to a plain client."""

ERRORS_KEPT = 3
"""Texts of failures that a client keeps, to tell why."""


class Request(NamedTuple):
    """What a plain client sends."""

    method: str
    path: str
    body: bytes
    content_type: str = "application/json"
    ok: tuple[int, ...] = (200,)
    """Statuses that are no failure."""
    on_ok: Callable[[], None] | None = None
    """Called once it was answered well."""


class Sample(NamedTuple):
    """One request: when it was sent, how long it took, whether it was answered well, by whom, after how many tries."""

    sent_s: float
    latency_s: float
    is_ok: bool
    port: int = 0
    """Of the node that gave the answer; 0: none did."""
    tries: int = 1


class Client(threading.Thread, ABC):
    """Sends requests of one kind from `start` to `finish`."""

    def __init__(self, name: str, group: str, pace_s: float) -> None:
        """`group` says where it enters the cluster; figures are told for each group."""
        super().__init__(name=name, daemon=True)
        self.group = group
        self.samples: list[Sample] = []
        self.errors: list[str] = []
        self._pace_s = pace_s
        self._end = threading.Event()
        self._late_s = 0.0

    @abstractmethod
    def send(self, number: int) -> tuple[bool, int, int]:
        """Make one request; returns whether it was answered well, by which port, and the tries."""

    @abstractmethod
    def close(self) -> None:
        """Close the connections."""

    def begin(self, late_s: float) -> None:
        """Start so much later than now."""
        self._late_s = late_s
        self.start()

    def run(self) -> None:
        """Send, and note what came of it."""
        number = 0
        due_s = time.monotonic() + self._late_s
        self._end.wait(self._late_s)
        while not self._end.is_set():
            sent_s = time.monotonic()
            outcome = self.send(number)
            now_s = time.monotonic()
            self.samples.append(Sample(sent_s, now_s - sent_s, *outcome))
            number += 1
            # What fell due while an answer was late is not caught up with: a client waits, it does not storm.
            due_s = max(due_s + self._pace_s, now_s)
            self._end.wait(due_s - now_s)
        self.close()

    def note(self, text: str) -> None:
        """Keep why a request failed."""
        if len(self.errors) < ERRORS_KEPT:
            self.errors.append(text)

    def finish(self) -> None:
        """End behind the request in flight; one that was never started has none."""
        self._end.set()
        if self.ident is not None:
            self.join()


class PlainClient(Client):
    """Speaks HTTP to one node; a connection that broke is made anew for the next request."""

    def __init__(self, name: str, group: str, pace_s: float, port: int, next_request: Callable[[int], Request]) -> None:
        super().__init__(name, group, pace_s)
        self._port = port
        self._next = next_request
        self._connection = self._connect()

    def send(self, number: int) -> tuple[bool, int, int]:
        """Make one request."""
        request = self._next(number)
        try:
            headers = {"Content-Type": request.content_type}
            self._connection.request(request.method, request.path, request.body, headers)
            response = self._connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            self._connection = self._connect()
            self.note(f"no answer: {error}")
            return False, 0, 1
        if response.status not in request.ok:
            self.note(f"HTTP {response.status}: {body[:200].decode(errors='replace')}")
            return False, self._port, 1
        if request.on_ok is not None:
            request.on_ok()
        return True, self._port, 1

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=TIMEOUT_S)


class _Noting(Core):
    """What a client knows, who answered it last, and in how many flights."""

    port = 0
    tries = 0

    def learn(self, data: bytes, now_s: float) -> None:
        """Take a table; asking for that was no try of the operation."""
        self.tries -= 1
        super().learn(data, now_s)

    def works(self, address: Address) -> None:
        """Note that a node answered."""
        self.port = address.port
        self.tries += 1
        super().works(address)

    def failed(self, address: Address, now_s: float) -> None:
        """Note that a node did not answer."""
        self.tries += 1
        super().failed(address, now_s)


class LibraryClient(Client):
    """The blocking client as it is shipped, told of one node; it learns of the others."""

    def __init__(
        self, name: str, group: str, pace_s: float, port: int, operation: Callable[[SyncServices, int], None]
    ) -> None:
        """`operation` carries out number so-and-so, and raises `FrysError` where it failed."""
        super().__init__(name, group, pace_s)
        self._core = _Noting([Address("127.0.0.1", port)])
        self._engine = SyncEngine(self._core, "", OPERATION_S, CONNECTIONS_MAX)
        self._services = SyncServices(self._engine)
        self._operation = operation

    def send(self, number: int) -> tuple[bool, int, int]:
        """Carry out one operation."""
        self._core.port = self._core.tries = 0
        try:
            self._operation(self._services, number)
        except FrysError as error:
            self.note(f"{error.code}: {error}")
            return False, self._core.port, self._core.tries
        return True, self._core.port, self._core.tries

    def close(self) -> None:
        """Close the connections."""
        self._engine.close()


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

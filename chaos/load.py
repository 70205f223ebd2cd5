"""A bounded load through plain HTTP on several nodes, recording every operation for the checker.

Writers put batches of points and single cache values, new ones and overwrites, each under a version that only grows per
key; readers ask for acknowledged points at quorum. A request that fails or times out has an unknown outcome and is
recorded as such. The load ends by itself: operations, rate and time are bounded.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from chaos.checker import Operation

COLLECTION = "chaos"
NAMESPACE = "chaos"
DIMENSION = 8
BATCH_POINTS = 20
READ_POINTS = 20
OVERWRITES = 0.2
"""Share of writes that go over points written before."""

CACHE_KEYS = 500
REQUEST_S_MAX = 10.0
SECONDS_MAX = 3_600.0
KEYS_PER_WRITER = 1_000_000
FINAL_BATCH = 200


@dataclass(frozen=True)
class Endpoint:
    """Where a node's HTTP listens."""

    name: str
    host: str
    port: int


class Unanswered(Exception):
    """No usable answer: the outcome is unknown."""


class Unsent(Unanswered):
    """The node took no connection: the request was never sent, so it has no effect."""


class Connection:
    """Keep-alive connections of one thread to every node."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = endpoints
        self._open: dict[str, http.client.HTTPConnection] = {}

    def ask(self, endpoint: Endpoint, method: str, path: str, body: Any = None) -> Any:
        """Send one request and return the decoded body.

        Raises:
            Unsent: No connection.
            Unanswered: No answer, or one that is not 2xx (and not 404, which is returned as None).
        """
        connection = self._open.get(endpoint.name)
        if connection is None:
            connection = http.client.HTTPConnection(endpoint.host, endpoint.port, timeout=REQUEST_S_MAX)
            try:
                connection.connect()
            except OSError as error:
                raise Unsent(f"{endpoint.name}: {error}") from error
            self._open[endpoint.name] = connection
        try:
            headers = {"Content-Type": "application/json"} if isinstance(body, dict) else {}
            payload = json.dumps(body).encode() if isinstance(body, dict) else body
            connection.request(method, path, payload, headers)
            response = connection.getresponse()
            data = response.read()
        except (OSError, http.client.HTTPException) as error:
            self._open.pop(endpoint.name).close()
            raise Unanswered(f"{endpoint.name}: {error}") from error
        if response.status == 404:
            return None
        if not 200 <= response.status < 300:
            raise Unanswered(f"{endpoint.name}: {response.status} {data[:200]!r}")
        is_json = response.getheader("content-type", "").startswith("application/json")
        return json.loads(data) if is_json and data else data

    def close(self) -> None:
        """Close every connection."""
        for connection in self._open.values():
            connection.close()
        self._open.clear()


def create_collection(endpoint: Endpoint, *, shards: int = 4, replicas: int = 3) -> None:
    """Create the collection of the run."""
    connection = Connection([endpoint])
    body = {
        "vectors": {"size": DIMENSION, "distance": "Euclid"},
        "shard_number": shards,
        "replication_factor": replicas,
    }
    connection.ask(endpoint, "PUT", f"/collections/{COLLECTION}", body)
    connection.close()


def read_points(connection: Connection, endpoint: Endpoint, ids: Sequence[int]) -> dict[int, int]:
    """Read points at quorum; returns id -> version of those that are there."""
    body = {"ids": list(ids), "with_payload": True, "with_vector": False}
    answer = connection.ask(endpoint, "POST", f"/collections/{COLLECTION}/points?consistency=quorum", body)
    if not isinstance(answer, dict):
        raise Unanswered(f"{endpoint.name}: the collection is not there")
    return {point["id"]: point["payload"]["version"] for point in answer["result"]}


def read_cache(connection: Connection, endpoint: Endpoint, key: int) -> int | None:
    """Read one cache value at quorum; None is a miss."""
    answer = connection.ask(endpoint, "GET", f"/v1/cache/{NAMESPACE}/k{key}?consistency=quorum")
    if answer is None:
        return None
    return int(answer if isinstance(answer, bytes | int | str) else answer["value"])


class Load:
    """A writer and a reader for every node, in threads; `history` is complete once `stop` has returned.

    Each thread talks to one node only, so a node that hangs holds up nobody else. Batches of points are shared: whoever
    overwrites one has it alone for that time, so the writes of a key follow one another, through different nodes.
    """

    def __init__(self, endpoints: Sequence[Endpoint], *, rate_hz: float = 20.0, seed: int = 1) -> None:
        self._endpoints = list(endpoints)
        self._interval_s = len(self._endpoints) / rate_hz
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._history: list[Operation] = []
        self._acknowledged: list[int] = []
        self._free: list[int] = []
        self._versions = count(1)
        self._threads = [
            threading.Thread(target=target, args=(endpoint, random.Random(f"{seed}/{target.__name__}/{number}")))
            for number, endpoint in enumerate(self._endpoints)
            for target in (self._write, self._read)
        ]

    @property
    def history(self) -> list[Operation]:
        """A copy of what was recorded so far."""
        with self._lock:
            return list(self._history)

    @property
    def acknowledged_points(self) -> int:
        """Distinct points acknowledged so far."""
        with self._lock:
            return len(self._acknowledged)

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> list[Operation]:
        """End the load, wait for requests in flight and return the history."""
        self._stop.set()
        for thread in self._threads:
            thread.join(REQUEST_S_MAX * 3)
        return self.history

    def _record(self, operations: Iterable[Operation]) -> None:
        with self._lock:
            self._history += operations

    def _write(self, endpoint: Endpoint, rng: random.Random) -> None:
        connection = Connection([endpoint])
        number = self._endpoints.index(endpoint)
        next_key, deadline = number * KEYS_PER_WRITER + 1, time.monotonic() + SECONDS_MAX
        while not self._stop.is_set() and time.monotonic() < deadline:
            start = self._take_batch(rng)
            is_fresh = start is None
            if start is None:
                start = next_key
                next_key += BATCH_POINTS
            with self._lock:
                version = next(self._versions)
            keys = range(start, start + BATCH_POINTS)
            is_done = self._put_points(connection, endpoint, keys, version, rng)
            with self._lock:
                self._free.append(start)
                if is_done and is_fresh:
                    self._acknowledged += keys
            self._put_cache(connection, endpoint, number * KEYS_PER_WRITER + version % CACHE_KEYS, version)
            self._stop.wait(self._interval_s)
        connection.close()

    def _take_batch(self, rng: random.Random) -> int | None:
        """Take a batch to overwrite, or None to write new points."""
        with self._lock:
            if not self._free or rng.random() >= OVERWRITES:
                return None
            return self._free.pop(rng.randrange(len(self._free)))

    def _put_points(
        self, connection: Connection, endpoint: Endpoint, keys: Sequence[int], version: int, rng: random.Random
    ) -> bool:
        points = [
            {"id": key, "vector": [rng.random() for _ in range(DIMENSION)], "payload": {"version": version}}
            for key in keys
        ]
        path = f"/collections/{COLLECTION}/points?wait=true"
        good, begun_s, ended_s = self._timed(connection, endpoint, path, {"points": points})
        if good is None:
            return False
        self._record(Operation("write", "point", key, version, begun_s, ended_s, good, endpoint.name) for key in keys)
        return good

    def _put_cache(self, connection: Connection, endpoint: Endpoint, key: int, version: int) -> None:
        path = f"/v1/cache/{NAMESPACE}/k{key}?consistency=quorum"
        good, begun_s, ended_s = self._timed(connection, endpoint, path, str(version).encode())
        if good is not None:
            self._record([Operation("write", "cache", key, version, begun_s, ended_s, good, endpoint.name)])

    @staticmethod
    def _timed(
        connection: Connection, endpoint: Endpoint, path: str, body: Any, method: str = "PUT"
    ) -> tuple[bool | None, float, float]:
        """Write, and say whether it was acknowledged (None: it was never sent) and when it began and ended."""
        begun_s = time.monotonic()
        good: bool | None
        try:
            good = connection.ask(endpoint, method, path, body) is not None
        except Unsent:
            good = None
        except Unanswered:
            good = False
        return good, begun_s, time.monotonic()

    def _read(self, endpoint: Endpoint, rng: random.Random) -> None:
        connection = Connection([endpoint])
        deadline = time.monotonic() + SECONDS_MAX
        while not self._stop.is_set() and time.monotonic() < deadline:
            self._stop.wait(self._interval_s)
            with self._lock:
                known = len(self._acknowledged)
                ids = {self._acknowledged[rng.randrange(known)] for _ in range(READ_POINTS)} if known else set()
            if not ids:
                continue
            begun_s = time.monotonic()
            try:
                found = read_points(connection, endpoint, sorted(ids))
            except Unanswered:
                continue
            ended_s = time.monotonic()
            self._record(
                Operation("read", "point", key, found.get(key), begun_s, ended_s, True, endpoint.name)
                for key in sorted(ids)
            )
        connection.close()


def read_back(endpoint: Endpoint, store: str, keys: Sequence[int]) -> dict[int, int]:
    """Read everything at quorum through one node, after the faults; a batch is tried for half a minute.

    Raises:
        Unanswered: The node did not answer a batch in that time.
    """
    connection = Connection([endpoint])
    found: dict[int, int] = {}
    for start in range(0, len(keys), FINAL_BATCH):
        batch = keys[start : start + FINAL_BATCH]
        deadline = time.monotonic() + 30.0
        while True:
            try:
                if store == "point":
                    found |= read_points(connection, endpoint, batch)
                else:
                    values = {key: read_cache(connection, endpoint, key) for key in batch}
                    found |= {key: value for key, value in values.items() if value is not None}
                break
            except Unanswered:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.2)
    connection.close()
    return found

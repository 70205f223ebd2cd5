"""A load with overwrites and deletes that goes to whichever nodes there are, through joins and leaves.

Points come in batches, cache values one by one. Whoever writes over a batch or a key has it alone for that time, so the
writes of a key follow one another, through different nodes, each under a version of its own; a delete has one too.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence

from chaos.checker import Operation
from chaos.load import (
    COLLECTION,
    NAMESPACE,
    REQUEST_S_MAX,
    SECONDS_MAX,
    Connection,
    Endpoint,
    Load,
    Unanswered,
    read_cache,
    read_points,
)

WRITERS, READERS = 6, 3
BATCH = 10
READ_KEYS = 10
FRESH = 0.3
"""Share of writes that make new points, until there are POINTS_MAX."""

DELETES = 0.25
"""Share of the others that delete."""

POINTS_MAX = 6_000
CACHE_KEYS_EACH = 100


class Churn(Load):
    """The load; `history` is complete once `stop` has returned."""

    def __init__(self, endpoints: Callable[[], Sequence[Endpoint]], *, rate_hz: float = 30.0, seed: int = 1) -> None:
        """Write about `rate_hz` times a second, through the nodes that `endpoints` names at that moment."""
        super().__init__((), rate_hz=rate_hz, seed=seed)
        self._where = endpoints
        self._pause_s = WRITERS / rate_hz
        self._made = 0
        self._threads = [
            threading.Thread(target=target, args=(number, random.Random(f"{seed}/{target.__name__}/{number}")))
            for target, count in ((self._write_some, WRITERS), (self._read_some, READERS))
            for number in range(count)
        ]

    def stop(self) -> list[Operation]:
        """End the load, wait for requests in flight and return the history."""
        self._stop.set()
        for thread in self._threads:
            thread.join(REQUEST_S_MAX * 3)
        return self.history

    @property
    def acknowledged_writes(self) -> int:
        """Writes acknowledged so far, each point of a batch by itself."""
        with self._lock:
            return sum(o.kind == "write" and o.is_acknowledged for o in self._history)

    def _turns(self, rng: random.Random) -> Sequence[Endpoint]:
        """Wait for the next turn and return where to go, or nowhere at the end."""
        self._stop.wait(self._pause_s * rng.uniform(0.5, 1.5))
        return () if self._stop.is_set() else self._where()

    def _write_some(self, number: int, rng: random.Random) -> None:
        connection = Connection(())
        deadline = time.monotonic() + SECONDS_MAX
        while (where := self._turns(rng)) and time.monotonic() < deadline:
            endpoint = rng.choice(where)
            start, is_fresh = self._choose_batch(rng)
            is_delete = not is_fresh and rng.random() < DELETES
            keys = range(start, start + BATCH)
            with self._lock:
                version = next(self._versions)
            if is_delete:
                self._delete_points(connection, endpoint, keys, version)
            else:
                is_done = self._put_points(connection, endpoint, keys, version, rng)
                with self._lock:
                    self._acknowledged += keys if is_done and is_fresh else ()
            with self._lock:
                self._free.append(start)
            key = number * CACHE_KEYS_EACH + rng.randrange(CACHE_KEYS_EACH)
            if rng.random() < DELETES:
                self._delete_cache(connection, endpoint, key, version)
            else:
                self._put_cache(connection, endpoint, key, version)
        connection.close()

    def _choose_batch(self, rng: random.Random) -> tuple[int, bool]:
        """Return the first key of a batch to have alone, and whether it is new."""
        with self._lock:
            if not self._free or (self._made < POINTS_MAX and rng.random() < FRESH):
                self._made += BATCH
                return self._made - BATCH + 1, True
            return self._free.pop(rng.randrange(len(self._free))), False

    def _delete_points(self, connection: Connection, endpoint: Endpoint, keys: Sequence[int], version: int) -> None:
        path = f"/collections/{COLLECTION}/points/delete?wait=true"
        good, begun_s, ended_s = self._timed(connection, endpoint, path, {"points": list(keys)}, method="POST")
        if good is not None:
            self._record(
                Operation("write", "point", key, version, begun_s, ended_s, good, endpoint.name, is_delete=True)
                for key in keys
            )

    def _delete_cache(self, connection: Connection, endpoint: Endpoint, key: int, version: int) -> None:
        path = f"/v1/cache/{NAMESPACE}/k{key}?consistency=quorum"
        good, begun_s, ended_s = self._timed(connection, endpoint, path, None, method="DELETE")
        if good is not None:
            write = Operation("write", "cache", key, version, begun_s, ended_s, good, endpoint.name, is_delete=True)
            self._record([write])

    def _read_some(self, _number: int, rng: random.Random) -> None:
        connection = Connection(())
        deadline = time.monotonic() + SECONDS_MAX
        while (where := self._turns(rng)) and time.monotonic() < deadline:
            endpoint = rng.choice(where)
            with self._lock:
                known = len(self._acknowledged)
                ids = {self._acknowledged[rng.randrange(known)] for _ in range(READ_KEYS)} if known else set()
            begun_s = time.monotonic()
            try:
                points = read_points(connection, endpoint, sorted(ids)) if ids else {}
                ended_s = time.monotonic()
                self._record(
                    Operation("read", "point", key, points.get(key), begun_s, ended_s, True, endpoint.name)
                    for key in sorted(ids)
                )
                key = rng.randrange(WRITERS * CACHE_KEYS_EACH)
                begun_s = time.monotonic()
                value = read_cache(connection, endpoint, key)
            except Unanswered:
                continue
            self._record([Operation("read", "cache", key, value, begun_s, time.monotonic(), True, endpoint.name)])
        connection.close()

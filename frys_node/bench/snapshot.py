"""Saving, checking and restoring a node with vectors and cache entries, beside what the disk and the hash can do.

One node is filled once. Each round saves it into a fresh directory while a client reads the cache over HTTP, saves it
again with nothing and then with one entry in a thousand changed, reads it back, and restores it into a node that has
just started. The peers, in the same directory and round: one file of as many bytes, written and fsynced once, and
blake2b over them.
"""

from __future__ import annotations

import argparse
import hashlib
import http.client
import os
import random
import socket
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from frys_node.base.errors import DeadlineExceeded, NodeUnreachable
from frys_node.bench.figure import Figure
from frys_node.bench.runner import cpu_s, median, percentile, tell
from frys_node.bench.startup import first_livez
from frys_node.cli.admin import AdminClient
from frys_node.demo.cluster import NodeProcess, free_port

ITEMS = 20_000
"""Vectors, and as many cache entries, in a run of about a minute."""

ITEMS_FULL = 100_000
DIMENSION = 128
VALUE_BYTES = 256
BATCH = 500
CALM_S = 2.0
POLL_S = 0.05
READY_S = 60.0
JOB_S = 600.0
CHANGED_SHARE = 1_000

MB = 1e6

CACHE = {"FRYS_PLUGINS_CACHE_MEMORY_BYTES_MAX": str(256 << 20)}
"""Room for all entries: an eviction would make the run smaller than it says."""


def run(rounds: int) -> list[Figure]:
    """Measure with `ITEMS` of each kind."""
    return measure(rounds, ITEMS)


def run_full(rounds: int) -> list[Figure]:
    """Measure with `ITEMS_FULL` of each kind."""
    return measure(rounds, ITEMS_FULL)


def measure(rounds: int, items: int) -> list[Figure]:
    """Fill a node, and measure it over rounds."""
    results: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="frys-bench-", dir=".") as home:
        node = _Filled(Path(home).resolve() / "node")
        try:
            node.fill(items)
            tell(f"filled: {items:,} vectors and as many cache entries")
            for number in range(rounds):
                tell(f"round {number + 1} of {rounds}")
                for name, value in _round(node, Path(home).resolve(), number).items():
                    results.setdefault(name, []).append(value)
        finally:
            node.process.stop()
    return figures_of(results)


def figures_of(results: Mapping[str, Sequence[float]]) -> list[Figure]:
    """Return the figures of what rounds have measured; see `_round`."""
    write, hashed = median(results["write"]), median(results["hash"])

    def figure(name: str, unit: str, of: str, peer: str, value: float) -> Figure:
        return Figure(name, unit, median(results[of]), peer, value, samples=results[of])

    return [
        figure("create", "MB/s", "create", "write + fsync", write),
        figure("create, nothing changed", "MB/s", "again", "blake2b", hashed),
        figure("the same, per CPU second", "MB/CPU-s", "again_cpu", "blake2b", hashed),
        figure("written, nothing changed", "MB", "again_bytes", "create", median(results["bytes"])),
        figure("written, 0.1 % changed", "MB", "changed_bytes", "create", median(results["bytes"])),
        figure("verify", "MB/s", "verify", "blake2b", hashed),
        figure("restore into an empty node", "MB/s", "restore", "write + fsync", write),
        figure("request p50 during create", "ms", "busy_p50", "before it", median(results["calm_p50"])),
        figure("request p99 during create", "ms", "busy_p99", "before it", median(results["calm_p99"])),
    ]


class _Filled:
    """A node with a collection and a cache."""

    def __init__(self, home: Path) -> None:
        self.resp = free_port()
        settings = CACHE | {"FRYS_PLUGINS_CACHE_RESP": f"127.0.0.1:{self.resp}"}
        self.process = NodeProcess("bench", home, settings=settings)
        first_livez(self.process)
        until_ready(self.process)
        self.admin = admin_of(self.process)
        self._rng = random.Random(1)
        self.items = 0

    def fill(self, items: int) -> None:
        """Write vectors over HTTP and cache entries over RESP."""
        self.items = items
        definition = {"vectors": {"size": DIMENSION, "distance": "Dot"}}
        self.process.call("PUT", "/collections/bench", definition)
        self.write(range(items))

    def write(self, numbers: Sequence[int]) -> None:
        """Write these points and entries anew, with other values."""
        for start in range(0, len(numbers), BATCH):
            points = [
                {"id": number, "vector": [self._rng.random() for _ in range(DIMENSION)]}
                for number in numbers[start : start + BATCH]
            ]
            self.process.call("PUT", "/collections/bench/points?wait=true", {"points": points})
        with socket.create_connection(("127.0.0.1", self.resp)) as connection:
            answers = connection.makefile("rb")
            for start in range(0, len(numbers), BATCH):
                batch = numbers[start : start + BATCH]
                connection.sendall(b"".join(self._set(number) for number in batch))
                for _ in batch:
                    assert answers.readline() == b"+OK\r\n"

    def _set(self, number: int) -> bytes:
        value = self._rng.randbytes(VALUE_BYTES)
        return b"*3\r\n$3\r\nSET\r\n$12\r\nkey-%08d\r\n$%d\r\n%b\r\n" % (number, len(value), value)


class _Reader(threading.Thread):
    """Reads one cache entry over HTTP again and again, and keeps how long each took, in ms."""

    def __init__(self, node: NodeProcess) -> None:
        super().__init__(daemon=True)
        self._node = node
        self._stop_wanted = threading.Event()
        self.times: list[float] = []
        self.refusal = 0

    def run(self) -> None:
        """Read until told to stop."""
        connection = http.client.HTTPConnection(self._node.http_host, self._node.http_port, timeout=JOB_S)
        while not self._stop_wanted.is_set():
            begun = time.perf_counter_ns()
            connection.request("GET", "/v1/cache/default/key-00000001")
            response = connection.getresponse()
            response.read()
            if response.status != 200:
                self.refusal = response.status
                break
            self.times.append((time.perf_counter_ns() - begun) / 1e6)
        connection.close()

    def finish(self) -> list[float]:
        """Stop; returns the times."""
        self._stop_wanted.set()
        self.join()
        if self.refusal:
            raise NodeUnreachable(f"a cache entry that was written is answered with HTTP {self.refusal}")
        return self.times


def until_ready(node: NodeProcess) -> None:
    """Wait until the node takes writes."""
    end_s = time.monotonic() + READY_S
    while not node.is_ready:
        if time.monotonic() > end_s:
            raise DeadlineExceeded(f"the node is not ready after {READY_S:.0f} s:\n{node.log_tail()}")
        time.sleep(POLL_S)


def admin_of(node: NodeProcess) -> AdminClient:
    """Return a client of the node's admin socket that waits for long jobs."""
    return AdminClient(argparse.Namespace(data_dir=str(node.data_dir), timeout=JOB_S))


def _timed(client: AdminClient, path: str, body: dict[str, Any]) -> tuple[float, Any]:
    begun = time.perf_counter()
    answer = client.call("POST", path, body)
    return time.perf_counter() - begun, answer


def _round(node: _Filled, home: Path, number: int) -> dict[str, float]:
    store = str(home / f"saved-{number}")
    calm = _Reader(node.process)
    calm.start()
    time.sleep(CALM_S)
    calm_ms = calm.finish()
    busy = _Reader(node.process)
    busy.start()
    spent, saved = _timed(node.admin, "/v1/snapshots", {"name": "full", "store": store})
    busy_ms = busy.finish()
    size = sum(unit["size_bytes"] for unit in saved["units"])
    assert node.process.process is not None
    pid = node.process.process.pid
    begun_s = cpu_s(pid)
    again_s, again = _timed(node.admin, "/v1/snapshots", {"name": "again", "store": store})
    again_cpu_s = cpu_s(pid) - begun_s
    node.write(range(number, node.items, CHANGED_SHARE))
    _, changed = _timed(node.admin, "/v1/snapshots", {"name": "changed", "store": store})
    verify_s, report = _timed(node.admin, "/v1/snapshots/verify", {"name": "changed", "store": store})
    assert report["problems"] == []
    restore_s = _restore(home / f"other-{number}", store)
    write_s, hash_s = _limits(home / "limit", size)
    return {
        "create": size / MB / spent,
        "bytes": saved["new_bytes"] / MB,
        "again": size / MB / again_s,
        "again_cpu": size / MB / again_cpu_s,
        "again_bytes": again["new_bytes"] / MB,
        "changed_bytes": changed["new_bytes"] / MB,
        "verify": size / MB / verify_s,
        "restore": size / MB / restore_s,
        "write": size / MB / write_s,
        "hash": size / MB / hash_s,
        "calm_p50": percentile(calm_ms, 50),
        "calm_p99": percentile(calm_ms, 99),
        "busy_p50": percentile(busy_ms, 50),
        "busy_p99": percentile(busy_ms, 99),
    }


def _restore(home: Path, store: str) -> float:
    """Restore into a node that has just been made; returns the seconds."""
    other = NodeProcess("other", home, settings=CACHE)
    try:
        first_livez(other)
        until_ready(other)
        spent, report = _timed(admin_of(other), "/v1/snapshots/restore", {"name": "changed", "store": store})
        assert not report["failed"]
        assert not report["skipped"]
    finally:
        other.stop()
    return spent


def _limits(path: Path, size: int) -> tuple[float, float]:
    """Return the seconds of one write and fsync of so many bytes, and of hashing them."""
    data = os.urandom(1 << 20)
    begun = time.perf_counter()
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
    try:
        for start in range(0, size, len(data)):
            os.write(fd, data[: size - start])
        os.fsync(fd)
    finally:
        os.close(fd)
    write_s = time.perf_counter() - begun
    begun = time.perf_counter()
    for start in range(0, size, len(data)):
        hashlib.blake2b(data[: size - start], digest_size=32).digest()
    hash_s = time.perf_counter() - begun
    path.unlink()
    return write_s, hash_s

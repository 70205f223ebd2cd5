"""A planned leave and a join of a cluster that holds data and serves requests: what clients notice, and how long it is.

Four node processes on loopback, three copies of everything, vectors and cache entries filled in; then clients write and
read both, at a steady pace, at two nodes that stay, while a third leaves and a new one joins. The peer of each figure
is the same load in the same run before anything moves. Afterwards every acknowledged cache write is read back at
quorum and the points are counted.

A round is 4,000 vectors and 4,000 entries: five rounds, the default, take a few minutes; 25 are the 100,000 of each
that the goals speak of.
"""

from __future__ import annotations

import json
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from frys_node.base.errors import FrysError, NodeUnreachable
from frys_node.bench.figure import Figure
from frys_node.bench.move_load import Client, Request, Span, failed, p99_ms, pause_ms
from frys_node.demo.cluster import NodeProcess
from frys_node.demo.console import DemoFailed

OBJECTS_A_ROUND = 4_000
DIMENSION = 32
BATCH = 500
VALUE = b"v" * 200
COLLECTION = "move"

CALM_S = 20.0
"""How long the load runs before anything moves: the p99 to compare with."""

BETWEEN_S = 8.0
"""Between the leave and the join."""

PACE_S = 0.04
"""Between two requests of one client; there are four clients at each of two nodes."""

LIMIT_S = 900.0
"""After this a leave or a join has failed."""

SETTINGS = {"FRYS_PLUGINS_CACHE_MEMORY_BYTES_MAX": str(512 << 20)}

_TRANSFERRED = re.compile(r'^frys_snapshots_transfer_bytes_total\{direction="received"\} (\S+)$', re.MULTILINE)


class Bench:
    """The cluster, its clients, and what was measured."""

    def __init__(self, home: Path, objects: int) -> None:
        self.home = home
        self.objects = objects
        self.nodes: dict[str, NodeProcess] = {}
        self.clients: list[Client] = []
        self._rng = random.Random(1)
        self._written: list[dict[str, bytes]] = []

    # ------------------------------------------------------------------ the cluster

    def start(self, name: str) -> NodeProcess:
        """Start a node and return it; the first founds the cluster."""
        node = self.nodes[name] = NodeProcess(name, self.home / name, settings=SETTINGS)
        node.start([self.nodes["a"].bind] if len(self.nodes) > 1 else [])
        return node

    def wait(self, what: str, probe: Callable[[], bool], limit_s: float = LIMIT_S) -> None:
        """Wait until something is so.

        Raises:
            DemoFailed: It is not so within the limit.
        """
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            try:
                if probe():
                    return
            except FrysError:
                pass
            time.sleep(0.05)
        logs = "\n".join(f"--- {name}\n{node.log_tail(5)}" for name, node in self.nodes.items())
        raise DemoFailed(f"{what}: not within {limit_s:g} s\n{logs}")

    def settled(self, names: str) -> bool:
        """Return whether these nodes, and no others, are on a ring that is stable and settled at the issuer."""
        topology = self.nodes["a"].call("GET", "/v1/topology")
        is_stable = topology["phase"] == "stable" and topology["settled"] and not topology["queued"]
        return bool(is_stable and len(topology["members"]) == len(names))

    def form(self, names: str) -> None:
        """Start the nodes one after another and wait for the ring."""
        for name in names:
            node = self.start(name)
            self.wait(f"node {name} ready", lambda n=node: n.is_ready, 120.0)  # type: ignore[misc]
        self.wait("the ring", lambda: self.settled(names), 120.0)

    def received_bytes(self) -> float:
        """Return the bytes of chunks that the running nodes have taken."""
        total = 0.0
        for node in self.nodes.values():
            if node.is_running:
                try:
                    text = node.request("GET", "/metrics")[1]
                except NodeUnreachable:
                    continue
                total += sum(float(found) for found in _TRANSFERRED.findall(text.decode()))
        return total

    # ------------------------------------------------------------------ data

    def fill(self) -> None:
        """Put the vectors and the entries there."""
        a = self.nodes["a"]
        a.call("PUT", f"/collections/{COLLECTION}", {"vectors": {"size": DIMENSION, "distance": "Cosine"}})
        for first in range(0, self.objects, BATCH):
            numbers = range(first, min(first + BATCH, self.objects))
            points = [{"id": n, "vector": self.vector(), "payload": {"n": n}} for n in numbers]
            a.call("PUT", f"/collections/{COLLECTION}/points?wait=true", {"points": points})
            entries = [{"key": f"filled:{n}", "value": VALUE.decode()} for n in numbers]
            a.call("POST", "/v1/cache/bench", {"put": entries})
            print(f"\rfilled {numbers.stop:,} of {self.objects:,} vectors and entries", end="", file=sys.stderr)
        print(file=sys.stderr)

    def vector(self) -> list[float]:
        """Return a random vector."""
        return [round(self._rng.uniform(-1, 1), 4) for _ in range(DIMENSION)]

    def load(self, name: str) -> None:
        """Start four clients at a node: they write and read entries, write points and search."""
        port, last = self.nodes[name].http_port, dict[str, bytes]()
        self._written.append(last)
        path = f"/collections/{COLLECTION}/points"

        def put(number: int) -> Request:
            key, value = f"{name}:{number % 500}", b"%d" % number
            last[key] = value
            return Request("PUT", f"/v1/cache/bench/{key}", value, "application/octet-stream", (200, 201))

        def get(number: int) -> Request:
            return Request("GET", f"/v1/cache/bench/filled:{number * 7_919 % self.objects}", b"")

        def upsert(number: int) -> Request:
            point = {"id": number * 104_729 % self.objects, "vector": self.vector(), "payload": {"again": number}}
            return Request("PUT", f"{path}?wait=true", json.dumps({"points": [point]}).encode())

        def search(_number: int) -> Request:
            return Request("POST", f"{path}/query", json.dumps({"query": self.vector(), "limit": 5}).encode())

        kinds = (("cache write", put), ("cache read", get), ("vector write", upsert), ("vector search", search))
        for kind, make in kinds:
            client = Client(kind, port, PACE_S, make)
            self.clients.append(client)
            client.start()

    def lost(self) -> int:
        """Return how many acknowledged last writes and points are not there, read at quorum. The clients have ended."""
        a = self.nodes["a"]
        missing = 0
        for last in self._written:
            for key, value in last.items():
                status, found = a.request("GET", f"/v1/cache/bench/{key}?consistency=quorum")
                missing += status != 200 or found != value
        path = f"/collections/{COLLECTION}/points/count?consistency=quorum"
        count: int = a.call("POST", path, {"exact": True})["result"]["count"]
        return missing + abs(self.objects - count)

    # ------------------------------------------------------------------ what happens

    def leave(self, name: str, rest: str) -> Span:
        """Have a node leave, and wait until the ring is settled without it."""
        begun_s = time.monotonic()
        leaver = self.nodes[name]
        command = leaver.command_line("leave", "--data-dir", str(leaver.data_dir))
        self.wait(f"{name} has left", lambda: not leaver.is_running and self.settled(rest))
        command.wait()
        return Span(begun_s, time.monotonic())

    def join(self, name: str, names: str) -> Span:
        """Have a node join, and wait until the ring is settled with it."""
        begun_s = time.monotonic()
        self.start(name)
        self.wait(f"{name} has joined", lambda: self.settled(names))
        return Span(begun_s, time.monotonic())


def run(rounds: int) -> list[Figure]:
    """Fill a cluster, move, and compare with before."""
    with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
        bench = Bench(Path(home), rounds * OBJECTS_A_ROUND)
        try:
            return _measure(bench)
        finally:
            for client in bench.clients:
                client.finish()
            for node in reversed(list(bench.nodes.values())):
                node.stop()


def _measure(bench: Bench) -> list[Figure]:
    bench.form("abcd")
    bench.fill()
    for name in "ab":
        bench.load(name)
    begun_s = time.monotonic()
    time.sleep(CALM_S)
    calm = Span(begun_s, time.monotonic())
    held = bench.received_bytes()
    spans = {"leave": bench.leave("d", "abc")}
    moved = {"leave": bench.received_bytes() - held}
    time.sleep(BETWEEN_S)
    held = bench.received_bytes()
    spans["join"] = bench.join("e", "abce")
    moved["join"] = bench.received_bytes() - held
    for client in bench.clients:
        client.finish()
    return figures_of(bench.clients, calm, spans, moved, bench.lost())


def figures_of(
    clients: list[Client], calm: Span, spans: dict[str, Span], moved: dict[str, float], lost: int
) -> list[Figure]:
    """Return the figures: each span beside the calm before it."""
    figures: list[Figure] = []
    kinds = list(dict.fromkeys(client.name for client in clients))
    samples: dict[str, Any] = {k: [s for c in clients if c.name == k for s in c.samples] for k in kinds}
    every = [sample for kind in kinds for sample in samples[kind]]
    writes = [sample for kind in kinds if kind.endswith("write") for sample in samples[kind]]
    for what, span in spans.items():
        bad = failed(span.of(every))
        figures.append(Figure(f"{what}: failed requests", "requests", bad, "before", failed(calm.of(every)), "0"))
        pause, before = pause_ms(span.of(writes)), pause_ms(calm.of(writes))
        figures.append(Figure(f"{what}: longest pause of a writer", "ms", pause, "before", before, "<= 50 ms"))
        for kind in kinds:
            now_ms, before_ms = p99_ms(span.of(samples[kind])), p99_ms(calm.of(samples[kind]))
            figures.append(Figure(f"{what}: {kind} p99", "ms", now_ms, "before", before_ms, "<= 2x"))
        figures.append(Figure(f"{what}: requests", "requests", len(span.of(every)), "before", len(calm.of(every))))
        figures.append(Figure(f"{what}: time", "s", span.seconds, "before", calm.seconds))
        figures.append(Figure(f"{what}: bytes moved by snapshot", "bytes", moved[what], "before", 0.0))
    figures.append(Figure("acknowledged writes lost", "writes", lost, "written", len(writes), "0"))
    return figures

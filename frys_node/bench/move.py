"""A planned leave and a join of a cluster that holds data and serves requests: what clients notice, and how long it is.

Four node processes on loopback, three copies of everything, filled until the node that will leave holds as many vectors
and cache entries as asked for. Then clients write and read both, at a steady pace, while it leaves and a new one joins.
Plain ones speak HTTP to two nodes that stay. Others are the shipped `frys_node.client`, told of the leaver only, with
keys that the leaver is the first to hold: they are connected to it until they learn that it has gone.

The peer of each figure is the same load in the same run before anything moves. Afterwards every acknowledged cache
write is read back at quorum and the points are counted.
"""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from frys_node.bench.figure import Figure
from frys_node.bench.move_cluster import COLLECTION, SPACE, Cluster, filled_key, key_place, point_place
from frys_node.bench.move_load import Client, LibraryClient, PlainClient, Request, Span, failed, p99_ms, pause_ms
from frys_node.bench.runner import processor_time, tell
from frys_node.client import Point
from frys_node.client.blocking import SyncServices

HELD = 15_000
"""Vectors, and as many cache entries, at the node that leaves, in a run of two or three minutes."""

HELD_FULL = 100_000
"""Those that the goals speak of."""

CALM_S = 20.0
"""How long the load runs before anything moves: the p99 to compare with."""

BETWEEN_S = 8.0
"""Between the leave and the join."""

PACE_S = 0.04
"""Between two requests of one client."""

KEYS = 500
"""Keys that one writer writes again and again."""

WRITERS = 3
"""Of points. Each has points of its own: two that write one point at a time make each other write it again, stamped
above what the other wrote, and that took most of the longest waits."""

AT_LEAVER = "clients at the leaver"
ELSEWHERE = "clients elsewhere"
GROUPS = (AT_LEAVER, ELSEWHERE)


class Stage(NamedTuple):
    """What happened, and what the machine did meanwhile."""

    span: Span
    moved_bytes: float = 0.0
    busy: float = 0.0
    """Percent of all processors in use, by whatever runs on the machine."""


class Load:
    """The clients, and what they have written."""

    def __init__(self, cluster: Cluster) -> None:
        self.clients: list[Client] = []
        self._cluster = cluster
        self._written: dict[str, bytes] = {}
        """The last acknowledged value of each key; one writer a key."""

    def start(self) -> None:
        """Start four plain clients at each of two nodes that stay, and three of the library at the leaver."""
        cluster = self._cluster
        for lane, name in enumerate([name for name in cluster.nodes if name != cluster.leaver][: WRITERS - 1]):
            self._plain(name, cluster.nodes[name].http_port, lane)
        self._library(cluster.nodes[cluster.leaver].http_port, WRITERS - 1)
        for number, client in enumerate(self.clients):
            # Spread over the pace: clients of one beat would come as a burst, and wait for each other.
            client.begin(PACE_S * number / len(self.clients))

    def finish(self) -> None:
        """End all of them."""
        for client in self.clients:
            client.finish()

    def _plain(self, name: str, port: int, lane: int) -> None:
        cluster, path = self._cluster, f"/collections/{COLLECTION}/points"

        def put(number: int) -> Request:
            key, value = f"{name}:{number % KEYS}", b"%d" % number
            self._written.pop(key, None)
            acknowledged = lambda: self._written.__setitem__(key, value)  # noqa: E731 (bound to this request)
            return Request(
                "PUT", f"/v1/cache/{SPACE}/{key}", value, "application/octet-stream", (200, 201), acknowledged
            )

        def get(number: int) -> Request:
            return Request("GET", f"/v1/cache/{SPACE}/{filled_key(number * 7_919 % cluster.entries)}", b"")

        def upsert(number: int) -> Request:
            point_id = point_of(lane, number, cluster.points)
            point = {"id": point_id, "vector": cluster.vector(), "payload": {"again": number}}
            return Request("PUT", f"{path}?wait=true", json.dumps({"points": [point]}).encode())

        def search(_number: int) -> Request:
            return Request("POST", f"{path}/query", json.dumps({"query": cluster.vector(), "limit": 5}).encode())

        kinds = (("cache write", put), ("cache read", get), ("vector write", upsert), ("vector search", search))
        self.clients += [PlainClient(kind, ELSEWHERE, PACE_S, port, make) for kind, make in kinds]

    def _library(self, port: int, lane: int) -> None:
        cluster, leaver = self._cluster, self._cluster.leaver
        names = (f"{leaver}:{number}" for number in itertools.count())
        own = list(itertools.islice((key for key in names if cluster.leads(leaver, key_place(key))), KEYS))
        filled = [n for n in range(cluster.entries) if cluster.leads(leaver, key_place(filled_key(n)))]
        points = [n for n in range(lane, cluster.points, WRITERS) if cluster.leads(leaver, point_place(n))]

        def put(services: SyncServices, number: int) -> None:
            key, value = own[number % len(own)], b"%d" % number
            self._written.pop(key, None)
            services.cache(SPACE).put(key, value)
            self._written[key] = value

        def get(services: SyncServices, number: int) -> None:
            services.cache(SPACE).get(filled_key(filled[number * 7_919 % len(filled)]))

        def upsert(services: SyncServices, number: int) -> None:
            point = Point(points[number * 104_729 % len(points)], cluster.vector(), {"again": number})
            services.collection(COLLECTION).upsert([point])

        kinds = [("cache write", put), ("cache read", get)]
        if points:
            kinds.append(("vector write", upsert))
        else:
            tell("the leaver is the first of no shard: there is no vector write at it to measure")
        self.clients += [LibraryClient(kind, AT_LEAVER, PACE_S, port, operation) for kind, operation in kinds]

    def lost(self) -> int:
        """Return how many acknowledged last writes and points are not there, read at quorum. The clients have ended."""
        a, missing = self._cluster.nodes["a"], 0
        for key, value in self._written.items():
            status, found = a.request("GET", f"/v1/cache/{SPACE}/{key}?consistency=quorum")
            missing += status != 200 or found != value
        path = f"/collections/{COLLECTION}/points/count?consistency=quorum"
        count: int = a.call("POST", path, {"exact": True})["result"]["count"]
        return missing + abs(self._cluster.points - count)


def run(_rounds: int) -> list[Figure]:
    """Move with `HELD` of each kind at the leaver."""
    return run_holding(HELD)


def run_full(_rounds: int) -> list[Figure]:
    """Move with `HELD_FULL` of each kind at the leaver."""
    return run_holding(HELD_FULL)


def run_holding(held: int) -> list[Figure]:
    """Fill a cluster until the leaver holds `held` of each kind, move, and compare with before."""
    with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
        cluster = Cluster(Path(home))
        load = Load(cluster)
        try:
            cluster.form("abcd")
            cluster.fill(held)
            cluster.quieten()
            return _measured(cluster, load, held)
        finally:
            load.finish()
            cluster.stop()


def _measured(cluster: Cluster, load: Load, held: int) -> list[Figure]:
    load.start()
    calm = _stage(cluster, _calm)
    had = cluster.held(cluster.leaver)
    port = cluster.nodes[cluster.leaver].http_port
    tell(f"{cluster.leaver} leaves; it says that it holds {had[0]:,} vectors and {had[1]:,} cache entries")
    stages = {"leave": _stage(cluster, cluster.leave)}
    tell(f"it has left after {stages['leave'].span.seconds:.1f} s")
    time.sleep(BETWEEN_S)
    stages["join"] = _stage(cluster, lambda: cluster.join("e"))
    tell(f"e has joined after {stages['join'].span.seconds:.1f} s; reading everything back")
    load.finish()
    for client in load.clients:
        for text in client.errors:
            tell(f"failed: {client.name}, {client.group}: {text}")
    counts = [
        Figure(f"{what} held by the leaver", what, count, "asked for", held)
        for what, count in zip(("vectors", "cache entries"), had, strict=True)
    ]
    return counts + figures_of(load.clients, calm, stages, load.lost(), port)


def _calm() -> Span:
    begun_s = time.monotonic()
    time.sleep(CALM_S)
    return Span(begun_s, time.monotonic())


def _stage(cluster: Cluster, act: Callable[[], Span]) -> Stage:
    """Do something, and note what moved and how busy the machine was."""
    taken, (busy, total) = cluster.received_bytes(), processor_time()
    span = act()
    busy_after, total_after = processor_time()
    share = (busy_after - busy) / max(1, total_after - total)
    return Stage(span, cluster.received_bytes() - taken, share * 100)


def figures_of(
    clients: Sequence[Client], before: Stage, stages: Mapping[str, Stage], lost: int, port: int
) -> list[Figure]:
    """Return the figures: each stage beside the calm before it; `port` is that of the leaver's HTTP."""
    figures: list[Figure] = []
    calm = before.span
    for what, stage in stages.items():
        figures += _of_all(what, clients, calm, stage.span)
        figures.append(Figure(f"{what}: time", "s", stage.span.seconds, "before", calm.seconds))
        figures.append(Figure(f"{what}: processors in use, by all", "%", stage.busy, "before", before.busy))
        figures.append(Figure(f"{what}: bytes moved by snapshot", "bytes", stage.moved_bytes))
        figures += _waits(what, clients, calm, stage.span)
    if "leave" in stages:
        leave = stages["leave"].span
        for group in GROUPS:
            figures += _waits(f"leave, {group}", [c for c in clients if c.group == group], calm, leave)
        figures += _at_leaver([c for c in clients if c.group == AT_LEAVER], calm, leave, port)
    every = [sample for client in clients for sample in client.samples]
    written = sum(len(client.samples) for client in clients if is_writer(client))
    figures.append(
        Figure("failed requests, from the first to the last", "requests", failed(every), "sent", len(every), "0")
    )
    figures.append(Figure("acknowledged writes lost", "writes", lost, "written", written, "0"))
    return figures


def point_of(lane: int, number: int, points: int) -> int:
    """Return the point that a writer writes at its turn `number`: one of those that it alone writes."""
    return number * 104_729 % max(1, points // WRITERS) * WRITERS + lane


def is_writer(client: Client) -> bool:
    """Return whether it writes."""
    return client.name.endswith("write")


def _of_all(what: str, clients: Sequence[Client], calm: Span, span: Span) -> list[Figure]:
    samples = [sample for client in clients for sample in client.samples]
    now, before = span.of(samples), calm.of(samples)
    return [
        Figure(f"{what}: failed requests", "requests", failed(now), "before", failed(before), "0"),
        Figure(f"{what}: requests", "requests", len(now), "before", len(before)),
    ]


def _waits(what: str, clients: Sequence[Client], calm: Span, span: Span) -> list[Figure]:
    writes = [sample for client in clients if is_writer(client) for sample in client.samples]
    pause, before = pause_ms(span.of(writes)), pause_ms(calm.of(writes))
    figures = [Figure(f"{what}: longest wait of a writer", "ms", pause, "before", before, "<= 50 ms")]
    for kind in dict.fromkeys(client.name for client in clients):
        samples = [sample for client in clients if client.name == kind for sample in client.samples]
        now_ms, before_ms = p99_ms(span.of(samples)), p99_ms(calm.of(samples))
        figures.append(Figure(f"{what}: {kind} p99", "ms", now_ms, "before", before_ms, "<= 2x"))
    return figures


def _at_leaver(clients: Sequence[Client], calm: Span, span: Span, port: int) -> list[Figure]:
    """Return how long its clients were served by the leaver, and what its end cost them."""
    samples = [sample for client in clients for sample in client.samples]
    now, before = span.of(samples), calm.of(samples)
    there = [sample for sample in now if sample.port == port]
    last_s = max((sample.sent_s + sample.latency_s for sample in there), default=span.begun_s) - span.begun_s
    again = sum(sample.tries > 1 for sample in now)
    return [
        Figure(f"leave, {AT_LEAVER}: answered by it", "requests", len(there), "all of theirs", len(now)),
        Figure(
            f"before, {AT_LEAVER}: answered by it",
            "requests",
            sum(s.port == port for s in before),
            "all of theirs",
            len(before),
        ),
        Figure(f"leave, {AT_LEAVER}: its last answer", "s", last_s, "the leave", span.seconds),
        Figure(f"leave, {AT_LEAVER}: sent again", "requests", again, "before", sum(s.tries > 1 for s in before)),
    ]

"""Three nodes through the client, straight to owners, beside plain HTTP and beside the client through one entry node.

Plain HTTP is what a program without the library does: the standard library's connection to one node, kept open, a
request at a time. With three replicas on three nodes any node answers a read from its own memory, and what is saved is
the hop of changes to the unit's first member. With one replica two of three requests through one node need that hop.
"""

from __future__ import annotations

import http.client
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from frys_node.base.errors import FrysError, NodeUnreachable
from frys_node.bench.figure import Figure
from frys_node.bench.runner import median, percentile, tell
from frys_node.client import SyncClient
from frys_node.demo.cluster import NodeProcess

FACTORS = (3, 1)
SINGLES = 400
PIPELINED = 2_000
BATCHES = 20
BATCH_KEYS = 500
SPACE = "bench"
VALUE = b"x" * 64
READY_S = 60.0
LIMIT_S = 120.0
"""For one operation, on a busy machine too: a pipeline is one."""

STRAIGHT = "straight to owners"
ENTRY = "client, one entry node"
PLAIN = "plain HTTP, one entry node"


class Way(Protocol):
    """How operations reach the cluster."""

    def get(self, key: str) -> object:
        """Read an entry."""
        ...

    def put(self, key: str, value: bytes) -> object:
        """Store an entry."""
        ...

    def incr(self, key: str) -> object:
        """Add one."""
        ...

    def mget(self, keys: Sequence[str]) -> object:
        """Read many entries."""
        ...


class PlainHttp:
    """One connection to one node."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)

    def get(self, key: str) -> object:
        """Read an entry."""
        return self._ask("GET", f"/{key}")

    def put(self, key: str, value: bytes) -> object:
        """Store an entry."""
        return self._ask("PUT", f"/{key}", value)

    def incr(self, key: str) -> object:
        """Add one."""
        return json.loads(self._ask("POST", f"/{key}?add=1"))

    def mget(self, keys: Sequence[str]) -> object:
        """Read many entries."""
        return json.loads(self._ask("POST", "", json.dumps({"get": keys}).encode(), "application/json"))

    def _ask(self, method: str, path: str, body: bytes = b"", content_type: str = "application/octet-stream") -> bytes:
        headers = {"Content-Type": content_type} if body else {}
        self._connection.request(method, f"/v1/cache/{SPACE}{path}", body or None, headers)
        response = self._connection.getresponse()
        data = response.read()
        if response.status >= 400:
            raise NodeUnreachable(f"HTTP {response.status} for {method} {path}: {data[:200].decode(errors='replace')}")
        return data

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


class Spell(NamedTuple):
    """A run of operations: how many, how long all of them took, and each, where they were made one by one."""

    operations: int
    seconds: float
    each_s: Sequence[float] = ()


Work = Callable[[Way], Spell]


def _singles(name: str, way: Way) -> Spell:
    taken = []
    for number in range(SINGLES):
        begun_s = time.perf_counter()
        if name == "get":
            way.get(f"k{number}")
        elif name == "put":
            way.put(f"k{number}", VALUE)
        else:
            way.incr(f"n{number % 50}")
        taken.append(time.perf_counter() - begun_s)
    return Spell(SINGLES, sum(taken), taken)


def _batches(way: Way) -> Spell:
    keys = [f"k{number % SINGLES}" for number in range(BATCH_KEYS)]
    begun_s = time.perf_counter()
    for _ in range(BATCHES):
        way.mget(keys)
    return Spell(BATCHES * BATCH_KEYS, time.perf_counter() - begun_s)


def _pipelined(client: SyncClient) -> Spell:
    begun_s = time.perf_counter()
    pipeline = client.pipeline()
    queued = pipeline.cache(SPACE)
    for number in range(PIPELINED):
        queued.get(f"k{number % SINGLES}")
    pipeline.run()
    return Spell(PIPELINED, time.perf_counter() - begun_s)


WORKS: dict[str, Work] = {
    "put": partial(_singles, "put"),
    "get": partial(_singles, "get"),
    "incr": partial(_singles, "incr"),
    f"mget of {BATCH_KEYS}, keys": _batches,
}


def run(rounds: int) -> list[Figure]:
    """Interleave rounds of each kind of work, each way, for each number of replicas."""
    figures: list[Figure] = []
    for factor in FACTORS:
        tell(f"three nodes, {_replicas(factor)}")
        with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
            figures += _measured(Path(home), factor, rounds)
    return figures


def _replicas(factor: int) -> str:
    return f"{factor} replica" + ("s" if factor > 1 else "")


def _measured(home: Path, factor: int, rounds: int) -> list[Figure]:
    settings = {"FRYS_CLUSTER_REPLICATION_FACTOR": str(factor)}
    nodes = [NodeProcess(f"n{number}", home / f"n{number}", settings=settings) for number in range(3)]
    try:
        _start(nodes)
        urls = [f"http://127.0.0.1:{node.http_port}" for node in nodes]
        plain = PlainHttp(nodes[0].http_port)
        with (
            SyncClient(urls, timeout_s=LIMIT_S) as straight,
            SyncClient(urls[0], straight=False, timeout_s=LIMIT_S) as entry,
        ):
            ways: dict[str, Way] = {STRAIGHT: straight.cache(SPACE), ENTRY: entry.cache(SPACE), PLAIN: plain}
            figures: list[Figure] = []
            for name, work in WORKS.items():
                runs = {way: partial(work, operations) for way, operations in ways.items()}
                figures += figures_of(f"{name}, {_replicas(factor)}", _interleaved(runs, rounds))
            runs = {STRAIGHT: partial(_pipelined, straight), ENTRY: partial(_pipelined, entry)}
            figures += figures_of(f"get in a pipeline, {_replicas(factor)}", _interleaved(runs, rounds))
            plain.close()
            return figures
    finally:
        for node in nodes:
            node.stop()


def _interleaved(runs: Mapping[str, Callable[[], Spell]], rounds: int) -> dict[str, list[Spell]]:
    """Do the work each way once to warm up, then in turns."""
    for work in runs.values():
        work()
    spells: dict[str, list[Spell]] = {way: [] for way in runs}
    for _ in range(rounds):
        for way, work in runs.items():
            spells[way].append(work())
    return spells


def figures_of(title: str, spells: Mapping[str, Sequence[Spell]]) -> list[Figure]:
    """Return operations a second straight to owners beside each other way, and what one took, where that is known."""
    figures = []
    ours = spells[STRAIGHT]
    rates = [spell.operations / spell.seconds for spell in ours]
    for way in [way for way in (PLAIN, ENTRY) if way in spells]:
        others = [spell.operations / spell.seconds for spell in spells[way]]
        figures.append(Figure(title, "ops/s", median(rates), way, median(others), "", rates))
        for percent in (50, 99):
            mine, theirs = _ms(ours, percent), _ms(spells[way], percent)
            if mine and theirs:
                figures.append(Figure(f"{title}: p{percent}", "ms", mine, way, theirs))
    return figures


def _ms(spells: Sequence[Spell], percent: float) -> float | None:
    taken = [value for spell in spells for value in spell.each_s]
    return percentile(taken, percent) * 1e3 if taken else None


def _start(nodes: list[NodeProcess]) -> None:
    deadline_s = time.monotonic() + READY_S
    nodes[0].start()
    _wait(lambda: nodes[0].is_ready, deadline_s)
    for node in nodes[1:]:
        node.start([nodes[0].bind])
        _wait(partial(getattr, node, "is_ready"), deadline_s)
    _wait(lambda: all(_is_whole(node, len(nodes)) for node in nodes), deadline_s)


def _is_whole(node: NodeProcess, count: int) -> bool:
    ring = node.call("GET", "/v1/ring")
    return ring["phase"] == "stable" and len(ring["members"]) == count


def _wait(probe: Callable[[], bool], deadline_s: float) -> None:
    while not probe():
        if time.monotonic() > deadline_s:
            raise FrysError(f"the nodes were not ready within {READY_S:g} s", hint="the machine may be busy: try again")
        time.sleep(0.05)

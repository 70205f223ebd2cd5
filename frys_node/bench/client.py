"""Three nodes through the client: straight to the owners, against the same requests through whichever node comes next.

With three replicas on three nodes any node answers a read from its own memory, and what is saved is the hop of changes
to the unit's first member. With one replica two of three requests through any node need that hop.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from frys_node.base.errors import FrysError
from frys_node.bench.figure import Figure
from frys_node.bench.runner import median
from frys_node.client import SyncClient
from frys_node.demo.cluster import NodeProcess

FACTORS = (3, 1)
SINGLES = 400
PIPELINED = 2_000
BATCHES = 20
BATCH_KEYS = 500
READY_S = 60.0
LIMIT_S = 120.0
"""For one operation, on a busy machine too: a pipeline is one."""

Work = Callable[[SyncClient], int]
"""Does a piece of work and returns how many operations it was."""


def _single(name: str) -> Work:
    def work(client: SyncClient) -> int:
        space = client.cache("bench")
        for number in range(SINGLES):
            if name == "get":
                space.get(f"k{number}")
            elif name == "put":
                space.put(f"k{number}", b"x" * 64)
            else:
                space.incr(f"n{number % 50}")
        return SINGLES

    return work


def _pipelined(client: SyncClient) -> int:
    pipeline = client.pipeline()
    queued = pipeline.cache("bench")
    for number in range(PIPELINED):
        queued.get(f"k{number % SINGLES}")
    pipeline.run()
    return PIPELINED


def _batches(client: SyncClient) -> int:
    keys = [f"k{number}" for number in range(BATCH_KEYS)]
    for _ in range(BATCHES):
        client.cache("bench").mget(keys)
    return BATCHES * BATCH_KEYS


WORKS: dict[str, Work] = {
    "put": _single("put"),
    "get": _single("get"),
    "incr": _single("incr"),
    "get in a pipeline": _pipelined,
    f"mget of {BATCH_KEYS}, keys": _batches,
}


def run(rounds: int) -> list[Figure]:
    """Interleave rounds of each kind of work, straight and through any node, for each number of replicas."""
    figures: list[Figure] = []
    for factor in FACTORS:
        with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
            figures += _measured(Path(home), factor, rounds)
    return figures


def _measured(home: Path, factor: int, rounds: int) -> list[Figure]:
    settings = {"FRYS_CLUSTER_REPLICATION_FACTOR": str(factor)}
    nodes = [NodeProcess(f"n{number}", home / f"n{number}", settings=settings) for number in range(3)]
    try:
        _start(nodes)
        urls = [f"http://127.0.0.1:{node.http_port}" for node in nodes]
        with (
            SyncClient(urls, timeout_s=LIMIT_S) as straight,
            SyncClient(urls, straight=False, timeout_s=LIMIT_S) as through,
        ):
            figures = []
            for name, work in WORKS.items():
                samples: dict[SyncClient, list[float]] = {straight: [], through: []}
                for client in (straight, through):
                    work(client)
                for _ in range(rounds):
                    for client, rates in samples.items():
                        began_s = time.perf_counter()
                        rates.append(work(client) / (time.perf_counter() - began_s))
                ours, others = samples[straight], samples[through]
                title = f"{name}, {factor} replica" + ("s" if factor > 1 else "")
                figures.append(Figure(title, "ops/s", median(ours), "through any node", median(others), "", ours))
            return figures
    finally:
        for node in nodes:
            node.stop()


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

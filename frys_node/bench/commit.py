"""A durable journal commit (one append of one run, fsync before the answer) against one fdatasync of as many bytes."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from frys_node.bench.figure import Figure
from frys_node.bench.runner import percentile
from frys_node.storage.ports import Append, NewRun
from frys_node.storage.sqlite import SqliteStore
from frys_node.transport.clock import SystemClock

COMMITS = 200
RECORD_BYTES = 256


def run(rounds: int) -> list[Figure]:
    """Interleave commits and plain syncs in one directory."""
    ours: list[float] = []
    peer: list[float] = []
    with tempfile.TemporaryDirectory(prefix="frys-bench-", dir=".") as home:
        for number in range(rounds):
            trio.run(_round, Path(home), number, ours, peer)
    return figures_of(ours, peer)


def figures_of(ours: Sequence[float], peer: Sequence[float]) -> list[Figure]:
    """Return the figures; microseconds."""
    return [
        Figure(
            "journal commit p50", "us", percentile(ours, 50), "fdatasync p50", percentile(peer, 50), "<= 1.2x (dream)"
        ),
        Figure(
            "journal commit p99",
            "us",
            percentile(ours, 99),
            "fdatasync p99",
            percentile(peer, 99),
            "<= 1 ms + one fsync",
        ),
    ]


async def _round(home: Path, number: int, ours: list[float], peer: list[float]) -> None:
    store = await SqliteStore.open(home / f"journal-{number}.sqlite", SystemClock())
    epoch = (await store.acquire([0], "bench"))[0]
    fd = os.open(home / f"plain-{number}", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    record = os.urandom(RECORD_BYTES)
    try:
        for index in range(COMMITS):
            begun = time.perf_counter_ns()
            refused = await store.append([_append(number, index, epoch, record)])
            ours.append((time.perf_counter_ns() - begun) / 1e3)
            assert refused == [None]
            begun = time.perf_counter_ns()
            os.write(fd, record)
            os.fdatasync(fd)
            peer.append((time.perf_counter_ns() - begun) / 1e3)
    finally:
        os.close(fd)
        await store.aclose()


def _append(number: int, index: int, epoch: int, record: bytes) -> Append:
    return Append(
        partition=0,
        epoch=epoch,
        run=f"run-{number}",
        expect_seq=index,
        count=1,
        data=record,
        status="running",
        live=True,
        wake_at_s=None,
        updated_ns=index,
        new=NewRun(label="default/bench", created_ns=0, meta=b"") if index == 0 else None,
    )

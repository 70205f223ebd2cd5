"""The cache: hit ratios of its policies, and redis-benchmark against one node beside Debian's redis-server.

The trace is what a cache in front of a database sees: keys by a Zipf law, and between them keys that are asked for once
and never again. `trace` and `hit_ratio` are pure; the rest runs processes. Operations per second of CPU are what a
pipeline costs the server, and do not depend on how many cores the machine has left.
"""

from __future__ import annotations

import random
import tempfile
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from frys_node.bench.figure import Figure
from frys_node.bench.redis_tools import benchmark, find_tool, redis_server, server_command, wait_for_port
from frys_node.bench.runner import cpu_s, median, tell
from frys_node.demo.cluster import NodeProcess, free_port
from frys_node.plugins.cache.policy import PolicyName, make_policy

KEYS = 20_000
REQUESTS = 200_000
CAPACITY = 2_000
ZIPF = 0.9
ONCE_SHARE = 0.25
"""Requests for keys that nobody asks for again."""

PIPELINES = (1, 16, 128)
REQUESTS_AT = {1: 20_000, 16: 150_000, 128: 500_000}
RANDOM_KEYS = 100_000


def trace(rng: random.Random, *, requests: int, keys: int, zipf: float, once_share: float) -> Iterator[bytes]:
    """Yield the keys of requests: number k of `keys` with weight 1/k^zipf, and a share of keys that come once."""
    bounds = list(accumulate(1 / rank**zipf for rank in range(1, keys + 1)))
    for number in range(requests):
        if rng.random() < once_share:
            yield b"once:%d" % number
        else:
            yield b"key:%d" % bisect_left(bounds, rng.random() * bounds[-1])


def hit_ratio(name: PolicyName, requests: Iterable[bytes], capacity: int) -> float:
    """Return the share of requests that find their key in a cache of so many entries; a miss stores it."""
    policy = make_policy(name)
    held: set[bytes] = set()
    hits = total = 0
    for key in requests:
        total += 1
        if key in held:
            hits += 1
            policy.hit((key,))
            continue
        if len(held) >= capacity:
            held.remove(policy.pop_victim())
        held.add(key)
        policy.add(key)
    return hits / total


def ratios(seed: int, *, requests: int = REQUESTS) -> dict[PolicyName, float]:
    """Return the hit ratio of each policy on one trace."""
    keys = list(trace(random.Random(seed), requests=requests, keys=KEYS, zipf=ZIPF, once_share=ONCE_SHARE))
    return {name: hit_ratio(name, keys, CAPACITY) for name in PolicyName}


def run(rounds: int) -> list[Figure]:
    """Hit ratios beside LRU's, then rounds of redis-benchmark, ours and Redis' in turn, if its programs are there."""
    tell(f"hit ratios of {len(PolicyName)} policies on {rounds} trace(s) of {REQUESTS:,} requests")
    figures = ratio_figures([ratios(seed) for seed in range(1, rounds + 1)])
    if find_tool("redis-benchmark") is None or server_command() is None:
        tell("no redis-server and redis-benchmark here (make peers): only the hit ratios")
        return figures
    with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
        figures += _beside_redis(Path(home), rounds)
    return figures


def ratio_figures(found: Sequence[Mapping[PolicyName, float]]) -> list[Figure]:
    """Return the hit ratio of each policy beside LRU's, of one trace or of several."""
    lru = median([ratio[PolicyName.LRU] for ratio in found])
    return [
        Figure(
            f"hit ratio {name}",
            "ratio",
            median([ratio[name] for ratio in found]),
            "lru",
            lru,
            ">= lru" if name is PolicyName.SIEVE else "",
            [ratio[name] for ratio in found],
        )
        for name in PolicyName
    ]


def _beside_redis(home: Path, rounds: int) -> list[Figure]:
    port, peer_port = free_port(), free_port()
    node = NodeProcess("bench", home / "node", settings={"FRYS_PLUGINS_CACHE_RESP": f"127.0.0.1:{port}"})
    with redis_server(peer_port, home) as peer_pid:
        node.start()
        try:
            wait_for_port(port)
            assert node.process is not None
            return _rounds((port, node.process.pid), (peer_port, peer_pid), rounds)
        finally:
            node.stop()


def _rounds(ours: tuple[int, int], peer: tuple[int, int], rounds: int) -> list[Figure]:
    figures: list[Figure] = []
    cases = [(test, pipeline, 0) for pipeline in PIPELINES for test in ("set", "get")]
    cases += [(test, PIPELINES[-1], RANDOM_KEYS) for test in ("set", "get")]
    for test, pipeline, keys in cases:
        tell(f"redis-benchmark {test} P={pipeline}" + (f", {keys:,} random keys" if keys else ""))
        rates: list[tuple[float, float]] = []
        peer_rates: list[tuple[float, float]] = []
        for _ in range(rounds):
            for (port, pid), into in ((ours, rates), (peer, peer_rates)):
                into.append(_measure(port, pid, test, pipeline, keys))
        title = f"{test} P={pipeline}" + (f", {keys} random keys" if keys else "")
        figures += rate_figures(title, rates, peer_rates, ">= 0.35x" if pipeline == PIPELINES[-1] and not keys else "")
    return figures


def rate_figures(
    title: str, rates: Sequence[tuple[float, float]], peer_rates: Sequence[tuple[float, float]], budget: str
) -> list[Figure]:
    """Return operations per second, and per second of the server's CPU, beside those of Redis."""
    figures = []
    for index, unit, limit in ((0, "ops/s", ""), (1, "ops/CPU-s", budget)):
        samples = [rate[index] for rate in rates]
        others = [rate[index] for rate in peer_rates]
        figures.append(Figure(title, unit, median(samples), "redis-server", median(others), limit, samples))
    return figures


def _measure(port: int, pid: int, test: str, pipeline: int, keys: int) -> tuple[float, float]:
    """Return operations per second, and per second of the server's CPU."""
    requests = REQUESTS_AT[pipeline] if not keys else REQUESTS_AT[pipeline] // 2
    begun_s = cpu_s(pid)
    rate = benchmark(port, test, pipeline=pipeline, requests=requests, keys=keys)
    return rate, requests / max(1e-9, cpu_s(pid) - begun_s)

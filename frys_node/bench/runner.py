"""Runs benchmark scenarios and prints figures with their peer, ratio, load and machine.

A scenario is a module with `run(rounds) -> list[Figure]`, each figure measured beside a real peer or a physical limit
in the same run, rounds interleaved. Nothing here asserts: budgets are compared by people, with the load printed beside.
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frys_node.base.errors import UsageError
from frys_node.bench.figure import HEADER, Figure
from frys_node.cli.admin import table

SCENARIOS = {
    "startup": "exec to the first 200 from /livez, warm data directory, against `import trio`",
    "idle": "RSS and CPU of an idle node, against an idle trio process",
    "bus": "publish to a handler and scheduling a task, against a plain call",
    "request": "a 64-byte request over the node channel, against a blocking TCP echo",
    "handshake": "mutual handshakes of both kinds of identity, an echo and a join, against the standard library's ssl",
    "gossip-packet": "sealing and opening 1,200 bytes, and replays, against bare AES-256-GCM",
    "cache": "hit ratios of the policies, and redis-benchmark against a node, against redis-server",
    "balance": "how evenly the ring spreads units and keys and what a join moves, against a ring without bounds",
    "client": "three nodes through the client, straight to owners, against through any node",
    "commit": "a durable journal commit, against one fsync",
    "move": "a leave and a join of a cluster with data under load, against the same load before",
    "snapshot": "saving, checking and restoring a node, against plain writes, blake2b and requests before it",
    "flood": "calls of a healthy peer beside 10,000 junk connections, against the same calls before",
    "membership": "kills, pauses, loss, partitions, joins and leaves of clusters in namespaces, against serf",
}


MODULES = {"gossip-packet": "gossip_packet"}
"""Modules of scenarios that cannot name one."""


def machine() -> dict[str, Any]:
    """Describe where the figures come from."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "unknown"
    )
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average": [round(value, 2) for value in os.getloadavg()],
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def main(names: Sequence[str], *, json_output: bool, rounds: int, is_full: bool = False) -> int:
    """Run scenarios by name, at full size those that have one; without a name, list them."""
    if not names:
        print(table(SCENARIOS.items(), ("SCENARIO", "MEASURES")))
        return 0
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise UsageError(f"no scenario '{unknown[0]}'", hint=f"one of: {', '.join(SCENARIOS)}")
    results: dict[str, Any] = {"machine": machine(), "rounds": rounds, "scenarios": {}}
    for name in names:
        print(f"running {name}: {SCENARIOS[name]} ...", file=sys.stderr)
        module = importlib.import_module(f"frys_node.bench.{MODULES.get(name, name)}")
        scenario = getattr(module, "run_full", module.run) if is_full else module.run
        figures: list[Figure] = scenario(rounds)
        results["scenarios"][name] = [figure.as_dict() for figure in figures]
        if not json_output:
            print(table([figure.as_row() for figure in figures], HEADER))
    results["machine"]["load_average_after"] = [round(value, 2) for value in os.getloadavg()]
    if json_output:
        print(json.dumps(results, indent=2))
    else:
        about = results["machine"]
        print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, ", end="")
        print(f"load {about['load_average']} -> {about['load_average_after']}, {rounds} rounds")
    return 0


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def cpu_s(pid: int) -> float:
    """Return user and system CPU seconds of a process, all of its threads, to the nanosecond.

    The clock's number is what clock_getcpuclockid(3) computes on Linux.
    """
    return time.clock_gettime((~pid << 3) | 2)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of the sorted values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

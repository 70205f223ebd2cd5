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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from frys_node.base.errors import FrysError, UsageError
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
    "client": "three nodes through the client, straight to owners, against plain HTTP and the client through one",
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


class Options(NamedTuple):
    """How much is measured."""

    rounds: int
    """Interleaved rounds; `move` makes one leave and one join, however many."""
    is_full: bool = False
    """At the size of the goals, for scenarios that have one."""
    held: int | None = None
    """What `move` fills the node that leaves with, of each kind; None: as `is_full` says."""


def main(names: Sequence[str], options: Options, *, json_output: bool) -> int:
    """Run scenarios by name; without a name, list them. One that fails costs the others nothing.

    Returns:
        1 if a scenario failed, else 0.
    """
    if not names:
        print(table(SCENARIOS.items(), ("SCENARIO", "MEASURES")))
        return 0
    unknown = [name for name in names if name not in SCENARIOS]
    if unknown:
        raise UsageError(f"no scenario '{unknown[0]}'", hint=f"one of: {', '.join(SCENARIOS)}")
    about, begun_s = machine(), time.monotonic()
    found: dict[str, list[Figure]] = {}
    failures: dict[str, str] = {}
    for name in names:
        tell(f"running {name}: {SCENARIOS[name]} ...")
        try:
            found[name] = _scenario(name, options)
        except FrysError as error:
            failures[name] = str(error)
            tell(f"{name} failed: {error}")
            continue
        tell(f"{name} is done, {time.monotonic() - begun_s:.0f} s after the start")
        if not json_output:
            print(table([figure.as_row() for figure in found[name]], HEADER))
    about["load_average_after"] = [round(value, 2) for value in os.getloadavg()]
    if json_output:
        print(as_json(about, options.rounds, found, failures))
    else:
        print(f"{about['cpu']}, {about['cores']} cores, Python {about['python']}, ", end="")
        print(f"load {about['load_average']} -> {about['load_average_after']}, {options.rounds} rounds")
    return 1 if failures else 0


def _scenario(name: str, options: Options) -> list[Figure]:
    module = importlib.import_module(f"frys_node.bench.{MODULES.get(name, name)}")
    if options.held is not None and hasattr(module, "run_holding"):
        return list(module.run_holding(options.held))
    run = getattr(module, "run_full", module.run) if options.is_full else module.run
    return list(run(options.rounds))


def as_json(
    about: Mapping[str, Any], rounds: int, found: Mapping[str, Sequence[Figure]], failures: Mapping[str, str]
) -> str:
    """Return the figures of scenarios as JSON of the standard, which knows no infinity."""
    scenarios = {name: [figure.as_dict() for figure in figures] for name, figures in found.items()}
    body = {"machine": about, "rounds": rounds, "scenarios": scenarios, "failures": failures}
    return json.dumps(body, indent=2, allow_nan=False)


def tell(text: str) -> None:
    """Say how far a scenario is, on stderr: stdout is for figures."""
    print(text, file=sys.stderr, flush=True)


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def cpu_s(pid: int) -> float:
    """Return user and system CPU seconds of a process, all of its threads, to the nanosecond.

    The clock's number is what clock_getcpuclockid(3) computes on Linux.
    """
    return time.clock_gettime((~pid << 3) | 2)


def processor_time() -> tuple[int, int]:
    """Return how long all processors have been in use, by whatever runs here, and how long in all; kernel ticks."""
    times = [int(part) for part in _lines("/proc/stat")[0].split()[1:9]]
    _user, _nice, _system, idle, waiting, *_ = times
    return sum(times) - idle - waiting, sum(times)


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value below which `percent` of the sorted values lie (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]

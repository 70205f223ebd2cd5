"""What a node costs while nothing happens: memory and CPU, against a trio process that sleeps.

Resident memory counts the pages of libraries that are mapped now, which other processes share; private memory is what
the machine would get back. A node unmaps the program text of its start, so both are told.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import fmean

from frys_node.bench.figure import Figure
from frys_node.bench.runner import cpu_s, median
from frys_node.bench.startup import first_livez
from frys_node.demo.cluster import NodeProcess

SETTLE_S = 3.0
WINDOW_S = 10.0

Both = tuple[list[float], list[float]]
"""The node's samples and the peer's."""


def run(rounds: int) -> list[Figure]:
    """Watch one idle node and one sleeping trio process for `rounds` windows each, side by side."""
    with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
        node = NodeProcess("bench", Path(home))
        first_livez(node)
        peer = subprocess.Popen([sys.executable, "-c", "import trio; trio.run(trio.sleep_forever)"])
        try:
            time.sleep(SETTLE_S)
            assert node.process is not None
            pids = (node.process.pid, peer.pid)
            cpu: Both = ([], [])
            rss: Both = ([], [])
            private: Both = ([], [])
            for _ in range(rounds):
                before = [cpu_s(pid) for pid in pids]
                time.sleep(WINDOW_S)
                for index, pid in enumerate(pids):
                    cpu[index].append((cpu_s(pid) - before[index]) / WINDOW_S * 100)
                    rss[index].append(rss_mib(pid))
                    private[index].append(private_mib(pid))
        finally:
            peer.kill()
            peer.wait()
            node.stop()
    return figures_of(rss, private, cpu)


def figures_of(rss: Both, private: Both, cpu: Both) -> list[Figure]:
    """Return the figures: MiB and percent of a core."""
    return [
        Figure("resident memory", "MiB", median(rss[0]), "sleeping trio", median(rss[1]), "<= 48 MiB", rss[0]),
        Figure("private memory", "MiB", median(private[0]), "sleeping trio", median(private[1]), "", private[0]),
        Figure("idle CPU", "% of a core", fmean(cpu[0]), "sleeping trio", fmean(cpu[1]), "<= 0.5 %", cpu[0]),
    ]


def rss_mib(pid: int) -> float:
    """Return what is mapped of a process now, shared pages included."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def private_mib(pid: int) -> float:
    """Return what only this process holds."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024

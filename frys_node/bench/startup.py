"""From exec to the first 200 of /livez, warm data directory, against `python -c "import trio"` in the same run.

The CPU time of both is told as well: a busy machine stretches the clock, and hardly that. Both have their bytecode
(`frys_node.bench.bytecode`), that of libraries from a start that is not counted.
"""

from __future__ import annotations

import http.client
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from frys_node.bench.figure import Figure
from frys_node.bench.runner import cpu_s, median
from frys_node.demo.cluster import NodeProcess
from frys_node.demo.console import DemoFailed

POLL_S = 0.002
LIMIT_S = 30.0


def run(rounds: int) -> list[Figure]:
    """Start a node again and again in one data directory."""
    ours, peer = [], []
    cpu, peer_cpu = [], []
    with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
        node = NodeProcess("bench", Path(home))
        first_livez(node)
        node.stop()
        import_trio()
        for _ in range(rounds):
            ours.append(first_livez(node) * 1e3)
            assert node.process is not None
            cpu.append(cpu_s(node.process.pid) * 1e3)
            node.stop()
            begun, used = time.perf_counter(), _children_cpu_s()
            import_trio()
            peer.append((time.perf_counter() - begun) * 1e3)
            peer_cpu.append((_children_cpu_s() - used) * 1e3)
    return figures_of(ours, peer, cpu, peer_cpu)


def import_trio() -> None:
    """Run the peer."""
    subprocess.run([sys.executable, "-c", "import trio"], check=True)


def figures_of(
    ours: Sequence[float], peer: Sequence[float], cpu: Sequence[float], peer_cpu: Sequence[float]
) -> list[Figure]:
    """Return the figures; milliseconds."""
    return [
        Figure("start to /livez", "ms", median(ours), "import trio", median(peer), "<= 2.0x", ours),
        Figure("CPU of it", "ms", median(cpu), "import trio", median(peer_cpu), "", cpu),
    ]


def _children_cpu_s() -> float:
    """Return the CPU seconds of the children that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def first_livez(node: NodeProcess) -> float:
    """Start the node and return the seconds until /livez answered 200."""
    begun = time.perf_counter()
    node.start()
    while time.perf_counter() - begun < LIMIT_S:
        connection = http.client.HTTPConnection("127.0.0.1", node.http_port, timeout=1)
        try:
            connection.request("GET", "/livez")
            if connection.getresponse().status == 200:
                return time.perf_counter() - begun
        except OSError:
            time.sleep(POLL_S)
        finally:
            connection.close()
    raise DemoFailed(f"no /livez within {LIMIT_S:g} s:\n{node.log_tail()}")

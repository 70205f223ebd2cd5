"""From exec to the first 200 of /livez, warm data directory, against `python -c "import trio"` in the same run."""

from __future__ import annotations

import http.client
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from frys_node.bench.figure import Figure
from frys_node.bench.runner import median
from frys_node.demo.cluster import NodeProcess
from frys_node.demo.console import DemoFailed

POLL_S = 0.002
LIMIT_S = 30.0


def run(rounds: int) -> list[Figure]:
    """Start a node again and again in one data directory."""
    ours, peer = [], []
    with tempfile.TemporaryDirectory(prefix="frys-bench-") as home:
        node = NodeProcess("bench", Path(home))
        first_livez(node)
        node.stop()
        for _ in range(rounds):
            ours.append(first_livez(node) * 1e3)
            node.stop()
            begun = time.perf_counter()
            subprocess.run([sys.executable, "-c", "import trio"], check=True)
            peer.append((time.perf_counter() - begun) * 1e3)
    return [Figure("start to /livez", "ms", median(ours), "import trio", median(peer), "<= 2.0x", ours)]


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

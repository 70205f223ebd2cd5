"""numpy in a process of its own: one thread for linear algebra, and an environment that is as it was."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import os
from frys_node.plugins.vector.arrays import THREADS, np
rows = np.ones((60_000, 32), dtype=np.float32)
for _ in range(3):
    rows @ rows[0]
print(len(os.listdir("/proc/self/task")), os.environ.get(THREADS))
"""


def said_with(threads: str | None) -> list[str]:
    """Return how many threads a process has after a large product, and what its environment says afterwards."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    if threads is not None:
        environment["OPENBLAS_NUM_THREADS"] = threads
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.split()


def test_a_large_product_takes_one_thread_and_the_environment_stays() -> None:
    """Threads of OpenBLAS would spin beside the event loop; what is started by a plugin later is not told so."""
    assert said_with(None) == ["1", "None"]


def test_whoever_runs_the_node_may_ask_for_more_threads() -> None:
    """A value that is set already is kept."""
    assert said_with("2") == [str(min(2, len(os.sched_getaffinity(0)))), "2"]

"""What the benchmark scenarios measure with."""

from __future__ import annotations

import os
import threading
import time

from frys_node.bench.idle import private_mib, rss_mib
from frys_node.bench.runner import cpu_s, percentile, processor_time


def test_the_cpu_of_a_process_counts_all_of_its_threads() -> None:
    """Work in a thread that has ended is the process's work, as the process's own clock has it."""

    def work() -> None:
        begun = time.thread_time()
        while time.thread_time() - begun < 0.05:
            pass

    before, own = cpu_s(os.getpid()), time.process_time()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert cpu_s(os.getpid()) - before >= 0.05
    assert cpu_s(os.getpid()) >= own


def test_private_memory_is_a_part_of_resident_memory() -> None:
    """Both are megabytes of this process, and what is shared makes the difference."""
    private, resident = private_mib(os.getpid()), rss_mib(os.getpid())
    assert 1.0 < private <= resident + 1.0


def test_the_processors_are_in_use_while_somebody_works() -> None:
    """What this process computes is counted, and never more than there are."""
    busy, total = processor_time()
    begun = time.process_time()
    while processor_time()[0] == busy or time.process_time() - begun < 0.02:
        pass
    busy_after, total_after = processor_time()
    assert busy < busy_after
    assert busy_after - busy <= total_after - total


def test_percentiles_are_of_the_nearest_rank() -> None:
    """The last value stands for everything beyond it."""
    assert percentile([3.0, 1.0, 2.0], 50) == 2.0
    assert percentile([1.0, 2.0], 99) == 2.0

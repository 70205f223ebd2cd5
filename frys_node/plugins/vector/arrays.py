"""numpy, loaded with one thread for linear algebra.

OpenBLAS multiplies a shard of ten thousand rows and more by a query on all cores, and its threads then spin for
milliseconds in wait of the next: at 200 scans a second of 15,000 rows of 32 dimensions on two cores 5.4 ms of processor
time each, where one thread takes 0.1 (docs/performance.md). Searches are many and small, and they run side by side.

The setting is read once, when the library is loaded, and is taken back then: processes started later are none of ours
to set. Whoever sets it for the node has it as it was set; it does nothing if a plugin has brought numpy in before.
"""

from __future__ import annotations

import os

THREADS = "OPENBLAS_NUM_THREADS"

_is_ours = THREADS not in os.environ
if _is_ours:
    os.environ[THREADS] = "1"
try:
    import numpy as np
    import numpy.typing as npt
finally:
    if _is_ours:
        del os.environ[THREADS]

__all__ = ["np", "npt"]

"""Nodes of a benchmark start as installed ones do: with their bytecode there.

A checkout under ``PYTHONDONTWRITEBYTECODE`` compiles all of ours at every start: 0.7 s of CPU, more than the rest of
the start. Twenty nodes that start on two cores then compile for a quarter of a minute, and whatever else is measured
meanwhile waits for that.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FORBIDS = "PYTHONDONTWRITEBYTECODE"
PLACE = "PYTHONPYCACHEPREFIX"
PACKAGES = ("balancer", "frys_node", "membership", "snapshots")


@contextmanager
def bytecode_is_kept() -> Iterator[None]:
    """Have every Python that is started within keep its bytecode, in a directory of the run's own.

    Ours is compiled first, so that not even the first start pays for it. Where the environment forbids nothing, Python
    does the same by itself, and this does nothing.
    """
    if not os.environ.get(FORBIDS):
        yield
        return
    before = {name: os.environ.get(name) for name in (FORBIDS, PLACE)}
    with tempfile.TemporaryDirectory(prefix="frys-bytecode-") as home:
        # An empty one forbids nothing.
        os.environ.update({FORBIDS: "", PLACE: home})
        root = Path(__file__).resolve().parents[2]
        folders = [str(root / package) for package in PACKAGES]
        try:
            subprocess.run([sys.executable, "-m", "compileall", "-q", *folders], check=True)
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

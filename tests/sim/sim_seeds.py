"""Where the batches of seeds in the gate begin."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

SEED_BASE = "SIM_SEED_BASE"
"""Environment variable that says where; not ``FRYS_...``, which nodes take for a setting and refuse."""

SEEDS_END = 1_000_000
"""Batches begin below it."""


def first_seed() -> int:
    """Return where this commit's batches begin: others with each commit, the same ones within one, as in the gate."""
    base = os.environ.get(SEED_BASE)
    if base is None:
        git = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
        )
        return int(git.stdout[:7] or "0", 16) % SEEDS_END
    if not (base.isascii() and base.isdigit()):
        raise ValueError(f"{SEED_BASE}={base} is no seed: give a number, such as {SEED_BASE}=123456")
    return int(base) % SEEDS_END

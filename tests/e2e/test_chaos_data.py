"""A short run of `make chaos-data`, as a person starts it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = 77

pytestmark = pytest.mark.slow


def test_quorum_writes_and_deletes_survive_faults_and_a_pulled_plug(tmp_path: Path) -> None:
    """Four faults, then every process is killed at once: nothing is lost or comes back, and the replicas are equal."""
    run = subprocess.run(
        [
            *(sys.executable, "-m", "chaos.data", "--json", "--dir", str(tmp_path / "nodes")),
            *("--nodes", "3", "--events", "4", "--no-turnover", "--seed", "4"),
        ],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    if run.returncode == SKIPPED:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    counts = json.loads(run.stdout)["counts"]
    assert counts["events: plug"] == 1
    assert counts["point_deletes_acknowledged"] > 0
    assert [counts[kind] for kind in ("missing", "resurrected", "stale", "invented", "units_unequal")] == [0] * 5

"""The demonstration is the product's first promise: every line of its report must hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


def test_every_check_of_the_demo_holds(tmp_path: Path) -> None:
    """`frys-node demo` exits 0 with all checks ok, through a kill, a resume, a join and a leave."""
    done = subprocess.run(
        [sys.executable, "-m", "frys_node", "demo", "--json"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4_000:]
    report = json.loads(done.stdout)
    assert report["ok"]
    names = {check["name"] for check in report["checks"]}
    assert names == {check["name"] for check in report["checks"] if check["ok"]}
    wanted = (
        "cluster ingest accuracy recall channel gossip gap detection service waiting resume healed join leave shutdown"
    )
    assert names == set(wanted.split())

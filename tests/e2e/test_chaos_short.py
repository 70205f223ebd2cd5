"""Short runs of the chaos scripts, as a person starts them; their verdict is their exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = 77

NO_NODE = not (ROOT / "frys_node" / "node.py").exists()
pytestmark = [pytest.mark.slow, pytest.mark.skipif(NO_NODE, reason="no composition root yet: no node to hurt")]


def chaos(script: str, tmp_path: Path, *arguments: str) -> dict[str, object]:
    """Run a script to its end and return its report."""
    report = tmp_path / "report.json"
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            f"chaos.{script}",
            "--report",
            str(report),
            "--dir",
            str(tmp_path / "nodes"),
            *arguments,
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
    verdict: dict[str, object] = json.loads(report.read_text(encoding="utf-8"))
    return verdict


def test_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    """Three kills of one of three nodes during writes at the default quorum: nothing acknowledged is missing."""
    verdict = chaos("kill", tmp_path, "--rounds", "3", "--points", "500")
    assert verdict["good"] is True


def test_pauses_under_load_lose_nothing_and_kill_nobody(tmp_path: Path) -> None:
    """Two pauses: afterwards everybody is alive in every view."""
    verdict = chaos("pause", tmp_path, "--rounds", "2", "--points", "300")
    assert verdict["good"] is True


def test_partitions_under_load_lose_nothing(tmp_path: Path) -> None:
    """A two-way and a one-way cut in network namespaces: both sides agree again, nothing acknowledged is missing."""
    verdict = chaos("partition", tmp_path, "--nodes", "3", "--rounds", "2", "--points", "300")
    assert verdict["good"] is True

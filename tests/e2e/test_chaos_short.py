"""Short runs of the chaos scripts, as a person starts them; their verdict is their exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from random import Random

import pytest

from chaos import scenario
from chaos.cluster import Cluster
from chaos.load import COLLECTION, Connection, Load

ROOT = Path(__file__).resolve().parents[2]
SKIPPED = 77

pytestmark = pytest.mark.slow


def chaos(script: str, *arguments: str) -> str:
    """Run a script to its end and return what it printed; skips where it cannot run."""
    run = subprocess.run(
        [sys.executable, "-m", f"chaos.{script}", *arguments],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    if run.returncode == SKIPPED:
        pytest.skip(run.stderr.strip())
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    return run.stdout


def verdict_of(script: str, tmp_path: Path, *arguments: str) -> dict[str, object]:
    """Run a script to its end and return its report."""
    report = tmp_path / "report.json"
    chaos(script, "--report", str(report), "--dir", str(tmp_path / "nodes"), *arguments)
    verdict: dict[str, object] = json.loads(report.read_text(encoding="utf-8"))
    return verdict


def test_quorum_writes_and_deletes_survive_faults_a_join_a_leave_and_a_pulled_plug(tmp_path: Path) -> None:
    """Nothing is lost or comes back, the replicas are equal, and the records of all nodes are one history."""
    arguments = ("--nodes", "3", "--events", "4", "--pace", "1", "--plugs", "nothing", "--seed", "4")
    counts = json.loads(chaos("data", "--json", *arguments, "--dir", str(tmp_path / "nodes")))["counts"]
    assert counts["events: plug"] == 1
    assert counts["point_deletes_acknowledged"] > 0
    assert (counts["joins"] > 0, counts["leaves"] > 0) == (True, True)
    assert counts["records_compared"] > 3
    broken = ("missing", "resurrected", "stale", "invented", "units_unequal", "units_uncompared")
    broken += ("forked_epochs", "epochs_gone_back", "double_moves")
    assert [counts[kind] for kind in broken] == [0] * len(broken)


def test_kills_under_load_lose_nothing(tmp_path: Path) -> None:
    """Three kills of one of three nodes during writes at the default quorum: nothing acknowledged is missing."""
    verdict = verdict_of("kill", tmp_path, "--rounds", "3", "--points", "500")
    assert verdict["good"] is True


def test_pauses_under_load_lose_nothing_and_kill_nobody(tmp_path: Path) -> None:
    """Two pauses: afterwards everybody is alive in every view."""
    verdict = verdict_of("pause", tmp_path, "--rounds", "2", "--points", "300")
    assert verdict["good"] is True


def test_partitions_under_load_lose_nothing(tmp_path: Path) -> None:
    """A two-way and a one-way cut in network namespaces: both sides agree again, nothing acknowledged is missing."""
    verdict = verdict_of("partition", tmp_path, "--nodes", "3", "--rounds", "2", "--points", "300")
    assert verdict["good"] is True


def test_an_acknowledged_point_that_vanishes_breaks_the_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Planted in a real cluster: one point is deleted behind the load's back, and every node's final read tells."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr("chaos.load.OVERWRITES", 0.0)

    def lose_one(cluster: Cluster, load: Load, rng: Random, arguments: Namespace) -> int:
        key = next(o.key for o in load.history if o.kind == "write" and o.store == "point" and o.is_acknowledged)
        endpoint = cluster.nodes[0].endpoint
        connection = Connection([endpoint])
        path = f"/collections/{COLLECTION}/points/delete?wait=true"
        assert connection.ask(endpoint, "POST", path, {"points": [key]}) is not None
        connection.close()
        return 1

    arguments = scenario.parser("", nodes=3, rounds=1).parse_args(["--points", "100", "--dir", str(tmp_path / "nodes")])
    assert scenario.run("planted", arguments, Cluster.on_loopback, lose_one) == 1
    lost = [line for line in capsys.readouterr().out.splitlines() if "lost, version" in line and "final read" in line]
    assert len(lost) == 3

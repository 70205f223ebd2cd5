"""SIGKILL in the middle of work: every run resumes, no committed body runs again, results are unchanged."""

from __future__ import annotations

import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frys_node.plugins.workflow.journal import StepDone, decode_entries
from frys_node.plugins.workflow.runs import STATE

CHILD = Path(__file__).parent / "workflow_crash_child.py"
RUNS = 12
KILLS = 8
"""At least; more until enough was committed to prove something."""
KILLS_MAX = 60


def committed(directory: Path) -> dict[tuple[str, str], bytes]:
    """Outcomes in the journal, by run and reference; one that is there twice fails."""
    found: dict[tuple[str, str], bytes] = {}
    path = directory / "workflow.db"
    if not path.exists():
        return found
    with sqlite3.connect(path) as db:
        if not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone():
            return found
        for run, data in db.execute("SELECT run, data FROM journal ORDER BY run, seq"):
            for entry in decode_entries(data):
                if isinstance(entry, StepDone):
                    assert (run, entry.id) not in found, "an outcome was recorded twice"
                    found[run, entry.id] = entry.value
    db.close()
    return found


def results(directory: Path) -> dict[str, bytes]:
    """Outputs of all runs, which must be completed."""
    with sqlite3.connect(directory / "workflow.db") as db:
        rows = db.execute("SELECT id, status, state FROM run").fetchall()
    db.close()
    assert {status for _, status, _ in rows} == {"completed"}
    return {run: STATE.decode(state).output for run, _, state in rows}


def spawn(directory: Path) -> subprocess.Popen[bytes]:
    """Start a session."""
    return subprocess.Popen([sys.executable, str(CHILD), str(directory), str(RUNS)])


@pytest.mark.slow
def test_kill_9_loses_no_step_and_repeats_no_committed_one(tmp_path):
    """Several SIGKILLs at random moments, then a session to the end; compared with a run that nobody killed."""
    calm, rough = tmp_path / "calm", tmp_path / "rough"
    for directory in (calm, rough):
        directory.mkdir()
    assert spawn(calm).wait(60) == 0

    rng = random.Random(7)
    known: dict[tuple[str, str], bytes] = {}
    log = rough / "log"
    for kills in range(KILLS_MAX):
        if kills >= KILLS and len(known) > 40:
            break
        offset = log.stat().st_size if log.exists() else 0
        child = spawn(rough)
        bodies_wanted = rng.randrange(1, 25)
        until = time.monotonic() + 30
        while child.poll() is None and time.monotonic() < until:
            if log.exists() and log.read_bytes()[offset:].count(b"body") >= bodies_wanted:
                break
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        child.wait(10)
        bodies = {tuple(line.split()[1:]) for line in log.read_text()[offset:].splitlines() if line.startswith("body")}
        assert not bodies & known.keys(), "a committed step body ran again"
        after = committed(rough)
        assert all(after[name] == value for name, value in known.items()), "a committed outcome changed or vanished"
        known = after
    offset = log.stat().st_size
    assert spawn(rough).wait(60) == 0
    bodies = {tuple(line.split()[1:]) for line in log.read_text()[offset:].splitlines() if line.startswith("body")}
    assert not bodies & known.keys(), "a committed step body ran again"
    assert len(known) > 40, "the kills came too early to prove anything"
    assert results(rough) == results(calm)

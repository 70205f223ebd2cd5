"""The gate itself: a stage that hangs is ended with its children, counts are read, missing answers fail only in CI."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def gate() -> ModuleType:
    """The gate's module."""
    spec = importlib.util.spec_from_file_location("gate", ROOT / ".ci" / "gate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_stage_that_hangs_is_ended_with_its_children(gate: ModuleType) -> None:
    """The whole process group goes: the child prints its id and is gone when the stage has been ended."""
    code = "import subprocess, sys, time\nchild = subprocess.Popen(['sleep', '600'])\nprint(child.pid, flush=True)\n"
    stage = gate.Stage("hang", [sys.executable, "-c", code + "time.sleep(600)"], 600)
    outcome = gate.run(stage, 1.0)
    assert outcome.code == 124
    assert "the time limit of this stage" in outcome.output
    child = Path("/proc") / outcome.output.split()[0] / "stat"
    # The signal is sent, the kernel may need a moment; what is left then is at most an entry nobody has read yet.
    for _ in range(200):
        if not child.exists() or child.read_text().split()[2] == "Z":
            return
        time.sleep(0.01)
    raise AssertionError("the child of the stage still runs")


def test_counts_and_skips_of_a_test_run_are_collected(gate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """The last line of each run is added up; reasons of skips are kept for the end; an empty folder is no failure."""
    totals, skipped = {"passed": 0, "failed": 0, "skipped": 0}, []
    stage = gate.Stage("unit", ["python", "-m", "pytest", "tests/unit"], 60)
    text = "..F\nSKIPPED [1] tests/unit/test_x.py:3: no nft\n1 failed, 2 passed, 1 skipped in 0.12s\n"
    assert not gate.judge(stage, gate.Outcome(1, text, 0.1), totals, skipped)
    assert totals == {"passed": 2, "failed": 1, "skipped": 1}
    assert skipped == ["unit: [1] tests/unit/test_x.py:3: no nft"]
    assert gate.judge(stage, gate.Outcome(0, "3 passed in 0.12s\nResourceWarning: 1 failed\n", 0.1), totals, skipped)
    assert totals == {"passed": 5, "failed": 1, "skipped": 1}
    assert gate.judge(stage, gate.Outcome(5, "no tests ran in 0.01s\n", 0.1), totals, skipped)
    assert skipped[-1] == "unit: no tests there yet"
    assert "FAIL  unit" in capsys.readouterr().out


def test_lanes_run_side_by_side_and_every_failure_is_kept(gate: ModuleType, tmp_path: Path) -> None:
    """Two stages that can only end together end; a stage behind one that failed runs all the same."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    write, read = f"open({str(pipe)!r}, 'w').write('x')", f"assert open({str(pipe)!r}).read() == 'x'"
    found = gate.Run(time.monotonic())
    found.side_by_side(
        (gate.Stage("write", [sys.executable, "-c", write], 60), gate.Stage("bad", [sys.executable, "-c", "1/0"], 60)),
        (gate.Stage("read", [sys.executable, "-c", read], 60), gate.Stage("worse", [sys.executable, "-c", "1/0"], 60)),
    )
    assert sorted(found.failures) == ["bad", "worse"]


def test_seeds_that_cost_too_much_fail_the_gate(gate: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    """Their CPU seconds are read from each run, where they are told above its last line, and held to one limit."""
    text = "...\nseeds took 123.4 CPU-s\n3 passed in 200.00s\n"
    assert gate.seeds_cpu_s(text) + gate.seeds_cpu_s("1 passed in 1.00s\n") == 123.4
    assert gate.too_costly(gate.SEEDS_CPU_S_MAX) == []
    assert "seeds took 480 CPU-s, limit 480" in capsys.readouterr().out
    (failure,) = gate.too_costly(gate.SEEDS_CPU_S_MAX + 20.0)
    assert failure.startswith("seeds: 500 CPU-s, over 480")
    assert gate.too_costly(0.0) == []


def test_missing_known_answers_are_named(gate: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each missing folder is named with the variable that points elsewhere; one that exists is not."""
    monkeypatch.setenv("FRYS_KAT_DIR", str(tmp_path))
    monkeypatch.setenv("FRYS_SW_DIR", str(tmp_path / "nothing"))
    (line,) = gate.missing_answers()
    assert line.startswith("FRYS_SW_DIR: ")


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs POSIX")
def test_plain_make_lists_every_target() -> None:
    """`make` alone prints one line for each target that the documents name."""
    run = subprocess.run(["make"], cwd=ROOT, check=True, capture_output=True, text=True)
    listed = [line.split()[1] for line in run.stdout.splitlines()]
    assert listed == [
        "help",
        "demo",
        "test",
        "check",
        "sim",
        "chaos-data",
        "verify",
        "fuzz",
        "fuzz-membership",
        "bench",
        "s3",
        "peers",
        "clean",
    ]

"""The gate: every check in order, the cheap ones first, each with its own time limit.

``python .ci/gate.py check`` runs the static half, ``test`` everything. A failed static check ends the run before any
test starts; after that every stage runs, so that one run shows every failure. The tests run in two lanes side by side,
since most use one core: simulations, whose time is their own, and everything else. What was skipped is listed at the
end and left in ``.cache/gate/skipped.txt``; the last line is ``N passed, N failed, N skipped`` over all tests.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
REPORT = ROOT / ".cache" / "gate"
GATE_SECONDS_MAX = 20 * 60
CODE = ["frys_node", "membership", "balancer", "snapshots", "tests", "chaos", "deploy", ".ci"]
SEEDS_CPU_S_MAX = 480.0
"""What all batches of seeds may cost: they are to share four CPU-minutes, and a machine may be half as fast."""
SEEDS_CPU = re.compile(r"^seeds took ([0-9.]+) CPU-s$", re.MULTILINE)
COUNTS = re.compile(r"(\d+) (passed|failed|skipped|errors?)\b")
SUMMARY = re.compile(r"\bin [0-9.]+s\b")
KNOWN_ANSWERS = {
    "FRYS_KAT_DIR": ROOT.parent / "shared" / "kat",
    "FRYS_SW_DIR": ROOT.parent / "shared" / "specs" / "serverless-workflow",
}


class Stage(NamedTuple):
    """One step: its command and how long it may take."""

    name: str
    command: list[str]
    seconds_max: int


class Outcome(NamedTuple):
    """What a stage did."""

    code: int
    output: str
    seconds: float


def tool(name: str, *arguments: str) -> list[str]:
    """Command line of a tool in this virtual environment."""
    return [str(BIN / name), *arguments]


def pytest(folder: str, select: str = "not slow", *more: str) -> list[str]:
    """Command line of one test run; skips are told with their reason, slow tests with their time."""
    told = ("-q", "-rs", "--durations=3", "--durations-min=2")
    return [sys.executable, "-m", "pytest", folder, "-m", select, *told, *more]


STATIC = (
    Stage("ruff check", tool("ruff", "check", "-q", *CODE), 60),
    Stage("ruff format", tool("ruff", "format", "-q", "--check", *CODE), 60),
    Stage("layers", tool("lint-imports", "--no-logo"), 60),
    Stage("tidy", pytest("tests/tidy"), 120),
    Stage("mypy", tool("mypy"), 300),
)

DYNAMIC = (
    Stage("unit", pytest("tests/unit"), 360),
    Stage("golden", pytest("tests/golden"), 60),
    Stage("fixed fuzz inputs", pytest("tests/fuzz"), 60),
    Stage("verification", pytest("tests/verify"), 240),
    Stage("conformance", pytest("tests/conformance"), 120),
    Stage("integration", pytest("tests/integration"), 360),
    Stage("deploy and chaos", pytest("tests/e2e"), 240),
    Stage("slow", pytest("tests", "slow", "--ignore=tests/sim"), 840),
)

SIMULATED = (
    Stage("simulation", pytest("tests/sim"), 480),
    Stage("slow simulations", pytest("tests/sim", "slow"), 840),
)


def run(stage: Stage, seconds_max: float) -> Outcome:
    """Run a stage in its own process group, so that a stage that hangs takes its children with it."""
    started = time.monotonic()
    with subprocess.Popen(
        stage.command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=seconds_max)
            code = process.returncode
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            output += f"\nended after {seconds_max:.0f} s: the time limit of this stage\n"
            code = 124
    return Outcome(code, output, time.monotonic() - started)


def environment() -> dict[str, str]:
    """The environment of a stage: simulation seeds rotate by commit, so that each run explores others."""
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=False, capture_output=True, text=True)
    seed = str(int(commit.stdout[:7] or "0", 16)) if commit.returncode == 0 else "0"
    return {**os.environ, "SIM_SEED_BASE": os.environ.get("SIM_SEED_BASE", seed)}


def missing_answers() -> list[str]:
    """Name the shared test data that is not here; in CI that is a failure, elsewhere a skip."""
    return [
        f"{name}: {path} is not there (set {name} to use a copy)"
        for name, path in KNOWN_ANSWERS.items()
        if not Path(os.environ.get(name, path)).is_dir()
    ]


def summed_up(output: str) -> str:
    """Return the line in which pytest adds up; the interpreter may say more behind it as it ends."""
    lines = output.strip().splitlines()
    return next((line for line in reversed(lines) if SUMMARY.search(line)), lines[-1] if lines else "")


def judge(stage: Stage, outcome: Outcome, totals: dict[str, int], skipped: list[str]) -> bool:
    """Count a stage's tests, collect its skips and print its line (and its output if it failed)."""
    is_pytest = "pytest" in stage.command
    empty = is_pytest and outcome.code in {4, 5} and not re.search(r"\berror", outcome.output)
    if empty:
        skipped.append(f"{stage.name}: no tests there yet")
    if is_pytest:
        for count, word in COUNTS.findall(summed_up(outcome.output)):
            totals["failed" if word.startswith("error") else word] += int(count)
        skipped += [f"{stage.name}: {line}" for line in re.findall(r"^SKIPPED (.*)$", outcome.output, re.MULTILINE)]
    good = outcome.code == 0 or empty
    summary = summed_up(outcome.output) if is_pytest else ""
    print(f"{'ok  ' if good else 'FAIL'}  {stage.name:<18} {outcome.seconds:6.1f} s  {summary}", flush=True)
    if not good:
        print(outcome.output, flush=True)
    return good


def seeds_cpu_s(output: str) -> float:
    """Return what the batches of seeds in a test run cost, as it says."""
    return sum(float(found) for found in SEEDS_CPU.findall(output))


def too_costly(cpu_s: float) -> list[str]:
    """Say what the seeds took; name a failure if that is too much."""
    if not cpu_s:
        return []
    print(f"\nseeds took {cpu_s:.0f} CPU-s, limit {SEEDS_CPU_S_MAX:.0f}")
    if cpu_s <= SEEDS_CPU_S_MAX:
        return []
    return [
        f"seeds: {cpu_s:.0f} CPU-s, over {SEEDS_CPU_S_MAX:.0f}: make a batch in tests/sim smaller, or a machine faster"
    ]


class Run:
    """What a run has found so far; lanes add to it one stage at a time."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.totals = {"passed": 0, "failed": 0, "skipped": 0}
        self.skipped: list[str] = []
        self.failures: list[str] = []
        self.cpu_s = 0.0
        self._lock = threading.Lock()

    def side_by_side(self, *lanes: tuple[Stage, ...]) -> None:
        """Run lanes at the same time."""
        with ThreadPoolExecutor(len(lanes)) as pool:
            for done in [pool.submit(self.lane, stages) for stages in lanes]:
                done.result()

    def lane(self, stages: tuple[Stage, ...]) -> None:
        """Run stages one after the other."""
        for stage in stages:
            left = GATE_SECONDS_MAX - (time.monotonic() - self.started)
            if sys.stdout.isatty():
                print(f"....  {stage.name}", end="\r", flush=True)
            outcome = run(stage, max(1.0, min(stage.seconds_max, left)))
            with self._lock:
                self.cpu_s += seeds_cpu_s(outcome.output)
                if not judge(stage, outcome, self.totals, self.skipped):
                    self.failures.append(stage.name)


def main(arguments: list[str]) -> int:
    """Run the half that was asked for and say how it went."""
    if arguments not in (["check"], ["test"]):
        print("usage: gate.py check|test", file=sys.stderr)
        return 2
    found = Run(time.monotonic())
    answers = missing_answers()
    if answers and os.environ.get("CI"):
        found.failures += answers
    found.skipped += [f"known answers: {line}" for line in answers]
    found.lane(STATIC)
    if arguments == ["test"] and not found.failures:
        found.side_by_side(SIMULATED, DYNAMIC)
    started, totals, skipped, failures, cpu_s = found.started, found.totals, found.skipped, found.failures, found.cpu_s
    failures += too_costly(cpu_s)
    REPORT.mkdir(parents=True, exist_ok=True)
    (REPORT / "skipped.txt").write_text("".join(f"{line}\n" for line in skipped), encoding="utf-8")
    if skipped:
        print("\nSkipped:", *(f"  {line}" for line in skipped), sep="\n")
    if failures:
        print("\nFailed:", *(f"  {line}" for line in failures), sep="\n")
    print(f"\n{time.monotonic() - started:.0f} s")
    print(f"{totals['passed']} passed, {max(totals['failed'], len(failures))} failed, {totals['skipped']} skipped")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

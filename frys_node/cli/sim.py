"""Run the deterministic simulator: whole clusters in one process, every fault, any failure replayed from its seed.

One seed prints what happened; `--seeds` runs a batch, shows progress on stderr and fails if an invariant broke or if
the batch was large and never reached a state that it must reach. `--state FILE` makes a batch resumable.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from frys_node.testing.scenario import RunScenario, ScenarioResult

SCENARIOS = ("membership", "gossip", "replication", "swarm")
PROGRESS_S = 1.0
NODES_MAX = 5_000
JOBS_MAX = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--scenario", choices=SCENARIOS, default="membership", help="what runs (default membership)")
    parser.add_argument("--nodes", type=int, default=7, metavar="N", help="nodes in the cluster (default 7)")
    parser.add_argument("--seconds", type=float, default=60.0, metavar="S", help="simulated seconds (default 60)")
    parser.add_argument("--seed", type=int, default=1, metavar="K", help="the seed, or the first of many (default 1)")
    parser.add_argument("--seeds", type=int, default=1, metavar="COUNT", help="run COUNT seeds from --seed on")
    parser.add_argument("--faults", default="chaos", metavar="PROFILE", help="fault profile (default chaos)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that share a batch (default 1)")
    parser.add_argument("--state", type=Path, metavar="FILE", help="remember finished seeds; run again to go on")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Run one seed or a batch; exit code 1 and a replay command when an invariant broke."""
    _check(args)
    scenario = _scenario(args.scenario)
    if args.seeds == 1 and args.state is None:
        result = _run_seed(scenario, args, args.seed)
        print(json.dumps(_plain(result)) if args.json else _one(result))
        _complain([result])
        return 0 if result.passed else 1
    return _Batch(args, scenario).run()


def _check(args: argparse.Namespace) -> None:
    """Refuse what cannot be run, naming the fix."""
    from frys_node.base.errors import UsageError
    from frys_node.testing.faults import FaultProfile

    FaultProfile.named(args.faults)
    if not 1 <= args.nodes <= NODES_MAX:
        raise UsageError(f"--nodes {args.nodes} is not 1 to {NODES_MAX}")
    if not 0 < args.seconds <= 1e6:
        raise UsageError(f"--seconds {args.seconds:g} is not above 0 and at most 1000000")
    if not 1 <= args.jobs <= JOBS_MAX:
        raise UsageError(f"--jobs {args.jobs} is not 1 to {JOBS_MAX}")
    if args.seeds < 1 or args.seed < 0:
        raise UsageError("--seeds must be at least 1 and --seed at least 0")


def _scenario(name: str) -> RunScenario:
    """Import a scenario's module, only when it is asked for."""
    module = importlib.import_module(f"frys_node.testing.{name}_scenario")
    found: RunScenario = module.run_scenario
    return found


def _run_seed(scenario: RunScenario, args: argparse.Namespace, seed: int) -> ScenarioResult:
    """Run one seed; even an exception that escapes the scenario becomes a violation with its replay command."""
    import msgspec

    from frys_node.testing.scenario import Replay, ScenarioResult, SimulationFailed

    started_s = time.perf_counter()
    try:
        result = scenario(args.nodes, args.seconds, seed, args.faults)
    except Exception as error:  # noqa: BLE001  (a bug in a scenario must not end a batch without its seed)
        replay = Replay(scenario=args.scenario, nodes=args.nodes, seconds=args.seconds, seed=seed, faults=args.faults)
        if not isinstance(error, SimulationFailed):
            error = SimulationFailed(f"{type(error).__name__}: {error}", replay=replay)
        result = ScenarioResult(
            scenario=args.scenario,
            nodes=args.nodes,
            seconds=args.seconds,
            seed=seed,
            digest="",
            events=0,
            faults={},
            violations=[str(error)],
        )
    return msgspec.structs.replace(result, wall_s=time.perf_counter() - started_s, faults_profile=args.faults)


def _work(task: tuple[argparse.Namespace, int]) -> ScenarioResult:
    """Run one seed of a batch in a process of its own."""
    args, seed = task
    return _run_seed(_scenario(args.scenario), args, seed)


class _Batch:
    """Many seeds, with progress, totals and a file that remembers what is done."""

    def __init__(self, args: argparse.Namespace, scenario: RunScenario) -> None:
        self._args = args
        self._scenario = scenario
        self._key = f"{args.scenario}/{args.nodes}/{args.seconds:g}/{args.faults}"
        self._done: dict[str, dict[str, object]] = {}
        self._failed: list[ScenarioResult] = []

    def run(self) -> int:
        """Run what is not done yet and report on all of it."""
        self._load()
        args, shown_s = self._args, 0.0
        seeds = range(args.seed, args.seed + args.seeds)
        try:
            for result in self._results([seed for seed in seeds if str(seed) not in self._done]):
                self._done[str(result.seed)] = _plain(result)
                if not result.passed:
                    self._failed.append(result)
                    _complain([result])
                if time.perf_counter() - shown_s > PROGRESS_S:
                    shown_s = time.perf_counter()
                    self._save()
                    self._show()
        finally:
            self._save()
            self._show()
        return self._report([self._done[str(seed)] for seed in seeds])

    def _results(self, seeds: list[int]) -> Iterator[ScenarioResult]:
        """Run seeds here, or in several processes; then they come as they end."""
        args = self._args
        if args.jobs == 1 or len(seeds) < 2:
            for seed in seeds:
                yield _run_seed(self._scenario, args, seed)
            return
        import multiprocessing

        with multiprocessing.get_context("spawn").Pool(min(args.jobs, len(seeds))) as pool:
            yield from pool.imap_unordered(_work, [(args, seed) for seed in seeds])

    def _load(self) -> None:
        from frys_node.base.errors import UsageError

        path: Path | None = self._args.state
        if path is None or not path.exists():
            return
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            done = state["done"] if state["batch"] == self._key else None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"'{path}' is not a state file: {error}", hint="name another file") from error
        if done is None:
            raise UsageError(f"'{path}' belongs to another batch ({state['batch']})", hint="name another file")
        # A failed seed runs again: the code may have been mended since.
        self._done = {seed: result for seed, result in done.items() if not result["violations"]}

    def _save(self) -> None:
        path: Path | None = self._args.state
        if path is not None:
            temporary = path.with_name(path.name + ".tmp")
            temporary.write_text(json.dumps({"batch": self._key, "done": self._done}), encoding="utf-8")
            os.replace(temporary, path)

    def _show(self) -> None:
        events = sum(_number(result["events"]) for result in self._done.values())
        text = f"{len(self._done)}/{self._args.seeds} seeds, {events:,} events, {len(self._failed)} failed"
        end = "\r" if sys.stderr.isatty() and len(self._done) < self._args.seeds else "\n"
        print(f"sim {self._key}: {text}", end=end, file=sys.stderr, flush=True)

    def _report(self, results: list[dict[str, object]]) -> int:
        totals = {name: _total(results, name) for name in ("faults", "sometimes")}
        failed = [result["seed"] for result in results if result["violations"]]
        report = {
            "scenario": self._args.scenario,
            "nodes": self._args.nodes,
            "faults_profile": self._args.faults,
            "first_seed": self._args.seed,
            "seeds": len(results),
            "passed": len(results) - len(failed),
            "failed_seeds": failed,
            "simulated_s": sum(_number(result["seconds"]) for result in results),
            "events": sum(_number(result["events"]) for result in results),
            "wall_s": sum(_number(result["wall_s"]) for result in results),
            **totals,
        }
        if self._args.json:
            print(json.dumps(report))
        else:
            print(_table(report))
        return 1 if failed else 0


def _number(value: object) -> float:
    assert isinstance(value, int | float)
    return value


def _total(results: list[dict[str, object]], field: str) -> dict[str, int]:
    """Sum of the counters of all results."""
    total: Counter[str] = Counter()
    for result in results:
        counts = result[field]
        assert isinstance(counts, dict)
        total.update(counts)
    return dict(sorted(total.items()))


def _plain(result: ScenarioResult) -> dict[str, object]:
    import msgspec

    plain: dict[str, object] = msgspec.to_builtins(result)
    return plain


def _complain(results: list[ScenarioResult]) -> None:
    for result in results:
        for violation in result.violations:
            print(f"\nseed {result.seed} FAILED: {violation}", file=sys.stderr)


def _one(result: ScenarioResult) -> str:
    """A report of one seed for people."""
    report: dict[str, object] = {
        "scenario": f"{result.scenario}, {result.nodes} nodes, {result.seconds:g} simulated seconds",
        "seed": f"{result.seed}, faults {result.faults_profile}",
        "verdict": "passed" if result.passed else "FAILED",
        "digest": result.digest,
        "events": f"{result.events:,} in {result.wall_s:.2f} s"
        + (f" ({result.nodes * result.seconds / result.wall_s:,.0f} node-seconds per second)" if result.wall_s else ""),
        "faults": result.faults,
        "sometimes": result.sometimes,
        **result.summary,
    }
    return _table(report)


def _table(report: dict[str, object]) -> str:
    """Names and values in two columns; counters one beneath the other."""
    width = max(map(len, report))
    lines: list[str] = []
    for name, value in report.items():
        if isinstance(value, dict):
            pairs = [f"{key} {_figure(count)}" for key, count in value.items()]
            lines += [
                f"{name if not start else '':<{width}}  {', '.join(pairs[start : start + 6])}"
                for start in range(0, max(1, len(pairs)), 6)
            ]
        else:
            lines.append(f"{name:<{width}}  {_figure(value)}")
    return "\n".join(line.rstrip() for line in lines)


def _figure(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

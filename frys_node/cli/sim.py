"""Run the deterministic simulator: whole clusters in one process, every fault, any failure replayed from its seed.

One seed prints what happened; `--seeds` runs a batch, shows progress on stderr and fails if an invariant broke, if a
figure missed its target, or if the batch was large and never reached a state that it must reach. `--state FILE` makes
a batch resumable. `--list` names the scenarios, `--all` runs every one of them as `make sim` does.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frys_node.testing.scenario import RunScenario, Scenario, ScenarioResult

PROGRESS_S = 1.0
NODES_MAX = 5_000
JOBS_MAX = 256
SEEDS_AHEAD = 4
"""Seeds given out at once for each process of a batch."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    from frys_node.testing.catalogue import SCENARIOS

    parser.add_argument("--scenario", choices=SCENARIOS, default="membership", help="what runs (default membership)")
    parser.add_argument("--nodes", type=int, metavar="N", help="nodes in the cluster (default: the scenario's)")
    parser.add_argument("--seconds", type=float, metavar="S", help="simulated seconds (default: the scenario's)")
    parser.add_argument("--seed", type=int, default=1, metavar="K", help="the seed, or the first of many (default 1)")
    parser.add_argument("--seeds", type=int, default=1, metavar="COUNT", help="run COUNT seeds from --seed on")
    parser.add_argument("--faults", metavar="PROFILE", help="fault profile (default: the scenario's)")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes that share a batch (default 1)")
    parser.add_argument("--budget", type=float, metavar="S", help="begin no seed once a batch has run so many seconds")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help="remember finished seeds; run again to go on (a directory with --all)",
    )
    parser.add_argument("--list", action="store_true", help="name the scenarios and what each claims")
    parser.add_argument("--all", action="store_true", help="run every scenario, each within its budget")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Run one seed, a batch or everything; exit code 1 and a replay command when an invariant broke."""
    from frys_node.cli.sim_report import batch_text, one_text
    from frys_node.testing.catalogue import SCENARIOS
    from frys_node.testing.revision import commit

    if args.list:
        print(_names(as_json=args.json))
        return 0
    if args.all:
        from frys_node.cli.sim_suite import run_all

        return run_all(args)
    complete(args, SCENARIOS[args.scenario])
    if args.seeds == 1 and args.state is None:
        revision = {"commit": commit(), "code": _code_of(args.scenario)}
        result = _run_seed(args, args.seed)
        print(json.dumps(_plain(result) | revision) if args.json else one_text(result, revision))
        _complain([result])
        return 0 if result.passed else 1
    report = Batch(args).run()
    print(json.dumps(report) if args.json else batch_text(report))
    return 1 if report["failed_seeds"] or report["missed"] else 0


def _names(*, as_json: bool) -> str:
    """Every scenario with its claim."""
    from frys_node.testing.catalogue import SCENARIOS

    if as_json:
        return json.dumps({name: scenario.claim for name, scenario in SCENARIOS.items()})
    width = max(map(len, SCENARIOS))
    return "\n".join(f"{name:<{width}}  {scenario.claim}" for name, scenario in SCENARIOS.items())


def complete(args: argparse.Namespace, scenario: Scenario) -> None:
    """Fill in what was left to the scenario and refuse what cannot be run, naming the fix."""
    from frys_node.base.errors import UsageError
    from frys_node.testing.faults import FaultProfile

    args.nodes = scenario.nodes if args.nodes is None else args.nodes
    args.seconds = scenario.seconds if args.seconds is None else args.seconds
    args.faults = scenario.faults if args.faults is None else args.faults
    FaultProfile.named(args.faults)
    if not 1 <= args.nodes <= NODES_MAX:
        raise UsageError(f"--nodes {args.nodes} is not 1 to {NODES_MAX}")
    if not 0 < args.seconds <= 1e6:
        raise UsageError(f"--seconds {args.seconds:g} is not above 0 and at most 1000000")
    if not 1 <= args.jobs <= JOBS_MAX:
        raise UsageError(f"--jobs {args.jobs} is not 1 to {JOBS_MAX}")
    if args.seeds < 1 or args.seed < 0:
        raise UsageError("--seeds must be at least 1 and --seed at least 0")
    if args.budget is not None and args.budget <= 0:
        raise UsageError(f"--budget {args.budget:g} is not above 0")


def _code_of(scenario: str) -> str:
    """Return the digest of everything that a scenario can load, as `make sim` keeps its results by."""
    from frys_node.testing.catalogue import SCENARIOS
    from frys_node.testing.provenance import code_digest

    return code_digest(f"frys_node.testing.{SCENARIOS[scenario].module}")


def _run_seed(args: argparse.Namespace, seed: int) -> ScenarioResult:
    """Run one seed; even an exception that escapes the scenario becomes a violation with its replay command."""
    import msgspec

    from frys_node.testing.catalogue import SCENARIOS
    from frys_node.testing.scenario import Replay, ScenarioResult, SimulationFailed

    # Imported only when it is asked for.
    module = importlib.import_module(f"frys_node.testing.{SCENARIOS[args.scenario].module}")
    scenario: RunScenario = module.run_scenario
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
    return _run_seed(args, seed)


class Batch:
    """Many seeds, with progress, totals and a file that remembers what is done."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._key = f"{args.scenario}/{args.nodes}/{args.seconds:g}/{args.faults}"
        self._done: dict[str, dict[str, Any]] = {}
        self._codes: list[str] = []
        """Digests of the code that the seeds were run with: one, unless a batch went on after a change."""
        self._failed: list[ScenarioResult] = []
        self._save_at_s = 0.0

    def run(self) -> dict[str, Any]:
        """Run what is not done yet and return the report on all of it."""
        from frys_node.cli.sim_report import batch_report
        from frys_node.testing.catalogue import SCENARIOS
        from frys_node.testing.revision import commit

        self._load()
        args, shown_s = self._args, 0.0
        revision = commit()
        self._codes = sorted({*self._codes, _code_of(args.scenario)})
        seeds = range(args.seed, args.seed + args.seeds)
        try:
            for result in self._results([seed for seed in seeds if str(seed) not in self._done]):
                self._done[str(result.seed)] = _plain(result)
                if not result.passed:
                    self._failed.append(result)
                    _complain([result])
                if time.perf_counter() - shown_s > PROGRESS_S:
                    shown_s = time.perf_counter()
                    self._show()
                    if shown_s >= self._save_at_s:
                        self._save()
                        # A file of many seeds takes a while to write: never more than a twentieth of the time.
                        self._save_at_s = time.perf_counter() + 20 * (time.perf_counter() - shown_s)
        finally:
            self._save()
            self._show(is_last=True)
        results = [self._done[str(seed)] for seed in seeds if str(seed) in self._done]
        report = batch_report(args.scenario, SCENARIOS[args.scenario], args.faults, results, len(seeds))
        # Processes of a batch may have loaded files that were changed after it had begun.
        codes = sorted({*self._codes, _code_of(args.scenario)})
        return report | {"commit": revision, "code": ", ".join(codes)}

    def _results(self, seeds: list[int]) -> Iterator[ScenarioResult]:
        """Run seeds here, or in several processes; then they come as they end. A budget ends it early."""
        args = self._args
        end_s = time.perf_counter() + args.budget if args.budget else float("inf")
        if args.jobs == 1 or len(seeds) < 2:
            for seed in seeds:
                if time.perf_counter() >= end_s:
                    return
                yield _run_seed(args, seed)
            return
        import multiprocessing

        with multiprocessing.get_context("spawn").Pool(min(args.jobs, len(seeds))) as pool:
            waiting = [(args, seed) for seed in reversed(seeds)]
            # Results are taken in order of seeds: a process that is done early must find the next seed in the queue.
            ahead = min(SEEDS_AHEAD * args.jobs, len(seeds))
            running = [pool.apply_async(_work, (waiting.pop(),)) for _ in range(ahead)]
            while running:
                yield running.pop(0).get()
                if waiting and time.perf_counter() < end_s:
                    running.append(pool.apply_async(_work, (waiting.pop(),)))

    def _load(self) -> None:
        from frys_node.base.errors import UsageError

        path: Path | None = self._args.state
        if path is None or not path.exists():
            return
        try:
            state = json.loads(path.read_text(encoding="utf-8"))
            done = state["done"] if state["batch"] == self._key else None
            codes = [str(code) for code in state.get("codes", ["unknown"])]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"'{path}' is not a state file: {error}", hint="name another file") from error
        if done is None:
            raise UsageError(f"'{path}' belongs to another batch ({state['batch']})", hint="name another file")
        # A failed seed runs again: the code may have been mended since.
        self._done = {seed: result for seed, result in done.items() if not result["violations"]}
        self._codes = codes if self._done else []

    def _save(self) -> None:
        path: Path | None = self._args.state
        if path is not None:
            temporary = path.with_name(path.name + ".tmp")
            state = {"batch": self._key, "codes": self._codes, "done": self._done}
            temporary.write_text(json.dumps(state), encoding="utf-8")
            os.replace(temporary, path)

    def _show(self, *, is_last: bool = False) -> None:
        events = sum(result["events"] for result in self._done.values())
        text = f"{len(self._done)}/{self._args.seeds} seeds, {events:,} events, {len(self._failed)} failed"
        end = "\r" if sys.stderr.isatty() and not is_last else "\n"
        print(f"sim {self._key}: {text}", end=end, file=sys.stderr, flush=True)


def _plain(result: ScenarioResult) -> dict[str, Any]:
    import msgspec

    plain: dict[str, Any] = msgspec.to_builtins(result)
    return plain


def _complain(results: list[ScenarioResult]) -> None:
    for result in results:
        for violation in result.violations:
            print(f"\nseed {result.seed} FAILED: {violation}", file=sys.stderr)

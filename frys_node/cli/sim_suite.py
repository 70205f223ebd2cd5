"""`frys-node sim --all`: every scenario at its published size, each within a budget, and one table over all of them."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frys_node.testing.catalogue import Entry


def run_all(args: argparse.Namespace) -> int:
    """Run the plan; exit code 1 if a seed failed or did not run, a figure missed its target or a state was missed."""
    from frys_node.cli.sim import Batch, complete
    from frys_node.testing.catalogue import PLAN, SCENARIOS

    reports: list[dict[str, Any]] = []
    started_s = time.perf_counter()
    for entry in PLAN:
        batch = argparse.Namespace(**{**vars(args), "scenario": entry.scenario, "seeds": entry.seeds, "state": None})
        batch.nodes, batch.seconds, batch.faults = entry.nodes, entry.seconds, entry.faults
        if args.state is not None:
            batch.state = _state_of(args.state, entry)
        batch.budget = entry.budget_s if args.budget is None else args.budget
        complete(batch, SCENARIOS[entry.scenario])
        report = Batch(batch).run()
        if (missing := report["seeds_wanted"] - report["seeds"]) > 0:
            report["missed"].append(
                f"{missing} of {report['seeds_wanted']} seeds were not begun within {batch.budget:g} s:"
                " they prove nothing; give each batch more time with --budget"
            )
        reports.append(report)
        if not args.json:
            print(_line(report), flush=True)
    summary = {"commit": reports[0]["commit"], **_summary(reports, time.perf_counter() - started_s)}
    if args.json:
        print(json.dumps({**summary, "batches": reports}))
    else:
        print(_text(summary, reports))
    return 1 if summary["failures"] else 0


def _state_of(home: Path, entry: Entry) -> Path:
    """Return the state file of a batch; what other code has shown proves nothing about this one.

    Only code that the scenario can load counts: a mend elsewhere must not cost the hours that a long batch took.
    """
    from frys_node.testing.catalogue import SCENARIOS
    from frys_node.testing.provenance import code_digest

    home.mkdir(parents=True, exist_ok=True)
    size = f"{entry.nodes or 'own'}-{entry.seconds or 'own'}-{entry.faults or 'own'}"
    code = code_digest(f"frys_node.testing.{SCENARIOS[entry.scenario].module}")
    return home / f"{entry.scenario}-{size}-{code[:12]}.json"


def _line(report: dict[str, Any]) -> str:
    """One batch in one line, and one more for each target."""
    from frys_node.cli.sim_report import broken_text

    good = not report["failed_seeds"] and not report["missed"]
    short = "" if report["seeds"] == report["seeds_wanted"] else f" of {report['seeds_wanted']} (budget)"
    size = f"{report['nodes']:>5} nodes  {report['faults_profile']:<10}"
    cost = f"{report['node_hours']:>9,.1f} node-hours  {report['wall_s']:>6.1f} s  code {report['code'][:12]}"
    lines = [f"{'ok  ' if good else 'FAIL'}  {report['scenario']:<11} {size} {report['seeds']:>4} seeds{short}  {cost}"]
    lines += [f"      {name}: {verdict}" for name, verdict in report["targets"].items()]
    sums = [f"{name} {report['figures'][name]['sum']:,.0f}" for name in report["sums"] if name in report["figures"]]
    lines += [f"      {', '.join(sums)}"] if sums else []
    lines += [f"      {broken_text(report['broken'])}"] if report["broken"] else []
    lines += [f"      MISSED: {text}" for text in report["missed"]]
    return "\n".join(lines)


def _summary(reports: list[dict[str, Any]], wall_s: float) -> dict[str, Any]:
    from frys_node.testing.scenario import total

    failures = [
        f"{report['scenario']}: {text}"
        for report in reports
        for text in [*report["missed"], *(f"seed {seed}" for seed in report["failed_seeds"])]
    ]
    return {
        "seeds": sum(report["seeds"] for report in reports),
        "node_hours": sum(report["node_hours"] for report in reports),
        "events": sum(report["events"] for report in reports),
        "wall_s": wall_s,
        "faults": total(report["faults"] for report in reports),
        "sometimes": total(report["sometimes"] for report in reports),
        "failures": failures,
    }


def _text(summary: dict[str, Any], reports: list[dict[str, Any]]) -> str:
    from frys_node.cli.sim_report import figures_text, table

    lines = ["", table({key: value for key, value in summary.items() if key != "failures"})]
    for report in reports:
        crossed = {name: row for name, row in report["figures"].items() if "/" in name}
        if crossed:
            lines += ["", f"{report['scenario']}, {report['seeds']} seeds:", figures_text(crossed)]
    if summary["failures"]:
        print("\n".join(f"FAILED  {failure}" for failure in summary["failures"]), file=sys.stderr)
    return "\n".join(lines)

"""How `frys-node sim` tells what a run or a batch has shown: totals, figures, targets, words for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from frys_node.testing.scenario import Scenario, ScenarioResult, percentile, total

COLUMNS = 6
"""Counters in one line."""

PROMISES = {
    "replication": {
        "(a)": "acknowledged writes lost",
        "(b)": "deletes resurrected",
        "(c)": "writes ordered before older ones",
        "(d)": "versions with two values",
        "(e)": "double moves",
        "(f)": "forked epochs",
        "(g)": "clusters not equal after healing",
    }
}
"""What must never be, by scenario and by the letter with which its checker's words begin."""


def batch_report(
    name: str, scenario: Scenario, faults: str, results: Sequence[dict[str, Any]], wanted: int
) -> dict[str, Any]:
    """Return what a batch has shown, in the shape of ``--json``.

    Args:
        name: Of the scenario.
        scenario: Its targets and the states that it must reach.
        faults: Profile.
        results: Of the seeds that ran.
        wanted: Seeds asked for; a budget may have ended the batch before.
    """
    failed = [result["seed"] for result in results if result["violations"]]
    sometimes = total(result["sometimes"] for result in results)
    figures: dict[str, list[float]] = {}
    for result in results:
        for figure, samples in result["figures"].items():
            figures.setdefault(figure, []).extend(samples)
    missed = scenario.missed(len(results), sometimes, figures)
    if not results:
        missed = ["no seed ran: the budget is too small for one"]
    return {
        "scenario": name,
        "claim": scenario.claim,
        "nodes": max((result["nodes"] for result in results), default=0),
        "faults_profile": faults,
        "seeds": len(results),
        "seeds_wanted": wanted,
        "passed": len(results) - len(failed),
        "failed_seeds": failed,
        "missed": missed,
        "simulated_s": sum(result["seconds"] for result in results),
        "node_hours": sum(result["seconds"] * result["nodes"] for result in results) / 3600.0,
        "events": sum(result["events"] for result in results),
        "wall_s": sum(result["wall_s"] for result in results),
        "faults": total(result["faults"] for result in results),
        "sometimes": sometimes,
        "figures": {figure: _statistics(samples) for figure, samples in sorted(figures.items())},
        "sums": list(scenario.sums),
        "broken": _broken(name, results),
        "targets": {target.name: target.verdict(figures) for target in scenario.targets},
    }


def _broken(name: str, results: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Count the broken promises of a scenario, those that were kept with 0."""
    found = [violation for result in results for violation in result["violations"]]
    promises = PROMISES.get(name, {})
    return {text: sum(violation.startswith(letter) for violation in found) for letter, text in promises.items()}


def broken_text(broken: Mapping[str, int]) -> str:
    """Return the counts in words."""
    return ", ".join(f"{text} {count}" for text, count in broken.items())


def _statistics(samples: Sequence[float]) -> dict[str, float]:
    return {
        "count": len(samples),
        "p50": percentile(samples, 0.5),
        "p99": percentile(samples, 0.99),
        "max": max(samples, default=0.0),
        "sum": sum(samples),
    }


def batch_text(report: Mapping[str, Any]) -> str:
    """Return a batch's report for people."""
    shown = dict(report)
    figures = shown.pop("figures")
    targets = shown.pop("targets")
    shown["broken"] = broken_text(shown.pop("broken"))
    if not shown["broken"]:
        del shown["broken"]
    for name in shown.pop("sums"):
        if name in figures:
            shown[name] = f"{figures[name]['sum']:,.0f}"
    if shown["seeds"] < shown.pop("seeds_wanted"):
        shown["stopped"] = f"by its budget, {report['seeds_wanted']} seeds were wanted"
    lines = [table(shown)]
    if figures:
        lines += ["", figures_text(figures)]
    if targets:
        lines += ["", *(f"target  {name}: {verdict}" for name, verdict in targets.items())]
    return "\n".join(lines)


def one_text(result: ScenarioResult, revision: Mapping[str, str]) -> str:
    """Return a report of one seed for people, with what tells which code it was run with."""
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
        **revision,
    }
    text = table(report)
    if result.figures:
        figures = {figure: _statistics(samples) for figure, samples in sorted(result.figures.items())}
        text += f"\n\n{figures_text(figures)}"
    return text


def figures_text(figures: Mapping[str, Mapping[str, float]]) -> str:
    """Return the figures as a table; those named ``row/column`` as one of their own, with sums or medians."""
    plain = {name: row for name, row in figures.items() if "/" not in name}
    crossed = [name for name in figures if "/" in name]
    lines: list[list[str]] = []
    if plain:
        lines.append(["figure", "count", "p50", "p99", "max", "sum"])
        lines += [
            [name, *(figure(row[key]) for key in ("count", "p50", "p99", "max", "sum"))] for name, row in plain.items()
        ]
    if crossed:
        rows = list(dict.fromkeys(name.partition("/")[0] for name in crossed))
        columns = list(dict.fromkeys(name.partition("/")[2] for name in crossed))
        heads = [head for column in columns for head in _heads(column)]
        lines.append(["", *heads])
        for row in rows:
            cells = [cell for column in columns for cell in _cells(column, figures.get(f"{row}/{column}"))]
            lines.append([row, *cells])
    widths = [max(len(line[at]) for line in lines if at < len(line)) for at in range(max(map(len, lines)))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not at else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=False))
        )
        for line in lines
    )


def _heads(column: str) -> list[str]:
    """Times have a median and a tail; counts are added up."""
    return [f"{column} p50", f"{column} p99"] if column.endswith("_s") else [column]


def _cells(column: str, row: Mapping[str, float] | None) -> list[str]:
    keys = ("p50", "p99") if column.endswith("_s") else ("sum",)
    return ["-" if row is None else figure(row[key]) for key in keys]


def table(report: Mapping[str, object]) -> str:
    """Return names and values in two columns; counters one beneath the other."""
    width = max(map(len, report))
    lines: list[str] = []
    for name, value in report.items():
        if isinstance(value, dict):
            pairs = [f"{key} {figure(count)}" for key, count in value.items()]
            lines += [
                f"{name if not start else '':<{width}}  {', '.join(pairs[start : start + COLUMNS])}"
                for start in range(0, max(1, len(pairs)), COLUMNS)
            ]
        else:
            lines.append(f"{name:<{width}}  {figure(value)}")
    return "\n".join(line.rstrip() for line in lines)


def figure(value: object) -> str:
    """Return a value for people."""
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1_000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)

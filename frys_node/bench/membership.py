"""`frys-node bench membership`: our membership beside serf's, real processes in namespaces, rounds interleaved.

Nothing here asserts: goals are printed beside the figures, with the load and the machine. Every round is written to the
results file, if one is named; a later run with the same file does only what is missing.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from frys_node.base.errors import FrysError, UsageError
from frys_node.bench import membership_report as report
from frys_node.bench import namespaces
from frys_node.bench.membership_observer import Observer
from frys_node.bench.membership_plan import FALSE_DEATHS, SCENARIOS, Scenario
from frys_node.bench.membership_report import Results, Row
from frys_node.bench.membership_rig import OURS, SERF, Arena, Ours, Serf, Side, versions
from frys_node.bench.membership_rounds import Samples, weather
from frys_node.bench.namespaces import Subnet
from frys_node.bench.runner import machine
from frys_node.cli.admin import table
from frys_node.demo.console import Console

DEFAULT_S_MAX = 14 * 60.0
"""A default run begins nothing that would end later than this; clusters that stop slowly may take the 15th minute."""

FAILURES_MAX = 3
"""After so many rounds of a scenario that did not count, the next scenario is begun."""

SUBNETS = {(OURS, True): ("f", 0), (SERF, True): ("s", 1), (OURS, False): ("fw", 2), (SERF, False): ("sw", 3)}
"""Names and numbers of the subnets: by side, and whether a bridge joins the nodes (else the relay does)."""

Key = tuple[int, str, tuple[float, float] | None]


def chosen(only: str | None) -> list[Scenario]:
    """Return the scenarios that a word or its beginning names; all without one.

    Raises:
        UsageError: A word names none.
    """
    if not only:
        return list(SCENARIOS)
    words = [word for word in only.split(",") if word]
    for word in words:
        if not any(scenario.key.startswith(word) for scenario in SCENARIOS):
            names = ", ".join(scenario.key for scenario in SCENARIOS)
            raise UsageError(f"no scenario '{word}'", hint=f"one of: {names}, or how some of them begin")
    return [scenario for scenario in SCENARIOS if any(scenario.key.startswith(word) for word in words)]


def wanted_rounds(scenario: Scenario, *, full: bool, named: bool, rounds: int | None) -> int:
    """Return how many rounds of a scenario a run wants: asked for by number, by --full, by name, or by default."""
    if rounds is not None:
        return rounds if full or named or scenario.rounds else 0
    if full:
        return scenario.rounds_full
    return max(scenario.rounds, 1) if named else scenario.rounds


def main(options: argparse.Namespace) -> int:
    """Measure what is asked for and print it; outside the private network, run again inside it."""
    scenarios = chosen(options.only)
    if options.full and options.out is None:
        raise UsageError("--full takes hours", hint="name a file with --out, so that it can go on where it ended")
    labels = [OURS, SERF] if options.side == "both" else [options.side]
    compared = versions(labels)
    results = report.read(options.out, compared) if options.out else None
    namespaces.enter(["-m", "frys_node", *sys.argv[1:]])
    results = results or Results(machine=machine(), versions=compared)
    bench = Bench(options, results, labels)
    try:
        bench.run(scenarios)
    finally:
        bench.close()
        rows = [row for scenario in SCENARIOS for row in report.rows(results, scenario.key, scenario.metrics)]
        _print(results, rows, json_output=options.json)
    return 0


def _print(results: Results, rows: Sequence[Row], *, json_output: bool) -> None:
    if json_output:
        print(report.as_json(results, rows))
        return
    print(table([row.cells() for row in rows], report.HEADER))
    for name, failures in results.failures.items():
        print(f"{name}: {len(failures)} rounds did not count, the last: {failures[-1]}")
    for name, reason in results.not_run.items():
        print(f"{name}: {reason}")
    about = results.machine
    print(f"{about['cpu']}, {about['cores']} cores, Linux {about['kernel']}, Python {about['python']}; ", end="")
    print(", ".join(results.versions.values()))


class Bench:
    """One run: clusters come and go as the scenarios need them."""

    def __init__(self, options: argparse.Namespace, results: Results, labels: Sequence[str]) -> None:
        self.results = results
        self.console = Console()
        self._options = options
        self._labels = labels
        self._begun = time.monotonic()
        self._rng = random.Random(options.seed)
        self._observer = Observer()
        self._subnets: dict[str, Subnet] = {}
        self._arena: Arena | None = None
        self._key: Key | None = None
        self._relays: list[subprocess.Popen[bytes]] = []
        # Below /run, which is a memory file system of the private network: it goes when everything else goes.
        self._home = Path(tempfile.mkdtemp(prefix="bench-", dir="/run"))

    def run(self, scenarios: Sequence[Scenario]) -> None:
        """Play every scenario until it has its rounds."""
        options = self._options
        self.results.not_run.clear()
        for scenario in scenarios:
            wanted = wanted_rounds(scenario, full=options.full, named=bool(options.only), rounds=options.rounds)
            have = self.results.count(scenario.key)
            if have < wanted:
                self.console.title(f"{scenario.key}: {scenario.title} ({have} of {wanted} rounds are there)")
                self._play(scenario, wanted)
            elif not wanted:
                self.results.not_run[scenario.key] = (
                    f"{scenario.title}: only with --full, or with --only {scenario.key}"
                )
        self._save()

    def close(self) -> None:
        """End every process and stop reading."""
        self._drop_arena()
        self._observer.close()
        shutil.rmtree(self._home, ignore_errors=True)

    def _play(self, scenario: Scenario, wanted: int) -> None:
        failures = 0
        while self.results.count(scenario.key) < wanted:
            if not self._options.full and time.monotonic() - self._begun + scenario.seconds > DEFAULT_S_MAX:
                have = self.results.count(scenario.key)
                self.results.not_run[scenario.key] = f"{have} of {wanted} rounds: no time was left (see --full, --only)"
                return
            try:
                samples = self._round(scenario)
            except FrysError as error:
                failures += 1
                self.results.failures.setdefault(scenario.key, []).append(error.message)
                self.console.say(f"  this round does not count: {error.message}")
                self._drop_arena()
                if failures == FAILURES_MAX:
                    self.results.not_run[scenario.key] = f"given up after {failures} rounds that did not count"
                    return
                continue
            self._keep(scenario, samples, wanted)

    def _round(self, scenario: Scenario) -> Samples:
        if scenario.play is None:
            self._drop_arena()
            arena = self._make_arena(scenario)
            return {label: dict(sample) for label, sample in arena.start(scenario.nodes, is_measured=True).items()}
        arena = self._arena_for(scenario)
        for side in arena.sides.values():
            side.settle(self.console)
        if scenario.spec.event:
            for side in arena.sides.values():
                side.listen_for_events()
        with weather(arena, scenario.spec):
            return scenario.play(arena, self._rng, scenario.spec)

    def _keep(self, scenario: Scenario, samples: Samples, wanted: int) -> None:
        self.results.add(scenario.key, samples, os.getloadavg()[0])
        self._save()
        metric = next((each for each in scenario.metrics if each.goal and each != FALSE_DEATHS), scenario.metrics[0])
        said = ", ".join(f"{label} {_shown(sample.get(metric.key))}" for label, sample in sorted(samples.items()))
        unit = f" ({metric.unit})" if metric.unit else ""
        number = self.results.count(scenario.key)
        self.console.say(f"  {number}/{wanted} {metric.title}{unit}: {said}; load {os.getloadavg()[0]:.1f}")

    def _save(self) -> None:
        if self._options.out is not None:
            report.write(self._options.out, self.results)

    def _arena_for(self, scenario: Scenario) -> Arena:
        key = (scenario.nodes, scenario.profile, scenario.relay)
        if self._arena is None or self._key != key:
            self._drop_arena()
            self._make_arena(scenario).start(scenario.nodes)
        assert self._arena is not None
        return self._arena

    def _make_arena(self, scenario: Scenario) -> Arena:
        folder = Path(tempfile.mkdtemp(prefix="clusters-", dir=self._home))
        sides: list[Side] = []
        for label in self._labels:
            subnet = self._subnet(label, scenario)
            kind = Ours if label == OURS else Serf
            sides.append(kind(folder, subnet, self._observer, scenario.profile))
        self._arena = Arena(folder, sides, self._observer, self.console)
        self._key = (scenario.nodes, scenario.profile, scenario.relay)
        return self._arena

    def _subnet(self, label: str, scenario: Scenario) -> Subnet:
        prefix, number = SUBNETS[label, scenario.relay is None]
        if prefix not in self._subnets:
            self._subnets[prefix] = Subnet(prefix, number, bridged=scenario.relay is None)
        subnet = self._subnets[prefix]
        if scenario.relay is not None:
            subnet.grow(scenario.nodes)
            links = [subnet.link(index) for index in range(1, scenario.nodes + 1)]
            delay_ms, jitter_ms = scenario.relay
            line = [sys.executable, "-m", "frys_node.bench.relay", "--delay-ms", f"{delay_ms:g}"]
            line += ["--jitter-ms", f"{jitter_ms:g}", "--seed", str(self._options.seed), *links]
            self._relays.append(subprocess.Popen(line, stdin=subprocess.DEVNULL))
        return subnet

    def _drop_arena(self) -> None:
        if self._arena is not None:
            self._arena.stop()
        for relay in self._relays:
            relay.kill()
            relay.wait()
        self._relays.clear()
        self._arena = self._key = None


def _shown(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f}"

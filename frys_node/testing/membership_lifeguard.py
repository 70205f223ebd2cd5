"""The Lifeguard experiment: what slow members cost the healthy ones, under SWIM and under each part of Lifeguard.

Sans-I/O. C of the members stall for D seconds and go on for I seconds, over and over, all at once; every seed is one
cell (C, D, I) and runs all variants on the same wires and the same members. Before the stalls a few members crash, to
measure detection. Counted are verdicts about members that never stalled: FP at any observer, FP- at one that never
stalled either. Watchers and crash evidence are off: they are not what the paper compares.
Source: Dadgar et al., "Lifeguard", arXiv:1707.00788, section V.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from frys_node.testing.faults import FaultProfile
from frys_node.testing.membership_cluster import Cluster, dead_count
from frys_node.testing.membership_stalls import GO_ON, STALL, GuardedStallNode, StallNode
from frys_node.testing.scenario import ScenarioResult, total
from membership.config import for_profile

ALPHA, BETA = 5.0, 6.0
"""Suspicion multipliers of the paper's runs."""

CRASHED = 4
WARM_UP_S = 15.0
STEP_S = 0.1

WIRES = FaultProfile(name="wires", delay_s=0.0002, jitter_s=0.0018)


class Variant(NamedTuple):
    """Which parts of Lifeguard are on."""

    lha_probe: bool
    lha_suspicion: bool
    buddy: bool
    shell: type[StallNode] = StallNode


VARIANTS = {
    "swim": Variant(False, False, False),
    "lha-probe": Variant(True, False, False),
    "lha-suspicion": Variant(False, True, False),
    "buddy": Variant(False, False, True),
    "lifeguard": Variant(True, True, True),
    "with guard": Variant(True, True, True, GuardedStallNode),
}
"""The last one notices that it stood still, as a node does; no other evidence than silence counts in any of them."""


class Cell(NamedTuple):
    """One setting of the stalls: share of the members, seconds stalled, seconds in between."""

    share: float
    stalled_s: float
    normal_s: float


CELLS = (
    Cell(1 / 32, 16.0, 0.004),
    Cell(1 / 8, 16.0, 0.004),
    Cell(1 / 8, 32.0, 0.001),
    Cell(1 / 32, 32.0, 0.016),
    Cell(1 / 4, 8.0, 0.004),
    Cell(1 / 8, 24.0, 0.064),
)
"""The corner of the paper's grid in which SWIM fails: long stalls, short breaks. Seeds take them in turn."""


class _Trial:
    """One variant in one cell."""

    def __init__(self, name: str, nodes: int, seconds: float, seed: int, faults: str) -> None:
        variant = VARIANTS[name]
        config = for_profile(
            "lan",
            suspicion_multiplier=ALPHA,
            suspicion_max_multiplier=BETA,
            lha_probe=variant.lha_probe,
            lha_suspicion=variant.lha_suspicion,
            buddy=variant.buddy,
            # Neither paper asks for a second accuser: it would hide what the experiment is about.
            accusers=1,
            watchers=0,
            crash_evidence="off",
        )
        self.name = name
        self.seconds = seconds
        self.cell = CELLS[seed % len(CELLS)]
        profile = WIRES if faults == "none" else FaultProfile.named(faults)
        self.cluster = Cluster(
            "lifeguard", nodes, seconds, seed, faults, config=config, profile=profile, starts=False, shell=variant.shell
        )

    def crash(self) -> None:
        """A few members crash: how soon somebody, and everybody, knows."""
        cluster, simulator = self.cluster, self.cluster.simulator
        cluster.start_acquainted()
        cluster.run(WARM_UP_S)
        victims = cluster.rng.sample(cluster.names, min(CRASHED, len(cluster.names) - 1))
        crash_s = simulator.now_s
        for name in victims:
            simulator.crash(name)
        cluster.wait(
            lambda: all(dead_count(node) == len(victims) for node in cluster.up()),
            cluster.detection_bound_s(),
            f"M1 ({self.name}): not everybody knows that the crashed members are dead",
            step_s=STEP_S,
        )
        self.measure("all_s", [simulator.now_s - crash_s])
        self.measure("first_s", [cluster.verdicts.first_dead_s[name] - crash_s for name in victims])
        for name in victims:
            simulator.restart(name)
        cluster.agree(cluster.detection_bound_s(), "M6: members that came back are not seen alive")
        cluster.run(WARM_UP_S)

    def stall(self) -> None:
        """The anomaly."""
        cluster, simulator, cell = self.cluster, self.cluster.simulator, self.cell
        stalled = cluster.rng.sample(cluster.names, max(1, round(cell.share * len(cluster.names))))
        verdicts = cluster.verdicts
        verdicts.counts.clear()
        verdicts.blamed.update(stalled)
        own_before = self.own_verdicts()
        packets, octets = cluster.sent()
        end_s = simulator.now_s + self.seconds
        while simulator.now_s < end_s:
            for name in stalled:
                simulator.inject(name, STALL)
            cluster.run(cell.stalled_s)
            for name in stalled:
                simulator.inject(name, GO_ON)
            cluster.run(cell.normal_s)
        packets_after, octets_after = cluster.sent()
        self.measure("FP", [float(verdicts.counts["false_dead_healthy"])])
        self.measure("FP-", [float(verdicts.counts["false_dead_at_healthy"])])
        self.measure("own verdicts", [self.own_verdicts() - own_before])
        self.measure("messages", [float(packets_after - packets)])
        self.measure("bytes", [float(octets_after - octets)])

    def own_verdicts(self) -> float:
        """Verdicts by a member's own clock, not learnt from others, about anybody."""
        return sum(shell.machine.tallies.events.get(("death",), 0) for shell in self.cluster.shells)

    def measure(self, column: str, samples: list[float]) -> None:
        """Add to the table: a row for each variant."""
        self.cluster.measure(f"{self.name}/{column}", samples)


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one cell under each variant."""
    results: list[ScenarioResult] = []
    for name in VARIANTS:
        trial = _Trial(name, nodes, seconds, seed, faults)
        results.append(trial.cluster.report([trial.crash, trial.stall]))
    figures = {figure: samples for result in results for figure, samples in result.figures.items()}
    summary: dict[str, Any] = {"cell": str(CELLS[seed % len(CELLS)])}
    return msgspec.structs.replace(
        results[-1],
        seconds=sum(result.seconds for result in results),
        digest="".join(result.digest[:6] for result in results),
        events=sum(result.events for result in results),
        faults=total(result.faults for result in results),
        sometimes=total(result.sometimes for result in results),
        violations=[violation for result in results for violation in result.violations],
        summary=summary,
        figures=figures,
    )

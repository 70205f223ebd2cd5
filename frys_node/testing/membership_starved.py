"""A cluster that starts on a starved machine: every node's loop comes seconds late for the first half minute.

Sans-I/O. A starved process is one that the kernel runs now and then: at those instants it reads what has piled up, does
what is due, and is gone again. Everybody is starved at once, so that no observer is healthy: Lifeguard alone, which
trusts that most are, gave 320 and 13,203 false deaths in measured runs of another implementation with 200 nodes.
"""

from __future__ import annotations

from functools import partial

from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.scenario import ScenarioResult

STARVED_S = 30.0
GAP_MEAN_S = 2.0
GAP_MAX_S = 6.0
BOOT_S = 3.0
"""The processes start within this time."""


class _Starvation:
    """Lets nodes run only at drawn instants."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def boot(self, name: str) -> None:
        """Start a node and take the processor away from it."""
        self._cluster.simulator.restart(name)
        self._rest(name)

    def _run(self, name: str) -> None:
        simulator = self._cluster.simulator
        simulator.resume(name)
        if simulator.now_s < STARVED_S:
            # Planned behind all that was held and what the timers want, which happens at this very instant.
            simulator.at(simulator.now_s, partial(self._rest, name))

    def _rest(self, name: str) -> None:
        simulator = self._cluster.simulator
        simulator.pause(name)
        gap_s = min(GAP_MAX_S, self._cluster.rng.expovariate(1.0 / GAP_MEAN_S))
        simulator.at(simulator.now_s + gap_s, partial(self._run, name))


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed; `seconds` count from the first start and include the starvation."""
    cluster = Cluster("starved", nodes, seconds, seed, faults, starts=False)
    simulator = cluster.simulator

    def starve() -> None:
        starvation = _Starvation(cluster)
        for name in cluster.names:
            simulator.at(cluster.rng.uniform(0.0, BOOT_S), partial(starvation.boot, name))
        simulator.run_until(max(seconds, STARVED_S + GAP_MAX_S))
        cluster.measure("false_deaths", [float(cluster.verdicts.counts["false_dead"])])
        cluster.measure("suspicions", [float(cluster.verdicts.counts["suspect"])])

    def settle() -> None:
        cluster.measure("settled_s", [cluster.agree(2.0 * cluster.detection_bound_s(), "M6: the views do not agree")])

    return cluster.report([starve, settle, cluster.merge_all])

"""Wall clocks that step and drift: membership runs on monotonic time and must not notice.

Sans-I/O. The same seed runs twice, with and without steps of up to a day; nobody is suspected, and both runs end with
the same packets sent and the same views.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from frys_node.testing.faults import FaultProfile
from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.scenario import ScenarioResult

STEPS = 40
STEP_S_MAX = 86_400.0


def _outcome(cluster: Cluster) -> Any:
    views = [[(v.id, v.boot, v.incarnation, v.status, v.phi) for v in node.machine.views()] for node in cluster.up()]
    return cluster.sent(), views


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed."""
    profile = FaultProfile.named(faults)
    calm = Cluster("clocks", nodes, seconds, seed, faults, profile=profile, is_faultless=True)
    drifting = FaultProfile.named("chaos").clock_drift
    cluster = Cluster("clocks", nodes, seconds, seed, faults, profile=profile, is_faultless=True)
    for name in cluster.names:
        cluster.simulator.host(name).wall_drift = cluster.rng.uniform(-drifting, drifting)

    def step() -> None:
        for _ in range(STEPS):
            name, by_s = cluster.rng.choice(cluster.names), cluster.rng.uniform(-STEP_S_MAX, STEP_S_MAX)
            at_s = cluster.rng.uniform(0.0, seconds)
            cluster.simulator.at(at_s, partial(cluster.simulator.step_clock, name, by_s))
        cluster.simulator.run_until(seconds)
        calm.simulator.run_until(seconds)
        same = _outcome(cluster) == _outcome(calm)
        cluster.simulator.check(same, "M8: a step of the wall clock changed what membership does")
        cluster.measure("false_deaths", [float(cluster.verdicts.counts["false_dead"])])

    return cluster.report([step, cluster.merge_all])

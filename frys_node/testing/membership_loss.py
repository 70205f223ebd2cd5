"""Packets lost at a steady rate for minutes: nobody who runs is ever called dead.

Sans-I/O.
"""

from __future__ import annotations

from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.scenario import ScenarioResult


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed; `faults` is ``loss20`` or ``loss40``, at its full rate."""
    cluster = Cluster("loss", nodes, seconds, seed, faults, starts=False)

    def lose() -> None:
        cluster.start_acquainted()
        cluster.run(seconds)

    def judge() -> None:
        cluster.measure("false_deaths", [float(cluster.verdicts.counts["false_dead"])])
        cluster.measure("suspicions", [float(cluster.verdicts.counts["suspect"])])

    def recover() -> None:
        cluster.simulator.make_whole()
        cluster.measure("settled_s", [cluster.agree(2.0 * cluster.detection_bound_s(), "M6: the views do not agree")])

    return cluster.report([lose, judge, recover, cluster.merge_all])

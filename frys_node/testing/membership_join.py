"""Nodes that start together: how soon all of them know all.

Sans-I/O. All listen at the same instant; the first three are everybody's seeds. There is no tail that only a push-pull
minutes later would bring home: every seed counts, and the slowest one decides.
"""

from __future__ import annotations

from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.scenario import ScenarioResult

STEP_S = 0.01


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed; afterwards `seconds` of calm, in which nobody may be suspected."""
    cluster = Cluster("join", nodes, seconds, seed, faults, is_faultless=faults == "none")

    def join() -> None:
        bound_s = 10.0 * cluster.config.reconnect_interval_s + cluster.spread_s()
        cluster.measure("join_s", [cluster.agree(bound_s, "M6: the cluster does not form", step_s=STEP_S)])
        packets, octets = cluster.sent()
        cluster.measure("packets_per_node", [packets / nodes])
        cluster.measure("bytes_per_node", [octets / nodes])
        cluster.run(seconds)

    return cluster.report([join, cluster.merge_all])

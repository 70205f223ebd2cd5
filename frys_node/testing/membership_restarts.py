"""A rolling restart and a restart of everybody at once: the cluster is whole again, and nobody who runs was lost.

Sans-I/O. Even seeds restart node after node, as a deployment does; odd seeds cut the power of all and start them again
within seconds, with no seeds but what their disks remember.
"""

from __future__ import annotations

from functools import partial

from frys_node.testing.disk import Tear
from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.scenario import ScenarioResult

DOWN_S = (0.5, 12.0)
"""Shortest and longest time that a node is down: from a quick restart to one that is called dead."""


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed. `seconds` is the time between the restarts of two nodes (rolling) or between outages (mass)."""
    cluster = Cluster("restarts", nodes, seconds, seed, faults)
    simulator = cluster.simulator
    is_rolling = seed % 2 == 0

    def roll() -> None:
        cluster.settle()
        for name in cluster.names:
            simulator.crash(name)
            cluster.run(cluster.rng.uniform(*DOWN_S))
            simulator.restart(name)
            cluster.run(seconds)
        simulator.reach("rolled")

    def black_out() -> None:
        cluster.settle()
        # The peers that each node would join are on disk by then.
        cluster.run(2.0 * cluster.config.persist_interval_s)
        for _ in range(3):
            simulator.black_out(dict.fromkeys(cluster.names, Tear.LOST))
            start_s = simulator.now_s
            for name in cluster.names:
                down_s = cluster.rng.uniform(*DOWN_S)
                simulator.at(start_s + down_s, partial(simulator.restart, name))
            simulator.run_until(start_s + DOWN_S[1])
            cluster.run(seconds)
        simulator.reach("blacked_out")

    def whole() -> None:
        cluster.measure("settled_s", [cluster.agree(2.0 * cluster.detection_bound_s(), "M6: the views do not agree")])
        cluster.measure("false_deaths", [float(cluster.verdicts.counts["false_dead"])])

    return cluster.report([roll if is_rolling else black_out, whole, cluster.merge_all])

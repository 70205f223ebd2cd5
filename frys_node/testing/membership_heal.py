"""A cluster cut into halves for longer than any suspicion lasts, and made whole: how soon it is one again.

Sans-I/O.
"""

from __future__ import annotations

from frys_node.testing.membership_cluster import Cluster, dead_count
from frys_node.testing.scenario import ScenarioResult

STEP_S = 0.02


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed: the halves are apart for `seconds`."""
    cluster = Cluster("heal", nodes, seconds, seed, faults)

    def cut() -> None:
        cluster.settle()
        names = cluster.rng.sample(cluster.names, len(cluster.names))
        half = len(names) // 2
        cluster.simulator.partition(names[:half], names[half:])
        cluster.run(seconds)
        for node in cluster.up():
            if dead_count(node):
                cluster.simulator.reach("half_called_dead")

    def heal() -> None:
        cluster.simulator.heal()
        bound_s = 20.0 * cluster.config.reconnect_interval_s + 2.0 * cluster.spread_s()
        cluster.measure("heal_s", [cluster.agree(bound_s, "M6: the halves do not find together", step_s=STEP_S)])

    return cluster.report([cut, heal, cluster.merge_all])

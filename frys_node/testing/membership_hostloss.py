"""A host vanishes without a word: no FIN, no refusal, nothing answers. How soon everybody knows.

Sans-I/O.
"""

from __future__ import annotations

from functools import partial

from frys_node.kernel.services.members import Status
from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.scenario import ScenarioResult

STEP_S = 0.05
KILLS = 3
"""Hosts lost in one run, one after the other."""


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed: `seconds` of calm before each loss, in which watchers learn what is usual."""
    cluster = Cluster("hostloss", nodes, seconds, seed, faults, starts=False)

    def lose() -> None:
        cluster.start_acquainted()
        for name in cluster.rng.sample(cluster.names, min(KILLS, nodes - 1)):
            cluster.run(seconds + cluster.rng.random() * cluster.config.probe_interval_s)
            lost_s = cluster.simulator.now_s
            # Cut off before it dies, so that neither its end nor a refusal gets out.
            cut = cluster.simulator.partition([name], [other for other in cluster.names if other != name])
            cluster.simulator.crash(name)
            text = f"M1: not everybody knows that {name} is dead"
            took_s = cluster.wait(
                partial(cluster.all_see, name, Status.DEAD), cluster.detection_bound_s(), text, step_s=STEP_S
            )
            cluster.measure("dead_at_all_s", [took_s])
            cluster.measure("dead_at_first_s", [cluster.verdicts.first_dead_s[name] - lost_s])
            cluster.simulator.heal(cut)
            cluster.simulator.restart(name)
            cluster.agree(cluster.detection_bound_s(), "M6: a node that came back is not seen alive")
        cluster.measure("false_deaths", [float(cluster.verdicts.counts["false_dead"])])

    return cluster.report([lose, cluster.merge_all])

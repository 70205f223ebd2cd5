"""Some nodes are stopped 8 s and run half a second, over and over: how many verdicts that costs the others.

Sans-I/O. Every observer calls every flapper dead at every turn, and rightly so; damping keeps that from the
subscribers, whose DEAD events are counted.
"""

from __future__ import annotations

from functools import partial

from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.scenario import ScenarioResult

OFF_S, ON_S = 8.0, 0.5


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed: one in five flaps for `seconds`."""
    cluster = Cluster("flapping", nodes, seconds, seed, faults, starts=False)
    simulator = cluster.simulator

    def flap() -> None:
        cluster.start_acquainted()
        cluster.run(10.0)
        flappers = cluster.rng.sample(cluster.names, max(1, nodes // 5))
        cluster.verdicts.blamed.update(flappers)
        start_s = simulator.now_s
        for name in flappers:
            at_s = start_s + cluster.rng.uniform(0.0, 1.0)
            while at_s < start_s + seconds:
                simulator.at(at_s, partial(simulator.pause, name))
                simulator.at(at_s + OFF_S, partial(simulator.resume, name))
                at_s += OFF_S + ON_S
        simulator.run_until(start_s + seconds + OFF_S + 1.0)
        cluster.measure("verdicts", [float(cluster.verdicts.counts["dead"])])
        cluster.measure("dead_events", [float(cluster.verdicts.counts["dead_published"])])
        cluster.measure("false_deaths_healthy", [float(cluster.verdicts.counts["false_dead_healthy"])])

    def calm() -> None:
        # Damping may keep a flapper suspect for its own good while it settles.
        cluster.measure("settled_s", [cluster.agree(180.0, "M6: the views do not agree")])

    return cluster.report([flap, calm, cluster.merge_all])

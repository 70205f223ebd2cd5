"""A rolling restart and a restart of everybody at once: the cluster is whole again, and nobody who runs was lost.

Sans-I/O. Even seeds restart node after node, as a deployment does; odd seeds cut the power of all and start them again
within seconds, with no seeds but what their disks remember.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from frys_node.testing.disk import Tear
from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.membership_node import MembershipNode
from frys_node.testing.scenario import ScenarioResult
from frys_node.testing.simulator import Packet

DOWN_S = (0.5, 12.0)
"""Shortest and longest time that a node is down: from a quick restart to one that is called dead."""


class SeededOnce(MembershipNode):
    """A node that is told of seeds at its first boot only, as `join` is and `start` is not."""

    def start(self, now_s: float) -> Sequence[Packet]:
        """Boot: join the seeds at first, and later whoever is on the disk."""
        if self.boot >> 32 > 1:
            self._seeds = ()
        return super().start(now_s)


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed. `seconds` is the time between the restarts of two nodes (rolling) or between outages (mass)."""
    cluster = Cluster("restarts", nodes, seconds, seed, faults, shell=SeededOnce)
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
            downs_s = [cluster.rng.uniform(*DOWN_S) for _ in cluster.names]
            for name, down_s in zip(cluster.names, downs_s, strict=True):
                simulator.at(start_s + down_s, partial(simulator.restart, name))
            simulator.run_until(start_s + max(downs_s))
            bound_s = 2.0 * cluster.detection_bound_s()
            cluster.measure("whole_s", [cluster.agree(bound_s, "M6: the cluster does not form again by itself")])
            cluster.run(seconds)
        simulator.reach("blacked_out")

    def whole() -> None:
        cluster.measure("settled_s", [cluster.agree(2.0 * cluster.detection_bound_s(), "M6: the views do not agree")])
        cluster.measure("false_deaths", [float(cluster.verdicts.counts["false_dead"])])

    return cluster.report([roll if is_rolling else black_out, whole, cluster.merge_all])

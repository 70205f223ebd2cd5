"""A node leaves: everybody sees LEFT at once, never SUSPECT or DEAD, in clusters of any size.

Sans-I/O. The size is drawn from 2 to `nodes`. The leaver's process ends as soon as somebody has acknowledged the leave,
and has said it as often as gossip wants, as the real one's does.
"""

from __future__ import annotations

import random

from frys_node.kernel.services.members import Status
from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.membership_node import LEAVE
from frys_node.testing.scenario import ScenarioResult

STEP_S = 0.01
AFTER_S = 15.0
"""How long the others are watched afterwards: a leave must not turn into a death."""


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed: `seconds` of calm, then one leave."""
    count = random.Random(f"{seed}/leave/size").randint(min(2, nodes), nodes)
    cluster = Cluster("leave", count, seconds, seed, faults, is_faultless=True)

    def leave() -> None:
        cluster.settle()
        cluster.run(seconds)
        name = cluster.rng.choice(cluster.names)
        shell = cluster.node(name)
        cluster.checker.leaver = shell.node
        start_s = cluster.simulator.now_s
        cluster.simulator.inject(name, LEAVE)
        text = "the leave is not acknowledged"
        cluster.wait(lambda: shell.leave_acknowledged, cluster.config.leave_timeout_s, text, step_s=STEP_S)
        cluster.measure("acknowledged_s", [cluster.simulator.now_s - start_s])
        leave_s = cluster.config.leave_timeout_s
        cluster.wait(lambda: shell.machine.has_said_all, leave_s, "the leave is not passed on", step_s=STEP_S)
        cluster.simulator.crash(name)
        text = "not everybody has seen the leave"
        cluster.wait(lambda: cluster.all_see(name, Status.LEFT), 2.0 * cluster.floor_s(), text, step_s=STEP_S)
        cluster.measure("left_at_all_s", [cluster.simulator.now_s - start_s])
        cluster.run(AFTER_S)
        cluster.simulator.check(cluster.all_see(name, Status.LEFT), "a node that left is not LEFT any more")
        if count <= 4:
            cluster.simulator.reach("left_a_small_cluster")

    return cluster.report([leave, cluster.merge_all])

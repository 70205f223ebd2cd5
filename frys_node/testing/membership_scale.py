"""A thousand members for a minute: crashes are known to all within SWIM's bound, newcomers too, and load stays flat.

Sans-I/O. The cluster exists already (every member knows all the others), because starting a thousand nodes cold costs a
million first meetings, which say nothing about a cluster that large; `join` and `starved` start cold. The checker that
looks after each event is off above `CHECKED_MAX` nodes; M1, M6 and M7 are checked at any size.
"""

from __future__ import annotations

from frys_node.testing.membership_cluster import Cluster, dead_count
from frys_node.testing.scenario import ScenarioResult

CHECKED_MAX = 200
CRASHED = 3
PACKETS_PER_S_MAX = 12.0
"""Packets that a node may send in a second, quiet or not; independent of the size (M7)."""


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed: `seconds` in all, with crashes after a sixth of them and their return after two thirds."""
    cluster = Cluster("scale", nodes, seconds, seed, faults, starts=False, is_checked=nodes <= CHECKED_MAX)
    simulator = cluster.simulator
    victims: list[str] = []

    def crash() -> None:
        cluster.start_acquainted()
        simulator.run_until(seconds / 6.0)
        packets, octets = cluster.sent()
        cluster.measure("idle_packets_per_node_s", [packets / nodes / simulator.now_s])
        cluster.measure("idle_bytes_per_node_s", [octets / nodes / simulator.now_s])
        victims.extend(cluster.rng.sample(cluster.names, min(CRASHED, nodes - 1)))
        for name in victims:
            simulator.crash(name)
        took_s = cluster.wait(
            lambda: all(dead_count(node) == len(victims) for node in cluster.up()),
            cluster.detection_bound_s(),
            "M1: not everybody knows that the crashed nodes are dead",
        )
        cluster.measure("dead_at_all_s", [took_s])

    def come_back() -> None:
        for name in victims:
            simulator.restart(name)
        cluster.measure("back_at_all_s", [cluster.agree(cluster.detection_bound_s(), "M6: not everybody is back")])
        simulator.run_until(max(seconds, simulator.now_s))

    def judge() -> None:
        packets, _ = cluster.sent()
        per_node_s = packets / nodes / simulator.now_s
        cluster.measure("packets_per_node_s", [per_node_s])
        simulator.check(per_node_s <= PACKETS_PER_S_MAX, f"M7: a node sends {per_node_s:.1f} packets a second")

    return cluster.report([crash, come_back, judge])

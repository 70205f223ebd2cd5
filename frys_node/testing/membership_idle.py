"""A cluster with nothing to do for a day: nobody is suspected, and the traffic stays small.

Sans-I/O.
"""

from __future__ import annotations

from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.scenario import ScenarioResult


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed. Under ``lan`` a packet in 2,000 is lost and some are late, as on a real network."""
    cluster = Cluster("idle", nodes, seconds, seed, faults, is_faultless=faults == "none")

    def idle() -> None:
        cluster.settle()
        packets, octets = cluster.sent()
        cluster.run(seconds)
        packets_after, octets_after = cluster.sent()
        node_seconds = nodes * seconds
        cluster.measure("packets_per_node_s", [(packets_after - packets) / node_seconds])
        cluster.measure("bytes_per_node_s", [(octets_after - octets) / node_seconds])
        cluster.measure("false_deaths", [float(cluster.verdicts.counts["false_dead"])])

    return cluster.report([idle, cluster.merge_all])

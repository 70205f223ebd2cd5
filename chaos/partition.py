"""Cuts the network between nodes, under load: ``python -m chaos.partition --nodes 5 --rounds 4``.

Every node has a network namespace of its own inside a private one, and nft drops packets there; the machine's own
network and firewall are never touched. Odd rounds cut a minority off in both directions, even rounds only in what it
sends. The harness keeps reaching every node, so clients on both sides go on writing.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from chaos import scenario
from chaos.cluster import Cluster, heal, say, split
from chaos.load import Load
from frys_node.bench import namespaces

CUT_S = (2.0, 15.0)


def partitions(cluster: Cluster, load: Load, rng: random.Random, arguments: argparse.Namespace) -> int:
    """Cut and heal; returns the number of cuts that dropped packets."""
    done = 0
    for number in range(1, arguments.rounds + 1):
        minority = rng.sample(cluster.nodes, rng.randint(1, max(1, (len(cluster.nodes) - 1) // 2)))
        majority = [node for node in cluster.nodes if node not in minority]
        one_way, cut_s = number % 2 == 0, rng.uniform(*CUT_S)
        names = ", ".join(node.name for node in minority)
        shape = "one way" if one_way else "both ways"
        say(f"cut {number}/{arguments.rounds}: {names} {shape} for {cut_s:.1f} s, {load.acknowledged_points} points")
        split(minority, majority, one_way=one_way)
        time.sleep(cut_s)
        dropped = heal(minority)
        say(f"healed; {dropped} packets were dropped")
        done += dropped > 0
        cluster.wait_agreed()
    return done


def main() -> int:
    """Run the scenario inside a private network."""
    arguments = scenario.parser(__doc__ or "", nodes=5, rounds=4).parse_args()
    try:
        namespaces.enter(["-m", "chaos.partition", *sys.argv[1:]])
    except namespaces.Unavailable as reason:
        say(f"skipped: {reason}")
        return scenario.SKIPPED
    return scenario.run("partition", arguments, Cluster.in_namespaces, partitions)


if __name__ == "__main__":
    sys.exit(main())

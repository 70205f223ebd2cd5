"""Kills nodes with SIGKILL, one at a time, under load: ``python -m chaos.kill --nodes 3 --rounds 20``.

Each victim is restarted in its data directory, and the next one is chosen once all nodes see each other again. With
three nodes and the default write quorum no acknowledged point may be missing afterwards.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from chaos import scenario
from chaos.cluster import Cluster, say
from chaos.load import Load

DOWN_S = (0.2, 3.0)
QUIET_S = (0.2, 1.0)


def kills(cluster: Cluster, load: Load, rng: random.Random, arguments: argparse.Namespace) -> int:
    """Kill and restart; returns the number of kills."""
    for number in range(1, arguments.rounds + 1):
        victim = rng.choice(cluster.nodes)
        victim.kill()
        down_s = rng.uniform(*DOWN_S)
        say(f"kill {number}/{arguments.rounds}: {victim.name}, down {down_s:.1f} s, {load.acknowledged_points} points")
        time.sleep(down_s)
        cluster.restart(victim)
        time.sleep(rng.uniform(*QUIET_S))
    return int(arguments.rounds)


def main() -> int:
    """Run the scenario."""
    arguments = scenario.parser(__doc__ or "", nodes=3, rounds=20).parse_args()
    return scenario.run("kill", arguments, Cluster.on_loopback, kills)


if __name__ == "__main__":
    sys.exit(main())

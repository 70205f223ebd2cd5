"""Stops nodes with SIGSTOP and lets them run on, under load: ``python -m chaos.pause --nodes 3 --rounds 6``.

A paused node is not dead: its kernel still acknowledges bytes. It may be suspected and even declared dead while it
sleeps; once it runs again it must refute, serve, and have lost nothing, and it must not answer from before its sleep.
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from chaos import scenario
from chaos.cluster import Cluster, say
from chaos.load import Load

PAUSE_S = (0.5, 8.0)


def pauses(cluster: Cluster, load: Load, rng: random.Random, arguments: argparse.Namespace) -> int:
    """Pause and resume; returns the number of pauses that the kernel confirmed."""
    done = 0
    for number in range(1, arguments.rounds + 1):
        victim = rng.choice(cluster.nodes)
        pause_s = rng.uniform(*PAUSE_S)
        say(f"pause {number}/{arguments.rounds}: {victim.name} for {pause_s:.1f} s, {load.acknowledged_points} points")
        victim.pause()
        time.sleep(pause_s)
        done += victim.is_paused
        victim.resume()
        cluster.wait_agreed()
    return done


def main() -> int:
    """Run the scenario."""
    arguments = scenario.parser(__doc__ or "", nodes=3, rounds=6).parse_args()
    return scenario.run("pause", arguments, Cluster.on_loopback, pauses)


if __name__ == "__main__":
    sys.exit(main())

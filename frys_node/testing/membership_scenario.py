"""Membership under every fault, checked after each event.

A run has four acts. Faults by the seed's profile for the first 70 % of the time; then calm, and all views must agree
with the truth (M6) and the traffic must be small (M7); then some nodes die for good, and everybody must know within the
bound of SWIM's round robin (M1), until they come back with a higher boot; last, one node leaves and must never be
called suspect or dead. `membership_checker` holds the invariants that are checked throughout.
"""

from __future__ import annotations

import random
from functools import partial

from frys_node.kernel.services.members import Status
from frys_node.testing.faults import FaultProfile, FaultSchedule
from frys_node.testing.membership_cluster import Cluster, dead_count
from frys_node.testing.membership_node import LEAVE
from frys_node.testing.scenario import ScenarioResult
from membership.config import MembershipConfig, for_profile
from membership.machine import Membership

QUIET_S = 5.0
"""Length of the look at idle traffic."""

PACKETS_PER_S_MAX = 6.0
"""Packets that one idle node may send per probe interval: its own probe and slack. The watch's beats come on top."""


PACKET_BYTES_MIN = 576
LONG_TAG_CHARS = 400
"""Where packets are this small, tags this long leave a claim no room but for its brief form."""


def draw_config(rng: random.Random) -> MembershipConfig:
    """Knobs are drawn too: a bug may need a fan-out of one or a rare push-pull."""
    return for_profile(
        rng.choice(("lan", "lan", "local")),
        helpers=rng.choice((1, 3, 3)),
        gossip_fanout=rng.choice((1, 2, 3, 3)),
        push_pull_interval_s=rng.choice((5.0, 30.0, 300.0)),
        persist_interval_s=rng.choice((0.1, 2.0)),
        # SWIM has to hold the invariants by itself, too.
        watchers=rng.choice((0, 3)),
        packet_bytes_max=rng.choice((PACKET_BYTES_MIN, 1_400, 1_400, 1_400)),
    )


def _has_news(machine: Membership) -> bool:
    """Return whether claims wait to be passed on, or rumours: the voices of a hundred newcomers are many packets."""
    return bool(machine.queue_length or len(machine.rumours.queue))


class _Run:
    """One seed."""

    def __init__(self, nodes: int, seconds: float, seed: int, faults: str) -> None:
        self.profile = FaultProfile.named(faults).draw(seed)
        self.rng = random.Random(f"{seed}/membership")
        config = draw_config(self.rng)
        self.cluster = Cluster(
            "membership",
            nodes,
            seconds,
            seed,
            faults,
            config=config,
            profile=self.profile,
            is_faultless=faults == "none",
        )
        self.cluster.summary["probe_interval_s"] = config.probe_interval_s

    def faults(self) -> None:
        """Act one."""
        cluster, seconds = self.cluster, self.cluster.seconds
        schedule = FaultSchedule.generate(
            cluster.simulator.seed,
            self.profile,
            cluster.names,
            start_s=seconds * 0.1,
            end_s=seconds * 0.7,
            down_max=max(1, len(cluster.names) // 2),
        )
        schedule.install(cluster.simulator)
        note = "n" * (LONG_TAG_CHARS if cluster.config.packet_bytes_max == PACKET_BYTES_MIN else 0)
        for index in range(3):
            name = self.rng.choice(cluster.names)
            at_s = seconds * (0.15 + 0.15 * index)
            tags = {"round": str(index), "note": note}
            cluster.simulator.at(at_s, partial(cluster.simulator.inject, name, tags))
        cluster.simulator.run_until(seconds)

    def calm(self) -> None:
        """Act two: M6 and M7."""
        cluster = self.cluster
        config, late_s, spread_s = cluster.config, self.profile.late_s, cluster.spread_s()
        # Whoever was cut off or down is found again by a few turns of reconnection, and news needs a few rounds.
        bound_s = 20.0 * config.reconnect_interval_s + late_s + 2.0 * spread_s
        cluster.summary["settled_s"] = round(cluster.agree(bound_s, "M6: the views do not agree"), 3)
        cluster.wait(
            lambda: not any(_has_news(node.machine) and node.machine.live_count for node in cluster.up()),
            20.0 * spread_s,
            "M7: the gossip queues do not drain",
        )
        cluster.run(late_s)
        packets, octets = cluster.sent()
        cluster.run(QUIET_S)
        packets_after, octets_after = cluster.sent()
        node_seconds = len(cluster.names) * QUIET_S
        per_node_s = (packets_after - packets) / node_seconds
        cluster.measure("idle_packets_per_node_s", [per_node_s])
        cluster.measure("idle_bytes_per_node_s", [(octets_after - octets) / node_seconds])
        beats_s = 2.0 * min(config.watchers, len(cluster.names) - 1) / config.watch_interval_s
        cluster.simulator.check(
            per_node_s <= PACKETS_PER_S_MAX / config.probe_interval_s + beats_s,
            f"M7: an idle node sends {per_node_s:.1f} packets a second",
        )

    def deaths(self) -> None:
        """Act three: M1, and the return of the dead."""
        cluster = self.cluster
        count = min(len(cluster.names) - 1, max(1, len(cluster.names) // 20))
        if count < 1:
            return
        cluster.checker.is_faultless = False
        victims = self.rng.sample(cluster.names, count)
        for name in victims:
            cluster.simulator.crash(name)
        bound_s = cluster.detection_bound_s()
        took_s = cluster.wait(
            lambda: all(dead_count(node) == count for node in cluster.up()),
            bound_s,
            "M1: not everybody knows that the crashed nodes are dead",
        )
        cluster.measure("dead_at_all_s", [took_s])
        for name in victims:
            cluster.simulator.restart(name)
        cluster.agree(bound_s, "M6: nodes that came back are not seen alive")

    def leave(self) -> None:
        """Act four: a goodbye that nobody mistakes for a death."""
        cluster = self.cluster
        if len(cluster.names) < 2:
            return
        name = self.rng.choice(cluster.names)
        shell = cluster.node(name)
        cluster.checker.leaver = shell.node
        cluster.simulator.inject(name, LEAVE)
        cluster.wait(lambda: shell.leave_acknowledged, cluster.config.leave_timeout_s, "the leave is not acknowledged")
        cluster.run(cluster.spread_s())
        cluster.simulator.crash(name)
        cluster.agree(cluster.spread_s() + 2.0 * cluster.floor_s(), "not everybody has seen the leave")
        cluster.simulator.check(cluster.all_see(name, Status.LEFT), "a node that left is not LEFT")


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed; broken invariants come back in `violations`."""
    run = _Run(nodes, seconds, seed, faults)
    return run.cluster.report([run.faults, run.calm, run.deaths, run.leave, run.cluster.merge_all])

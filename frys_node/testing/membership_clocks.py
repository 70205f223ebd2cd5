"""Wall clocks that step: membership runs on monotonic time, and what it says by the wall clock mends itself.

Sans-I/O. The same seed runs twice, with clocks that have stepped by up to a day and with true ones, and one link that
is cut in one direction, so that edges exist, which carry wall clock times: nobody is suspected before the cut, and both
runs end with the same packets sent, the same views and the same edges. Nobody is called dead at any time.

Then the reporter of the edge is restarted with its clock stepped back. Members that remember an edge of its former life
take the new ones for older, until they forget that one `EDGE_TTL_S` after they heard of it. Even seeds leave the link
cut: everybody must have the edge of the new life by then. Odd seeds mend it: nobody may have one any more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from frys_node.base.types import Address
from frys_node.testing.faults import FaultProfile
from frys_node.testing.membership_cluster import Cluster
from frys_node.testing.membership_node import PEERS_PATH, PORT, MembershipNode, SimMembership
from frys_node.testing.scenario import ScenarioResult
from frys_node.testing.simulator import Packet
from frys_node.wire.codec import Codec
from membership.edges import EDGE_TTL_S, TRIES, Edge
from membership.effects import Peer
from membership.member import make_attributes
from membership.messages import NOBODY

STEPS = 40
STEP_S_MAX = 86_400.0
STEP_BACK_S_MIN = 600.0
"""A reporter's clock goes back at least so far: behind everything that it said in its former life."""

DOWN_S = 3.0
"""How long the reporter is down: its end is proven to all by then, so that no verdict on it is late."""

_PEERS: Codec[list[Peer]] = Codec(list[Peer])


class ClockNode(MembershipNode):
    """A node that reads its machine's wall clock once, when it starts, as the driver does."""

    def start(self, now_s: float) -> Sequence[Packet]:
        """Boot with the wall clock as it is."""
        host = self._host
        if self._lifelines is not None:
            self._lifelines.started(host.name, self.node, self.boot)
        self.unix_offset_ns = host.unix_ms(now_s) * 1_000_000 - int(now_s * 1e9)
        self.machine = SimMembership(
            node=self.node,
            boot=self.boot,
            attributes=make_attributes(host.name, Address(host.name, PORT)),
            config=self._config,
            rng=host.rng,
            now_s=now_s,
            voices=self.voices,
            unix_offset_ns=self.unix_offset_ns,
        )
        self.is_started = True
        stored = host.disk.read(PEERS_PATH)
        peers = _PEERS.decode(stored) if stored else []
        peers += [Peer(NOBODY, Address(name, PORT)) for name in self._seeds if name != host.name]
        return self._perform(self.machine.join(peers, now_s), now_s)


class _Reporter:
    """The member whose word on one link is followed."""

    def __init__(self, cluster: Cluster, name: str, mute: str) -> None:
        self._cluster = cluster
        self.name = name
        self.mute = mute
        """Who lives, and whose packets do not arrive at `name`."""
        self._former_unix_s = math.inf
        """What was seen later, by the reporter's clock, is from its former life."""

    def cut(self) -> None:
        """Lose what the mute one sends to the reporter, and nothing else. From now on there is a fault to suspect."""
        self._cluster.checker.is_faultless = False
        self._cluster.simulator.partition([self.mute], [self.name], one_way=True)

    def edges(self, node: MembershipNode) -> list[Edge]:
        """The edges of the link that a node knows."""
        a, b = self._cluster.id_of(self.name), self._cluster.id_of(self.mute)
        seen = node.machine.edges(self._cluster.simulator.now_s)
        return [s.edge for s in seen if (s.edge.a, s.edge.b) == (a, b)]

    def is_known(self) -> bool:
        """True if everybody knows of the cut."""
        return all(self.edges(node) for node in self._cluster.up())

    def is_forgotten(self) -> bool:
        """True if nobody knows of a cut."""
        return not any(self.edges(node) for node in self._cluster.up())

    def is_known_anew(self) -> bool:
        """True if everybody knows of the cut by the word of the life whose clock has stepped back."""
        former = [any(e.seen_s >= self._former_unix_s for e in self.edges(node)) for node in self._cluster.up()]
        if any(former) and self._cluster.node(self.name).machine.tallies.events.get(("edge_down",)):
            self._cluster.simulator.reach("edge_refused_after_step_back")
        return self.is_known() and not any(former)

    def restart(self, back_s: float, *, is_mended: bool) -> None:
        """Begin a new life, whose clock is so far behind what the former one told the time by."""
        simulator, node = self._cluster.simulator, self._cluster.node(self.name)
        assert isinstance(node, ClockNode)
        told_unix_s = node.unix_offset_ns / 1e9 + simulator.now_s
        self._former_unix_s = told_unix_s - back_s / 2.0
        is_unix_s = simulator.host(self.name).unix_ms(simulator.now_s) / 1_000.0
        simulator.step_clock(self.name, told_unix_s - back_s - is_unix_s)
        simulator.crash(self.name)
        self._cluster.run(DOWN_S)
        if is_mended:
            simulator.heal()
        simulator.restart(self.name)


def _outcome(cluster: Cluster) -> Any:
    """Everything that a wall clock must not change; what members tell by it, as told by a true one."""
    views, edges = [], []
    for node in cluster.up():
        assert isinstance(node, ClockNode)
        views.append(
            [
                (v.id, v.boot, v.incarnation, v.status, v.condition, v.phi, v.changed_unix_ns - node.unix_offset_ns)
                for v in node.machine.views()
            ]
        )
        seen = node.machine.edges(cluster.simulator.now_s)
        edges.append([(s.at_s, s.edge.a, s.edge.b, s.edge.kind) for s in seen])
    return cluster.sent(), views, edges


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed. `seconds` is the time before the restart."""
    profile = FaultProfile.named(faults)
    calm, stepping = (
        Cluster(
            "clocks", nodes, seconds, seed, faults, profile=profile, starts=False, is_faultless=True, shell=ClockNode
        )
        for _ in range(2)
    )
    simulator, rng, names = stepping.simulator, stepping.rng, stepping.names
    name, mute = rng.sample(names, 2)
    reporter = _Reporter(stepping, name, mute)

    def step() -> None:
        drifting = FaultProfile.named("chaos").clock_drift
        for host in map(simulator.host, names):
            host.wall_drift = rng.uniform(-drifting, drifting)
            simulator.step_clock(host.name, rng.uniform(-STEP_S_MAX, STEP_S_MAX))
        for _ in range(STEPS):
            host_name, by_s = rng.choice(names), rng.uniform(-STEP_S_MAX, STEP_S_MAX)
            simulator.at(rng.uniform(0.0, seconds), partial(simulator.step_clock, host_name, by_s))
        cut_s = seconds / 5.0
        for cluster in (calm, stepping):
            cluster.start()
            cluster.simulator.at(cut_s, _Reporter(cluster, name, mute).cut)
            cluster.simulator.run_until(seconds)
        same = _outcome(stepping) == _outcome(calm)
        simulator.check(same, "M8: a step of the wall clock changed what membership does")

    def step_back() -> None:
        probes_s = (2 * nodes - 1 + TRIES) * stepping.config.probe_interval_s
        stepping.wait(reporter.is_known, EDGE_TTL_S + probes_s + stepping.spread_s(), "not everybody knows the edge")
        reporter.restart(rng.uniform(STEP_BACK_S_MIN, STEP_S_MAX), is_mended=bool(seed % 2))
        bound_s = EDGE_TTL_S + probes_s + stepping.spread_s()
        if seed % 2:
            healed_s = stepping.wait(reporter.is_forgotten, bound_s, "an edge of a former life is not forgotten")
            simulator.reach("edge_forgotten_after_step_back")
        else:
            healed_s = stepping.wait(reporter.is_known_anew, bound_s, "an edge told after a step back is not known")
            simulator.reach("edge_after_step_back")
        stepping.measure("edge_settled_s", [healed_s])
        stepping.measure("false_deaths", [float(stepping.verdicts.counts["false_dead"])])

    return stepping.report([step, step_back, stepping.merge_all])

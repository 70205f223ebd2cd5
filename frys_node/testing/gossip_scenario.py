"""Events, queries and state under loss and partitions: once each, everywhere.

Acts: a quiet cluster; a fifth of all packets lost (and whatever else the profile does to packets) while nodes fire
events, change their state and ask; a partition with both sides talking; the heal; a restart. Through all of it G1: no
node delivers an event twice, or one that nobody fired. After each act, when there has been time, G2: every node that
was there has delivered every event; G3: every node reads of every other exactly what that one has put. G4: each query
has had exactly one last word of each member asked, and none was silent while all could hear.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from frys_node.base.types import NodeId
from frys_node.kernel.services.gossip import Outcome
from frys_node.testing.faults import FaultProfile
from frys_node.testing.gossip_node import ASK, DELETE, FIRE, PUT, GossipNode
from frys_node.testing.scenario import Replay, ScenarioResult, SimulationFailed
from frys_node.testing.simnode import SimEvent
from frys_node.testing.simulator import Simulator
from membership.config import for_profile
from membership.rumours import UserEvent

LOSS = 0.2
"""Share of packets lost in the second act, whatever the profile says."""

SEEDS_MAX = 3
STEP_S = 0.5
KEYS = 12
"""Keys that each node plays with."""

CHANGES_PER_EVENT = 4

Name = tuple[NodeId, int, int]
"""An event: origin, boot, number."""


def name_of(event: UserEvent) -> Name:
    """Tell an event from every other."""
    return event.origin, event.boot, event.sequence


class Checker:
    """G1, after each input; and who has delivered what."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self.fired: dict[Name, float] = {}
        self.delivered: dict[tuple[NodeId, int], dict[Name, float]] = {}
        """By node and boot."""

    def __call__(self, event: SimEvent) -> None:
        """Check what one input did."""
        simulator = self._simulator
        node = simulator.node(event.node)
        if not isinstance(node, GossipNode):
            return
        heard, node.heard = node.heard, []
        node.changes.clear()
        known = self.delivered.setdefault((node.node, node.boot), {})
        for delivery in heard:
            name = name_of(delivery)
            if delivery.origin == node.node:
                self.fired[name] = simulator.now_s
            simulator.check(name in self.fired, f"G1: {node.node} delivers {name}, which nobody fired")
            simulator.check(name not in known, f"G1: {node.node} delivers {name} twice")
            known[name] = simulator.now_s

    def missing(self, node: GossipNode, wanted: set[Name]) -> set[Name]:
        """What a node has not delivered."""
        return wanted - self.delivered.get((node.node, node.boot), {}).keys()


class Run:
    """One seed."""

    def __init__(self, nodes: int, seconds: float, seed: int, faults: str) -> None:
        self.seconds = seconds
        profile = FaultProfile.named(faults).draw(seed)
        replay = Replay(scenario="gossip", nodes=nodes, seconds=seconds, seed=seed, faults=faults)
        self.rough = msgspec.structs.replace(profile, loss=max(LOSS, profile.loss))
        self.simulator = Simulator(seed, profile.calm(), replay)
        self.rng = random.Random(f"{seed}/gossip")
        self.config = for_profile(
            self.rng.choice(("lan", "local")),
            gossip_fanout=self.rng.choice((2, 3, 3)),
            push_pull_interval_s=self.rng.choice((10.0, 30.0, 300.0)),
            packet_bytes_max=self.rng.choice((700, 1_400)),
        )
        self.checker = Checker(self.simulator)
        self.simulator.on_event(self.checker)
        self.names = [f"n{index}" for index in range(nodes)]
        self.summary: dict[str, Any] = {}
        for name in self.names:
            self.simulator.add(name, lambda host: GossipNode(host, self.config, self.names[:SEEDS_MAX]))

    def up(self) -> list[GossipNode]:
        """The nodes that run."""
        found = [self.simulator.node(name) for name in self.names]
        return [node for node in found if isinstance(node, GossipNode)]

    def wait(self, problem: Callable[[], str], bound_s: float, text: str) -> float:
        """Run until there is no problem; returns how long it took. Over the bound it is a violation."""
        simulator = self.simulator
        start_s = simulator.now_s
        while said := problem():
            simulator.check(simulator.now_s - start_s <= bound_s, f"{text} within {bound_s:.0f} s: {said}")
            simulator.run_until(simulator.now_s + STEP_S)
        return round(simulator.now_s - start_s, 3)

    def strangers(self) -> str:
        """Who does not see everybody."""
        count = len(self.names) - 1
        return ", ".join(node.node for node in self.up() if node.machine.live_count != count)

    def unheard(self, wanted: set[Name], nodes: list[GossipNode]) -> str:
        """G2."""
        for node in nodes:
            missing = self.checker.missing(node, wanted)
            if missing:
                return f"{node.node} lacks {len(missing)} of {len(wanted)} events, such as {min(missing)}"
        return ""

    def unread(self) -> str:
        """G3."""
        up = self.up()
        for owner in up:
            truth = owner.machine.talk.state_of(owner.node)
            for node in up:
                if node.machine.talk.state_of(owner.node) != truth:
                    return f"{node.node} does not read what {owner.node} has put"
        return ""

    def settle(self, text: str, wanted: set[Name], nodes: list[GossipNode]) -> float:
        """G2 and G3, within a few exchanges after a difference can be found."""
        config = self.config
        bound_s = 30.0 * config.reconnect_interval_s + 40.0 * config.probe_interval_s + 0.3 * len(self.names)
        return self.wait(
            lambda: self.strangers() or self.unheard(wanted, nodes) or self.unread(), bound_s, f"{text}: not everybody"
        )

    def talk(self, start_s: float, end_s: float) -> None:
        """Plan events and changes of state by random nodes."""
        rng, simulator = self.rng, self.simulator
        for _ in range(max(3, int((end_s - start_s) * 1.5))):
            at_s = rng.uniform(start_s, end_s)
            simulator.at(at_s, partial(simulator.inject, rng.choice(self.names), (FIRE, "event")))
            for _ in range(CHANGES_PER_EVENT):
                key = f"k{rng.randrange(KEYS)}"
                size = rng.choice((1, 10, 900))
                token = (DELETE, key) if rng.random() < 0.3 else (PUT, key, rng.choice("abc") * size)
                simulator.at(rng.uniform(start_s, end_s), partial(simulator.inject, rng.choice(self.names), token))

    def meet(self) -> None:
        """Everybody knows everybody."""
        self.summary["met_s"] = self.wait(self.strangers, 60.0, "not everybody knows everybody")
        self.simulator.run_until(self.simulator.now_s + 2.0)

    def lose(self) -> None:
        """Talk while packets get lost."""
        simulator = self.simulator
        simulator.set_profile(self.rough)
        start_s = simulator.now_s
        self.talk(start_s, start_s + self.seconds / 2)
        simulator.run_until(start_s + self.seconds / 2)
        simulator.set_profile(self.rough.calm())
        took_s = self.settle("after the loss", set(self.checker.fired), self.up())
        self.summary |= {"loss_settled_s": took_s, "fired": len(self.checker.fired), **self.latencies()}

    def latencies(self) -> dict[str, float]:
        """How long events took to reach each node."""
        fired = self.checker.fired
        took = sorted(at_s - fired[name] for known in self.checker.delivered.values() for name, at_s in known.items())
        return {
            "latency_p50_s": round(took[len(took) // 2], 3),
            "latency_p99_s": round(took[len(took) * 99 // 100], 3),
            "latency_max_s": round(took[-1], 3),
        }

    def split(self) -> None:
        """Talk on both sides of a partition, then heal it."""
        if len(self.names) < 2:
            return
        simulator = self.simulator
        some = self.rng.sample(self.names, self.rng.randrange(1, len(self.names)))
        simulator.partition(some, [name for name in self.names if name not in some])
        start_s = simulator.now_s
        self.talk(start_s, start_s + self.seconds / 4)
        simulator.run_until(start_s + self.seconds / 4)
        if self.unheard(set(self.checker.fired), self.up()):
            simulator.reach("event_cut_off")
        if self.unread():
            simulator.reach("state_cut_off")
        simulator.heal()
        self.summary["heal_settled_s"] = self.settle("after the heal", set(self.checker.fired), self.up())

    def come_back(self) -> None:
        """Restart a node: it hears no old events, all new ones, and its old state is gone."""
        if len(self.names) < 2:
            return
        simulator = self.simulator
        name = self.rng.choice(self.names)
        simulator.crash(name)
        simulator.run_until(simulator.now_s + self.rng.choice((0.1, 3.0, 30.0)))
        simulator.restart(name)
        others = [node for node in self.up() if node.node != f"{self.names.index(name):032x}"]
        self.settle("after the restart", set(self.checker.fired), others)
        old = set(self.checker.fired)
        self.talk(simulator.now_s, simulator.now_s + 3.0)
        simulator.run_until(simulator.now_s + 3.0)
        self.settle("after the restart", set(self.checker.fired) - old, self.up())

    def ask(self) -> None:
        """G4, with packets lost."""
        simulator = self.simulator
        simulator.set_profile(msgspec.structs.replace(self.rough.calm(), loss=LOSS))
        asker = self.rng.choice(self.names)
        for what in ("ping", "nonsense"):
            simulator.inject(asker, (ASK, what, 8_000))
        simulator.run_until(simulator.now_s + 8.5)
        node = simulator.node(asker)
        assert isinstance(node, GossipNode)
        for sequence, outcome in ((1, Outcome.ANSWERED), (2, Outcome.UNHANDLED)):
            said = node.said[sequence]
            simulator.check(sequence in node.ended, f"G4: query {sequence} of {asker} does not end")
            heard = sorted(word.node for word in said)
            everybody = sorted(other.node for other in self.up())
            simulator.check(heard == everybody, f"G4: {len(said)} last words of {len(everybody)} members")
            wrong = [word for word in said if word.outcome is not outcome]
            simulator.check(not wrong, f"G4: {wrong[:1]} should be {outcome}")
        simulator.set_profile(self.rough.calm())

    def finish(self) -> None:
        """Count the rare states."""
        for node in self.up():
            for (reason, kind), count in node.machine.tallies.rumours_dropped.items():
                self.simulator.sometimes[f"{kind}_{reason}"] += int(count)
            self.simulator.sometimes["digest_differs"] += int(node.machine.tallies.events.get(("digest_differs",), 0))


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed; broken invariants come back in `violations`."""
    run = Run(nodes, seconds, seed, faults)
    violations: list[str] = []
    try:
        for act in (run.meet, run.lose, run.split, run.ask, run.come_back, run.finish):
            act()
    except SimulationFailed as failure:
        violations.append(str(failure))
    simulator = run.simulator
    return ScenarioResult(
        scenario="gossip",
        nodes=nodes,
        seconds=simulator.now_s,
        seed=seed,
        faults_profile=faults,
        digest=simulator.digest,
        events=simulator.events,
        faults=dict(sorted(simulator.counts.items())),
        sometimes=dict(sorted(simulator.sometimes.items())),
        violations=violations,
        summary=run.summary,
    )

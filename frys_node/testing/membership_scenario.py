"""Membership under every fault, checked after each event.

A run has four acts. Faults by the seed's profile for the first 70 % of the time; then calm, and all views must agree
with the truth (M6) and the traffic must be small (M7); then some nodes die for good, and everybody must know within the
bound of SWIM's round robin (M1), until they come back with a higher boot; last, one node leaves and must never be
called suspect or dead. Through all of it: M2 accuracy without faults, M3 refutation, M4 monotone incarnations raised by
their owner alone, M9 the dead stay dead; M5 is checked on the final tables (and by Hypothesis on small ones).
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from functools import partial
from typing import Any

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import MemberChanged, Status
from frys_node.testing.faults import FaultProfile, FaultSchedule
from frys_node.testing.lifelines import SimLifelines
from frys_node.testing.membership_node import LEAVE, WIRE, MembershipNode, Sealed, node_id
from frys_node.testing.scenario import Replay, ScenarioResult, SimulationFailed
from frys_node.testing.simulator import SimEvent, Simulator
from membership.config import MembershipConfig, for_profile
from membership.machine import NOBODY
from membership.messages import PACKETS, Standing, Update
from membership.table import Table

RANK = {Status.ALIVE: 0, Status.SUSPECT: 1, Status.DEAD: 2, Status.LEFT: 3}
SEEDS_MAX = 3
"""Nodes that everybody is told of at the start."""

STEP_S = 0.25
"""How often a waiting act looks whether its condition holds."""

QUIET_S = 5.0
"""Length of the look at idle traffic."""

PACKETS_PER_S_MAX = 6.0
"""Packets that one idle node may send per probe interval: its own probe and slack. The watch's beats come on top."""

Key = tuple[int, int]


class Checker:
    """The invariants that hold after each event."""

    def __init__(self, simulator: Simulator, *, is_faultless: bool) -> None:
        self._simulator = simulator
        self.is_faultless = is_faultless
        """While true, nobody may be suspected at all (M2)."""
        self._issued: dict[NodeId, Key] = {}
        self._seen: dict[tuple[str, int], dict[NodeId, tuple[int, int, int]]] = {}
        self.leaver: NodeId = NOBODY
        """Who is leaving: nobody may call it suspect or dead."""

    def __call__(self, event: SimEvent) -> None:
        """Check what one input did."""
        node = self._simulator.node(event.node)
        if not isinstance(node, MembershipNode):
            return
        changes, node.changes = node.changes, []
        for change in changes:
            self._check_change(node, change)
        if event.kind == "verb":
            self._check_change(node, MemberChanged(old=None, new=self._own(node)))
        elif event.kind == "mail":
            self._check_refutation(node, event.payload)

    @staticmethod
    def _own(node: MembershipNode) -> Any:
        view = node.machine.view(node.node)
        assert view is not None
        return view

    def _check_change(self, node: MembershipNode, change: MemberChanged) -> None:
        simulator, new = self._simulator, change.new
        key = (new.boot, new.incarnation)
        if new.id == node.node:
            simulator.check(new.status in (Status.ALIVE, Status.LEFT), f"{new.name} calls itself {new.status}")
            simulator.check(key >= self._issued.get(new.id, key), f"M4: {new.name} went back to {key}")
            self._issued[new.id] = key
        known = self._seen.setdefault((node.node, node.boot), {})
        state = (*key, RANK[new.status])
        before = known.get(new.id)
        simulator.check(
            before is None or state >= before, f"M4/M9: {node.node} sees {new.name} go from {before} to {state}"
        )
        known[new.id] = state
        issued = self._issued.get(new.id, (0, 0))
        simulator.check(key <= issued, f"M4: {new.name} is seen at {key} and has only been at {issued}")
        if self.is_faultless:
            simulator.check(
                new.status not in (Status.SUSPECT, Status.DEAD), f"M2: {new.name} is {new.status} without a fault"
            )
        if new.id == self.leaver:
            simulator.check(
                new.status not in (Status.SUSPECT, Status.DEAD), f"{new.name} leaves and is called {new.status}"
            )
        if before is not None and before[2] >= 2 and state[2] < 2:
            simulator.reach("restart_with_higher_boot" if before[0] < state[0] else "refuted_death")

    def _check_refutation(self, node: MembershipNode, payload: bytes) -> None:
        """M3: whoever has just been told that it is suspect or worse stands above that claim now."""
        message = WIRE.decode(payload)
        updates: tuple[Update, ...]
        updates = PACKETS.decode(message.payload).updates if isinstance(message, Sealed) else message.sync.updates
        for update in updates:
            if update.node == node.node and update.boot == node.boot and update.standing > Standing.ALIVE:
                own = self._own(node)
                self._simulator.check(
                    own.incarnation > update.incarnation or own.status is Status.LEFT,
                    f"M3: {own.name} does not refute that it is {update.standing.name} at {update.incarnation}",
                )


class Run:
    """One seed."""

    def __init__(self, nodes: int, seconds: float, seed: int, faults: str) -> None:
        self.seconds = seconds
        self.profile = FaultProfile.named(faults).draw(seed)
        replay = Replay(scenario="membership", nodes=nodes, seconds=seconds, seed=seed, faults=faults)
        self.simulator = Simulator(seed, self.profile, replay)
        self.rng = random.Random(f"{seed}/membership")
        self.config = self._draw_config()
        self.checker = Checker(self.simulator, is_faultless=faults == "none")
        self.simulator.on_event(self.checker)
        self.lifelines = SimLifelines(self.simulator)
        self.shells: list[MembershipNode] = []
        self.summary: dict[str, Any] = {"probe_interval_s": self.config.probe_interval_s}
        names = [f"n{index}" for index in range(nodes)]
        for name in names:
            self.simulator.add(name, self._factory(names[:SEEDS_MAX]))
        self.names = names

    def _draw_config(self) -> MembershipConfig:
        """Knobs are drawn too: a bug may need a fan-out of one or a rare push-pull."""
        rng = self.rng
        return for_profile(
            rng.choice(("lan", "lan", "local")),
            helpers=rng.choice((1, 3, 3)),
            gossip_fanout=rng.choice((1, 2, 3, 3)),
            push_pull_interval_s=rng.choice((5.0, 30.0, 300.0)),
            persist_interval_s=rng.choice((0.1, 2.0)),
        )

    def _factory(self, seeds: list[str]) -> Callable[[Any], MembershipNode]:
        def make(host: Any) -> MembershipNode:
            shell = MembershipNode(host, self.config, seeds, self.lifelines)
            self.shells.append(shell)
            return shell

        return make

    def up(self) -> list[MembershipNode]:
        """The nodes that run."""
        found = [self.simulator.node(name) for name in self.names]
        return [node for node in found if isinstance(node, MembershipNode)]

    def wait(self, condition: Callable[[], bool], bound_s: float, text: str) -> float:
        """Run until a condition holds; returns how long it took. Over the bound it is a violation."""
        simulator = self.simulator
        start_s = simulator.now_s
        while not condition():
            simulator.check(simulator.now_s - start_s <= bound_s, f"{text} within {bound_s:.1f} s")
            simulator.run_until(simulator.now_s + STEP_S)
        return simulator.now_s - start_s

    def disagreement(self) -> str:
        """What the first node that is wrong about the nodes that run gets wrong, empty if there is none."""
        up = self.up()
        truth = {node.node: node.machine.view(node.node) for node in up}
        for node in up:
            live = {v.id: v for v in node.machine.views() if v.status in (Status.ALIVE, Status.SUSPECT)}
            for member, own in truth.items():
                seen = live.pop(member, None)
                if seen is None or own is None:
                    return f"{node.node} does not see {member} alive"
                if (seen.boot, seen.incarnation, seen.status, seen.tags) != (
                    own.boot,
                    own.incarnation,
                    own.status,
                    own.tags,
                ):
                    return f"{node.node} sees {seen}, the truth is {own}"
            if live:
                return f"{node.node} believes in {sorted(live)}"
        return ""

    def agree(self, bound_s: float, text: str) -> float:
        """M6: wait until every view equals the truth."""
        try:
            return self.wait(lambda: not self.disagreement(), bound_s, text)
        except SimulationFailed as failure:
            raise self.simulator.fail(f"{failure.message}: {self.disagreement()}") from failure

    def spread_s(self) -> float:
        """Generous time for an update to reach everybody by gossip alone: 12 rounds per doubling."""
        return 12.0 * math.log2(len(self.names) + 1) * self.config.gossip_interval_s + 1.0

    def floor_s(self) -> float:
        """Shortest suspicion at this size."""
        config = self.config
        return config.suspicion_multiplier * max(1.0, math.log10(len(self.names))) * config.probe_interval_s

    def faults(self) -> None:
        """Act one."""
        schedule = FaultSchedule.generate(
            self.simulator.seed,
            self.profile,
            self.names,
            start_s=self.seconds * 0.1,
            end_s=self.seconds * 0.7,
            down_max=max(1, len(self.names) // 2),
        )
        schedule.install(self.simulator)
        for index in range(3):
            name = self.rng.choice(self.names)
            at_s = self.seconds * (0.15 + 0.15 * index)
            self.simulator.at(at_s, partial(self.simulator.inject, name, {"round": str(index)}))
        self.simulator.run_until(self.seconds)

    def calm(self) -> None:
        """Act two: M6 and M7."""
        config = self.config
        # Whoever was cut off or down is found again by a few turns of reconnection, and news needs a few rounds.
        bound_s = 20.0 * config.reconnect_interval_s + self.profile.late_s + 2.0 * self.spread_s()
        self.summary["settled_s"] = round(self.agree(bound_s, "M6: the views do not agree"), 3)
        self.wait(
            lambda: not any(node.machine.queue_length and node.machine.live_count for node in self.up()),
            20.0 * self.spread_s(),
            "M7: the gossip queues do not drain",
        )
        self.simulator.run_until(self.simulator.now_s + self.profile.late_s)
        before = sum(node.packets_sent for node in self.up())
        bytes_before = sum(node.bytes_sent for node in self.up())
        self.simulator.run_until(self.simulator.now_s + QUIET_S)
        sent = sum(node.packets_sent for node in self.up()) - before
        sent_bytes = sum(node.bytes_sent for node in self.up()) - bytes_before
        per_node_s = sent / len(self.names) / QUIET_S
        self.summary["idle_packets_per_node_s"] = round(per_node_s, 3)
        self.summary["idle_bytes_per_node_s"] = round(sent_bytes / len(self.names) / QUIET_S, 1)
        beats_s = 2.0 * min(config.watchers, len(self.names) - 1) / config.watch_interval_s
        self.simulator.check(
            per_node_s <= PACKETS_PER_S_MAX / config.probe_interval_s + beats_s,
            f"M7: an idle node sends {per_node_s:.1f} packets a second",
        )

    def deaths(self) -> None:
        """Act three: M1, and the return of the dead."""
        count = min(len(self.names) - 1, max(1, len(self.names) // 20))
        if count < 1:
            return
        self.checker.is_faultless = False
        victims = self.rng.sample(self.names, count)
        for name in victims:
            self.simulator.crash(name)
        dead = {node_id(self.simulator.host(name)) for name in victims}

        def everybody_knows() -> bool:
            return all(node.machine.count(Standing.DEAD) == len(dead) for node in self.up())

        config = self.config
        interval_s, ceiling_s = config.probe_interval_s, self.floor_s() * config.suspicion_max_multiplier
        bound_s = (2 * len(self.names) - 1) * interval_s + ceiling_s + self.spread_s()
        took_s = self.wait(everybody_knows, bound_s, "M1: not everybody knows that the crashed nodes are dead")
        self.summary["detected_s"] = round(took_s, 3)
        for name in victims:
            self.simulator.restart(name)
        self.agree(bound_s, "M6: nodes that came back are not seen alive")

    def leave(self) -> None:
        """Act four: a goodbye that nobody mistakes for a death."""
        if len(self.names) < 2:
            return
        name = self.rng.choice(self.names)
        shell = self.simulator.node(name)
        assert isinstance(shell, MembershipNode)
        self.checker.leaver = shell.node
        self.simulator.inject(name, LEAVE)
        self.wait(lambda: shell.leave_acknowledged, self.config.leave_timeout_s, "the leave is not acknowledged")
        self.simulator.run_until(self.simulator.now_s + self.spread_s())
        self.simulator.crash(name)
        self.agree(self.spread_s() + 2.0 * self.floor_s(), "not everybody has seen the leave")
        left = [node.machine.view(shell.node) for node in self.up()]
        self.simulator.check(
            all(view is not None and view.status is Status.LEFT for view in left), "a node that left is not LEFT"
        )

    def merge_all(self) -> None:
        """M5 on real tables: merged in either order they give the same."""
        now_s = self.simulator.now_s
        pieces = [update for node in self.up() for update in node.machine.sync(NOBODY, now_s).updates]
        forth, back = Table(NOBODY), Table(NOBODY)
        for update in pieces:
            forth.merge(update, now_s)
        for update in [*reversed(pieces), *pieces]:
            back.merge(update, now_s)
        same = [m.update for m in forth.sorted()] == [m.update for m in back.sorted()]
        self.simulator.check(same, "M5: the order of merging matters")

    def finish(self) -> None:
        """Count the rare states that the machines reached."""
        for shell in self.shells:
            for (event,), count in shell.machine.tallies.events.items():
                self.simulator.sometimes[event] += int(count)
            self.simulator.check(not shell.is_superseded, f"{shell.node} was told of a boot that it never had")


def run_scenario(nodes: int, seconds: float, seed: int, faults: str) -> ScenarioResult:
    """Run one seed; broken invariants come back in `violations`."""
    run = Run(nodes, seconds, seed, faults)
    violations: list[str] = []
    try:
        for act in (run.faults, run.calm, run.deaths, run.leave, run.merge_all, run.finish):
            act()
    except SimulationFailed as failure:
        violations.append(str(failure))
    simulator = run.simulator
    return ScenarioResult(
        scenario="membership",
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

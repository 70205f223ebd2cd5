"""A simulated cluster of membership machines under the checker: what every membership scenario stands on.

Sans-I/O. A scenario makes a `Cluster`, runs acts on it and returns `Cluster.report`. M5, M6 and M7 are here because
they speak of whole tables and of traffic; M2-M4, M8 and M9 run after each event in `membership_checker`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Status
from frys_node.testing.faults import FaultProfile
from frys_node.testing.lifelines import SimLifelines
from frys_node.testing.membership_checker import Checker, Verdicts
from frys_node.testing.membership_node import MembershipNode, node_id
from frys_node.testing.scenario import Replay, ScenarioResult, SimulationFailed
from frys_node.testing.simulator import SimHost, Simulator
from frys_node.testing.voices import FakeVoices
from membership.config import MembershipConfig, for_profile
from membership.member import precedence
from membership.messages import NOBODY, Standing
from membership.table import Table

SEEDS_MAX = 3
"""Nodes that everybody is told of at the start."""

EXACT_MAX = 250
"""Members up to which views are compared one by one; beyond, their digests."""

FAKE_ABOVE = 100
"""In larger clusters a keyed hash stands for the signatures."""

STEP_S = 0.25
"""How often a waiting act looks whether its condition holds."""


class Cluster:
    """Nodes ``n0`` to ``n(nodes-1)`` in one simulator.

    Args:
        scenario: Name, for the replay command.
        nodes: How many.
        seconds: As asked for on the command line.
        seed: Decides everything.
        faults: Name of the fault profile, for the replay command.
        config: Of every machine; the LAN profile if left out.
        profile: Faults on the wires; the named one at full strength if left out.
        starts: False leaves the nodes down until `start`.
        shell: What runs a machine on a host.
        has_lifelines: Watchers have connections: an ended process is known by them, a cut-off one is not.
        is_faultless: Nobody may be suspected at all (M2), until `checker.is_faultless` is set to False.
        is_checked: False runs without the checker, for runs whose size forbids it; verdicts are then not counted.
    """

    def __init__(
        self,
        scenario: str,
        nodes: int,
        seconds: float,
        seed: int,
        faults: str,
        *,
        config: MembershipConfig | None = None,
        profile: FaultProfile | None = None,
        starts: bool = True,
        shell: type[MembershipNode] = MembershipNode,
        is_checked: bool = True,
        is_faultless: bool = False,
        has_lifelines: bool = True,
    ) -> None:
        self.scenario = scenario
        self.seconds = seconds
        self.faults = faults
        replay = Replay(scenario=scenario, nodes=nodes, seconds=seconds, seed=seed, faults=faults)
        self.simulator = Simulator(seed, profile or FaultProfile.named(faults), replay)
        self.rng = random.Random(f"{seed}/{scenario}")
        self.config = config or for_profile("lan")
        self.lifelines = SimLifelines(self.simulator) if has_lifelines else None
        self.names = [f"n{index}" for index in range(nodes)]
        self.shells: list[MembershipNode] = []
        """Every boot of every node."""
        self.summary: dict[str, Any] = {}
        self.figures: dict[str, list[float]] = {}
        for name in self.names:
            self.simulator.add(name, self._factory(shell), start=False)
        self.verdicts = Verdicts(self.simulator)
        self.checker = Checker(self.simulator, self.verdicts, is_faultless=is_faultless)
        if is_checked:
            self.simulator.on_event(self.checker)
        if starts:
            self.start()

    def _factory(self, shell: type[MembershipNode]) -> Callable[[SimHost], MembershipNode]:
        seeds = self.names[:SEEDS_MAX]

        def make(host: SimHost) -> MembershipNode:
            node = shell(host, self.config, seeds, self.lifelines)
            if len(self.names) > FAKE_ABOVE:
                node.voices = FakeVoices(node.node)
            self.shells.append(node)
            return node

        return make

    # Acts.

    def start(self) -> None:
        """Boot every node at this instant."""
        for name in self.names:
            self.simulator.restart(name)

    def start_acquainted(self) -> None:
        """Boot every node as a member of a cluster that has existed for long: nobody has anything to say."""
        self.start()
        machines = [self.node(name).machine for name in self.names]
        updates = [machine.own for machine in machines]
        statements = [statement for machine in machines for statement in machine.exchange.statements((machine.node,))]
        for name in self.names:
            self.node(name).acquaint(updates, statements, self.simulator.now_s)

    def run(self, seconds: float) -> None:
        """Let so much time pass."""
        self.simulator.run_until(self.simulator.now_s + seconds)

    def wait(self, condition: Callable[[], bool], bound_s: float, text: str, *, step_s: float = STEP_S) -> float:
        """Run until a condition holds; returns how long it took. Over the bound it is a violation."""
        simulator = self.simulator
        start_s = simulator.now_s
        while not condition():
            simulator.check(simulator.now_s - start_s <= bound_s, f"{text} within {bound_s:.1f} s")
            simulator.run_until(simulator.now_s + step_s)
        return simulator.now_s - start_s

    def agree(self, bound_s: float, text: str, *, step_s: float = STEP_S) -> float:
        """M6: wait until every view equals the truth."""
        try:
            return self.wait(lambda: not self.disagreement(), bound_s, text, step_s=step_s)
        except SimulationFailed as failure:
            raise self.simulator.fail(f"{failure.message}: {self.disagreement()}") from failure

    def settle(self) -> None:
        """Form the cluster, and let its round trips be known."""
        self.agree(60.0 + 2.0 * self.spread_s(), "M6: the cluster does not form")
        self.run(5.0 * self.config.probe_interval_s)

    # Reading.

    def node(self, name: str) -> MembershipNode:
        """The node that runs there."""
        found = self.simulator.node(name)
        assert isinstance(found, MembershipNode), name
        return found

    def id_of(self, name: str) -> NodeId:
        """The member id of the node on a host."""
        return node_id(self.simulator.host(name))

    def up(self) -> list[MembershipNode]:
        """The nodes that run."""
        found = [self.simulator.node(name) for name in self.names]
        return [node for node in found if isinstance(node, MembershipNode)]

    def disagreement(self) -> str:
        """What the first node that is wrong about the nodes that run gets wrong, empty if there is none."""
        up = self.up()
        if len(up) > EXACT_MAX:
            return self._digests_differ(up)
        truth = {node.node: node.machine.view(node.node) for node in up}
        for node in up:
            # A wrong count is by far the commonest disagreement, and costs nothing to see.
            if node.machine.live_count != len(up) - 1:
                return f"{node.node} sees {node.machine.live_count} live members beside itself, not {len(up) - 1}"
            for member, own in truth.items():
                seen = node.machine.view(member)
                if seen is None or own is None or seen.status not in (Status.ALIVE, Status.SUSPECT):
                    return f"{node.node} does not see {member} alive"
                if (seen.boot, seen.incarnation, seen.status, seen.tags) != (
                    own.boot,
                    own.incarnation,
                    own.status,
                    own.tags,
                ):
                    return f"{node.node} sees {seen}, the truth is {own}"
        return ""

    @staticmethod
    def _digests_differ(up: list[MembershipNode]) -> str:
        """Compare digests: a million views are too many to look at again and again."""
        first = up[0].machine.digest
        for node in up:
            machine = node.machine
            if machine.live_count != len(up) - 1:
                return f"{node.node} sees {machine.live_count} live members beside itself, not {len(up) - 1}"
            if machine.digest != first:
                return f"{node.node} has another digest than {up[0].node}"
            if machine.count(Standing.SUSPECT):
                return f"{node.node} suspects somebody who runs"
        return ""

    def all_see(self, name: str, status: Status) -> bool:
        """True if every other node that runs has this status for a node."""
        member = self.id_of(name)
        for node in self.up():
            view = node.machine.view(member)
            if node.node != member and (view is None or view.status is not status):
                return False
        return True

    def spread_s(self) -> float:
        """Generous time for an update to reach everybody by gossip alone: 12 rounds per doubling."""
        return 12.0 * math.log2(len(self.names) + 1) * self.config.gossip_interval_s + 1.0

    def floor_s(self) -> float:
        """Shortest suspicion at this size."""
        config = self.config
        return config.suspicion_multiplier * max(1.0, math.log10(len(self.names))) * config.probe_interval_s

    def detection_bound_s(self) -> float:
        """M1: the longest that a crash may stay unknown to anybody: round robin, suspicion, gossip."""
        probes_s = (2 * len(self.names) - 1) * self.config.probe_interval_s
        return probes_s + self.floor_s() * self.config.suspicion_max_multiplier + self.spread_s()

    def sent(self) -> tuple[int, int]:
        """Packets and bytes that all boots of all nodes have sent."""
        return sum(shell.packets_sent for shell in self.shells), sum(shell.bytes_sent for shell in self.shells)

    def measure(self, figure: str, samples: Iterable[float]) -> None:
        """Add samples to a figure."""
        self.figures.setdefault(figure, []).extend(samples)

    # The end.

    def merge_all(self) -> None:
        """M5 on real tables: merged in either order they give the same."""
        now_s = self.simulator.now_s
        pieces = [update for node in self.up() for update in node.machine.sync(NOBODY, now_s).updates]
        forth, back = Table(NOBODY), Table(NOBODY)
        for update in pieces:
            forth.merge(update, now_s)
        for update in [*reversed(pieces), *pieces]:
            back.merge(update, now_s)
        # Who accused the dead may be told differently, by whichever of several nodes concluded it.
        same = [(m.node, precedence(m.update)) for m in forth.sorted()] == [
            (m.node, precedence(m.update)) for m in back.sorted()
        ]
        self.simulator.check(same, "M5: the order of merging matters")

    def count_states(self) -> None:
        """Count the rare states that the machines reached."""
        for shell in self.shells:
            if not shell.is_started:
                continue
            for (event, *_), count in shell.machine.tallies.events.items():
                self.simulator.sometimes[event] += int(count)
            self.simulator.check(not shell.is_superseded, f"{shell.node} was told of a boot that it never had")

    def report(self, acts: Sequence[Callable[[], object]]) -> ScenarioResult:
        """Run the acts, then whatever ends every run; broken invariants come back in `violations`."""
        violations: list[str] = []
        try:
            for act in (*acts, self.count_states):
                act()
        except SimulationFailed as failure:
            violations.append(str(failure))
        simulator = self.simulator
        counts = self.verdicts.counts
        return ScenarioResult(
            scenario=self.scenario,
            nodes=len(self.names),
            seconds=simulator.now_s,
            seed=simulator.seed,
            faults_profile=self.faults,
            digest=simulator.digest,
            events=simulator.events,
            faults=dict(sorted(simulator.counts.items())),
            sometimes=dict(sorted(simulator.sometimes.items())),
            violations=violations,
            summary={**self.summary, "verdicts": dict(sorted(counts.items()))},
            figures=self.figures,
        )


def dead_count(node: MembershipNode) -> int:
    """Members that a node calls dead."""
    return node.machine.count(Standing.DEAD)

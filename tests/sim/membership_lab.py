"""A simulated cluster that has settled, for tests of what its members find out about one another."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from frys_node.kernel.services.members import Condition, Status
from frys_node.testing.faults import FaultProfile
from frys_node.testing.lifelines import SimLifelines
from frys_node.testing.membership_node import MembershipNode, node_id
from frys_node.testing.simnode import SimHost
from frys_node.testing.simulator import Simulator
from membership.config import MembershipConfig, for_profile

STEP_S = 0.01
LAN = for_profile("lan", gossip_interval_s=0.1)


class Lab:
    """A cluster that has settled: everybody knows everybody, and every lifeline stands."""

    def __init__(
        self,
        count: int = 10,
        *,
        loss: float = 0.0,
        seed: int = 1,
        config: MembershipConfig = LAN,
        profile: FaultProfile | None = None,
    ) -> None:
        self.simulator = Simulator(seed, profile or FaultProfile(name="lab", loss=loss))
        self.lines = SimLifelines(self.simulator)
        self.config = config
        self.names = [f"n{index}" for index in range(count)]
        self.shells: dict[str, MembershipNode] = {}
        self.events: list[tuple[float, str, str, Status]] = []
        self.simulator.on_event(self._note)
        for name in self.names:
            self.simulator.add(name, self._make)
        self.wait(lambda: all(shell.machine.live_count == count - 1 for shell in self.up()), 30.0)
        self.run(5.0)

    def _make(self, host: SimHost) -> MembershipNode:
        shell = self.shells[host.name] = MembershipNode(host, self.config, ["n0"], self.lines)
        return shell

    def _note(self, event: object) -> None:
        for name, shell in self.shells.items():
            changes, shell.changes = shell.changes, []
            self.events += [(self.simulator.now_s, name, change.new.name, change.new.status) for change in changes]

    def up(self) -> list[MembershipNode]:
        """The nodes that run."""
        return [shell for name, shell in self.shells.items() if self.simulator.is_up(name)]

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.simulator.run_until(self.simulator.now_s + seconds)

    def wait(self, condition: Callable[[], bool], limit_s: float) -> float:
        """Run until a condition holds; returns how long it took, and fails over the limit."""
        start_s = self.simulator.now_s
        while not condition():
            assert self.simulator.now_s - start_s < limit_s, "the condition does not come true"
            self.run(STEP_S)
        return self.simulator.now_s - start_s

    def watchers(self, name: str) -> list[str]:
        """Who watches a node, nearest first, and the helpers behind them."""
        at = self.names.index(name)
        return [self.names[(at + step) % len(self.names)] for step in range(1, 7)]

    def told(self, status: Status, name: str, since_s: float = 0.0) -> list[str]:
        """Who has ever said that of a node."""
        return [who for at_s, who, whom, said in self.events if (whom, said) == (name, status) and at_s >= since_s]

    def sees(self, name: str, status: Status) -> int:
        """How many others see a node so."""
        node = node_id(self.simulator.host(name))
        views = [shell.machine.view(node) for shell in self.up() if shell.node != node]
        return sum(view is not None and view.status is status for view in views)

    def conditions(self, name: str) -> set[Condition]:
        """How all others find that a node does."""
        node, now_s = node_id(self.simulator.host(name)), self.simulator.now_s
        views = [shell.machine.view(node, now_s) for shell in self.up() if shell.node != node]
        return {view.condition for view in views if view is not None}

    def tally(self, event: str) -> int:
        """How often something happened, everywhere."""
        return sum(int(shell.machine.tallies.events.get((event,), 0)) for shell in self.shells.values())

    def kill(self, names: Iterable[str], limit_s: float) -> float:
        """Kill nodes at once; returns when all survivors see all of them dead."""
        gone = list(names)
        for name in gone:
            self.simulator.crash(name)
        return self.wait(lambda: all(self.sees(name, Status.DEAD) == len(self.up()) for name in gone), limit_s)


def gone_by_filter(lab: Lab, subject: str, watchers: Iterable[str]) -> None:
    """Have a filter refuse these watchers, and a middlebox cut the connections that they have."""
    names = list(watchers)
    lab.lines.reject(names, subject)
    for name in names:
        lab.lines.cut_line(name, subject)

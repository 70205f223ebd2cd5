"""The simulator's own scenario: durable counters that gossip, a small system with the real shape.

Each node raises its counter, appends it to a log, and announces it only once the log is synced; every node keeps the
highest announcement of each other one and gossips what it knows. Safety: after any crash a node's counter is not
below what it ever announced. Liveness: once everything is healed, all nodes know the final counters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from frys_node.base.deadlines import DeadlineQueue
from frys_node.base.errors import MalformedFrame
from frys_node.testing.faults import FaultProfile, FaultSchedule
from frys_node.testing.scenario import Replay, ScenarioResult, SimulationFailed
from frys_node.testing.simulator import Packet, SimEvent, SimHost, Simulator
from frys_node.wire.codec import Codec

RAISE_S = 1.0
GOSSIP_S = 0.25
GOSSIP_NAMES = 8
"""Counters in one packet at most."""
FSYNC_S = 0.1
LIVENESS_S = 30.0

Known = dict[str, int]
_CODEC: Codec[Known] = Codec(Known)


class CounterNode:
    """One node of the swarm."""

    def __init__(self, host: SimHost, peers: Sequence[str], *, syncs_first: bool = True) -> None:
        self._host = host
        self._peers = [name for name in peers if name != host.name]
        self._syncs_first = syncs_first
        self._timers: DeadlineQueue[str] = DeadlineQueue()
        self.counter = 0
        self.is_final = False
        """The workload has ended: the counter is not raised any more."""
        self.known: Known = {}

    @property
    def next_deadline_s(self) -> float:
        """The earlier of the two timers."""
        return self._timers.next_s

    def start(self, now_s: float) -> Sequence[Packet]:
        """Recover the counter from the log: the last whole line counts, a torn one does not."""
        log = self._host.disk.read("log") or b""
        whole = log[: log.rfind(b"\n") + 1]
        valid = 0
        for line in whole.split(b"\n")[:-1]:
            if not (line.isdigit() and int(line) == self.counter + 1):
                break
            self.counter += 1
            valid += len(line) + 1
        # Whatever is behind the last whole record would garble the next one.
        self._host.disk.truncate("log", valid)
        if valid < len(log):
            self._host.disk.sync("log")
        self.known[self._host.name] = self.counter
        rng = self._host.rng
        self._timers.push(now_s + rng.random() * RAISE_S, "raise")
        self._timers.push(now_s + rng.random() * GOSSIP_S, "gossip")
        return ()

    def advance(self, now_s: float) -> Sequence[Packet]:
        """Raise the counter, or gossip."""
        packets: list[Packet] = []
        while (timer := self._timers.pop_due(now_s)) is not None:
            if timer == "raise":
                self._timers.push(now_s + RAISE_S, "raise")
                if not self.is_final:
                    self._raise()
            else:
                self._timers.push(now_s + GOSSIP_S, "gossip")
                packets.extend(self._gossip())
        return packets

    def _raise(self) -> None:
        self.counter += 1
        self._host.disk.append("log", b"%d\n" % self.counter)
        self._host.schedule(FSYNC_S, ("synced", self.counter))
        if not self._syncs_first:
            self.known[self._host.name] = self.counter

    def _gossip(self) -> list[Packet]:
        if not self._peers:
            return []
        names = list(self.known)
        chosen = names if len(names) <= GOSSIP_NAMES else self._host.rng.sample(names, GOSSIP_NAMES)
        payload = _CODEC.encode({name: self.known[name] for name in chosen})
        return [Packet(self._host.rng.choice(self._peers), payload)]

    def wake(self, token: object, now_s: float) -> Sequence[Packet]:
        """Announce a counter whose fsync has ended."""
        assert isinstance(token, tuple)
        self._host.disk.sync("log")
        self.known[self._host.name] = max(self.known.get(self._host.name, 0), token[1])
        return ()

    def receive(self, payload: bytes, source: str, now_s: float) -> Sequence[Packet]:
        """Merge what a peer knows; bytes that are no message are dropped, as is news of nobody."""
        try:
            news = _CODEC.decode(payload)
        except MalformedFrame:
            return ()
        for name, counter in news.items():
            if name in self._peers and counter > self.known.get(name, 0):
                self.known[name] = counter
        return ()


def build(nodes: int, seed: int, profile: FaultProfile, replay: Replay, *, syncs_first: bool = True) -> Simulator:
    """Return a swarm whose safety is checked after each input of each node."""
    simulator = Simulator(seed, profile, replay)
    names = [f"n{number}" for number in range(nodes)]
    announced: Known = dict.fromkeys(names, 0)

    def check(event: SimEvent) -> None:
        name, node = event.node, simulator.node(event.node)
        if not isinstance(node, CounterNode):
            return
        if node.counter < announced[name]:
            raise simulator.fail(f"{name} announced {announced[name]} and recovered only {node.counter}")
        announced[name] = max(announced[name], node.known[name])
        if event.kind == "verb" and node.counter:
            simulator.reach("recovered_a_counter")

    simulator.on_event(check)
    for name in names:
        simulator.add(name, lambda host: CounterNode(host, names, syncs_first=syncs_first))
    return simulator


def _is_settled(simulator: Simulator) -> bool:
    """True if every node knows every final counter."""
    nodes = {name: node for name in simulator.names if isinstance(node := simulator.node(name), CounterNode)}
    final = {name: node.counter for name, node in nodes.items()}
    return all(node.known.get(name, 0) == final[name] for node in nodes.values() for name in final)


def schedule_of(nodes: int, seconds: float, seed: int, profile: FaultProfile) -> FaultSchedule:
    """Return a seed's faults: over the first two thirds of the run, at most half of the nodes down at once."""
    names = [f"n{number}" for number in range(nodes)]
    return FaultSchedule.generate(
        seed, profile, names, start_s=seconds * 0.1, end_s=seconds * 0.7, down_max=max(1, nodes // 2)
    )


def run_scenario(
    nodes: int,
    seconds: float,
    seed: int,
    faults: str,
    *,
    schedule: FaultSchedule | None = None,
    syncs_first: bool = True,
) -> ScenarioResult:
    """Run one seed: faults over the first two thirds, then healing and a bound on settling.

    Args:
        nodes: Size of the swarm.
        seconds: Simulated time before the bound on settling begins.
        seed: Decides everything.
        faults: Name of a profile.
        schedule: Instead of the seed's own, for `minimise`.
        syncs_first: False plants a bug (announce before fsync), to show that the check has teeth.
    """
    profile = FaultProfile.named(faults).draw(seed)
    replay = Replay(scenario="swarm", nodes=nodes, seconds=seconds, seed=seed, faults=faults)
    simulator = build(nodes, seed, profile, replay, syncs_first=syncs_first)
    (schedule or schedule_of(nodes, seconds, seed, profile)).install(simulator)
    violations: list[str] = []
    settled_s = math.inf
    try:
        simulator.run_until(seconds)
        for name in simulator.names:
            node = simulator.node(name)
            if isinstance(node, CounterNode):
                node.is_final = True
        # An unlucky draw of names delays the last counter; the bound grows with the swarm.
        bound_s = seconds + LIVENESS_S + nodes * 1.0
        while simulator.now_s < bound_s and not _is_settled(simulator):
            simulator.run_until(simulator.now_s + 0.5)
        simulator.check(_is_settled(simulator), "the swarm did not settle after everything was healed")
        settled_s = simulator.now_s - seconds
    except SimulationFailed as failure:
        violations.append(str(failure))
    return ScenarioResult(
        scenario="swarm",
        nodes=nodes,
        seconds=simulator.now_s,
        seed=seed,
        faults_profile=faults,
        digest=simulator.digest,
        events=simulator.events,
        faults=dict(sorted(simulator.counts.items())),
        sometimes=dict(sorted(simulator.sometimes.items())),
        violations=violations,
        summary={"settled_s": None if math.isinf(settled_s) else settled_s, "profile": profile.expand()},
    )

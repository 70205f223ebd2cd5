"""The replication scenario: quorum writes, reads and scans while nodes fail, join and leave, judged by the checker.

A seed draws the cluster (3 to 6 nodes, 1 to 2 units, replication factor 1 to 4, some nodes on the ring at first), the
strength of hints, read repair and anti-entropy (weak in half of the seeds, so that they cannot hide an error), the
faults, and whether faults are *directed*: cuts at the moment at which a record is signed. Then everything is healed,
and all replicas must become equal and hold every acknowledged write (g).
"""

from __future__ import annotations

import math
import random

import msgspec

from balancer.placement import Placement, cache_unit
from balancer.record import FORMAT, RECORD, STABLE, TopologyRecord
from balancer.ring import RingMember
from balancer.topology_messages import SIGNED_RECORD, SignedRecord
from frys_node.base.types import ClusterId, Epoch, NodeId, Term
from frys_node.kernel.services.replication import Version
from frys_node.replication import effects as fx
from frys_node.testing.faults import FaultProfile, FaultSchedule
from frys_node.testing.replication_checker import Checker
from frys_node.testing.replication_node import ADOPTED_PATH, Command, Knobs, ReplicationNode
from frys_node.testing.scenario import Replay, ScenarioResult, SimulationFailed
from frys_node.testing.simulator import SimHost, Simulator

KEYS = tuple(f"k{number}".encode() for number in range(4))
NODES_MAX = 6
YEAR_S = 365 * 86_400.0
LIVENESS_S = 60.0
"""Bound on settling and converging once everything is healed."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What a seed draws; printed with the result."""

    names: tuple[NodeId, ...]
    initial: int
    """Nodes on the ring at first."""
    units: int
    replication_factor: int
    keeps_hints: bool
    repairs_reads: bool
    sync_interval_s: float
    fsync_s: float
    catches_up: bool
    operation_s: float
    """Mean pause between client requests."""
    change_s: float
    """Mean pause between joins and leaves."""
    directed: float
    """Chance that a signed record is followed at once by cuts around the members of its old sets."""
    steps_year: bool


def draw_plan(nodes: int, seed: int) -> Plan:
    """Return the plan of a seed for a cluster of at most `nodes`."""
    rng = random.Random(f"{seed}/plan")
    count = rng.randint(min(3, nodes), max(1, min(nodes, NODES_MAX)))
    is_weak = rng.random() < 0.5
    return Plan(
        names=tuple(NodeId(f"n{number}") for number in range(count)),
        initial=rng.randint(1, min(4, count)),
        units=rng.randint(1, 2),
        replication_factor=rng.choice((1, 2, 3, 3, 3, 4)),
        keeps_hints=not is_weak and rng.random() < 0.7,
        repairs_reads=not is_weak and rng.random() < 0.7,
        sync_interval_s=math.inf if is_weak else rng.choice((0.5, 5.0, 50.0)),
        fsync_s=rng.choice((0.005, 0.05, 0.3)),
        catches_up=not is_weak and seed % 2 == 0,
        operation_s=rng.uniform(0.05, 0.2),
        change_s=rng.uniform(1.5, 6.0),
        directed=rng.choice((0.0, 0.0, 0.5, 1.0)),
        steps_year=rng.random() < 0.1,
    )


def targeted(plan: Plan) -> Plan:
    """Return the plan with nothing that repairs, many changes, and cuts at each signed record: for planted errors."""
    return msgspec.structs.replace(
        plan,
        units=1,
        replication_factor=min(plan.replication_factor, 3),
        keeps_hints=False,
        repairs_reads=False,
        sync_interval_s=math.inf,
        catches_up=False,
        operation_s=0.04,
        change_s=1.0,
        directed=1.0,
    )


class ReplicationRun:
    """One seed."""

    def __init__(
        self, replay: Replay, *, node_class: type[ReplicationNode] = ReplicationNode, is_targeted: bool = False
    ) -> None:
        seed, seconds = replay.seed, replay.seconds
        self.seconds = seconds
        drawn = draw_plan(replay.nodes, seed)
        self.plan = targeted(drawn) if is_targeted else drawn
        self.checker = Checker()
        self._node_class = node_class
        self._rng = random.Random(f"{seed}/clients")
        self._numbers = 0
        self._changes = 0
        self._is_over = False
        profile = _sharpened(FaultProfile.named(replay.faults)).draw(seed)
        self.simulator = Simulator(seed, profile, replay)
        plan = self.plan
        self.units = [cache_unit(number) for number in range(plan.units)]
        self._knobs = Knobs(
            plan.names, plan.keeps_hints, plan.repairs_reads, plan.sync_interval_s, plan.fsync_s, plan.catches_up
        )
        first = SIGNED_RECORD.encode(SignedRecord(RECORD.encode(_first_record(plan)), b""))
        for number, name in enumerate(plan.names):
            host = self.simulator.add(name, self._make, start=False)
            if number < plan.initial:
                host.disk.write(ADOPTED_PATH, first)
            if number == 0:
                host.disk.write("topology/register", first)
            self.simulator.restart(name)
        schedule = FaultSchedule.generate(
            seed, profile, plan.names, start_s=seconds * 0.05, end_s=seconds, down_max=max(1, len(plan.names) - 1)
        )
        schedule.install(self.simulator)

    def _make(self, host: SimHost) -> ReplicationNode:
        return self._node_class(host, self._knobs, self)

    # ------------------------------------------------------------------ the observer

    def written(self, number: int, version: Version) -> None:
        """A write was acknowledged."""
        self.checker.written(number, version)

    def read(self, number: int, effect: fx.ReadDone) -> None:
        """A read was answered."""
        self.checker.read(number, effect.entries[0])

    def scanned(self, number: int, effect: fx.ScanDone) -> None:
        """A scan was answered."""
        self.checker.scanned(number, effect.entries, is_whole=effect.next_after is None)

    def failed(self, number: int) -> None:
        """A request found no quorum."""
        self.checker.fail(number)

    def corrupted(self, node: str, effect: fx.Corrupted) -> None:
        """A replica saw one version with two values."""
        self.checker.violate(f"(d) {node}: {effect.version} of {effect.key!r} has two values")

    def adopted(self, node: ReplicationNode, signed: SignedRecord) -> None:
        """Check the record, and that no member of a stable set is incomplete."""
        placement = node.replica.placement
        assert placement is not None
        record = placement.record
        self.checker.adopted(node.name, record.epoch, signed.data)
        if record.phase != STABLE:
            return
        for unit in self.units:
            held = node.replica.table.units.get(unit)
            if node.name in placement.sets(unit).current and (held is None or not held.complete):
                self.checker.violate(f"{node.name} is in the set of {unit} under {record.epoch} and incomplete")

    def signed(self, placement: Placement) -> None:
        """Count the step; in a directed run cut members of the old sets off at this very moment."""
        record, plan, rng = placement.record, self.plan, self._rng
        self.simulator.reach(f"signed_{record.phase}")
        if self._is_over or rng.random() >= plan.directed:
            return
        members = [member.node for member in record.ring]
        victims = [name for name in members if rng.random() < 0.5] or [rng.choice(members)]
        others = [name for name in plan.names if name not in victims]
        number = self.simulator.partition(victims, others, one_way=rng.random() < 0.3)
        self.simulator.counts["directed_cut"] += 1
        until_s = self.simulator.now_s + rng.uniform(0.2, 3.0)
        self.simulator.at(until_s, lambda: self.simulator.heal(number))

    # ------------------------------------------------------------------ the workload

    def _operate(self) -> None:
        """Send one client request, then plan the next."""
        if self._is_over:
            return
        rng = self._rng
        self.simulator.at(self.simulator.now_s + rng.expovariate(1 / self.plan.operation_s), self._operate)
        name = rng.choice(self.plan.names)
        node = self.simulator.node(name)
        if not isinstance(node, ReplicationNode) or node.coordinator.placement is None:
            return
        draw = rng.random()
        kind = "write" if draw < 0.55 else "read" if draw < 0.9 else "scan"
        unit, key = rng.choice(self.units), rng.choice(KEYS)
        self._numbers += 1
        number = self._numbers
        value = None if kind != "write" or rng.random() < 0.25 else f"v{number}".encode()
        self.checker.begin(number, kind, unit, b"" if kind == "scan" else key, value)
        self.simulator.inject(name, Command(number, kind, unit, key, value, patience_s=rng.uniform(0.5, 4.0)))

    def _change(self) -> None:
        """Ask the issuer for a join or a leave, then plan the next."""
        if self._is_over:
            return
        rng = self._rng
        self.simulator.at(self.simulator.now_s + rng.expovariate(1 / self.plan.change_s), self._change)
        issuer = self.plan.names[0]
        node = self.simulator.node(issuer)
        if not isinstance(node, ReplicationNode) or node.topology.record is None:
            return
        members = [member.node for member in node.topology.record.ring]
        leavers = [name for name in members if name != issuer]
        joiners = [name for name in self.plan.names if name not in members]
        wants_leave = bool(leavers) and (not joiners or rng.random() < 0.45)
        if not wants_leave and not joiners:
            return
        self._changes += 1
        chosen = rng.choice(leavers if wants_leave else joiners)
        self.simulator.inject(issuer, Command(0, "leave" if wants_leave else "join", node=chosen))

    def _step_year(self) -> None:
        name = self._rng.choice(self.plan.names)
        self.simulator.step_clock(name, self._rng.choice((YEAR_S, 30.0, -30.0)))
        self.simulator.reach("clock_far_off")

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """Faults and work, then healing and convergence."""
        self.simulator.at(0.1, self._operate)
        self.simulator.at(self._rng.uniform(0.2, 2.0), self._change)
        if self.plan.steps_year:
            self.simulator.at(self.seconds * self._rng.uniform(0.1, 0.6), self._step_year)
        self.simulator.run_until(self.seconds)
        self._is_over = True
        self.simulator.make_whole()
        if self.checker.violations:
            return
        bound_s = self.seconds + LIVENESS_S
        while self.simulator.now_s < bound_s:
            self._heal_nodes()
            self.simulator.run_until(self.simulator.now_s + 1.0)
            if not self.unfinished():
                return
        self.checker.violate(f"(g) not converged: {self.unfinished()}")

    def _nodes(self) -> dict[NodeId, ReplicationNode]:
        found = {name: self.simulator.node(name) for name in self.plan.names}
        return {name: node for name, node in found.items() if isinstance(node, ReplicationNode)}

    def _heal_nodes(self) -> None:
        for node in self._nodes().values():
            node.heal(self.simulator.now_s)

    def unfinished(self) -> str:
        """Say what is not as it must be in the end, or nothing."""
        nodes = self._nodes()
        issuer = nodes[self.plan.names[0]]
        record = issuer.topology.record
        assert record is not None
        if record.phase != STABLE or issuer.topology.settled != record.epoch or issuer.topology.steps.waiting:
            return f"{record.epoch} is {record.phase}, waits for {issuer.topology.steps.waits_for()}"
        placement = issuer.topology.placement
        assert placement is not None
        for name in record.members():
            if nodes[name].topology.epoch != record.epoch:
                return f"{name} works under {nodes[name].topology.epoch}, not {record.epoch}"
        return self._unequal(nodes, placement)

    def _unequal(self, nodes: dict[NodeId, ReplicationNode], placement: Placement) -> str:
        for unit in self.units:
            trees = {}
            for name in placement.sets(unit).current:
                held = nodes[name].replica.table.units.get(unit)
                if held is None or not held.complete:
                    return f"{name} has no complete {unit}"
                trees[name] = held.tree()
                for key in KEYS:
                    entry = held.store.get([key])[0]
                    if not self.checker.is_superseded((unit, key), entry):
                        return f"{name} lacks an acknowledged write of {key!r} in {unit}"
            if len(set(trees.values())) > 1:
                return f"the replicas of {unit} differ"
        return ""

    def result(self) -> ScenarioResult:
        """Return what happened."""
        simulator, checker = self.simulator, self.checker
        nodes = self._nodes().values()
        simulator.sometimes["restamped"] += sum(node.coordinator.restamp_count for node in nodes)
        simulator.sometimes["refused_by_epoch"] += sum(node.replica.refused_count for node in nodes)
        simulator.sometimes["aborted"] += sum(node.topology.steps.abort_count for node in nodes)
        replay = simulator.replay
        return ScenarioResult(
            scenario="replication",
            nodes=len(self.plan.names),
            seconds=simulator.now_s,
            seed=simulator.seed,
            faults_profile=replay.faults,
            digest=simulator.digest,
            events=simulator.events,
            faults=dict(sorted(simulator.counts.items())),
            sometimes=dict(sorted(simulator.sometimes.items())),
            violations=[f"{text}; replay: {replay.command()}" for text in checker.violations],
            summary={**checker.counts, "changes": self._changes, "plan": msgspec.to_builtins(self.plan)},
        )


def _sharpened(profile: FaultProfile) -> FaultProfile:
    """Return the profile with faults as dense as protocol steps are here: seconds, not minutes."""
    return msgspec.structs.replace(
        profile,
        late_s=3.0,
        loss=profile.loss * 1.5,
        partitions_per_min=profile.partitions_per_min * 4,
        partition_s=2.0,
        pauses_per_min=profile.pauses_per_min * 4,
        pause_s=1.5,
        slow_per_min=profile.slow_per_min * 2,
        crashes_per_min=profile.crashes_per_min * 8,
        down_s=3.0,
        clock_steps_per_min=profile.clock_steps_per_min * 6,
    )


def _first_record(plan: Plan) -> TopologyRecord:
    ring = tuple(RingMember(node=name) for name in plan.names[: plan.initial])
    return TopologyRecord(
        format=FORMAT,
        cluster=ClusterId("c" * 32),
        epoch=Epoch(Term(1, plan.names[0]), 1),
        phase=STABLE,
        ring=ring,
        next_ring=ring,
        partitions=plan.units,
        replication_factor=plan.replication_factor,
        vnodes=8,
    )


def run_scenario(
    nodes: int,
    seconds: float,
    seed: int,
    faults: str,
    *,
    node_class: type[ReplicationNode] = ReplicationNode,
    is_targeted: bool = False,
) -> ScenarioResult:
    """Run one seed; `node_class` lets tests plant an error in the machines, `is_targeted` makes it show sooner."""
    replay = Replay(scenario="replication", nodes=nodes, seconds=seconds, seed=seed, faults=faults)
    run = ReplicationRun(replay, node_class=node_class, is_targeted=is_targeted)
    try:
        run.run()
    except SimulationFailed as failure:
        run.checker.violations.append(str(failure))
    return run.result()

"""The replication scenario: quorum writes, reads and scans while nodes fail and the ring changes, with a checker.

A seed draws the cluster (3 to 6 nodes, 1 to 2 durable units, 1 to 96 in memory, replication factor 1 to 4, some nodes
on the ring at first), how often an operator removes nodes, changes factors and has other nodes write the record, the
strength of hints, read repair and anti-entropy (weak in half of the seeds, so that they cannot hide an error), the
faults, and whether faults are *directed*: cuts at the moment at which a record is signed. Then everything is healed, in
some seeds after an outage of all nodes at once, and every unit must serve again (l), and all durable replicas become
equal and hold every acknowledged write (g).
"""

from __future__ import annotations

import math
import random
from functools import partial

import msgspec

from balancer.changes import CLUSTER
from balancer.placement import Placement
from balancer.record import RECORD, STABLE, TopologyRecord
from balancer.steps import StepConfig
from balancer.topology_messages import SIGNED_RECORD, SignedRecord
from frys_node.base.types import Epoch, NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.replication import effects as fx
from frys_node.replication.errors import ClockDrift, TooOld
from frys_node.replication.frames import frames_of
from frys_node.replication.log import DIRECTORY
from frys_node.testing.disk import FakeDisk
from frys_node.testing.faults import FaultProfile, FaultSchedule, draw_tear
from frys_node.testing.replication_aftermath import Aftermath
from frys_node.testing.replication_checker import Checker
from frys_node.testing.replication_node import ReplicationNode
from frys_node.testing.replication_plan import (
    BUSY_UNITS_MAX,
    Shape,
    draw_plan,
    durable_units,
    first_record,
    memory_units,
    sharpened,
)
from frys_node.testing.replication_records import ADOPTED_PATH
from frys_node.testing.replication_roles import HURRIED, Command, Knobs
from frys_node.testing.replication_steps import StepWatch
from frys_node.testing.scenario import Replay, ScenarioResult, SimulationFailed
from frys_node.testing.simulator import SimHost, Simulator

YEAR_S = 365 * 86_400.0
FIRST_REFILL_S = 4.0
"""Units in memory serve only after their first refill, which finds nobody complete and ends by its patience."""

MOURNED_FROM = 0.2
"""Part of the run after which the node that stays dead dies."""

BACK_S = 3.0
"""After a last outage the nodes come back within so many seconds."""


class ReplicationRun:
    """One seed."""

    def __init__(
        self, replay: Replay, *, node_class: type[ReplicationNode] = ReplicationNode, shape: Shape | None = None
    ) -> None:
        seed, seconds = replay.seed, replay.seconds
        self.seconds = seconds
        drawn = draw_plan(replay.nodes, seed)
        self.plan = shape(drawn) if shape is not None else drawn
        durable, memory = durable_units(self.plan), memory_units(self.plan)
        self.durable = durable
        self.keys = [f"k{number}".encode() for number in range(self.plan.keys)]
        self.busy = memory[:BUSY_UNITS_MAX]
        self.checker = Checker(memory, evicts=self.plan.memory_room is not None)
        self._node_class = node_class
        self._rng = random.Random(f"{seed}/clients")
        self._operator = random.Random(f"{seed}/operator")
        self._numbers = 0
        self._changes = 0
        self._losers: set[NodeId] = set()
        """Nodes whose log was removed: their units may be in a set and incomplete."""
        self._is_over = False
        self._open_s = 0.0
        named = FaultProfile.named(replay.faults)
        profile = sharpened(named).draw(seed)
        self.simulator = Simulator(seed, profile, replay)
        plan = self.plan
        self._ends_dark = plan.ends_dark and named.outages_per_min > 0
        self._rough = profile
        self.aftermath = Aftermath(
            self.simulator,
            self.checker,
            names=plan.names,
            keys=self.keys,
            durable=durable,
            memory=memory,
            probed=[*durable, *self.busy],
            send=self._send,
        )
        self._knobs = Knobs(
            plan.names,
            plan.keeps_hints,
            plan.repairs_reads,
            plan.sync_interval_s,
            plan.fsync_s,
            plan.catches_up,
            plan.drift_max_s,
            plan.gc_min_age_s,
            plan.gc_interval_s,
            plan.bulk_by_chunks,
            plan.memory_room,
            plan.moves_rate_bytes_s,
            StepConfig() if plan.is_patient else HURRIED,
        )
        self.steps = StepWatch()
        first = SIGNED_RECORD.encode(SignedRecord(RECORD.encode(first_record(plan)), b""))
        for number, name in enumerate(plan.names):
            host = self.simulator.add(name, self._make, start=False)
            if number < plan.initial:
                host.disk.write(ADOPTED_PATH, first)
            if number == 0:
                host.disk.write("topology/register", first)
            self.simulator.restart(name)
        mortal = [name for name in plan.names if name != plan.mourned]
        schedule = FaultSchedule.generate(
            seed, profile, mortal, start_s=seconds * 0.05, end_s=seconds, down_max=max(1, len(plan.names) - 1)
        )
        schedule.install(self.simulator)

    def _make(self, host: SimHost) -> ReplicationNode:
        if host.boot > 1:
            self.checker.restarted()
            self._restarted(NodeId(host.name))
        return self._node_class(host, self._knobs, self)

    def _restarted(self, name: NodeId) -> None:
        """Cut another node off for a while: what only it still holds, the restarted one cannot refill from it."""
        plan, rng = self.plan, self._rng
        others = [other for other in plan.names if other != name]
        if self._is_over or not plan.cuts_restarts or not others or rng.random() >= plan.cuts_restarts:
            return
        victim = rng.choice(others)
        self._cut([victim], [other for other in plan.names if other != victim], rng.uniform(1.0, 7.0))
        self.simulator.counts["restart_cut"] += 1

    def _cut(self, victims: list[NodeId], others: list[NodeId], seconds: float, *, one_way: bool = False) -> None:
        number = self.simulator.partition(victims, others, one_way=one_way)
        self.simulator.at(self.simulator.now_s + seconds, lambda: self.simulator.heal(number))

    # ------------------------------------------------------------------ the observer

    def written(self, number: int, version: Version) -> None:
        """A write was acknowledged."""
        self.checker.written(number, version)
        self.aftermath.done(number)

    def read(self, number: int, effect: fx.ReadDone) -> None:
        """A read was answered."""
        self.checker.read(number, effect.entries[0])
        self.aftermath.done(number)

    def scanned(self, number: int, effect: fx.ScanDone) -> None:
        """A scan was answered."""
        self.checker.scanned(number, effect.entries, is_whole=effect.next_after is None)

    def failed(self, number: int) -> None:
        """A request found no quorum."""
        self.checker.fail(number)
        self.aftermath.failed(number)

    def dead(self) -> list[NodeId]:
        """Return who is down: membership would have found out."""
        names = self.plan.names
        return [name for name in names if self.simulator.node(name) is None]

    def corrupted(self, node: str, effect: fx.Corrupted) -> None:
        """A replica saw one version with two values."""
        self.checker.violate(f"(d) {node}: {effect.version} of {effect.key!r} has two values")

    def emptied(self, effect: fx.StartedEmpty) -> None:
        """A unit in memory found nobody to refill from."""
        self.checker.emptied(effect.unit, effect.floor)
        self.simulator.reach("memory_started_empty")

    def lost(self, node: str, effect: fx.UnitLost) -> None:
        """A durable unit lost state; with nobody else to have it from, its acknowledged writes are gone."""
        self.simulator.reach("unit_lost")
        if effect.is_for_good:
            self.checker.forget(effect.unit)

    def freed(self, unit: UnitId, entry: Entry) -> None:
        """A replica has freed a tombstone."""
        self.checker.freed(unit, entry)

    def evicted(self) -> None:
        """A replica in memory had no room for an entry."""
        self.simulator.reach("evicted")

    def copied(self) -> None:
        """A newcomer has the chunks of a unit."""
        self.simulator.reach("copied_by_chunks")

    def held_back(self) -> None:
        """A copy has to wait for the rate of moves."""
        self.simulator.reach("copy_held_back")

    def renew(self, node: str) -> None:
        """Hand the wish for another record to the issuer, as the driver's call does."""
        found = self._issuer()
        if found is not None:
            self.simulator.inject(found[0], Command(0, "renew"))

    def adopted(self, node: ReplicationNode, signed: SignedRecord) -> None:
        """Check the record, and that no member of a stable set is incomplete."""
        placement = node.replica.placement
        assert placement is not None
        record = placement.record
        self.checker.adopted(node.name, record.epoch, signed.data)
        self.checker.in_force(node.name, placement, self.durable)
        if record.phase != STABLE:
            return
        for unit in self.durable:
            held = node.replica.table.units.get(unit)
            is_lost = node.name in self._losers
            if node.name in placement.sets(unit).current and not is_lost and (held is None or not held.complete):
                self.checker.violate(f"{node.name} is in the set of {unit} under {record.epoch} and incomplete")

    def signed(self, placement: Placement, before: Epoch) -> None:
        """Count the step; in a directed run cut members of the old sets off at this very moment."""
        record, plan, rng = placement.record, self.plan, self._rng
        self.checker.signed(record.epoch, before)
        self.steps.signed(record, self.simulator.now_s)
        if record.next_bypassed:
            self.simulator.reach("dead_passed_over")
        self.simulator.reach(f"signed_{record.phase}")
        if before.term != record.epoch.term:
            self.simulator.reach("taken_over")
        if self._is_over or rng.random() >= plan.directed:
            return
        members = [member.node for member in record.ring]
        victims = [name for name in members if rng.random() < 0.5] or [rng.choice(members)]
        others = [name for name in plan.names if name not in victims]
        self._cut(victims, others, rng.uniform(0.2, 3.0), one_way=rng.random() < 0.3)
        self.simulator.counts["directed_cut"] += 1

    # ------------------------------------------------------------------ the workload

    def _operate(self) -> None:
        """Send one client request, then plan the next."""
        if self._is_over:
            return
        rng = self._rng
        self.simulator.at(self.simulator.now_s + rng.expovariate(1 / self.plan.operation_s), self._operate)
        draw = rng.random()
        kind = "write" if draw < 0.55 else "read" if draw < 0.9 else "scan"
        is_memory = rng.random() < self.plan.memory_share and self.simulator.now_s > FIRST_REFILL_S
        units = self.busy if is_memory else self.durable
        unit, key = rng.choice(units), rng.choice(self.keys)
        # Nobody hangs up sooner than a refused write can reach a disk twice.
        patience_s = rng.uniform(0.5, 4.0) + 3.0 * self.plan.fsync_s
        self._send(rng.choice(self.plan.names), kind, unit, key, patience_s)

    def _send(self, name: NodeId, kind: str, unit: UnitId, key: bytes, patience_s: float) -> int:
        """Send a client request to a node; returns its number, 0 if the node cannot take one."""
        node = self.simulator.node(name)
        if not isinstance(node, ReplicationNode) or node.coordinator.placement is None:
            return 0
        self._numbers += 1
        number = self._numbers
        value = None if kind != "write" or self._rng.random() < 0.25 else f"v{number}".encode()
        self.checker.begin(number, kind, unit, b"" if kind == "scan" else key, value)
        self.simulator.inject(name, Command(number, kind, unit, key, value, patience_s=patience_s))
        return number

    def _change(self) -> None:
        """Ask the issuer for a join or a leave, then plan the next."""
        if self._is_over:
            return
        rng = self._rng
        self.simulator.at(self.simulator.now_s + rng.expovariate(1 / self.plan.change_s), self._change)
        found = self._issuer()
        if found is None:
            return
        issuer, record = found
        members = [member.node for member in record.ring if member.weight]
        leavers = [name for name in members if name != issuer]
        joiners = [name for name in self.plan.names if name not in members]
        wants_leave = bool(leavers) and (not joiners or rng.random() < 0.45)
        if not wants_leave and not joiners:
            return
        self._changes += 1
        chosen = rng.choice(leavers if wants_leave else joiners)
        self.simulator.inject(issuer, Command(0, "leave" if wants_leave else "join", node=chosen))

    def _issuer(self) -> tuple[NodeId, TopologyRecord] | None:
        """Return the node that writes the records, by the newest that anybody works under, if it is up."""
        placement = self.aftermath.placement()
        if placement is None:
            return None
        record = placement.record
        node = self.simulator.node(record.epoch.term.node)
        is_up = isinstance(node, ReplicationNode) and node.topology.record is not None
        return (record.epoch.term.node, record) if is_up else None

    def _operate_topology(self) -> None:
        """Do one of an operator's acts, then plan the next."""
        if self._is_over:
            return
        rng = self._operator
        self.simulator.at(self.simulator.now_s + rng.expovariate(1 / self.plan.operator_s), self._operate_topology)
        found = self._issuer()
        act = rng.choice(("promote", "remove", "factor", "hand over"))
        if act == "promote":
            name = rng.choice(self.plan.names)
            self.simulator.inject(name, Command(0, "promote"))
            end_s = self.simulator.now_s + rng.uniform(0.5, 4.0)
            self.simulator.at(end_s, lambda: self.simulator.inject(name, Command(0, "give up")))
        elif found is not None:
            issuer, record = found
            others = [member.node for member in record.ring if member.node != issuer]
            down = [name for name in others if self.simulator.node(name) is None]
            whose = rng.choice((UnitId(CLUSTER), UnitId("c")))
            factor = rng.choice((1, 1, 2, 3, 3, 5))
            # Now and then somebody is removed who is only slow or cut off.
            chosen = rng.choice(down if down and rng.random() < 0.8 else others) if others else issuer
            if act == "factor" or chosen != issuer:
                self.simulator.inject(issuer, Command(0, act, whose, node=chosen, factor=factor))
        self.simulator.reach(f"asked_{act.replace(' ', '_')}")

    def _step_year(self) -> None:
        name = self._rng.choice(self.plan.names)
        self.simulator.step_clock(name, self._rng.choice((YEAR_S, 30.0, -30.0)))
        self.simulator.reach("clock_far_off")

    def _lose_log(self) -> None:
        """Crash a node and remove the log of its durable units, or let it rot; its identity and its record stay."""
        name = self._rng.choice([name for name in self.plan.names if name != self.plan.mourned])
        self._losers.add(name)
        self.simulator.crash(name)
        disk = self.simulator.host(name).disk
        if self._rng.random() < 0.5 or not _rot(disk, self._rng):
            disk.remove(DIRECTORY)
            self.simulator.reach("log_removed")
        else:
            self.simulator.reach("log_rotted")
        self.simulator.at(self.simulator.now_s + self._rng.uniform(0.05, 3.0), partial(self.simulator.restart, name))

    # ------------------------------------------------------------------ the run

    def run(self) -> None:
        """Faults and work, then healing and convergence."""
        self.simulator.at(0.1, self._operate)
        self.simulator.at(self._rng.uniform(0.2, 2.0), self._change)
        if self.plan.operator_s < math.inf:
            self.simulator.at(self._operator.uniform(0.5, 3.0), self._operate_topology)
        if self.plan.steps_year:
            self.simulator.at(self.seconds * self._rng.uniform(0.1, 0.6), self._step_year)
        if self.plan.loses_log:
            self.simulator.at(self.seconds * self._rng.uniform(0.2, 0.9), self._lose_log)
        if self.plan.mourned is not None:
            self.simulator.at(self.seconds * MOURNED_FROM, partial(self.simulator.crash, self.plan.mourned))
        self.simulator.run_until(self.seconds)
        self._open_s = self.steps.open_s(self.simulator.now_s)
        self._is_over = True
        self.simulator.make_whole()
        for name in self.plan.names:
            # Whoever ran ahead is refused for good, until somebody sets the clock right.
            self.simulator.step_clock(name, -self.simulator.host(name).wall_offset_ms / 1_000)
        if self._ends_dark:
            self._black_out()
        if not self.checker.violations:
            self.aftermath.run()

    def _black_out(self) -> None:
        """Crash every node at once, bring each back, and return when the last one is up."""
        simulator, rng = self.simulator, self._rng
        simulator.black_out({name: draw_tear(rng, self._rough) for name in self.plan.names})
        for name in self.plan.names:
            simulator.at(simulator.now_s + rng.uniform(0.0, BACK_S), partial(simulator.restart, name))
        simulator.reach("ended_dark")
        simulator.run_until(simulator.now_s + BACK_S)

    def result(self) -> ScenarioResult:
        """Return what happened."""
        simulator, checker = self.simulator, self.checker
        nodes = self.aftermath.nodes().values()
        simulator.sometimes["restamped"] += sum(node.coordinator.restamp_count for node in nodes)
        simulator.sometimes["refused_by_epoch"] += sum(node.replica.admission.refused_count for node in nodes)
        simulator.sometimes["served_early"] += sum(node.replica.admission.early_count for node in nodes)
        simulator.sometimes["disk_refused"] += sum(node.refusals for node in nodes)
        simulator.sometimes["purge_agreed"] += sum(node.replica.purger.outcomes["agreed"] for node in nodes)
        simulator.sometimes["tombstones_freed"] += sum(node.replica.purger.freed_count for node in nodes)
        for code in (ClockDrift.code, TooOld.code):
            name = "refused_" + code.partition(".")[2]
            simulator.sometimes[name] += sum(node.replica.serving.refused[code] for node in nodes)
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
            figures={
                **{name: [float(checker.counts[name])] for name in ("acked", "reads", "scans", "failed")},
                "step_s": [*self.steps.lengths_s, self._open_s],
            },
            summary={
                **checker.counts,
                "changes": self._changes,
                "served_s": self.aftermath.served_s,
                "plan": msgspec.to_builtins(self.plan),
            },
        )


def run_scenario(
    nodes: int,
    seconds: float,
    seed: int,
    faults: str,
    *,
    node_class: type[ReplicationNode] = ReplicationNode,
    shape: Shape | None = None,
) -> ScenarioResult:
    """Run one seed; `node_class` lets tests plant an error in the machines, `shape` makes it show sooner."""
    replay = Replay(scenario="replication", nodes=nodes, seconds=seconds, seed=seed, faults=faults)
    run = ReplicationRun(replay, node_class=node_class, shape=shape)
    try:
        run.run()
    except SimulationFailed as failure:
        run.checker.violations.append(str(failure))
    return run.result()


def _rot(disk: FakeDisk, rng: random.Random) -> bool:
    """Flip a bit of the log, or zero a stretch of it; False if there is too little of it.

    Never in the last group: rot there cannot be told from a torn end once its mark is gone.
    """
    path = f"{DIRECTORY}/{disk.list(DIRECTORY)[-1]}" if disk.list(DIRECTORY) else ""
    data = disk.read(path) or b""
    groups = [frame.start for frame in frames_of(data) if frame.sections]
    if len(groups) < 2:
        return False
    at = rng.randrange(groups[-1])
    if rng.random() < 0.5:
        disk.flip_bit(path, at * 8 + rng.randrange(8))
    else:
        size = min(2 ** rng.randint(0, 13), groups[-1] - at)
        disk.write(path, data[:at] + bytes(size) + data[at + size :])
    return True

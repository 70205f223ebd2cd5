"""What must hold once everything is healed: service within a bound, then convergence.

Sans-I/O. (l) Within SERVICE_S of the last fault every durable unit is readable and writable at quorum through every
member, every unit in memory serves again, and no member still waits to hear what it missed. (g) Within LIVENESS_S the
record is settled and the replicas of each durable unit are equal and hold every acknowledged write. Anti-entropy is
put to full strength only after (l): what a node does by itself after a restart must be enough for service.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from balancer.placement import Placement
from balancer.record import STABLE
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.replication import Version
from frys_node.replication.unit import HeldUnit
from frys_node.testing.replication_checker import Checker
from frys_node.testing.replication_node import ReplicationNode
from frys_node.testing.simulator import Simulator

SERVICE_S = 20.0
"""Bound on service after the last fault: two patiences of a step, a refill's patience, and slack."""

LIVENESS_S = 60.0
"""Bound on settling and converging."""

TICK_S = 1.0
EVERYTHING = Version(1 << 62, 0, NodeId(""), 0)
"""Above every version."""

PROBE_PATIENCE_S = 3.0

Send = Callable[[NodeId, str, UnitId, bytes, float], int]
"""Sends a client request (node, kind, unit, key, patience) and returns its number."""


class Aftermath:
    """The healed cluster of one seed."""

    def __init__(
        self,
        simulator: Simulator,
        checker: Checker,
        *,
        names: Sequence[NodeId],
        keys: Sequence[bytes],
        durable: Sequence[UnitId],
        memory: Sequence[UnitId],
        probed: Sequence[UnitId],
        send: Send,
    ) -> None:
        self._simulator = simulator
        self._checker = checker
        self._names = names
        self._keys = keys
        self._durable = durable
        self._memory = memory
        self._probed = probed
        self._send = send
        self._rng = random.Random(f"{simulator.seed}/aftermath")
        self._open: dict[int, tuple[NodeId, UnitId, str]] = {}
        self._served: dict[tuple[NodeId, UnitId, str], None] = {}
        self.served_s = 0.0
        """Seconds from healing to service."""

    def nodes(self) -> dict[NodeId, ReplicationNode]:
        """Return the nodes that run."""
        found = {name: self._simulator.node(name) for name in self._names}
        return {name: node for name, node in found.items() if isinstance(node, ReplicationNode)}

    def done(self, number: int) -> None:
        """A request was answered."""
        asked = self._open.pop(number, None)
        if asked is not None:
            self._served[asked] = None

    def run(self) -> None:
        """Demand service, then convergence."""
        simulator, healed_s = self._simulator, self._simulator.now_s
        while unserved := self._unserved():
            if simulator.now_s >= healed_s + SERVICE_S:
                self._checker.violate(f"(l) not serving {SERVICE_S:g} s after the last fault: {unserved}")
                return
            self._probe()
            simulator.run_until(simulator.now_s + TICK_S)
        self.served_s = simulator.now_s - healed_s
        while simulator.now_s < healed_s + LIVENESS_S:
            for node in self.nodes().values():
                node.heal(simulator.now_s)
            simulator.run_until(simulator.now_s + TICK_S)
            if not self.unfinished():
                return
        self._checker.violate(f"(g) not converged: {self.unfinished()}")

    # ------------------------------------------------------------------ service

    def placement(self) -> Placement | None:
        """Return the placement of the newest record that any node works under."""
        held = [node.topology.placement for node in self.nodes().values()]
        return max((p for p in held if p is not None), key=lambda p: p.record.epoch, default=None)

    def _wanted(self) -> list[tuple[NodeId, UnitId, str]]:
        placement = self.placement()
        members = [member.node for member in placement.record.ring] if placement else []
        return [(name, unit, kind) for name in members for unit in self._probed for kind in ("write", "read")]

    def _probe(self) -> None:
        """Send through every member what it was not answered yet."""
        waiting = set(self._open.values())
        for asked in self._wanted():
            if asked not in self._served and asked not in waiting:
                name, unit, kind = asked
                number = self._send(name, kind, unit, self._rng.choice(self._keys), PROBE_PATIENCE_S)
                if number:
                    self._open[number] = asked

    def failed(self, number: int) -> None:
        """A request found no quorum: it is asked again."""
        self._open.pop(number, None)

    def _unserved(self) -> str:
        """Say what does not serve yet, or nothing."""
        for name, unit, kind in self._wanted():
            if (name, unit, kind) not in self._served:
                return f"no {kind} of {unit} through {name}"
        nodes, placement = self.nodes(), self.placement()
        if placement is None:
            return "no record"
        for unit in (*self._durable, *self._memory):
            for name in placement.sets(unit).current:
                held = nodes[name].replica.local(unit)
                if held is None:
                    return f"{name} has no complete {unit}"
                if held.is_behind:
                    return f"{name} has not heard what it missed of {unit}"
        return ""

    # ------------------------------------------------------------------ convergence

    def unfinished(self) -> str:
        """Say what is not as it must be in the end, or nothing."""
        nodes = self.nodes()
        newest = self.placement()
        assert newest is not None
        issuer = nodes[newest.record.epoch.term.node]
        record = issuer.topology.record
        assert record is not None
        if record.phase != STABLE or issuer.topology.settled != record.epoch or issuer.topology.steps.waiting:
            return f"{record.epoch} is {record.phase}, waits for {issuer.topology.steps.waits_for()}"
        if record.bypassed:
            return f"{record.epoch} passes over {[bypass.node for bypass in record.bypassed]}, and all live"
        if record.successor is not None:
            return f"{record.successor} has not taken over from {issuer.name}"
        placement = issuer.topology.placement
        assert placement is not None
        for name in record.members():
            if nodes[name].topology.epoch != record.epoch:
                return f"{name} works under {nodes[name].topology.epoch}, not {record.epoch}"
        return self._unequal(nodes, placement)

    def _unequal(self, nodes: Mapping[NodeId, ReplicationNode], placement: Placement) -> str:
        for unit in self._durable:
            held_by: dict[NodeId, HeldUnit] = {}
            for name in placement.sets(unit).current:
                held = nodes[name].replica.table.units.get(unit)
                if held is None or not held.complete:
                    return f"{name} has no complete {unit}"
                held_by[name] = held
                for key in self._keys:
                    entry = held.store.get([key])[0]
                    if not self._checker.is_superseded((unit, key), entry):
                        return f"{name} lacks an acknowledged write of {key!r} in {unit}"
            purged = max((h.purge_floor for h in held_by.values() if h.purge_floor is not None), default=None)
            if len({held.digest_below(EVERYTHING, purged) for held in held_by.values()}) > 1:
                return f"the replicas of {unit} differ"
        for unit in self._memory:
            for name in placement.sets(unit).current:
                if nodes[name].replica.local(unit) is None:
                    return f"{name} has no complete {unit}"
        return ""

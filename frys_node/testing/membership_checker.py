"""The invariants of membership that hold after each event, and who was called dead in vain.

Sans-I/O. M2 accuracy without faults, M3 refutation, M4 monotone incarnations raised by their owner alone, M8 phi, M9
the dead stay dead. M1, M5, M6 and M7 speak of the end of a run or of its traffic: `membership_cluster` has them.
"""

from __future__ import annotations

import math
from collections import Counter

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import MemberChanged, MemberView, Status
from frys_node.testing.membership_node import WIRE, Answer, Ask, MembershipNode, Sealed, node_id
from frys_node.testing.simulator import SimEvent, Simulator
from membership.messages import NOBODY, PACKETS, Brief, Standing, Update

RANK = {Status.ALIVE: 0, Status.SUSPECT: 1, Status.DEAD: 2, Status.LEFT: 3}

PHI_EVERY = 16
"""M8 looks at every so-manyeth input of a node: phi costs a normal tail for each watched member."""

Key = tuple[int, int]


class Verdicts:
    """Counts what members were called, against the truth that only the simulator knows."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator
        self._names = {node_id(simulator.host(name)): name for name in simulator.names}
        self.blamed: set[str] = set()
        """Nodes whose network or process is at fault on purpose: calling them dead is no mistake."""
        self.counts: Counter[str] = Counter()
        """``dead``: verdicts at any observer; ``dead_published``: those that subscribers heard of;
        ``false_dead``: about a running node; ``false_dead_healthy``: about a running node that is not blamed;
        ``false_dead_at_healthy``: such a one at an observer that is not blamed."""
        self.published: list[tuple[float, NodeId, int, NodeId]] = []
        """Deaths that subscribers heard of: when, observer, its boot, and who."""
        self.first_dead_s: dict[str, float] = {}
        """When somebody first called a node dead."""
        self._statuses: dict[tuple[str, int], dict[NodeId, Status]] = {}

    def note(self, observer: MembershipNode, change: MemberChanged) -> None:
        """Take one change of one view, published or not."""
        new, known = change.new, self._statuses.setdefault((observer.node, observer.boot), {})
        before = known.get(new.id)
        known[new.id] = new.status
        if new.id == observer.node or before is None or new.status is before:
            return
        if new.status is Status.SUSPECT:
            self.counts["suspect"] += 1
        if new.status is not Status.DEAD or before is Status.LEFT:
            return
        name = self._names[new.id]
        self.counts["dead"] += 1
        self.first_dead_s.setdefault(name, self._simulator.now_s)
        if self._simulator.is_up(name):
            self.counts["false_dead"] += 1
            if name not in self.blamed:
                self.counts["false_dead_healthy"] += 1
                if self._names[observer.node] not in self.blamed:
                    self.counts["false_dead_at_healthy"] += 1

    def note_published(self, observer: MembershipNode, change: MemberChanged) -> None:
        """Take what subscribers hear of."""
        if change.new.status is Status.DEAD and change.old is not None and change.old.status is not Status.DEAD:
            self.counts["dead_published"] += 1
            self.published.append((self._simulator.now_s, observer.node, observer.boot, change.new.id))


class Checker:
    """The invariants that hold after each event."""

    def __init__(self, simulator: Simulator, verdicts: Verdicts, *, is_faultless: bool) -> None:
        self._simulator = simulator
        self._verdicts = verdicts
        self.is_faultless = is_faultless
        """While true, nobody may be suspected at all (M2)."""
        self._issued: dict[NodeId, Key] = {}
        self._seen: dict[tuple[str, int], dict[NodeId, tuple[int, int, int]]] = {}
        self._phi: dict[tuple[str, int], dict[NodeId, float]] = {}
        """Since the last look: of members that have been silent and have not changed."""
        self._pauses: dict[tuple[str, int], float] = {}
        self._inputs: Counter[str] = Counter()
        self.leaver: NodeId = NOBODY
        """Who is leaving: nobody may call it suspect or dead."""
        self.has_liar = False
        """True if claims may be forged: those need no refutation."""

    def __call__(self, event: SimEvent) -> None:
        """Check what one input did."""
        node = self._simulator.node(event.node)
        if not isinstance(node, MembershipNode):
            return
        changes, node.changes = node.changes, []
        for change in changes:
            self._check_change(node, change)
            self._verdicts.note(node, change)
        for change in node.published:
            self._verdicts.note_published(node, change)
        node.published.clear()
        if changes:
            self._phi.pop((node.node, node.boot), None)
        if event.kind == "verb":
            self._check_change(node, MemberChanged(old=None, new=self._own(node)))
        elif event.kind == "mail" and node.is_reading:
            if not self.has_liar:
                self._check_refutation(node, event.payload)
            self._forget_phi(node, event.source)
        self._check_pause(node, event)
        self._inputs[event.node] += 1
        if not self._inputs[event.node] % PHI_EVERY:
            self._check_phi(node)

    @staticmethod
    def _own(node: MembershipNode) -> MemberView:
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
        claims: tuple[Update | Brief, ...]
        if isinstance(message, Sealed):
            packet = PACKETS.decode(message.payload)
            claims = (*packet.updates, *packet.briefs)
        elif isinstance(message, Ask | Answer):
            claims = message.sync.updates
        else:
            return
        for update in claims:
            if update.node == node.node and update.boot == node.boot and update.standing > Standing.ALIVE:
                own = self._own(node)
                self._simulator.reach("accused_in_brief" if isinstance(update, Brief) else "accused_in_full")
                self._simulator.check(
                    own.incarnation > update.incarnation or own.status is Status.LEFT,
                    f"M3: {own.name} does not refute that it is {update.standing.name} at {update.incarnation}",
                )

    def _check_pause(self, node: MembershipNode, event: SimEvent) -> None:
        """Only a node that did stand still may take itself for one that did: it forgives everybody then."""
        pauses = node.machine.tallies.events.get(("pause",), 0)
        if pauses == self._pauses.get((node.node, node.boot), 0):
            return
        self._pauses[node.node, node.boot] = pauses
        self._phi.pop((node.node, node.boot), None)
        is_true = self._simulator.host(event.node).resumed_s == event.at_s or node.may_oversleep
        self._simulator.check(is_true, f"{event.node} takes itself for paused and was not")

    def _forget_phi(self, node: MembershipNode, source: str) -> None:
        """Mail from a member may be the heartbeat that lets its phi fall."""
        known = self._phi.get((node.node, node.boot))
        if known:
            known.pop(node_id(self._simulator.host(source)), None)

    def _check_phi(self, node: MembershipNode) -> None:
        """M8: phi is finite, never negative, and does not fall while its member is silent.

        A pause of the observer itself is no silence of the member; the machine takes it out of phi.
        """
        known = self._phi.setdefault((node.node, node.boot), {})
        now: dict[NodeId, float] = {}
        for member, phi in node.phis().items():
            before = known.get(member, 0.0)
            self._simulator.check(
                math.isfinite(phi) and phi >= before, f"M8: {node.node} has phi of {member} go from {before} to {phi}"
            )
            now[member] = phi
            self._simulator.reach("phi_checked")
        self._phi[node.node, node.boot] = now

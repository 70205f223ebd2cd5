"""Changes of the ring that wait at the issuer, and which of them one step can carry.

Sans-I/O. Rules 9 to 13 hold for any old and any new sets, so one step may take in, let go and replace several nodes at
once: twenty newcomers are a few records and not sixty. What is bounded is how many nodes one step changes, and a step
does not shrink the ring below the replication factor as long as there is anything else to do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Sequence
from typing import Any, NamedTuple

import msgspec

from balancer.placement import Placement, fence
from balancer.record import REMOVED_MAX, TopologyRecord
from balancer.spread import RingMember
from balancer.work import MOVED_KINDS, kind_of
from frys_node.base.types import NodeId, UnitId

CHANGES_MAX = 256
"""Changes that wait; more are refused until some are done."""

STEP_NODES_MAX = 16
"""Nodes that one step takes in, lets go, replaces or weighs anew."""

JOIN, LEAVE, REMOVE = "join", "leave", "remove"
KINDS = (JOIN, LEAVE, REMOVE)

CLUSTER = ""
"""Whose factor a change is of: the cluster's, or a collection's id."""


class Change(NamedTuple):
    """What is wanted of one node."""

    kind: str
    member: RingMember | None = None
    accepts_loss: bool = False
    """What only this node holds is given up (rule 24)."""
    keeps_out: bool = False
    """An operator's removal: the node is refused if it comes back."""


class Changes:
    """The changes that wait, oldest first; a newer one of the same node takes the older one's place."""

    def __init__(self) -> None:
        self._nodes: OrderedDict[NodeId, Change] = OrderedDict()
        self._factors: OrderedDict[str, int] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._nodes or self._factors)

    @property
    def nodes(self) -> tuple[NodeId, ...]:
        """Nodes whose change waits or is under way, in order."""
        return tuple(self._nodes)

    @property
    def leaving(self) -> tuple[NodeId, ...]:
        """Nodes that wait to leave and hand over what they hold."""
        return tuple(node for node, change in self._nodes.items() if change.kind == LEAVE)

    @property
    def given_up(self) -> tuple[NodeId, ...]:
        """Nodes whose data an operator gives up."""
        return tuple(node for node, change in self._nodes.items() if change.accepts_loss)

    @property
    def factors(self) -> tuple[str, ...]:
        """Collections (`CLUSTER`: the cluster) whose factor waits to be changed."""
        return tuple(self._factors)

    def wanted_of(self, node: NodeId) -> str:
        """Return what waits for a node, empty if nothing does."""
        change = self._nodes.get(node)
        return "" if change is None else change.kind

    def want(self, node: NodeId, change: Change) -> bool:
        """Queue a change of a node; False when the queue is full. Asking again changes nothing."""
        held = self._nodes.get(node)
        if held is None and len(self._nodes) >= CHANGES_MAX:
            return False
        if held is None or held.kind != REMOVE or change.kind == REMOVE:
            self._nodes[node] = change
        return True

    def want_factor(self, whose: str, factor: int) -> bool:
        """Queue another replication factor; False when the queue is full."""
        if whose not in self._factors and len(self._factors) >= CHANGES_MAX:
            return False
        self._factors[whose] = factor
        return True

    def forget(self, nodes: Container[NodeId]) -> None:
        """Drop the changes of these nodes. Whoever still wants one asks again, behind the others."""
        for node in [node for node in self._nodes if node in nodes]:
            del self._nodes[node]

    def forget_factors(self) -> None:
        """Drop the changes of factors; whoever still wants one asks again."""
        self._factors.clear()

    # ------------------------------------------------------------------ what one step carries

    def plan(
        self, placement: Placement, dead: Container[NodeId], kinds: Container[str] = KINDS
    ) -> dict[str, Any] | None:
        """Return what the ``joining`` record of the next step changes, None if there is nothing to do.

        `kinds` are those of the changes that it may carry.
        """
        self._prune(placement, dead)
        nodes = [(node, change) for node, change in self._nodes.items() if change.kind in kinds]
        return self._plan_nodes(placement, nodes) or self._plan_factors(placement.record)

    def _prune(self, placement: Placement, dead: Container[NodeId]) -> None:
        """Drop what is done, or cannot be done: a dead node neither joins nor leaves, it asks again when it is back."""
        record = placement.record
        held = {member.node: member for member in record.ring}
        for node, change in list(self._nodes.items()):
            if change.kind == JOIN:
                is_open = held.get(node) != change.member and node not in dead
            elif change.kind == LEAVE:
                is_open = node in held and node not in dead
            else:
                is_new = change.accepts_loss or (change.keeps_out and node not in record.removed)
                is_open = node in held and (is_new or held[node].weight > 0 or not owned_by(placement, node))
            if not is_open:
                del self._nodes[node]

    def _plan_nodes(self, placement: Placement, wanted: Sequence[tuple[NodeId, Change]]) -> dict[str, Any] | None:
        record = placement.record
        # What was given up is not carried into any next ring.
        after = {member.node: member for member in record.ring if member.node not in record.lost}
        lost, removed = dict.fromkeys(record.lost), dict.fromkeys(record.removed)
        room = STEP_NODES_MAX
        for node, change in wanted:
            if change.member is not None and room and node not in record.lost:
                after[node] = change.member
                removed.pop(node, None)
                room -= 1
        has_begun = room < STEP_NODES_MAX or bool(record.lost)
        needed = copies_of(record)
        for node, change in wanted:
            if change.member is not None or node not in after or not room:
                continue
            rest = sum(1 for member in after.values() if member.weight and member.node != node)
            is_avoidable = has_begun and after[node].weight > 0 and rest < needed
            if not rest or (is_avoidable and not change.accepts_loss):
                continue
            has_begun = True
            room -= 1
            keeps_disk = change.kind == REMOVE and not change.accepts_loss and bool(owned_by(placement, node))
            if keeps_disk:
                after[node] = msgspec.structs.replace(after[node], weight=0)
            else:
                del after[node]
            if change.accepts_loss:
                lost[node] = None
            if change.keeps_out:
                removed[node] = None
        if not has_begun:
            # What is left would leave nobody on the ring.
            self.forget([node for node, _change in wanted])
            return None
        return {
            "next_ring": tuple(sorted(after.values(), key=lambda member: member.node)),
            "lost": tuple(lost),
            "removed": tuple(removed)[-REMOVED_MAX:],
        }

    def _plan_factors(self, record: TopologyRecord) -> dict[str, Any] | None:
        held = {collection.id: collection.replication_factor for collection in record.collections}
        held[CLUSTER] = record.replication_factor
        for whose, factor in list(self._factors.items()):
            if held.get(whose, factor) == factor:
                del self._factors[whose]
        if not self._factors:
            return None
        single = tuple(sorted(item for item in self._factors.items() if item[0] != CLUSTER))
        return {"next_replication_factor": self._factors.get(CLUSTER), "next_factors": single}


def copies_of(record: TopologyRecord) -> int:
    """Return the highest replication factor that anything in the record has."""
    return max((record.replication_factor, *(held.replication_factor for held in record.collections)))


def owned_by(placement: Placement, node: NodeId) -> list[UnitId]:
    """Return the units that are on this node's disk and nowhere else."""
    return [
        unit
        for unit in placement.held_by(node)
        if kind_of(unit) in MOVED_KINDS and placement.sets(unit).current == (node,)
    ]


def unfenced(placement: Placement, dead: Container[NodeId]) -> list[UnitId]:
    """Return the replicated units whose old sets too few living members are left of to change them (rule 24)."""
    found = []
    for unit in placement.units():
        current = placement.sets(unit).current
        if kind_of(unit) not in MOVED_KINDS:
            living = sum(1 for node in current if node not in dead)
            if living < fence(len(current)):
                found.append(unit)
    return found


def changed_nodes(record: TopologyRecord) -> list[NodeId]:
    """Return the nodes that the step under way takes in, lets go or weighs anew."""
    held = {member.node: member for member in record.ring}
    following = {member.node: member for member in record.next_ring}
    return sorted(node for node in {**held, **following} if held.get(node) != following.get(node))


def newcomers(record: TopologyRecord) -> list[NodeId]:
    """Return the nodes that the step under way gives units to for the first time."""
    held = {member.node for member in record.ring if member.weight}
    return sorted(member.node for member in record.next_ring if member.weight and member.node not in held)

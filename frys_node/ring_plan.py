"""What the issuer would do about joins, leaves and another replication factor, step by step, on paper.

Sans-I/O. The issuer's own queue (`Changes`) says which of them one step carries: up to 16 nodes together, then the
factor. Who is dead gets nothing: the step goes around them. What only the disk of a dead node has counts as moved when
that is removed: it is handed over as soon as the disk is back. Members that an earlier step passed over and that are
back get their places with the first step.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec

from balancer import plan
from balancer.absence import around
from balancer.changes import JOIN, LEAVE, REMOVE, Change, Changes
from balancer.placement import Placement
from balancer.record import JOINING, STABLE, TopologyRecord, after, finished, weighted
from balancer.spread import RingMember
from frys_node.base.types import NodeId, UnitId


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The changes of one plan, checked; names are for its steps."""

    joining: Sequence[RingMember] = ()
    leaving: Sequence[NodeId] = ()
    factor_of: str = ""
    """Collection id; empty: the cluster's factor, which is that of cache units."""
    factor: int | None = None


def start_of(record: TopologyRecord) -> TopologyRecord:
    """Return the stable record that a plan begins with: where the change under way ends."""
    return _without_weightless(record if record.phase == STABLE else finished(record))


def _without_weightless(record: TopologyRecord) -> TopologyRecord:
    """Return a stable record without those that are only waited for until they hand over what is on their disks."""
    ring = weighted(record.ring)
    members = {member.node for member in ring}
    pinned = tuple((partition, node) for partition, node in record.pinned if node in members)
    return msgspec.structs.replace(record, ring=ring, next_ring=ring, pinned=pinned)


def planned(
    record: TopologyRecord,
    wanted: Wanted,
    *,
    sizes: dict[UnitId, int],
    dead: Collection[NodeId],
    names: dict[NodeId, str],
) -> plan.Plan:
    """Return what the changes would move from a stable record on; nothing is changed.

    Args:
        record: See `start_of`.
        wanted: What is asked for.
        sizes: Bytes of units, as far as they are known.
        dead: Members of the ring that are taken for dead.
        names: Of nodes, for the texts of the steps; others are named by their ids.
    """
    planner, changes = plan.Planner(record, sizes), Changes()
    for member in wanted.joining:
        changes.want(member.node, Change(JOIN, member))
    for node in wanted.leaving:
        changes.want(node, Change(REMOVE, keeps_out=True) if node in dead else Change(LEAVE))
    if wanted.factor is not None:
        changes.want_factor(wanted.factor_of, wanted.factor)
    while True:
        placement = Placement(planner.record)
        changed = changes.plan(placement, frozenset(dead))
        if changed is None:
            return planner.plan()
        following = _after_step(placement.record, changed, dead)
        planner.change(following, *_told(placement.record, following, wanted, names))


def _after_step(record: TopologyRecord, changed: dict[str, object], dead: Collection[NodeId]) -> TopologyRecord:
    """Return the stable record that a step ends with."""
    joining = after(record, phase=JOINING, **changed)
    absent = [member.node for member in record.ring if member.node in dead]
    step = around(joining, absent) if absent else Placement(joining)
    return _without_weightless(finished(step.record))


def _told(
    before: TopologyRecord, following: TopologyRecord, wanted: Wanted, names: dict[NodeId, str]
) -> tuple[str, str]:
    """Return the kind of a step and what it is about."""
    held = {member.node: member.weight for member in before.ring}
    then = {member.node: member.weight for member in following.ring}
    come = [names.get(node, node) for node in then if node not in held]
    gone = [names.get(node, node) for node in held if held[node] and not then.get(node)]
    if come and gone:
        return "nodes", f"+{', +'.join(come)}, -{', -'.join(gone)}"
    if come or gone:
        return ("add" if come else "remove"), ", ".join(come or gone)
    return "replication_factor", str(wanted.factor)

"""What the issuer would do about joins, leaves and another replication factor, step by step, on paper.

Sans-I/O. The issuer's own queue (`Changes`) says which of them one step carries: up to 16 nodes together, then the
factor. Who is dead gets nothing: the step goes around them. What only the disk of a dead node has counts as moved when
that is removed: it is handed over as soon as the disk is back. Members that an earlier step passed over and that are
back get their places with the first step.

The issuer's own steps (`Steps`) say what they would not begin while the dead are dead, and why; it is planned all the
same, since it is what follows when they are back. Who answers and takes no record is not foreseen.
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
from balancer.steps import StepConfig, Steps
from frys_node.base.types import NodeId, UnitId


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """The changes of one plan, checked; names are for its steps."""

    joining: Sequence[RingMember] = ()
    leaving: Sequence[NodeId] = ()
    factor_of: str = ""
    """Collection id; empty: the cluster's factor, which is that of cache units."""
    factor: int | None = None


class RingPlan(plan.Plan, frozen=True, kw_only=True):
    """A change that was not made, and what it would wait for."""

    steps_ready: int
    """Steps, the first ones, that the issuer would begin as things are; the others wait."""
    waits_for: list[str]
    """Why they wait: ``node: reason``, as `Steps.waits_for` has it. Empty if none does."""


UNITS_SHOWN_MAX = 3
"""Units named in a reason; the rest are counted."""


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
) -> RingPlan:
    """Return what the changes would move from a stable record on; nothing is changed.

    Args:
        record: See `start_of`.
        wanted: What is asked for.
        sizes: Bytes of units, as far as they are known.
        dead: Members of the ring that are taken for dead.
        names: Of nodes, for the texts of the steps; others are named by their ids.
    """
    planner, changes, ready = plan.Planner(record, sizes), Changes(), 0
    for member in wanted.joining:
        changes.want(member.node, Change(JOIN, member))
    losing = _losing(record, [node for node in wanted.leaving if node in dead], dead)
    for node in wanted.leaving:
        if node not in losing:
            changes.want(node, Change(REMOVE, keeps_out=True) if node in dead else Change(LEAVE))
    if wanted.factor is not None:
        changes.want_factor(wanted.factor_of, wanted.factor)
    waits_for = _missing_issuer(record, dead)
    while not waits_for:
        placement = Placement(planner.record)
        if changes.plan(placement, frozenset(dead)) is None:
            break
        steps = _issuer_steps(placement, dead)
        steps.changes = changes
        joining = steps.next_record(0.0)
        if joining is None:
            waits_for = steps.waits_for()
            break
        following = _without_weightless(finished(joining))
        planner.change(following, *_told(placement.record, following, wanted, names))
        ready += 1
    waits_for += losing.values()
    for node in losing:
        changes.want(node, Change(REMOVE, keeps_out=True))
    while (changed := changes.plan(Placement(planner.record), frozenset(dead))) is not None:
        following = _after_step(planner.record, changed, dead)
        planner.change(following, *_told(planner.record, following, wanted, names))
    return RingPlan(**msgspec.structs.asdict(planner.plan()), steps_ready=ready, waits_for=waits_for)


def _issuer_steps(placement: Placement, dead: Collection[NodeId]) -> Steps:
    """Return the issuer's steps under a stable record that is settled; who is back has been for long enough."""
    record = placement.record
    steps = Steps(record.epoch.term.node, StepConfig(return_patience_s=0.0))
    steps.adopted(placement, record.epoch, 0.0)
    steps.verdict(dead, 0.0)
    return steps


def _missing_issuer(record: TopologyRecord, dead: Collection[NodeId]) -> list[str]:
    """Say that nothing begins while the issuer is dead, if it is."""
    issuer = record.epoch.term.node
    return [f"{issuer}: dead, and it writes the record; see: frys-node issuer promote"] if issuer in dead else []


def _losing(record: TopologyRecord, leaving: Sequence[NodeId], dead: Collection[NodeId]) -> dict[NodeId, str]:
    """Return which of the dead would not be removed, with the reason (rule 24)."""
    if not leaving:
        return {}
    steps, losing = _issuer_steps(Placement(record), dead), {}
    for node in leaving:
        lost = steps.loss_of(node)
        if lost:
            more = f" and {len(lost) - UNITS_SHOWN_MAX} more units" if len(lost) > UNITS_SHOWN_MAX else ""
            what = f"{', '.join(lost[:UNITS_SHOWN_MAX])}{more}"
            losing[node] = f"{node}: dead, and too few members live of {what}; it is removed only with --accept-loss"
    return losing


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

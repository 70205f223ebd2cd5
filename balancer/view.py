"""The topology as people see it.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from balancer import rebalance
from balancer.methods import RingView, StepView
from balancer.topology import TopologyMachine
from frys_node.base.types import NodeId

UNFREEZE = (
    "two records with one key: that issuer's register was copied, or put back from an older copy. Stop all but one"
    " process of it, then run `frys-node issuer promote` on a node whose record you trust"
)


def status_view(machine: TopologyMachine) -> dict[str, Any]:
    """Return what is wrong with the topology as this node sees it; empty values when nothing is."""
    frozen = machine.frozen
    if frozen is None:
        return {"frozen": "", "issuer_of_both": "", "do": ""}
    return {"frozen": str(frozen), "issuer_of_both": frozen.term.node, "do": UNFREEZE}


def ring_view(machine: TopologyMachine, shares: Mapping[NodeId, float], step: StepView | None) -> RingView:
    """Return the topology; `step` is what the issuer says of the step under way, None if it does not answer."""
    placement = machine.placement
    assert placement is not None
    record = placement.record
    told = step or StepView([], [], machine.settled == record.epoch)
    return RingView(
        epoch=str(record.epoch),
        phase=record.phase,
        issuer=record.epoch.term.node,
        issuer_answers=step is not None,
        settled=told.is_settled,
        members=[member.node for member in record.ring],
        next_members=[member.node for member in record.next_ring],
        share={str(node): share for node, share in shares.items()},
        partitions=record.partitions,
        replication_factor=record.replication_factor,
        collections=[collection.name for collection in record.collections],
        pinned=[f"workflow/{partition}" for partition, _node in record.pinned],
        bypassed={str(bypass.node): len(bypass.units()) for bypass in record.bypassed},
        units_here=len(placement.held_by(machine.node)),
        moving=len(rebalance.moves(placement)),
        waiting_here=machine.waiting,
        waits_for=told.waits_for,
        queued=told.queued,
    )

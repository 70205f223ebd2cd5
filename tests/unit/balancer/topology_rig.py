"""Records, machines and reports for the tests of the topology."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

from balancer.placement import Placement
from balancer.record import RECORD, TopologyRecord
from balancer.spread import RingMember
from balancer.steps import StepConfig, Steps
from balancer.topology import TopologyMachine
from balancer.topology_effects import PersistRecord, TopologyEffect
from balancer.topology_messages import Report, SignedRecord
from frys_node.base.types import ClusterId, Epoch, NodeId, Term

N1, N2, N3, N4, N5 = (NodeId(f"n{number}") for number in range(1, 6))
CLUSTER = ClusterId("c" * 32)
KINDS = ("cache",)


def signed(record: TopologyRecord) -> SignedRecord:
    """Return the record as it travels."""
    return SignedRecord(RECORD.encode(record), b"")


def key(seq: int, number: int = 1, node: NodeId = N1) -> Epoch:
    """Return the key of the record with that number, of the first issuer's term if no other is given."""
    return Epoch(Term(number, node), seq)


def ring(nodes: Iterable[NodeId] | Mapping[NodeId, int]) -> tuple[RingMember, ...]:
    """Return members of these weights, 100 if none are given."""
    weights = nodes if isinstance(nodes, Mapping) else dict.fromkeys(nodes, 100)
    return tuple(RingMember(node=node, weight=weight) for node, weight in weights.items())


def record(
    seq: int,
    phase: str,
    members: Iterable[NodeId] | Mapping[NodeId, int],
    following: Iterable[NodeId] | Mapping[NodeId, int] | None = None,
    **fields: object,
) -> TopologyRecord:
    """Return a record with two cache units and two workflow partitions, unless told otherwise."""
    made: dict[str, object] = {
        "format": 1,
        "cluster": CLUSTER,
        "epoch": key(seq),
        "phase": phase,
        "ring": ring(members),
        "next_ring": ring(members if following is None else following),
        "parent": key(seq - 1),
        "partitions": 2,
        "vnodes": 8,
    }
    return TopologyRecord(**(made | fields))  # type: ignore[arg-type]


def steps_under(found: TopologyRecord, config: StepConfig | None = None, now_s: float = 0.0) -> Steps:
    """Return an issuer's steps under a settled record."""
    steps = Steps(N1, config or StepConfig())
    steps.adopted(Placement(found), found.epoch, now_s)
    return steps


def done(found: TopologyRecord) -> Report:
    """Return the report of a node that has finished everything under the record."""
    return Report(found.epoch, True, True, 0)


def machine_of(node: NodeId, held: TopologyRecord | None = None, peers: Iterable[NodeId] = ()) -> TopologyMachine:
    """Return a machine that works under a record."""
    known = tuple(peers)
    machine = TopologyMachine(node, random.Random(1), kinds=KINDS, peers=lambda: known)
    if held is not None:
        machine.load(Placement(held), signed(held), 0.0)
    return machine


def adopt(machine: TopologyMachine, found: TopologyRecord, now_s: float = 1.0) -> list[TopologyEffect]:
    """Offer a record and let the disk finish."""
    offered = machine.offer(found, signed(found), now_s)
    assert [type(effect) for effect in offered] == [PersistRecord]
    return machine.persisted(found.epoch, Placement(found), now_s)

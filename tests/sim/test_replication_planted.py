"""Errors planted in the replication machines, each caught by the checker under a named seed.

They live here and nowhere in the product: each overrides one decision of a machine. A checker that misses them proves
nothing when it is silent.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest
from planted import INCOMPLETE, Planted, assert_caught

from balancer.placement import Placement
from balancer.record import JOINING, JOINT, STABLE, TopologyRecord
from balancer.steps import Steps
from balancer.topology import TopologyMachine
from balancer.topology_effects import PersistRecord
from frys_node.base.types import Consistency, Epoch, NodeId
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication.coordinator import CoordinatorMachine
from frys_node.replication.effects import Effect
from frys_node.replication.hlc import HybridClock
from frys_node.replication.operation import Operation
from frys_node.replication.quorum import count_in, majority
from frys_node.replication.replica import ReplicaMachine
from frys_node.replication.unit import Continuation, HeldUnit, UnitTable
from frys_node.testing.replication_node import ReplicationNode
from frys_node.testing.replication_plan import targeted
from frys_node.testing.replication_records import RecordDisk
from frys_node.testing.replication_roles import placement_of


class _Coordinator(CoordinatorMachine):
    """A coordinator with the right settings for a planted subclass."""

    @classmethod
    def of(cls, node: ReplicationNode) -> CoordinatorMachine:
        right = ReplicationNode.make_coordinator(node)
        return cls(node.name, right._clock, random.Random(1), right._config)


class JoinerCounts(_Coordinator):
    """A joiner's acknowledgement counts for the quorum of the old set."""

    def _write_is_met(self, operation: Operation) -> bool:
        assert operation.sets is not None
        if operation.sets.phase != JOINING:
            return super()._write_is_met(operation)
        return len(operation.acked) >= majority(len(operation.sets.current))


class OldSetOnly(_Coordinator):
    """In ``joint``, writes and reads ask the old set only."""

    def _write_is_met(self, operation: Operation) -> bool:
        assert operation.sets is not None
        return count_in(operation.sets.current, operation.acked) >= majority(len(operation.sets.current))

    def _read_is_met(self, operation: Operation) -> bool:
        assert operation.sets is not None
        return count_in(operation.sets.current, operation.complete) >= majority(len(operation.sets.current))


class OldSetReads(_Coordinator):
    """In ``joint``, reads ask the old set only."""

    _read_is_met = OldSetOnly._read_is_met


class NewSetOnly(_Coordinator):
    """In ``joint``, only the new set is asked for votes."""

    def _write_is_met(self, operation: Operation) -> bool:
        sets = operation.sets
        assert sets is not None
        if sets.phase != JOINT:
            return super()._write_is_met(operation)
        return count_in(sets.next, operation.acked) >= majority(len(sets.next))

    def _read_is_met(self, operation: Operation) -> bool:
        sets = operation.sets
        assert sets is not None
        if sets.phase != JOINT:
            return super()._read_is_met(operation)
        return count_in(sets.next, operation.complete) >= majority(len(sets.next))


class NoRestamp(_Coordinator):
    """A higher version met in the quorum is ignored."""

    def _must_restamp(self, operation: Operation) -> bool:
        return False


class HintsCount(_Coordinator):
    """A hint for one member counts as its acknowledgement."""

    def _write_is_met(self, operation: Operation) -> bool:
        assert operation.sets is not None
        return count_in(operation.sets.current, operation.acked) + 1 >= majority(len(operation.sets.current))


class ScanUnverified(_Coordinator):
    """The candidates of a scan are read at one replica instead of a quorum."""

    def _verify(self, operation: Operation, keys: list[bytes], has_more: bool, now_s: float) -> list[Effect]:
        operation.consistency = Consistency.ONE
        return super()._verify(operation, keys, has_more, now_s)

    def _best_first(self, operation: Operation, sets: UnitSets) -> tuple[NodeId, ...]:
        return sets.current


class _Replica(ReplicaMachine):
    """A replica with the right settings for a planted subclass."""

    @classmethod
    def of(cls, node: ReplicationNode) -> ReplicaMachine:
        return node.new_replica(cls, ReplicationNode.make_replica(node).config)


class SourceDropsEarly(_Replica):
    """A source drops its data as soon as it is in ``joint``."""

    def adopt(self, placement: Placement, now_s: float) -> list[Effect]:
        effects = super().adopt(placement, now_s)
        if placement.record.phase == JOINT:
            for unit, held in list(self.table.units.items()):
                if unit in placement and self.node not in placement.sets(unit).next:
                    held.clear()
        return effects


class StaleAccepted(_Replica):
    """A request under an older record is served."""

    def _is_current(self, epoch: Epoch) -> bool:
        return self.epoch is not None and epoch <= self.epoch


class _EagerTable(UnitTable):
    def persist(self, held: HeldUnit, records: tuple, then: Continuation, now_s: float) -> list[Effect]:  # type: ignore[type-arg]
        effects = super().persist(held, records, lambda _at_s: [], now_s)
        return effects + then(now_s)


class AckBeforeSync(_Replica):
    """A write is acknowledged when it is handed to the disk."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.table = self._puller._table = self.serving._table = self.purger._table = self.sync._table = _EagerTable()


class _NoJoint(Steps):
    def _enter_joint(self, record: TopologyRecord, now_s: float) -> TopologyRecord | None:
        joint = super()._enter_joint(record, now_s)
        return joint and msgspec.structs.replace(joint, phase=STABLE, ring=record.next_ring)


class _NoWait(Steps):
    def fence_is_met(self) -> bool:
        return True


class CoordinatorNode(ReplicationNode):
    """A node with a planted coordinator."""

    planted: type[_Coordinator]

    def make_coordinator(self) -> CoordinatorMachine:
        return self.planted.of(self)


class ReplicaNode(ReplicationNode):
    """A node with a planted replica."""

    planted: type[_Replica]

    def make_replica(self) -> ReplicaMachine:
        return self.planted.of(self)


class StepsNode(ReplicationNode):
    """A node with planted steps."""

    planted: type[Steps]

    def make_topology(self) -> TopologyMachine:
        topology = super().make_topology()
        topology.steps = self.planted(self.name, topology.config.steps)
        return topology


class CoarseClockNode(ReplicationNode):
    """A node whose wall clock moves in steps of 10 s, so that a restart meets the same instant again."""

    def wake(self, token: object, now_s: float) -> Sequence[object]:  # type: ignore[override]
        host = self.host
        exact = host.wall_offset_ms
        host.wall_offset_ms -= host.unix_ms(now_s) % 10_000
        packets = super().wake(token, now_s)
        host.wall_offset_ms = exact
        return packets


class NoBootId(CoarseClockNode):
    """Versions do not carry the boot."""

    def make_clock(self) -> HybridClock:
        return HybridClock(self.name, 0)


class ForgetfulDisk(RecordDisk):
    """Says that a record is durable, and has not written it."""

    def keep_record(self, effect: PersistRecord, now_s: float) -> None:
        placement = placement_of(effect.signed.data)
        self.perform(self.topology.persisted(effect.record.epoch, placement, now_s), now_s)


class EpochForgotten(ReplicationNode):
    """A node acts on a record without having made it durable."""

    def make_records(self, kind: type[RecordDisk]) -> RecordDisk:
        del kind
        return super().make_records(ForgetfulDisk)


def _with(base: type[ReplicationNode], planted: type) -> type[ReplicationNode]:
    return type(f"Planted{planted.__name__}", (base,), {"planted": planted})


PLANTED = {
    "joiner counts in W": Planted(_with(CoordinatorNode, JoinerCounts), targeted, ("(a)",)),
    "old set only in joint": Planted(_with(CoordinatorNode, OldSetOnly), targeted, ("(c)",)),
    "reads ask the old set only": Planted(_with(CoordinatorNode, OldSetReads), targeted, ("(a)",)),
    "new set only in joint": Planted(_with(CoordinatorNode, NewSetOnly), targeted, ("(a)",)),
    "no re-stamp": Planted(_with(CoordinatorNode, NoRestamp), targeted, ("(c)",)),
    "hints count": Planted(_with(CoordinatorNode, HintsCount), targeted, ("(a)",)),
    "scan without verify": Planted(_with(CoordinatorNode, ScanUnverified), targeted, ("(b)",)),
    "source drops in joint": Planted(_with(ReplicaNode, SourceDropsEarly), targeted, ("(a)",)),
    "stale coordinator accepted": Planted(_with(ReplicaNode, StaleAccepted), targeted, ("(a)",)),
    "ack before fsync": Planted(_with(ReplicaNode, AckBeforeSync), targeted, ("(a)",)),
    "no joint": Planted(_with(StepsNode, _NoJoint), targeted, (INCOMPLETE,)),
    "joint does not wait": Planted(_with(StepsNode, _NoWait), targeted, (INCOMPLETE,)),
    "no boot id": Planted(NoBootId, targeted, ("(d)",)),
    "adopted epoch not durable": Planted(EpochForgotten, targeted, ("(f)",)),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_catches_each_planted_error(name: str) -> None:
    """Under its seed the planted error breaks the rule that it should, and the right machines break none."""
    assert_caught(name, PLANTED[name])

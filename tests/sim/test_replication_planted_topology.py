"""Errors planted in steps, removals and takeovers, each caught by the checker under a named seed or a directed run.

They live here and nowhere in the product: each overrides one decision of a machine.
"""

from __future__ import annotations

from typing import Any

import pytest
from planted import INCOMPLETE, Planted, assert_caught

from balancer.placement import Placement
from balancer.promotion import Promotion
from balancer.record import TopologyRecord, after, finished
from balancer.steps import Steps
from balancer.topology import TopologyMachine
from balancer.topology_effects import TakeOver, TopologyEffect
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication.effects import Effect, PassFinished
from frys_node.replication.replica import ReplicaConfig, ReplicaMachine
from frys_node.replication.unit import HeldUnit
from frys_node.testing.replication_node import ReplicationNode
from frys_node.testing.replication_plan import contested, operated


class _Planted(TopologyMachine):
    """A topology machine with planted parts."""

    promotion_class: type[Promotion] = Promotion
    steps_class: type[Steps] = Steps

    def promote(self, now_s: float) -> list[TopologyEffect]:
        effects = super().promote(now_s)
        if self.promotion is not None:
            self.promotion.__class__ = self.promotion_class
        return effects


class OwnPromiseOnly(Promotion):
    """The new issuer asks nobody but itself."""

    def missing(self) -> list[str]:
        return [] if self.promised else ["nobody"]


class HighestForgotten(Promotion):
    """The new issuer goes on from its own record, whatever the others hold."""

    def see(self, placement: Placement) -> None:
        if self.record is None:
            super().see(placement)


class RemovedAtOnce(Steps):
    """A dead node is edited out of the record."""

    def _begin(self, record: TopologyRecord, now_s: float) -> TopologyRecord | None:
        assert self._placement is not None
        removed = [node for node in self.waiting if self.changes.wanted_of(node) == "remove"]
        begun = super()._begin(record, now_s)
        return finished(begun) if begun is not None and removed else begun


class FactorAtOnce(Steps):
    """Another factor is edited into the record."""

    def _begin(self, record: TopologyRecord, now_s: float) -> TopologyRecord | None:
        begun = super()._begin(record, now_s)
        is_factor = begun is not None and begun.ring == begun.next_ring
        return finished(begun) if begun is not None and is_factor else begun


class VerdictVotes(Steps):
    """Who is held for dead need not be asked: liveness decides ownership."""

    def fence_is_met(self) -> bool:
        held = self._reports
        self._reports = held | {node: next(iter(held.values())) for node in self.dead if held}
        is_met = super().fence_is_met()
        self._reports = held
        return is_met

    def fence_is_near(self) -> bool:
        return True


class SameTerm(_Planted):
    """The new issuer writes on under the old issuer's term, and asks nobody to promise."""

    def promote(self, now_s: float) -> list[TopologyEffect]:
        if self.record is None or self._proposing is not None:
            return []
        ours = after(self.record, removed=(self.node,))
        self._proposing = ours.epoch
        return [TakeOver(self.record.epoch, ours)]


class PromiseNotKept(_Planted):
    """Who has promised goes on adopting records of the old term."""

    def offer(self, record: TopologyRecord, signed: Any, now_s: float) -> list[TopologyEffect]:
        promised, self.promised = self.promised, None
        effects = super().offer(record, signed, now_s)
        self.promised = promised
        return effects

    @property
    def _may_step(self) -> bool:
        promised, self.promised = self.promised, None
        may = super()._may_step
        self.promised = promised
        return may


class NoPassByStayers(ReplicaMachine):
    """Members of both sets take no pass when the sets change."""

    def _start_pass(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        if self.node in sets.current:
            return [PassFinished(held.unit, sets.epoch)]
        return super()._start_pass(held, sets, now_s)


class PlantedNode(ReplicationNode):
    """A node with planted topology parts."""

    machine_class: type[_Planted] = _Planted

    def make_topology(self) -> TopologyMachine:
        right = super().make_topology()
        machine = self.machine_class(
            self.name, self.rng("planted"), kinds=right._kinds, config=right.config, peers=right._peers
        )
        machine.steps = self.machine_class.steps_class(self.name, right.config.steps)
        return machine


class StayersNode(ReplicationNode):
    """A node with a planted replica."""

    def make_replica(self) -> ReplicaMachine:
        config = ReplicaConfig(sync_interval_s=self.knobs.sync_interval_s, sync_units=2, bulk_by_messages=True)
        return NoPassByStayers(self.name, self.rng("replica"), config, self.stamp)


def _promoting(promotion: type[Promotion]) -> type[ReplicationNode]:
    machine = type(f"With{promotion.__name__}", (_Planted,), {"promotion_class": promotion})
    return type(f"Node{promotion.__name__}", (PlantedNode,), {"machine_class": machine})


def _stepping(steps: type[Steps]) -> type[ReplicationNode]:
    machine = type(f"With{steps.__name__}", (_Planted,), {"steps_class": steps})
    return type(f"Node{steps.__name__}", (PlantedNode,), {"machine_class": machine})


def _machine(machine: type[_Planted]) -> type[ReplicationNode]:
    return type(f"Node{machine.__name__}", (PlantedNode,), {"machine_class": machine})


SAFETY = ("(a)", "(b)", "(c)", "(d)", "(e)", "(f)", INCOMPLETE)
"""Rules that it may break; that something hangs does not count."""

PLANTED = {
    "promote without term": Planted(_machine(SameTerm), contested, SAFETY),
    "promote without survey": Planted(_promoting(OwnPromiseOnly), contested, SAFETY),
    "promote from the own record": Planted(_promoting(HighestForgotten), contested, SAFETY),
    "promise not kept": Planted(_machine(PromiseNotKept), contested, SAFETY),
    "dead node removed at once": Planted(_stepping(RemovedAtOnce), contested, SAFETY),
    "factor changed at once": Planted(_stepping(FactorAtOnce), operated, SAFETY),
    "the dead need not be asked": Planted(_stepping(VerdictVotes), contested, SAFETY),
    "no pass by stayers": Planted(StayersNode, operated, SAFETY),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_catches_each_error_of_the_topology(name: str) -> None:
    """Under its seed the planted error breaks a rule of safety, and the right machines break none."""
    assert_caught(name, PLANTED[name])

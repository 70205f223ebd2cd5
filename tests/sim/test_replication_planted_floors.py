"""Errors planted in clocks, floors, the freeing of tombstones and lost logs, each caught under a named seed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from planted import Planted, assert_caught

from frys_node.base.types import Consistency, NodeId
from frys_node.kernel.services.replication import Version
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication.effects import Effect, PassFinished, WriteDone
from frys_node.replication.hlc import HybridClock
from frys_node.replication.messages import PurgeReply, Sealed
from frys_node.replication.purge import Purger, Round, floor_at
from frys_node.replication.quorum import majority
from frys_node.replication.replica import ReplicaMachine
from frys_node.replication.unit import HeldUnit
from frys_node.testing.replica_desk import Desk, record_of
from frys_node.testing.replication_node import ReplicationNode
from frys_node.testing.replication_plan import evicting, losing, purging, targeted


class ByAge(Purger):
    """Every replica frees tombstones that are old enough, whatever the others hold."""

    def _take_turn(self, now_s: float) -> list[Effect]:
        floor = floor_at(self._wall_ms(), self._min_age_s)
        for held in self._table.units.values():
            held.drop(held.tombstones_below(floor))
        return []


class ByMajority(Purger):
    """A purge begins when a majority of the set agrees."""

    def receive(self, source: NodeId, reply: PurgeReply, now_s: float) -> list[Effect]:
        effects = super().receive(source, reply, now_s)
        found = self._rounds.get(reply.unit)
        if found is None or found.is_purging or not isinstance(reply, Sealed):
            return effects
        return effects + (self._compare(found, now_s) if len(found.answered) >= majority(len(found.members)) else [])


class Undigested(Purger):
    """A purge begins when all have sealed, whatever they hold."""

    def _compare(self, found: Round, now_s: float) -> list[Effect]:
        found.answered = dict.fromkeys(found.answered, b"")
        return super()._compare(found, now_s)


class OpenUnit(HeldUnit):
    """No write is too old, and nothing is dead."""

    __slots__ = ()

    def is_too_old(self, version: Version) -> bool:
        return False

    def alive(self, entries: Sequence[object]) -> Sequence[object]:  # type: ignore[override]
        return entries


class LeavesFloors(HeldUnit):
    """Who is filled takes the entries of its sources, and not what they have evicted."""

    __slots__ = ()

    def forget_evicted(self, listings: Iterable[object]) -> None:
        return


class WallClock(HybridClock):
    """Stamps are the wall clock's, whatever was stamped or met before."""

    def stamp(self, wall_ms: int) -> Version:
        self._counter += 1
        return Version(wall_ms, self._counter, self._node, self._boot)

    def observe(self, version: Version) -> None:
        return


class CountsAtOnce(ReplicaMachine):
    """A replica whose log is gone takes itself for new and empty."""

    def adopt(self, *args: object) -> list[Effect]:  # type: ignore[override]
        self.regain._has_lost_all = False
        return super().adopt(*args)  # type: ignore[arg-type]


class OneSource(ReplicaMachine):
    """A joiner's pass asks one source, and stayers take none."""

    def _start_pass(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        if self.node in sets.current:
            return [PassFinished(held.unit, sets.epoch)]
        return super()._start_pass(held, sets._replace(current=(NodeId("n3"),)), now_s)


class PurgerNode(ReplicationNode):
    """A node with a planted purger."""

    planted: type[Purger]

    def make_replica(self) -> ReplicaMachine:
        replica = super().make_replica()
        replica.purger.__class__ = self.planted
        return replica


class ReplicaNode(ReplicationNode):
    """A node with a planted replica."""

    planted: type[ReplicaMachine]

    def make_replica(self) -> ReplicaMachine:
        return self.new_replica(self.planted, super().make_replica().config)


class UnitNode(ReplicationNode):
    """A node whose units are planted ones."""

    planted: type[HeldUnit]

    def make_replica(self) -> ReplicaMachine:
        replica = super().make_replica()
        right = replica._hold

        def hold(*args: object, **kwargs: object) -> HeldUnit:
            held = right(*args, **kwargs)  # type: ignore[arg-type]
            held.__class__ = self.planted
            return held

        replica._hold = hold  # type: ignore[method-assign]
        return replica


class WallNode(ReplicationNode):
    """A node that stamps by its wall clock."""

    def make_clock(self) -> HybridClock:
        return WallClock(self.name, self.host.boot)


def _with(base: type[ReplicationNode], planted: type) -> type[ReplicationNode]:
    return type(f"Planted{planted.__name__}", (base,), {"planted": planted})


PLANTED = {
    "freed by age": Planted(_with(PurgerNode, ByAge), purging, ("(b)",)),
    "freed by a majority": Planted(_with(PurgerNode, ByMajority), purging, ("(a)", "(b)")),
    "freed without comparing": Planted(_with(PurgerNode, Undigested), purging, ("(a)", "(b)")),
    "no floors": Planted(_with(UnitNode, OpenUnit), purging, ("(b)",)),
    "floors of evictions stay behind": Planted(_with(UnitNode, LeavesFloors), evicting, ("(a)", "(b)")),
    "wall clock": Planted(WallNode, targeted, ("(c)", "(a)")),
    "a lost log counts at once": Planted(_with(ReplicaNode, CountsAtOnce), losing, ("(a)", "(b)")),
}


def _moved_with(joiner: type[ReplicaMachine]) -> bytes | None:
    """Return what a quorum reads after a move from n1-n3 to n3 and n4, of a write that n3 never got."""
    desk = Desk(4)
    desk.replicas[NodeId("n4")].__class__ = joiner
    desk.replicas[NodeId("n3")].__class__ = joiner
    old, new = ["n1", "n2", "n3"], ["n3", "n4"]
    desk.adopt(record_of(2, old))
    desk.cut = {("n1", "n3")}
    assert isinstance(desk.write("n1", b"v"), WriteDone)
    # The copy comes from n3, and the pass may ask anybody.
    desk.cut = {("n1", "n4"), ("n2", "n4")}
    desk.adopt(record_of(3, old, new, "joining"))
    desk.pass_time(2.0)
    desk.cut = set()
    desk.adopt(record_of(4, old, new, "joint"))
    desk.pass_time(2.0)
    desk.adopt(record_of(5, new))
    return desk.read("n4")


def test_one_source_and_no_pass_by_stayers_lose_a_write_that_a_fence_carries_over() -> None:
    """Rules 10 and 11, directed: random seeds see this once in hundreds of runs."""
    assert _moved_with(ReplicaMachine) == b"v"
    assert _moved_with(OneSource) is None


@pytest.mark.parametrize("seed", range(20))
def test_what_one_node_alone_acknowledged_outlives_its_planned_leave(seed: int) -> None:
    """Rule 10: a newcomer's pass waits for all that are there, in whatever order it asks them."""
    desk = Desk(4)
    for name, replica in desk.replicas.items():
        replica._puller._rng.seed(f"{seed}/{name}")
    old, new = ["n1", "n2", "n3"], ["n2", "n3", "n4"]
    desk.adopt(record_of(2, old))
    desk.cut = {("n1", "n2"), ("n1", "n3")}
    assert isinstance(desk.write("n1", b"v", consistency=Consistency.ONE), WriteDone)
    desk.cut = set()
    for number, phase in ((3, "joining"), (4, "joint")):
        desk.adopt(record_of(number, old, new, phase))
        desk.pass_time(2.0)
    desk.adopt(record_of(5, new))
    assert desk.read("n4") == b"v"


@pytest.mark.parametrize("name", PLANTED)
def test_the_checker_catches_each_error_of_floors_and_clocks(name: str) -> None:
    """Under its seed the planted error breaks the rule that it should, and the right machines break none."""
    assert_caught(name, PLANTED[name])

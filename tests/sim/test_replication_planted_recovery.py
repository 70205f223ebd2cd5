"""Errors planted in how units come back after an outage or a full disk, each caught under a named seed.

The first of them is a bug that was real and that only a human found: the refills of many units in memory filled the one
queue of pulls, and durable shards waited behind them for ever.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from planted import Planted, assert_caught

from frys_node.base.types import NodeId
from frys_node.kernel.services.replication import Version
from frys_node.kernel.services.topology import UnitSets
from frys_node.replication.effects import Effect
from frys_node.replication.frames import frames_of
from frys_node.replication.messages import PullReply
from frys_node.replication.pull import Purpose
from frys_node.replication.puller import PULLS_MAX, STARTS_MAX, Asked, Puller
from frys_node.replication.replica import ReplicaMachine
from frys_node.replication.unit import HeldUnit
from frys_node.testing.replication_node import ReplicationNode
from frys_node.testing.replication_pace import SeedPace
from frys_node.testing.replication_plan import crowded, forgetful

NODES = 5
OUTAGES = ("outages", 15.0, NODES)
CHAOS = ("chaos", 30.0, NODES)
"""Profile of faults, seconds of it, and the most nodes."""


class OneQueue(Puller):
    """Refills share the queue of all other pulls, keep their places, and leave it standing when given up."""

    def _wait_turn(self, asked: Asked, not_before_s: float) -> None:
        self._queue.append(asked)

    def _start_queued(self, now_s: float) -> list[Effect]:
        self._starts_left = PULLS_MAX
        return super()._start_queued(now_s)

    def receive(self, source: NodeId, reply: PullReply, now_s: float) -> list[Effect]:
        pull = self._pulls.get(reply.pull)
        if pull is not None and pull.purpose is Purpose.REFILL and not reply.is_complete:
            pull.silent_count = 0
            return []
        return super().receive(source, reply, now_s)

    def advance(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for pull in [pull for pull in self._pulls.values() if pull.retry_s <= now_s]:
            effects += self._ask(pull, now_s)
        return effects + (self._start_queued(now_s) if self._more_at_s <= now_s else [])

    def expire(self, purpose: Purpose, before_s: float, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        for takeover in [t for t in self._takeovers.values() if t.purpose is purpose and t.started_s <= before_s]:
            self.cancel(takeover.unit)
            effects += takeover.then(now_s)
        return effects


class AskedOnce(Puller):
    """A pull that hears nothing is not sent again."""

    def advance(self, now_s: float) -> list[Effect]:
        for pull in self._pulls.values():
            pull.retry_s = now_s + 3_600.0
        self._starts_left = STARTS_MAX
        return self._start_queued(now_s)


class PullerNode(ReplicationNode):
    """A node with a planted puller."""

    planted: type[Puller]

    def make_replica(self) -> ReplicaMachine:
        replica = super().make_replica()
        replica._puller = self.planted(replica.node, replica.table, replica._rng)
        return replica


class NoPatience(ReplicaMachine):
    """Units in memory wait for a complete member, however long."""

    def _start_refill(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        waiting_s = self.refill_at_s
        effects = super()._start_refill(held, sets, now_s)
        self.refill_at_s = waiting_s
        return effects


class _NoFloorUnit(HeldUnit):
    """A unit that started empty reads as if it had never held anything."""

    __slots__ = ()

    def raise_floor(self, floor: Version) -> None:
        return


class NoFloor(ReplicaMachine):
    """A unit in memory that starts empty refuses nothing that comes back."""

    def _start_refill(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        held.__class__ = _NoFloorUnit
        return super()._start_refill(held, sets, now_s)


class OnlyBehind(ReplicaMachine):
    """Nobody is asked for what was missed while away."""

    def _start_catch_up(self, held: HeldUnit, sets: UnitSets, now_s: float) -> list[Effect]:
        return []


class ReplicaNode(ReplicationNode):
    """A node with a planted replica."""

    planted: type[ReplicaMachine]

    def make_replica(self) -> ReplicaMachine:
        return self.new_replica(self.planted, super().make_replica().config)


class TornGroup(ReplicationNode):
    """The last group of the log is taken for a torn one at each start."""

    def start(self, now_s: float) -> Sequence[object]:  # type: ignore[override]
        path = self.log._path("log", 0)
        data = self.host.disk.read(path) or b""
        groups = [frame.start for frame in frames_of(data) if frame.sections]
        if groups:
            self.host.disk.truncate(path, groups[-1])
        return super().start(now_s)


class RefusedIsDone(ReplicationNode):
    """A group of the log that a full disk refused counts as durable, and the replica takes more."""

    def _refused(self, now_s: float) -> None:
        done, self._syncing = self._syncing, []
        self.replica.disk_refusal = ""
        for persist in done:
            self._perform(self.replica.persisted(persist.token, now_s), now_s)


class NeverPaid(SeedPace):
    """A source that gives at a rate has never been paid for what it gave first."""

    def may_give(self) -> bool:
        return self._out.busy_s(0.0) == 0


class NeverPaidNode(ReplicationNode):
    """A node whose copies, and those from it, do not get on."""

    def make_pace(self, kind: type[SeedPace]) -> SeedPace:
        del kind
        return super().make_pace(NeverPaid)


def _with(base: type[ReplicationNode], planted: type) -> type[ReplicationNode]:
    return type(f"Planted{planted.__name__}", (base,), {"planted": planted})


PLANTED = {
    "refills fill the one queue": Planted(_with(PullerNode, OneQueue), crowded, ("(l)",), *OUTAGES),
    "pulls are sent once": Planted(_with(PullerNode, AskedOnce), crowded, ("(l)",), *OUTAGES),
    "refills wait for ever": Planted(_with(ReplicaNode, NoPatience), None, ("(l)",), *OUTAGES),
    "a unit that starts empty has no floor": Planted(_with(ReplicaNode, NoFloor), forgetful, ("(a)", "(b)"), *CHAOS),
    "nobody is asked what was missed": Planted(_with(ReplicaNode, OnlyBehind), crowded, ("(l)",), *OUTAGES),
    "a refused group is acknowledged": Planted(RefusedIsDone, None, ("(a)", "(b)", "(c)", "(f)", "(g)"), *CHAOS),
    "a rate is never paid": Planted(NeverPaidNode, crowded, ("(g)", "(l)"), *CHAOS),
    "the last group is cut": Planted(TornGroup, None, ("(a)", "(b)", "(c)", "(f)", "(g)"), *OUTAGES),
}


@pytest.mark.parametrize("name", PLANTED)
def test_the_scenario_catches_each_error_of_recovery(name: str) -> None:
    """Under its seed the planted error breaks the rule that it should, and the right machines break none."""
    assert_caught(name, PLANTED[name])

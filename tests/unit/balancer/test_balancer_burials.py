"""Whom the issuer takes for dead: those that membership has buried, and those that nobody remembers."""

from __future__ import annotations

from typing import cast

from balancer.issuer_driver import UNMET_S, Burials
from balancer.record import STABLE
from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Condition, Members, MemberView, Status
from frys_node.testing.clock import FakeClock
from tests.unit.balancer.topology_rig import N1, N2, N3, N4, N5, record

NOWHERE = Address("10.0.0.1", 7946)


class House:
    """An issuer's view of its cluster, of four on the ring."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.views: dict[NodeId, MemberView] = {}
        self.record = record(1, STABLE, [N1, N2, N3, N4])
        self.see(N1)
        members = cast("Members", self)
        self.burials = Burials(members, FakeClock(source=lambda: self.now_s), lambda: self.record)

    def see(self, node: NodeId, status: Status = Status.ALIVE, condition: Condition = Condition.OK) -> None:
        """Have a member seen so."""
        self.views[node] = MemberView(
            name=node, id=node, address=NOWHERE, status=status, condition=condition, incarnation=0, boot=1, tags={}
        )

    def all(self) -> list[MemberView]:
        """As of `Members`."""
        return list(self.views.values())

    def dead(self, now_s: float) -> list[NodeId]:
        """Who is dead at a time."""
        self.now_s = now_s
        return self.burials.of(N1)


def test_whoever_is_on_the_ring_and_forgotten_is_dead_after_a_while() -> None:
    """All others were restarted, so gossip knows nothing of the dead one: it is removed all the same one day."""
    house = House()
    house.see(N2)
    house.see(N3, Status.DEAD)
    assert house.dead(1.0) == [N3]
    assert house.dead(0.9 + UNMET_S) == [N3]
    assert house.dead(1.0 + UNMET_S) == [N3, N4]
    house.see(N4)
    assert house.dead(2.0 + UNMET_S) == [N3]


def test_whoever_joins_the_ring_has_its_own_time_to_be_met() -> None:
    """An issuer that has run for long may hear of a newcomer by gossip after it is on the ring."""
    house = House()
    for node in (N2, N3, N4):
        house.see(node)
    assert house.dead(1.0) == []
    house.record = record(2, STABLE, [N1, N2, N3, N4, N5])
    assert house.dead(9.0 * UNMET_S) == []
    assert house.dead(9.9 * UNMET_S) == []
    assert house.dead(10.0 * UNMET_S) == [N5]


def test_whoever_hears_nobody_buries_nobody() -> None:
    """Alone after a start, or isolated, an issuer cannot tell who is gone; time counts from the first that it hears."""
    house = House()
    assert house.dead(5.0 * UNMET_S) == []
    house.see(N2)
    assert house.dead(6.0 * UNMET_S) == []
    house.see(N1, condition=Condition.ISOLATED)
    assert house.dead(9.0 * UNMET_S) == []
    house.see(N1)
    assert house.dead(9.0 * UNMET_S) == [N3, N4]

"""What the tests of the machine share: a node with made-up neighbours, fed by hand and driven through its deadlines."""

from __future__ import annotations

import random
from collections.abc import Iterable

from frys_node.base.types import Address, NodeId
from frys_node.kernel.services.members import Status
from membership.config import MembershipConfig, for_profile
from membership.effects import Effect, SendPacket
from membership.machine import NOBODY, Membership
from membership.member import make_attributes
from membership.messages import PACKETS, Packet, Standing, Sync, Update

BOOT = 5
ME, B, C, D = (NodeId(f"{letter:a>32}") for letter in "0123")
CONFIG = for_profile("lan")


def address(node: NodeId) -> Address:
    """Where a test node is."""
    return Address(f"10.0.0.{node[-1]}", 7946)


def claim(
    node: NodeId,
    standing: Standing = Standing.ALIVE,
    incarnation: int = 0,
    boot: int = BOOT,
    accuser: NodeId = NOBODY,
    age_s: int = 0,
) -> Update:
    """Make a claim about a test node."""
    return Update(node, boot, incarnation, standing, make_attributes(node[-1], address(node)), accuser, age_s)


def machine(*others: NodeId, config: MembershipConfig = CONFIG) -> Membership:
    """Make a machine that knows others alive, with its first news sent."""
    made = Membership(
        node=ME,
        boot=BOOT,
        attributes=make_attributes("0", address(ME)),
        config=config,
        rng=random.Random(1),
        now_s=0.0,
    )
    if others:
        made.merge_sync(Sync(tuple(claim(node) for node in others)), others[0], 0.0)
    return made


def hear(m: Membership, message: Packet, source: NodeId = B, now_s: float = 0.1, boot: int = BOOT) -> list[Effect]:
    """Give the machine a packet."""
    return m.receive(PACKETS.encode(message), source, address(source), now_s, source_boot=boot)


def sent(effects: Iterable[Effect]) -> list[tuple[Address, Packet]]:
    """Decode what was sent."""
    return [(e.address, PACKETS.decode(e.payload)) for e in effects if isinstance(e, SendPacket)]


def run_to(m: Membership, until_s: float) -> list[Effect]:
    """Advance the machine through its deadlines."""
    effects: list[Effect] = []
    while m.next_deadline_s <= until_s:
        effects += m.advance(m.next_deadline_s)
    return effects


def status(m: Membership, node: NodeId) -> Status:
    """What the machine says of a member."""
    view = m.view(node)
    assert view is not None
    return view.status


def own(m: Membership) -> int:
    """The machine's own incarnation."""
    view = m.view(ME)
    assert view is not None
    return view.incarnation

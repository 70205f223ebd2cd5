"""Encodes messages for the wire and fills what room a packet has left with news.

Sans-I/O. Every packet of SWIM carries updates; this is where they get on, within the packet's budget.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from frys_node.base.types import Address, NodeId
from membership.briefs import BRIEFS, brief_of
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.dissemination import transmit_limit
from membership.effects import SendPacket
from membership.messages import PACKET_NAMES, PACKETS, UPDATES, UPDATES_MAX, Brief, Gossip, Packet, Update
from membership.packing import pack

INTRODUCTIONS_SHARE = 50
"""Percent of a packet of gossip that newcomers' voices may take before claims, which are worth nothing without."""

ARRAY_BYTES = 3
"""What a list costs beyond an empty one, at most."""


class Outbox:
    """Sends for one node."""

    __slots__ = ("_claims", "_config", "_sequence")

    def __init__(self, claims: Claims, config: MembershipConfig) -> None:
        self._claims = claims
        self._config = config
        self._sequence = 0

    def next_sequence(self) -> int:
        """Return a number that no packet of this boot has had."""
        self._sequence += 1
        return self._sequence

    def next_word(self) -> int:
        """Return a number that is greater than all that this node has given its testimony, in earlier boots as well.

        A boot id leaves room for all the packets of that boot (`frys_node.secure.stored.next_boot`).
        """
        return self._claims.boot + self.next_sequence()

    def send_to(self, node: NodeId, message: Packet, first: Sequence[Update]) -> None:
        """Send to a member; nothing happens if it is unknown."""
        member = self._claims.table.get(node)
        if member is not None:
            self.send(member.address, message, first, is_short=member.is_acquainted)

    def send(self, address: Address, message: Packet, first: Sequence[Update], *, is_short: bool = False) -> None:
        """Send a message with the updates that it should bring, and as many of the queued ones as fit.

        A packet of gossip fills what is left with rumours, unless it brings its own. The short header is for those who
        know this node, and for answers to packets that had it.
        """
        claims, config = self._claims, self._config
        payload = PACKETS.encode(message)
        limit = transmit_limit(config.retransmit_multiplier, len(claims.table.live) + 1)
        if isinstance(message, Gossip) and not message.rumours and claims.rumours.queue.is_introducing:
            budget = config.payload_bytes_max * INTRODUCTIONS_SHARE // 100
            message = replace(message, rumours=claims.rumours.queue.take(budget, limit, UPDATES_MAX, "introduction"))
            payload = PACKETS.encode(message)
        if first or len(claims.queue):
            fitting, budget = self._fitting(first, config.payload_bytes_max - len(payload) - 2 * ARRAY_BYTES)
            skip = tuple(claim.node for claim in fitting)
            fitting += claims.queue.take(budget, limit, UPDATES_MAX - len(fitting), skip)
            briefs = tuple(claim for claim in fitting if isinstance(claim, Brief))
            updates = tuple(claim for claim in fitting if isinstance(claim, Update))
            message = replace(message, updates=updates, briefs=briefs)
            payload = PACKETS.encode(message)
            for _ in briefs:
                claims.tallies.add(claims.tallies.oversized, "brief")
        if isinstance(message, Gossip) and not message.rumours and len(claims.rumours.queue):
            budget = config.payload_bytes_max - len(payload) - ARRAY_BYTES
            rumours = claims.rumours.queue.take(budget, limit, UPDATES_MAX)
            payload = PACKETS.encode(replace(message, rumours=rumours))
        claims.tallies.add(claims.tallies.packets, "sent", PACKET_NAMES[type(message)])
        claims.out.append(SendPacket(address, pack(payload, config.compress_above_bytes), is_short))

    def _fitting(self, updates: Sequence[Update], budget_bytes: int) -> tuple[list[Update | Brief], int]:
        """Return the updates as they fit, whole or brief, and what room is left."""
        fitting: list[Update | Brief] = []
        for update in updates:
            claim: Update | Brief = update
            size_bytes = len(UPDATES.encode(update))
            if size_bytes > budget_bytes:
                claim = brief_of(update)
                size_bytes = len(BRIEFS.encode(claim))
            if size_bytes <= budget_bytes:
                budget_bytes -= size_bytes
                fitting.append(claim)
            else:
                self._claims.tallies.add(self._claims.tallies.oversized, "left_out")
        return fitting, budget_bytes

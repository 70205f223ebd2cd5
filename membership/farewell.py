"""Saying goodbye: a leave is told to a few members, again and again, until one of them has acknowledged it.

Sans-I/O.
"""

from __future__ import annotations

import random

from membership.claims import Claims
from membership.config import MembershipConfig
from membership.messages import Ping
from membership.outbox import Outbox

SEQUENCES_MAX = 64
"""Goodbyes whose acknowledgement is waited for; with more than that all are forgotten and begun anew."""


class Farewell:
    """The goodbye of one node."""

    __slots__ = ("_claims", "_config", "_outbox", "_rng", "_sequences")

    def __init__(self, claims: Claims, outbox: Outbox, config: MembershipConfig, rng: random.Random) -> None:
        self._claims = claims
        self._outbox = outbox
        self._config = config
        self._rng = rng
        self._sequences: dict[int, None] = {}

    @property
    def is_under_way(self) -> bool:
        """True while nobody has acknowledged."""
        return bool(self._sequences)

    def say(self) -> None:
        """Ping a few members with the news that this node leaves; any ack will do."""
        if len(self._sequences) > SEQUENCES_MAX:
            self._sequences.clear()
        for node in self._claims.table.live.sample(self._rng, self._config.gossip_fanout):
            sequence = self._outbox.next_sequence()
            self._sequences[sequence] = None
            self._outbox.send_to(node, Ping(sequence, node), (self._claims.own,))

    def take_ack(self, sequence: int) -> bool:
        """Return True if the ack is for a goodbye: it has been heard, and need not be said again."""
        if sequence not in self._sequences:
            return False
        self._sequences.clear()
        return True

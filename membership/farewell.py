"""Saying goodbye: a leave is told to every member, and to each again until it has acknowledged it or was told enough.

Sans-I/O. Gossip alone misses one member in a few thousand leaves, and that one would call the leaver dead. As long as
nobody at all has acknowledged, the goodbye goes on.
"""

from __future__ import annotations

import random
from itertools import islice

from msgspec.structs import replace

from frys_node.base.types import NodeId
from membership.claims import Claims
from membership.config import MembershipConfig
from membership.effects import LeaveAcknowledged
from membership.messages import Ping, Standing, raised
from membership.outbox import Outbox

TOLD_AT_ONCE = 64
"""Members told per round of gossip: their acknowledgements must fit into a socket's buffer."""

TOLD_MAX = 3
"""Times that a member is told at most, once somebody has acknowledged; gossip tells it, too."""

SEQUENCES_MAX = 1_024
"""Goodbyes whose acknowledgement is waited for; the oldest make room."""


class Farewell:
    """The goodbye of one node."""

    __slots__ = ("_claims", "_config", "_is_awaited", "_outbox", "_rng", "_sequences", "_untold")

    def __init__(self, claims: Claims, outbox: Outbox, config: MembershipConfig, rng: random.Random) -> None:
        self._claims = claims
        self._outbox = outbox
        self._config = config
        self._rng = rng
        self._untold: dict[NodeId, int] = {}
        """Who has not acknowledged, and how often it was told; those told least come first."""
        self._sequences: dict[int, NodeId] = {}
        self._is_awaited = False
        """True while nobody has acknowledged."""

    @property
    def is_under_way(self) -> bool:
        """True while there is somebody to tell."""
        return self._is_awaited or bool(self._untold)

    def begin(self, now_s: float) -> None:
        """Leave, and begin to tell everybody. Nobody is accused from now on, and nothing is refuted."""
        claims, live = self._claims, self._claims.table.live
        claims.is_leaving = True
        claims.suspicions.clear()
        claims.merge(replace(raised(claims.own, claims.own.incarnation), standing=Standing.LEFT), now_s)
        self._untold = dict.fromkeys(live.sample(self._rng, len(live)), 0)
        self._is_awaited = bool(self._untold)
        self.say()
        if not live:
            claims.out.append(LeaveAcknowledged(claims.node))

    def say(self) -> None:
        """Ping some members with the news that this node leaves; any ack will do."""
        live = self._claims.table.live
        some = list(islice(self._untold.items(), TOLD_AT_ONCE))
        for node, times in some:
            del self._untold[node]
            if node in live:
                if times + 1 < TOLD_MAX:
                    self._untold[node] = times + 1
                self._tell(node)
        if not some:
            for node in live.sample(self._rng, self._config.gossip_fanout):
                self._tell(node)

    def _tell(self, node: NodeId) -> None:
        sequence = self._outbox.next_sequence()
        self._sequences[sequence] = node
        if len(self._sequences) > SEQUENCES_MAX:
            del self._sequences[next(iter(self._sequences))]
        self._outbox.send_to(node, Ping(sequence, node), (self._claims.own,))

    def take_ack(self, sequence: int) -> None:
        """Take an ack. The first one of a goodbye says that the leave is known, whatever happens now."""
        node = self._sequences.pop(sequence, None)
        if node is None:
            return
        self._untold.pop(node, None)
        if self._is_awaited:
            self._is_awaited = False
            self._claims.out.append(LeaveAcknowledged(node))

"""Trying again those who were lost: dead members, and peers that this node remembers and has not met.

Sans-I/O. One is tried per interval, so that a partition heals by itself at no cost; several while this node is alone. A
return from the dead says that a partition may be healing, so for a while the others are tried in haste.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from membership.claims import Claims
from membership.config import MembershipConfig
from membership.effects import Peer, PushPull
from membership.messages import Ping
from membership.outbox import Outbox
from membership.peers import lost_peers, pick
from membership.timers import Timers

FANOUT = 8
"""Peers tried at once when joining, alone or in haste."""

HASTE_S = 2.0
"""For so long after somebody's return from the dead others that are lost are tried in haste."""

HASTE_INTERVAL_S = 0.5
"""Pause between tries in haste."""


class Reunion:
    """The search of one node."""

    __slots__ = ("_claims", "_config", "_hasty_until_s", "_outbox", "_rng", "_timers")

    def __init__(
        self, claims: Claims, outbox: Outbox, timers: Timers, config: MembershipConfig, rng: random.Random
    ) -> None:
        self._claims = claims
        self._outbox = outbox
        self._timers = timers
        self._config = config
        self._rng = rng
        self._hasty_until_s = -math.inf

    def join(self, peers: Sequence[Peer], now_s: float) -> None:
        """Remember peers and try some of them at once; the others follow until somebody answers."""
        claims = self._claims
        own = claims.own.attributes.address
        for peer in peers:
            member = claims.table.get(peer.node)
            if peer.node != claims.node and peer.address != own and (member is None or not member.is_live):
                claims.unmet.add(peer)
        self.advance(now_s)

    def hasten(self, now_s: float) -> None:
        """Somebody is back from the dead: perhaps a partition heals, and the others that were lost are back too."""
        self._hasty_until_s = now_s + HASTE_S
        self._timers.reconnect_s = min(self._timers.reconnect_s, now_s + self._config.gossip_interval_s / 4)

    def advance(self, now_s: float) -> None:
        """Try somebody who was lost or has not been met."""
        claims, config = self._claims, self._config
        is_hasty = now_s < self._hasty_until_s
        interval_s = min(HASTE_INTERVAL_S if is_hasty else math.inf, config.reconnect_interval_s)
        self._timers.reconnect_s = now_s + interval_s * self._rng.uniform(0.9, 1.1)
        if claims.is_leaving:
            return
        is_alone = not len(claims.table.live)
        count = FANOUT if is_alone or is_hasty else 1
        for peer in pick(self._rng, lost_peers(claims.table, claims.unmet), count):
            if is_alone and peer.node:
                claims.out.append(PushPull(peer.node, peer.address))
            self._outbox.send(peer.address, Ping(self._outbox.next_sequence(), peer.node), claims.about(peer.node))

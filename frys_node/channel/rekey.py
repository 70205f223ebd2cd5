"""Fresh keys for connections that stand for long: make before break.

Python cannot ask OpenSSL for a key update, so whoever dialled a connection makes another one to the same node when that
has carried `after_bytes` or stood for `after_s`. That is a whole handshake: fresh keys, certificates as they are now,
and the gate again, which knows who was expelled meanwhile. New calls move over at once, calls under way end where they
began, and notes keep their order (`succession`). Nobody is told that a connection has ended: the node stays connected.

Whoever was dialled does not rely on it: a connection half as far again over this node's own thresholds takes no new
calls any more, and neither does one whose other side showed a certificate that is past its grace by now. The next call
either way makes a new one.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable

import trio

from frys_node.base.errors import FrysError
from frys_node.base.types import Address, NodeId
from frys_node.channel.connection import REPLACED_DRAIN_S, Connection
from frys_node.channel.messages import OVERDUE
from frys_node.channel.peers import Peers
from frys_node.observe.metrics import Metrics
from frys_node.secure.errors import HandshakeRefused

AFTER_BYTES = 64 << 30
AFTER_S = 3_600.0
JITTER = 0.2
"""Each connection has its thresholds up to this share higher or lower, so that they do not come all at once."""

LOOK_MAX_S = 60.0
LOOK_MIN_S = 0.05
"""Pauses between looks at the connections; short ones go with low thresholds."""

FASTEST_BYTES_S = 2 << 30
"""More than a connection carries in a second: how soon a threshold may be passed."""

RETRY_MAX_S = 60.0
"""Longest pause after an attempt that failed; the connection that stands goes on meanwhile."""

PATIENCE = 1.5
"""Times the thresholds after which whoever was dialled no longer relies on the other side."""

OVERDUE_S = 10.0
"""How long it goes on waiting from there, since much is carried from one look to the next; two looks at least."""

AT_ONCE_MAX = 4
"""Handshakes for fresh keys under way at once."""

DRAINING_MAX = 4
"""Replaced connections to one node that calls may hold open; the next replacement waits for one to end."""

FATAL = frozenset({"chain", "eku", "expired", "san"})
"""Refusals by this node's gate after which the old connection must not stand either."""

log = logging.getLogger(__name__)


class Rekeying:
    """Replaces the connections that this node has dialled; one task."""

    def __init__(
        self,
        peers: Peers,
        dial: Callable[[NodeId, Address], Awaitable[object]],
        rng: random.Random,
        metrics: Metrics,
        *,
        is_over: Callable[[Connection], bool],
        after_bytes: int = AFTER_BYTES,
        after_s: float = AFTER_S,
    ) -> None:
        """A threshold of 0 is off; `is_over` says whether the other side's certificate is past its grace."""
        self._is_over = is_over
        self._peers = peers
        self._dial = dial
        self._rng = rng
        self._after_bytes = after_bytes
        self._after_s = after_s
        self._shares: dict[Connection, float] = {}
        self._retry_s: dict[NodeId, float] = {}
        self._over_s: dict[Connection, float] = {}
        """When accepted connections were first seen over their thresholds."""
        self._under_way: set[NodeId] = set()
        self._count = metrics.counter(
            "frys_channel_rekeys_total", "Connections replaced to have fresh keys, by outcome.", ("outcome",)
        )

    @property
    def _look_s(self) -> float:
        soonest_s = [self._after_s / 20.0] * (self._after_s > 0)
        soonest_s += [self._after_bytes / FASTEST_BYTES_S] * (self._after_bytes > 0)
        return min(LOOK_MAX_S, max(LOOK_MIN_S, min(soonest_s, default=LOOK_MAX_S)))

    async def run(self) -> None:
        """Look at the connections now and then, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(self._look_s)
                kept = self._peers.all()
                self._shares = {held: self._shares.get(held) or self._share() for held in kept}
                self._retry_s = {held.node: self._retry_s.get(held.node, 0.0) for held in kept}
                self._over_s = {held: self._over_s[held] for held in kept if held in self._over_s}
                for connection in kept:
                    if self._is_overdue(connection):
                        self._count.inc("overdue")
                        log.info("channel.connection_overdue", extra={"peer": connection.node})
                        connection.drain(OVERDUE, REPLACED_DRAIN_S)
                    elif self._is_due(connection) and len(self._under_way) < AT_ONCE_MAX:
                        self._under_way.add(connection.node)
                        nursery.start_soon(self._replace, connection)

    def _share(self) -> float:
        return self._rng.uniform(1.0 - JITTER, 1.0 + JITTER)

    def due_in_s(self, connection: Connection) -> float | None:
        """Seconds until a connection is replaced for its age; None if not by this node."""
        if not self._after_s or not connection.dialled:
            return None
        share = self._shares.get(connection, 1.0)
        return max(0.0, connection.since_s + self._after_s * share - trio.current_time())

    def _is_due(self, connection: Connection) -> bool:
        node, now_s = connection.node, trio.current_time()
        if not connection.dialled or not connection.is_usable or node in self._under_way or now_s < self._retry_s[node]:
            return False
        share = self._shares[connection]
        is_worn = 0 < self._after_bytes * share <= connection.bytes_moved
        is_old = 0 < self._after_s * share <= now_s - connection.since_s
        if not (is_worn or is_old or self._is_over(connection)):
            return False
        return sum(held.node == node for held in self._peers.open()) <= DRAINING_MAX

    def _is_overdue(self, connection: Connection) -> bool:
        """True for a connection that was accepted here and that the other side ought to have replaced."""
        if connection.dialled or not connection.is_usable:
            return False
        now_s = trio.current_time()
        is_worn = 0 < PATIENCE * self._after_bytes <= connection.bytes_moved
        is_old = 0 < PATIENCE * self._after_s <= now_s - connection.since_s
        if not (is_worn or is_old or self._is_over(connection)):
            return False
        return now_s - self._over_s.setdefault(connection, now_s) >= max(OVERDUE_S, 2 * self._look_s)

    async def _replace(self, connection: Connection) -> None:
        node = connection.node
        address = self._peers.address(node)
        outcome = "kept"
        try:
            if address is not None:
                await self._dial(node, address)
                outcome = "kept" if self._peers.find(node) is connection else "done"
        except FrysError as error:
            outcome = "failed"
            log.info("channel.rekey_failed", extra={"peer": node, "error": error.message})
            if isinstance(error, HandshakeRefused) and error.reason in FATAL:
                # What may not be made anew may not stand either.
                connection.drain("refused")
        finally:
            self._under_way.discard(node)
        if outcome != "done":
            pause_s = min(RETRY_MAX_S, max(self._look_s, self._after_s / 10.0 if self._after_s else RETRY_MAX_S))
            self._retry_s[node] = trio.current_time() + pause_s
        self._count.inc(outcome)
        log.debug("channel.rekeyed", extra={"peer": node, "outcome": outcome})

"""Peers that this node has been told of or remembers, and has not met since its start.

Sans-I/O. Together with the dead members they are tried again and again, so that a partition heals, and a cluster that
was wholly down finds itself again even though everybody's peers looked failed for a while.
"""

from __future__ import annotations

import random

from frys_node.base.types import Address, NodeId
from membership.effects import Peer
from membership.messages import Standing
from membership.table import Table

UNMET_MAX = 1_024
"""Remembered peers that have not been met; the oldest make room."""

INTRODUCED_MAX = 1_024
"""Nodes whose last state exchange is remembered; the oldest make room."""


class Unmet:
    """Peers by address, in order of arrival."""

    __slots__ = ("_peers",)

    def __init__(self) -> None:
        self._peers: dict[Address, Peer] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, peer: Peer) -> None:
        """Remember a peer; one with a node id replaces one without."""
        known = self._peers.get(peer.address)
        if known is None or not known.node:
            self._peers[peer.address] = peer
        while len(self._peers) > UNMET_MAX:
            del self._peers[next(iter(self._peers))]

    def met(self, node: NodeId, address: Address) -> None:
        """Forget a peer that has become a member, or is this node itself."""
        if self._peers:
            self._peers = {a: p for a, p in self._peers.items() if a != address and p.node != node}

    def all(self) -> list[Peer]:
        """Return them, oldest first."""
        return list(self._peers.values())


class Introductions:
    """Lets each node be asked for its whole state at most once per interval."""

    __slots__ = ("_interval_s", "_last_s")

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._last_s: dict[NodeId, float] = {}

    def may(self, node: NodeId, now_s: float) -> bool:
        """Return True, and remember it, if the node was not asked within the interval."""
        last_s = self._last_s.pop(node, None)
        is_due = last_s is None or now_s - last_s >= self._interval_s
        self._last_s[node] = now_s if is_due or last_s is None else last_s
        if len(self._last_s) > INTRODUCED_MAX:
            del self._last_s[next(iter(self._last_s))]
        return is_due


def lost_peers(table: Table, unmet: Unmet) -> list[Peer]:
    """Return whom to try again: dead members, then peers not met."""
    return [Peer(m.node, m.address) for m in table if m.standing is Standing.DEAD] + unmet.all()


def peers_to_keep(self_id: NodeId, table: Table, unmet: Unmet, count_max: int) -> tuple[Peer, ...]:
    """Return the peers worth keeping on disk: live ones first, then failed ones, then those not met; none that left."""
    members = [m for m in table.sorted() if m.node != self_id and m.standing is not Standing.LEFT]
    kept = [Peer(m.node, m.address) for m in members if m.is_live]
    kept += [Peer(m.node, m.address) for m in members if not m.is_live]
    return tuple((kept + unmet.all())[:count_max])


def pick(rng: random.Random, peers: list[Peer], count: int) -> list[Peer]:
    """Return up to `count` of the peers at random."""
    return rng.sample(peers, min(count, len(peers)))

"""The member table: the greatest claim per node, and who is live.

Sans-I/O. `merge` is a join (see `membership.member`): tables that have merged the same claims in any order and any
number of times hold the same. Nothing here speaks or waits.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator
from functools import lru_cache
from typing import NamedTuple

from msgspec.structs import replace

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import is_short_for
from membership.circle import Circle
from membership.member import Member, supersedes
from membership.messages import UPDATES, Attributes, Standing, Update

FINGERPRINTS_MAX = 1_024
"""Fingerprints kept in memory; a member's is wanted again whenever it is suspected or cleared."""


class Roster:
    """A set of node ids in a definite order, with removal and fair sampling in constant time."""

    __slots__ = ("_index", "_nodes")

    def __init__(self) -> None:
        self._nodes: list[NodeId] = []
        self._index: dict[NodeId, int] = {}

    def __len__(self) -> int:
        return len(self._nodes)

    def __iter__(self) -> Iterator[NodeId]:
        return iter(self._nodes)

    def __contains__(self, node: NodeId) -> bool:
        return node in self._index

    def add(self, node: NodeId) -> None:
        """Add a node; nothing happens if it is in."""
        if node not in self._index:
            self._index[node] = len(self._nodes)
            self._nodes.append(node)

    def discard(self, node: NodeId) -> None:
        """Remove a node; nothing happens if it is not in."""
        index = self._index.pop(node, None)
        if index is None:
            return
        last = self._nodes.pop()
        if last != node:
            self._nodes[index] = last
            self._index[last] = index

    def sample(self, rng: random.Random, count: int, exclude: Collection[NodeId] = ()) -> list[NodeId]:
        """Return up to `count` distinct nodes, each choice equally likely, none of the excluded."""
        if count + len(exclude) >= len(self._nodes) // 2:
            pool = [node for node in self._nodes if node not in exclude]
            return rng.sample(pool, min(count, len(pool)))
        # Rejection costs O(count); building the pool would cost O(members) for every round of gossip.
        chosen: dict[NodeId, None] = {}
        while len(chosen) < count:
            node = self._nodes[rng.randrange(len(self._nodes))]
            if node not in exclude:
                chosen[node] = None
        return list(chosen)


def fingerprint(update: Update) -> int:
    """Return 64 bits that stand for what a live member says of itself. A suspicion does not change them."""
    return _fingerprint(update.node, update.boot, update.incarnation, update.attributes)


@lru_cache(maxsize=FINGERPRINTS_MAX)
def _fingerprint(node: NodeId, boot: int, incarnation: int, attributes: Attributes) -> int:
    # Each suspicion takes a member's fingerprint out of the digest and puts the same one back.
    claim = UPDATES.encode(Update(node, boot, incarnation, Standing.ALIVE, attributes))
    return int.from_bytes(hashlib.blake2b(claim, digest_size=8).digest(), "big")


class Merge(NamedTuple):
    """A claim that won: what it replaced (None for a new node) and the member as it is now."""

    old: Update | None
    member: Member


class Table:
    """Every member known to one node, that node included."""

    __slots__ = ("_members", "_self_id", "circle", "counts", "digest", "live")

    def __init__(self, self_id: NodeId) -> None:
        self._self_id = self_id
        self._members: dict[NodeId, Member] = {}
        self.live = Roster()
        """The others that are alive or suspect."""
        self.circle = Circle(self_id)
        """The same and this node, by id: who watches whom."""
        self.counts = dict.fromkeys(Standing, 0)
        """Members by standing, this node included."""
        self.digest = 0
        """Exclusive or of the fingerprints of all live members: equal tables have equal digests, in any order.

        The dead and the left are not part of it, because each node forgets them in its own time."""

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, node: NodeId) -> Member | None:
        """Return the member, or None if it is unknown."""
        return self._members.get(node)

    def trip_s(self, node: NodeId, unknown_s: float) -> float:
        """Return what one round trip to a node takes at most; `unknown_s` if none has been measured."""
        member = self._members.get(node)
        return unknown_s if member is None else member.vitals.trip_s(unknown_s)

    def has_other_at(self, member: Member) -> bool:
        """Return True if another one lives at the member's address by now: its port says nothing of the member."""
        return any(m.address == member.address and m.node != member.node and m.is_live for m in self)

    def named(self, name: str) -> list[Member]:
        """Return the members of that name or id; if there are none, those whose id begins so."""
        found = [m for m in self._members.values() if name in (m.update.attributes.name, m.node)]
        return found or [m for m in self._members.values() if is_short_for(name, m.node)]

    def sorted(self) -> list[Member]:
        """Return the members by name, then id."""
        return sorted(self._members.values(), key=lambda member: (member.update.attributes.name, member.node))

    def piece(self, after: NodeId, count_max: int, now_s: float) -> tuple[tuple[Update, ...], bool]:
        """Return the claims about members beyond `after`, in order of id, and whether there are more."""
        members = sorted((m for m in self if m.node > after), key=lambda member: member.node)
        return tuple(member.aged(now_s) for member in members[:count_max]), len(members) > count_max

    def merge(self, update: Update, now_s: float) -> Merge | None:
        """Take a claim; returns None if it says nothing newer than what is held."""
        member = self._members.get(update.node)
        changed_s = now_s - update.age_s
        if update.age_s:
            update = replace(update, age_s=0)
        if member is None:
            old = None
            member = self._members[update.node] = Member(update, changed_s)
        elif supersedes(update, member.update):
            old = member.update
            self.counts[old.standing] -= 1
            if member.is_live:
                self.digest ^= fingerprint(old)
            member.update = update
            member.changed_s = changed_s
            if old.boot != update.boot:
                self.circle.version += 1
        else:
            return None
        self.counts[update.standing] += 1
        if member.is_live:
            self.digest ^= fingerprint(update)
        if update.node != self._self_id:
            if member.is_live:
                self.live.add(update.node)
                self.circle.add(update.node)
            else:
                self.live.discard(update.node)
                self.circle.discard(update.node)
        return Merge(old, member)

    def forget(self, node: NodeId) -> None:
        """Drop a member that is dead or has left; its time is up."""
        member = self._members.pop(node)
        self.counts[member.standing] -= 1
        self.live.discard(node)
        self.circle.discard(node)

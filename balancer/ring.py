"""The consistent-hash ring: an immutable value.

Sans-I/O. Each member owns virtual nodes in proportion to its weight; a key belongs to the first virtual nodes
clockwise of its hash. Placement depends on the members alone: not on insertion order, process or hash seed (R4).

Sources: Karger et al. 1997; Mirrokni et al., "Consistent Hashing with Bounded Loads", arXiv:1608.01350.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from functools import lru_cache

import mmh3
import msgspec

from frys_node.base.types import NodeId

VNODES = 128
"""Virtual nodes of a member of weight 100: shares then differ by about 1/sqrt(128), 9 %, before bounding."""

LOAD_SLACK = 0.25
"""No member holds more than (1 + slack) times its weighted mean of a group's replicas."""


class RingMember(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A node on the ring. `weight` is relative, 100 is normal, 1 to 10,000; `zone` is a failure domain."""

    node: NodeId
    weight: int = 100
    zone: str = ""


def token_of(key: str) -> int:
    """Return the position of a key on the circle: the first 64 bits of MurmurHash3 x64 128."""
    return mmh3.hash64(key.encode(), 0, signed=False)[0]


@lru_cache(maxsize=4096)
def _tokens_of(node: NodeId, count: int) -> tuple[int, ...]:
    """Return a member's virtual node positions. Cached: a ring change hashes only the newcomer."""
    return tuple(mmh3.hash64(f"{node}/{index}".encode(), 0, signed=False)[0] for index in range(count))


class Ring:
    """Virtual nodes in order of position."""

    __slots__ = ("_owners", "_tokens", "members")

    def __init__(self, members: Sequence[RingMember], vnodes: int = VNODES) -> None:
        self.members: tuple[RingMember, ...] = tuple(sorted(members, key=lambda member: member.node))
        pairs = [
            (token, index)
            for index, member in enumerate(self.members)
            for token in _tokens_of(member.node, max(1, vnodes * member.weight // 100))
        ]
        pairs.sort()
        self._tokens = [token for token, _ in pairs]
        self._owners = [index for _, index in pairs]

    def __len__(self) -> int:
        return len(self.members)

    def walk(self, key: str) -> Iterator[RingMember]:
        """Yield every member once, in the order met clockwise from the key."""
        if not self._tokens:
            return
        start = bisect_left(self._tokens, token_of(key))
        seen = [False] * len(self.members)
        left = len(self.members)
        for offset in range(len(self._tokens)):
            index = self._owners[(start + offset) % len(self._owners)]
            if not seen[index]:
                seen[index] = True
                yield self.members[index]
                left -= 1
                if not left:
                    return

    def preference_list(self, key: str, count: int) -> tuple[NodeId, ...]:
        """Return the first `count` members for a key, each from another zone while there are unused zones."""
        return _pick(list(self.walk(key)), count)

    def share(self) -> dict[NodeId, float]:
        """Return the fraction of the circle that each member owns first; the fractions add up to 1."""
        shares = dict.fromkeys((member.node for member in self.members), 0.0)
        circle = float(1 << 64)
        for position, token in enumerate(self._tokens):
            before = self._tokens[position - 1]
            arc = (token - before) % (1 << 64) if len(self._tokens) > 1 else 1 << 64
            shares[self.members[self._owners[position]].node] += arc / circle
        return shares

    def assign(self, keys: Sequence[str], count: int, slack: float = LOAD_SLACK) -> dict[str, tuple[NodeId, ...]]:
        """Place a group of keys on `count` members each, none above its bounded load.

        The bound is ceil((1 + slack) * weighted mean). Keys are taken in the order given; a full member is passed
        over, unless too few others are left (then the bound gives way: replicas are never fewer than possible).
        """
        count = min(count, len(self.members))
        if count == 0:
            return dict.fromkeys(keys, ())
        weights = sum(member.weight for member in self.members)
        bound = {
            member.node: math.ceil((1 + slack) * len(keys) * count * member.weight / weights) for member in self.members
        }
        load = dict.fromkeys(bound, 0)
        placed: dict[str, tuple[NodeId, ...]] = {}
        for key in keys:
            order = list(self.walk(key))
            free = [member for member in order if load[member.node] < bound[member.node]]
            full = [member for member in order if load[member.node] >= bound[member.node]]
            chosen = _pick(free, count)
            chosen += _pick(full, count - len(chosen))
            for node in chosen:
                load[node] += 1
            placed[key] = chosen
        return placed


def _pick(order: Sequence[RingMember], count: int) -> tuple[NodeId, ...]:
    """Take `count` members in order, unused zones first; members without a zone are each their own zone."""
    chosen: list[RingMember] = []
    zones: dict[str, None] = {}
    for member in order:
        if len(chosen) == count:
            break
        if not member.zone or member.zone not in zones:
            chosen.append(member)
            zones[member.zone] = None
    taken = {member.node for member in chosen}
    for member in order:
        if len(chosen) >= count:
            break
        if member.node not in taken:
            chosen.append(member)
    return tuple(member.node for member in chosen)

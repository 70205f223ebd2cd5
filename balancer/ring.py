"""The consistent-hash ring: an immutable value.

Sans-I/O. Each member owns virtual nodes in proportion to its weight; a key belongs to the first virtual nodes
clockwise of its hash. Placement depends on the members alone: not on insertion order, process or hash seed (R4).

Sources: Karger et al. 1997; Mirrokni et al., "Consistent Hashing with Bounded Loads", arXiv:1608.01350.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import mmh3

from balancer.spread import LOAD_SLACK, RingMember, Round, rounds_of
from frys_node.base.types import NodeId

VNODES = 128
"""Virtual nodes of a member of weight 100: shares then differ by about 1/sqrt(128), 9 %, before bounding."""

RINGS_MAX = 16
"""Rings kept made: a change has two, and each of its three records needs both again."""

_INDEX_BITS = 20
_INDEX_MASK = (1 << _INDEX_BITS) - 1


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
        # Token and owner in one number: nothing else runs while they are sorted, and pairs take thrice as long.
        marks = [
            token << _INDEX_BITS | index
            for index, member in enumerate(self.members)
            for token in _tokens_of(member.node, max(1, vnodes * member.weight // 100))
        ]
        marks.sort()
        self._tokens = [mark >> _INDEX_BITS for mark in marks]
        self._owners = [mark & _INDEX_MASK for mark in marks]

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

    def owner(self, key: str) -> NodeId:
        """Return the first member clockwise of a key. The ring has members."""
        return self.members[self._owners[bisect_left(self._tokens, token_of(key)) % len(self._owners)]].node

    def share(self) -> dict[NodeId, float]:
        """Return the fraction of the circle that each member owns first; the fractions add up to 1."""
        shares = dict.fromkeys((member.node for member in self.members), 0.0)
        circle = float(1 << 64)
        for position, token in enumerate(self._tokens):
            before = self._tokens[position - 1]
            arc = (token - before) % (1 << 64) if len(self._tokens) > 1 else 1 << 64
            shares[self.members[self._owners[position]].node] += arc / circle
        return shares

    def sectors(self, count: int) -> list[NodeId]:
        """Return the owner of the middle of each of `count` equal arcs, from position 0: the circle, to be drawn."""
        middles = (((2 * sector + 1) << 64) // (2 * count) for sector in range(count))
        owners = self._owners
        return [
            self.members[owners[bisect_left(self._tokens, middle) % len(owners)]].node for middle in middles if owners
        ]

    def assign(self, keys: Sequence[str], count: int, slack: float = LOAD_SLACK) -> dict[str, tuple[NodeId, ...]]:
        """Place a group of keys on `count` members each, over zones first, none above its bounded load.

        The first replicas of all keys are placed, then the second ones, and so on, each round under its own bounds
        (`spread`). So first places are balanced as well as all are, and a smaller `count` gives the beginning of what
        a larger one gives. A full member is passed over unless its zone would go without: the bound gives way to the
        spread over zones, the spread over racks gives way to the bound, and nothing makes replicas fewer than possible.
        """
        rounds = rounds_of(self.members, len(keys), count, slack)
        load = dict.fromkeys((member.node for member in self.members), 0)
        places = [_Places(self.walk(key)) for key in keys]
        for each in rounds:
            for place in places:
                load[place.choose(each, load)] += 1
        return {key: tuple(place.chosen) for key, place in zip(keys, places, strict=True)}


class _Places:
    """The replicas of one key as they are chosen; of the walk only as much is taken as was looked at."""

    __slots__ = ("_met", "_shelves", "_walk", "_zones", "chosen")

    def __init__(self, walk: Iterator[RingMember]) -> None:
        self.chosen: list[NodeId] = []
        self._walk = walk
        self._met: list[RingMember] = []
        self._zones: dict[tuple[str, str], int] = {}
        self._shelves: dict[tuple[tuple[str, str], tuple[str, str]], int] = {}

    def _clockwise(self) -> Iterator[RingMember]:
        yield from self._met
        for member in self._walk:
            self._met.append(member)
            yield member

    def choose(self, each: Round, load: Mapping[NodeId, int]) -> NodeId:
        """Take the first member of the best kind: not full, then in the rack with the fewest replicas of this key."""
        best: RingMember | None = None
        best_rank = (True, len(self.chosen) + 1)
        for member in self._clockwise():
            node = member.node
            if self._zones.get(member.domain, 0) != each.level or node in self.chosen:
                continue
            rank = (load[node] >= each.bounds[node], self._shelves.get((member.domain, member.shelf), 0))
            if rank < best_rank:
                best, best_rank = member, rank
                if rank == (False, 0):
                    break
        assert best is not None, "a round is made only while a zone has members left"
        self.chosen.append(best.node)
        self._zones[best.domain] = self._zones.get(best.domain, 0) + 1
        shelf = best.domain, best.shelf
        self._shelves[shelf] = self._shelves.get(shelf, 0) + 1
        return best.node


@lru_cache(maxsize=RINGS_MAX)
def ring_with(members: tuple[RingMember, ...], vnodes: int) -> Ring:
    """Return the ring of these members; a pure function, so one that was made lately is given again."""
    return Ring(members, vnodes)

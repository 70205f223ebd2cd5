"""Which entries stay when memory is short: `lru`, `sieve` or `lfu`, behind one small protocol.

Sans-I/O. A policy knows keys, not sizes: `memory` counts the bytes and asks for a victim as long as they are too many.
Hits come in batches and cost next to nothing; the work is done when something must go.

* ``lru`` gives up what was not used for longest.
* ``sieve`` (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024) keeps a queue in order of arrival. A hit marks an
  entry; a hand that walks from the oldest to the newest spares what is marked, once, and takes the first that is not.
  What is never asked for again leaves soon after it came, which is what a cache in front of a database mostly gets.
* ``lfu`` is LFU with dynamic ageing (Arlitt et al., "Evaluating content management techniques for Web proxy caches",
  SIGMETRICS Performance Evaluation Review 27(4), 2000): the key of an entry is its number of hits plus the key of the
  last victim when it was used last, so that what was popular long ago does not stay for ever.
"""

from __future__ import annotations

import heapq
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Protocol

HITS_HELD_MAX = 65_536
"""Hits that `lfu` keeps in a row before it sorts them in."""

LEVELS_LEFT_MAX = 1_024
"""Levels without keys that `lfu` keeps in its heap, beside one for each that has some."""


class PolicyName(StrEnum):
    """The policies by their names in the settings."""

    LRU = "lru"
    SIEVE = "sieve"
    LFU = "lfu"


class Policy(Protocol):
    """An order among the keys that are held."""

    def __len__(self) -> int:
        """Return how many keys are held."""
        ...

    def add(self, key: bytes) -> None:
        """Hold a key, or take the new value of a held one for a hit."""
        ...

    def hit(self, keys: Iterable[bytes]) -> None:
        """Note that these keys, all of them held, were read."""
        ...

    def remove(self, key: bytes) -> None:
        """Forget a held key."""
        ...

    def pop_victim(self) -> bytes:
        """Forget and return the key that is worth least. There must be one."""
        ...


class Lru:
    """Least recently used goes first."""

    __slots__ = ("_order",)

    def __init__(self) -> None:
        self._order: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._order)

    def add(self, key: bytes) -> None:
        """Make a key the most recently used one."""
        try:
            self._order.move_to_end(key)
        except KeyError:
            self._order[key] = None

    def hit(self, keys: Iterable[bytes]) -> None:
        """Make keys the most recently used ones, the last of them most of all."""
        deque(map(self._order.move_to_end, keys), maxlen=0)

    def remove(self, key: bytes) -> None:
        """Forget a key."""
        del self._order[key]

    def pop_victim(self) -> bytes:
        """Forget the least recently used key."""
        return self._order.popitem(last=False)[0]


class _Place:
    """A place in the queue of `Sieve`."""

    __slots__ = ("key", "newer", "older")

    def __init__(self, key: bytes, older: _Place | None) -> None:
        self.key = key
        self.older = older
        self.newer: _Place | None = None


class Sieve:
    """The oldest that was not read since the hand passed goes first."""

    __slots__ = ("_hand", "_marked", "_newest", "_oldest", "_places")

    def __init__(self) -> None:
        self._places: dict[bytes, _Place] = {}
        self._marked: set[bytes] = set()
        self._oldest: _Place | None = None
        self._newest: _Place | None = None
        self._hand: _Place | None = None
        """Where the next search begins; None is the oldest."""

    def __len__(self) -> int:
        return len(self._places)

    def add(self, key: bytes) -> None:
        """Queue a key as the newest; mark it if it is there."""
        if key in self._places:
            self._marked.add(key)
            return
        place = self._places[key] = _Place(key, self._newest)
        if self._newest is None:
            self._oldest = place
        else:
            self._newest.newer = place
        self._newest = place

    def hit(self, keys: Iterable[bytes]) -> None:
        """Mark keys."""
        self._marked.update(keys)

    def remove(self, key: bytes) -> None:
        """Take a key out of the queue."""
        place = self._places.pop(key)
        self._marked.discard(key)
        if place is self._hand:
            self._hand = place.newer
        if place.older is None:
            self._oldest = place.newer
        else:
            place.older.newer = place.newer
        if place.newer is None:
            self._newest = place.older
        else:
            place.newer.older = place.older

    def pop_victim(self) -> bytes:
        """Walk from the hand towards the newest, unmark what is marked, and take the first that is not."""
        place = self._hand or self._oldest
        marked = self._marked
        while place is not None and place.key in marked:
            marked.discard(place.key)
            place = place.newer or self._oldest
        assert place is not None
        self._hand = place
        self.remove(place.key)
        return place.key


class Lfu:
    """The fewest hits, aged, go first; of equal ones that which came to its place first."""

    __slots__ = ("_age", "_counts", "_heap", "_hits", "_keys", "_levels")

    def __init__(self) -> None:
        self._age = 0
        """Key of the last victim."""
        self._counts: dict[bytes, int] = {}
        self._levels: dict[bytes, int] = {}
        self._keys: dict[int, dict[bytes, None]] = {}
        """The keys at each level, in the order of their coming."""
        self._heap: list[int] = []
        """The levels that have keys, and some that had."""
        self._hits: list[bytes] = []

    def __len__(self) -> int:
        return len(self._levels)

    def add(self, key: bytes) -> None:
        """Count one use."""
        self._use(key, 1)

    def hit(self, keys: Iterable[bytes]) -> None:
        """Count uses; they are sorted in when a victim is looked for."""
        self._hits.extend(keys)
        if len(self._hits) > HITS_HELD_MAX:
            self._settle()

    def remove(self, key: bytes) -> None:
        """Forget a key and its count."""
        self._settle()
        self._leave(key)
        del self._counts[key], self._levels[key]

    def pop_victim(self) -> bytes:
        """Forget the first key of the lowest level, whose number becomes the age."""
        self._settle()
        while self._heap[0] not in self._keys:
            heapq.heappop(self._heap)
        self._age = self._heap[0]
        key = next(iter(self._keys[self._age]))
        self.remove(key)
        return key

    def _settle(self) -> None:
        if self._hits:
            hits, self._hits = self._hits, []
            for key, count in Counter(hits).items():
                if key in self._levels:
                    self._use(key, count)

    def _use(self, key: bytes, count: int) -> None:
        self._leave(key)
        self._counts[key] = self._counts.get(key, 0) + count
        level = self._levels[key] = self._counts[key] + self._age
        keys = self._keys.get(level)
        if keys is None:
            keys = self._keys[level] = {}
            heapq.heappush(self._heap, level)
        keys[key] = None

    def _leave(self, key: bytes) -> None:
        level = self._levels.get(key)
        if level is None:
            return
        keys = self._keys[level]
        del keys[key]
        if not keys:
            del self._keys[level]
            if len(self._heap) > 2 * len(self._keys) + LEVELS_LEFT_MAX:
                self._heap = sorted(self._keys)


def make_policy(name: PolicyName) -> Policy:
    """Return an empty policy."""
    makers: dict[PolicyName, Callable[[], Policy]] = {PolicyName.LRU: Lru, PolicyName.SIEVE: Sieve, PolicyName.LFU: Lfu}
    return makers[name]()

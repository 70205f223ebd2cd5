"""The eviction policies against naive models that follow their papers word by word."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frys_node.plugins.cache.policy import HITS_HELD_MAX, Lfu, Lru, Policy, PolicyName, Sieve, make_policy


class NaiveLru:
    """A list in the order of use."""

    def __init__(self) -> None:
        self.order: list[bytes] = []

    def use(self, key: bytes, *, is_new: bool) -> None:
        if not is_new:
            self.order.remove(key)
        self.order.append(key)

    def remove(self, key: bytes) -> None:
        self.order.remove(key)

    def pop_victim(self) -> bytes:
        return self.order.pop(0)


class NaiveSieve:
    """The paper's algorithm 1 over a list, newest first, the hand as a key."""

    def __init__(self) -> None:
        self.queue: list[bytes] = []
        self.visited: set[bytes] = set()
        self.hand: bytes | None = None

    def use(self, key: bytes, *, is_new: bool) -> None:
        if is_new:
            self.queue.insert(0, key)
        else:
            self.visited.add(key)

    def _newer(self, key: bytes) -> bytes | None:
        position = self.queue.index(key) - 1
        return self.queue[position] if position >= 0 else None

    def remove(self, key: bytes) -> None:
        if self.hand == key:
            self.hand = self._newer(key)
        self.queue.remove(key)
        self.visited.discard(key)

    def pop_victim(self) -> bytes:
        place = self.hand if self.hand is not None else self.queue[-1]
        while place in self.visited:
            self.visited.discard(place)
            newer = self._newer(place)
            place = newer if newer is not None else self.queue[-1]
        self.hand = place
        self.remove(place)
        return place


class NaiveLfu:
    """LFU-DA: K = hits + the age at the last of them; the lowest goes, of equals the one that came to its K first.

    Hits are sorted in as the policy does it: when something is removed, each key's at once.
    """

    def __init__(self) -> None:
        self.age = 0
        self.hits: dict[bytes, int] = {}
        self.rank: dict[bytes, tuple[int, int]] = {}
        self.clock = 0
        self.waiting: dict[bytes, int] = {}

    def hit(self, key: bytes) -> None:
        self.waiting[key] = self.waiting.get(key, 0) + 1

    def settle(self) -> None:
        waiting, self.waiting = self.waiting, {}
        for key, count in waiting.items():
            self.hits[key] += count - 1
            self.use(key, is_new=False)

    def use(self, key: bytes, *, is_new: bool) -> None:
        del is_new
        self.clock += 1
        self.hits[key] = self.hits.get(key, 0) + 1
        self.rank[key] = (self.hits[key] + self.age, self.clock)

    def remove(self, key: bytes) -> None:
        self.settle()
        del self.hits[key], self.rank[key]

    def pop_victim(self) -> bytes:
        self.settle()
        key = min(self.rank, key=self.rank.__getitem__)
        self.age = self.rank[key][0]
        self.remove(key)
        return key


Naive = NaiveLru | NaiveSieve | NaiveLfu
PAIRS: list[tuple[Callable[[], Policy], Callable[[], Naive]]] = [
    (Lru, NaiveLru),
    (Sieve, NaiveSieve),
    (Lfu, NaiveLfu),
]
STEPS = st.lists(st.tuples(st.sampled_from(["add", "add", "hit", "remove", "victim"]), st.integers(0, 7)), max_size=120)


@pytest.mark.parametrize(("real", "naive"), PAIRS)
@settings(deadline=None)
@given(steps=STEPS)
def test_a_policy_gives_up_what_its_model_gives_up(
    real: Callable[[], Policy], naive: Callable[[], Naive], steps: list[tuple[str, int]]
) -> None:
    """In any history of additions, hits, removals and evictions, the victims are the same."""
    policy, model, held = real(), naive(), set[bytes]()
    for what, number in steps:
        key = b"k%d" % number
        if what == "add":
            policy.add(key)
            model.use(key, is_new=key not in held)
            held.add(key)
        elif what == "hit" and key in held:
            policy.hit([key])
            if isinstance(model, NaiveLfu):
                model.hit(key)
            else:
                model.use(key, is_new=False)
        elif what == "remove" and key in held:
            policy.remove(key)
            model.remove(key)
            held.discard(key)
        elif what == "victim" and held:
            victim = policy.pop_victim()
            assert victim == model.pop_victim()
            held.remove(victim)
        assert len(policy) == len(held)
    while held:
        victim = policy.pop_victim()
        assert victim == model.pop_victim()
        held.remove(victim)


@pytest.mark.parametrize("name", list(PolicyName))
def test_hits_in_a_batch_count_as_hits_one_by_one(name: PolicyName) -> None:
    """The order of victims does not depend on how reads came together."""
    one, many = make_policy(name), make_policy(name)
    keys = [b"%d" % number for number in range(20)]
    for policy in (one, many):
        for key in keys:
            policy.add(key)
    hits = [keys[number * 7 % 20] for number in range(11)] * 2
    many.hit(hits)
    for key in hits:
        one.hit([key])
    assert {one.pop_victim() for _ in range(5)} == {many.pop_victim() for _ in range(5)}


def test_what_is_read_once_leaves_a_sieve_before_what_is_read_twice() -> None:
    """One-hit wonders pass through while the marked stay, which is what the hand is for."""
    sieve = Sieve()
    for key in (b"hot", b"warm"):
        sieve.add(key)
    for number in range(10):
        sieve.hit([b"hot", b"warm"])
        sieve.add(b"once%d" % number)
        assert sieve.pop_victim() == b"once%d" % number


def test_an_old_favourite_ages_in_lfu() -> None:
    """A key with a hundred hits of long ago goes when victims have come to its level."""
    lfu = Lfu()
    lfu.add(b"old")
    lfu.hit([b"old"] * 99)
    victims = []
    for number in range(600):
        lfu.add(b"a%d" % number)
        lfu.hit([b"a%d" % number])
        if len(lfu) > 3:
            victims.append(lfu.pop_victim())
    assert b"old" in victims


def test_lfu_keeps_no_more_hits_and_levels_than_it_says() -> None:
    """A hot key that is never evicted does not make the heap grow."""
    lfu = Lfu()
    lfu.add(b"k")
    for _ in range(3):
        lfu.hit([b"k"] * HITS_HELD_MAX)
    for _ in range(5_000):
        lfu.add(b"k")
    assert len(lfu._hits) <= HITS_HELD_MAX
    assert len(lfu._heap) <= 1_100
    assert lfu.pop_victim() == b"k"

"""The cache benchmark's trace and its hit ratios."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from frys_node.bench import cache
from frys_node.plugins.cache.policy import PolicyName


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_sieve_hits_no_less_than_lru_where_many_come_once(seed: int) -> None:
    """What the policy is for, on the benchmark's own trace."""
    found = cache.ratios(seed, requests=60_000)
    assert found[PolicyName.SIEVE] >= found[PolicyName.LRU]
    assert all(0.2 < ratio < 0.75 for ratio in found.values())


def test_the_trace_is_the_same_for_a_seed_and_has_its_shape() -> None:
    """Ranks fall off by their law, the wonders come once, and nothing depends on anything but the seed."""
    options = {"requests": 20_000, "keys": 1_000, "zipf": 0.9, "once_share": 0.25}
    keys = list(cache.trace(random.Random(5), **options))
    assert keys == list(cache.trace(random.Random(5), **options))
    counts = Counter(keys)
    once = [key for key in counts if key.startswith(b"once:")]
    assert 0.23 < len(once) / len(keys) < 0.27
    assert all(counts[key] == 1 for key in once)
    assert counts[b"key:0"] > counts[b"key:9"] > counts[b"key:99"] > 0


def test_a_cache_that_holds_everything_misses_each_key_once() -> None:
    """The ratio counts what it says."""
    keys = [b"a", b"b", b"a", b"a"]
    assert {cache.hit_ratio(name, keys, 10) for name in PolicyName} == {0.5}

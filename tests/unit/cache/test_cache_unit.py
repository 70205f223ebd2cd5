"""The cache's rules in memory: units, lifetimes, eviction and its floor."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import cache_unit_of, slot_of
from frys_node.kernel.services.replication import Entry, Version
from frys_node.plugins.cache import cache
from frys_node.plugins.cache.cache import CacheMemory, CacheValue, InvalidCacheRequest, pack
from frys_node.plugins.cache.policy import ENTRY_OVERHEAD_BYTES, LruBytes, Slot

NODE = NodeId("a" * 32)


class Now:
    """A wall clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.unix_ms = 1_000_000

    def __call__(self) -> int:
        return self.unix_ms


def version(hlc_ms: int) -> Version:
    """A version of one node at a time."""
    return Version(hlc_ms, 0, NODE, 7)


def entry(key: str, hlc_ms: int, body: bytes = b"x", expires_unix_ms: int = 0) -> Entry:
    """A cached value under a version."""
    return Entry(key.encode(), version(hlc_ms), pack(CacheValue(expires_unix_ms, "text/plain", body)))


def memory(entries: int, now: Now | None = None) -> CacheMemory:
    """Room for that many tiny entries."""
    return CacheMemory(entries * (ENTRY_OVERHEAD_BYTES + 40), now or Now())


def test_slots_are_those_of_redis() -> None:
    """Known CLUSTER KEYSLOT answers, tags included."""
    assert slot_of(b"foo") == 12182
    assert slot_of(b"bar") == 5061
    assert slot_of(b"123456789") == 12739
    assert slot_of(b"{user1000}.following") == slot_of(b"user1000") == slot_of(b"{user1000}.followers")
    assert slot_of(b"foo{}{bar}") != slot_of(b"bar")


@given(st.binary(max_size=40), st.sampled_from([1, 16, 256]))
def test_every_key_has_a_unit_below_the_number_of_partitions(key: bytes, partitions: int) -> None:
    """Units are 0 .. partitions-1; 256 units are groups of 64 slots."""
    unit = int(cache_unit_of(key, partitions).split("/")[1])
    assert 0 <= unit < partitions
    if partitions == 256:
        assert unit == slot_of(key) // 64


@pytest.mark.parametrize(("text", "ttl_ms"), [("30", 30_000), ("30s", 30_000), ("500ms", 500), ("1.5h", 5_400_000)])
def test_a_lifetime_is_read_with_its_unit(text: str, ttl_ms: int) -> None:
    """Plain numbers are seconds."""
    assert cache.parse_ttl_ms(text) == ttl_ms


@pytest.mark.parametrize("text", ["", "-1", "0", "abc", "1y", "99999999999d", "nan", "1e9", "\u0663"])
def test_a_lifetime_that_is_not_one_is_refused(text: str) -> None:
    """Nothing lives for no time, for ever by mistake, or in unknown units."""
    with pytest.raises(InvalidCacheRequest):
        cache.parse_ttl_ms(text)


def test_an_expired_value_reads_as_a_newer_tombstone() -> None:
    """Expiry beats the value on every replica, and any later write beats the expiry."""
    now = Now()
    unit = memory(10, now).open(UnitId("cache/1"))
    unit.put([entry("k", 5, expires_unix_ms=now.unix_ms + 10)])
    (held,) = unit.get([b"k"])
    assert held is not None
    assert held.value is not None
    now.unix_ms += 10
    (expired,) = unit.get([b"k"])
    assert expired is not None
    assert expired.value is None
    assert version(5) < expired.version < version(6)
    assert list(unit.entries()) == [expired]


def test_two_replicas_derive_the_same_tombstone_whether_or_not_they_swept() -> None:
    """No version ever has two values, so that the engine sees no corruption."""
    now = Now()
    first, second = memory(10, now), memory(10, now)
    units = [holder.open(UnitId("cache/1")) for holder in (first, second)]
    for unit in units:
        unit.put([entry("k", 5, expires_unix_ms=now.unix_ms + 1)])
    now.unix_ms += 5
    first.sweep()
    assert first.expired == 1
    assert units[0].get([b"k"]) == units[1].get([b"k"])


def test_the_least_recently_used_entry_is_evicted_and_raises_the_floor() -> None:
    """An evicted key reads as a tombstone just above its version, and so does any key that is not held."""
    holder = memory(2)
    unit = holder.open(UnitId("cache/1"))
    unit.put([entry("old", 1)])
    unit.put([entry("hot", 2)])
    unit.get([b"old"])
    unit.put([entry("new", 3)])
    (old, hot, absent) = unit.get([b"old", b"hot", b"absent"])
    assert old is not None
    assert old.value is not None
    assert hot is not None
    assert hot.value is None
    assert version(2) < hot.version < version(3)
    assert absent is not None
    assert absent.version == hot.version
    assert holder.evicted == 1


def test_memory_is_bounded_over_all_units_and_shrinks_on_reload() -> None:
    """One bound for the node; a smaller one evicts at once."""
    holder = memory(8)
    for number in range(40):
        holder.open(UnitId(f"cache/{number}")).put([entry(f"k{number}", number + 1)])
    assert holder.lru.total_bytes <= holder.lru.bytes_max
    assert len(holder.lru) == 40 - holder.evicted
    holder.resize(ENTRY_OVERHEAD_BYTES + 40)
    assert len(holder.lru) == 1


def test_clearing_a_unit_forgets_its_floor_and_gives_its_memory_back() -> None:
    """A joiner begins with nothing (rule 12)."""
    holder = memory(1)
    unit = holder.open(UnitId("cache/1"))
    unit.put([entry("a", 1), entry("b", 2)])
    assert unit.floor is not None
    unit.clear()
    assert unit.floor is None
    assert holder.lru.total_bytes == 0
    assert unit.get([b"a"]) == [None]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 300), st.booleans()), max_size=60))
def test_the_total_of_the_lru_is_the_sum_of_its_sizes(operations: list[tuple[str, int, bool]]) -> None:
    """No order of sets, shrinks, touches and evictions makes the accounts drift."""
    lru, sizes = LruBytes(3_000), dict[Slot, int]()
    for key, size_bytes, is_set in operations:
        slot = Slot("cache/0", key.encode())
        if is_set:
            lru.set(slot, size_bytes)
            sizes[slot] = size_bytes + ENTRY_OVERHEAD_BYTES
        else:
            lru.touch(slot)
            lru.forget(slot)
            sizes.pop(slot, None)
        for victim in lru.pop_excess():
            del sizes[victim]
        assert lru.total_bytes == sum(sizes.values()) <= 3_000

"""The cache's rules in memory: units, lifetimes, eviction and its floor."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import cache_unit_of, slot_of
from frys_node.kernel.services.replication import Entry, Version
from frys_node.plugins.cache import cache
from frys_node.plugins.cache.cache import CacheValue, InvalidCacheRequest, pack
from frys_node.plugins.cache.census import Count
from frys_node.plugins.cache.memory import (
    ENTRY_OVERHEAD_BYTES,
    REPLY_BYTES_MAX,
    REPLY_OVERHEAD_BYTES,
    CacheMemory,
)
from frys_node.plugins.cache.policy import PolicyName
from frys_node.plugins.cache.tombstones import AGE_MS_MAX, Standing
from frys_node.plugins.cache.unit import CHANGES_MAX, CacheUnit
from frys_node.replication import hashtree
from frys_node.replication.unit import HeldUnit

NODE = NodeId("a" * 32)
UNIT = UnitId("cache/0")


class Now:
    """A wall clock that stands still until it is moved, or goes on by a step whenever it is read."""

    def __init__(self) -> None:
        self.unix_ms = 1_000_000
        self.step_ms = 0

    def __call__(self) -> int:
        self.unix_ms += self.step_ms
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
    first.expire_due()
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
    assert holder.total_bytes <= holder.bytes_max
    assert len(holder) == 40 - holder.evicted
    holder.configure(ENTRY_OVERHEAD_BYTES + 40, PolicyName.LRU, {}, keeps_replies=False)
    assert len(holder) == 1


def test_clearing_a_unit_forgets_its_floor_and_gives_its_memory_back() -> None:
    """A joiner begins with nothing (rule 12)."""
    holder = memory(1)
    unit = holder.open(UnitId("cache/1"))
    unit.put([entry("a", 1), entry("b", 2)])
    assert unit.evict_floor is not None
    unit.clear()
    assert unit.evict_floor is None
    assert holder.total_bytes == 0
    assert unit.get([b"a"]) == [None]


def test_a_namespace_over_its_quota_gives_up_its_own_entries() -> None:
    """The others are left alone, and give way first when the node's memory is short."""
    one = ENTRY_OVERHEAD_BYTES + 60
    holder = CacheMemory(10 * one, Now(), quotas={"small": 3 * one})
    unit = holder.open(UnitId("cache/1"))
    for number in range(8):
        unit.put([entry(f"small\0{number}", number + 1)])
    assert holder.pool_bytes()["small"] <= 3 * one
    assert sorted(unit.live(b"small\0")) == [b"small\0%d" % number for number in (5, 6, 7)]
    for number in range(20):
        unit.put([entry(f"default\0{number}", number + 20)])
    assert len(list(unit.live(b"small\0"))) == 3
    assert holder.total_bytes <= holder.bytes_max


def test_other_bounds_and_policies_take_effect_on_what_is_held() -> None:
    """Nothing is lost by a change of policy that fits, and the accounts go on."""
    holder = memory(20)
    unit = holder.open(UnitId("cache/1"))
    unit.put([entry(f"ns\0{number}", number + 1) for number in range(10)])
    total = holder.total_bytes
    packed = entry("k", 1).value or b""
    total += 10 * (cost(packed) - len(packed))
    for name in PolicyName:
        holder.configure(holder.bytes_max, name, {"ns": holder.bytes_max}, keeps_replies=True)
        assert (len(holder), holder.total_bytes, holder.pool_bytes()["ns"]) == (10, total, total)
    assert holder.replies[b"ns\x003"] == b"$1\r\nx\r\n"
    holder.configure(holder.bytes_max, PolicyName.LRU, {}, keeps_replies=False)
    assert holder.replies == {}
    unit.clear()
    assert (len(holder), holder.total_bytes) == (0, 0)


def cost(value: bytes | None) -> int:
    """What a value counts for where answers are kept ready."""
    if value is None:
        return 0
    return 2 * len(value) + REPLY_OVERHEAD_BYTES if len(value) <= REPLY_BYTES_MAX else len(value)


class MemoryRun(NamedTuple):
    """One thing that happens to a memory."""

    what: str
    key: int
    size_bytes: int
    life_ms: int


RUNS = st.builds(
    MemoryRun,
    st.sampled_from(["put", "put", "put", "get", "delete", "delete", "wait", "wait long", "clear", "stand"]),
    st.integers(0, 9),
    st.integers(0, 400),
    st.sampled_from([0, 0, 5, 50]),
)


@given(st.lists(RUNS, max_size=80), st.sampled_from(list(PolicyName)), st.sampled_from([{}, {"a": 2_000}]))
def test_the_accounts_of_the_memory_never_drift(
    runs: list[MemoryRun], policy: PolicyName, quotas: dict[str, int]
) -> None:
    """Totals, pools, homes, counts and ready answers are those of what is held, whatever happened; bounds hold."""
    now = Now()

    def is_whole(unit: CacheUnit) -> bool:
        return standings[unit.unit] is Standing.WHOLE

    bytes_max = 10_000
    holder = CacheMemory(bytes_max, now, policy, quotas)
    holder.configure(bytes_max, policy, quotas, keeps_replies=True)
    standings = {UnitId(f"cache/{number}"): Standing.WHOLE for number in range(2)}
    holder.standing = standings.__getitem__
    units = [holder.open(UnitId(f"cache/{number}")) for number in range(2)]
    for hlc_ms, run in enumerate(runs, 1):
        name = f"{'ab'[run.key % 3 == 0]}\0{run.key}"
        unit = units[run.key % 2]
        end = now.unix_ms + run.life_ms if run.life_ms else 0
        if run.what == "put":
            unit.put([entry(name, hlc_ms, b"v" * run.size_bytes, end)])
        elif run.what == "delete":
            unit.put([Entry(name.encode(), version(hlc_ms), None)])
        elif run.what == "get":
            unit.get([name.encode(), b"b\0absent"])
        elif run.what == "wait":
            now.unix_ms += run.life_ms
        elif run.what == "wait long":
            now.unix_ms += 50
            holder.sweep()
            now.unix_ms += AGE_MS_MAX + 1
            holder.sweep()
            assert not any(item.value is None for other in units if is_whole(other) for item in other.held.values())
        elif run.what == "stand":
            standings[unit.unit] = list(Standing)[run.size_bytes % 3]
            holder.sweep()
        else:
            unit.clear()
        holder.expire_due()
        held = {key: item for unit in units for key, item in unit.held.items()}
        sizes = {key: ENTRY_OVERHEAD_BYTES + len(key) + cost(item.value) for key, item in held.items()}
        assert set(holder.homes) == set(held)
        assert holder.total_bytes == sum(sizes.values()) <= bytes_max
        live = {key: cache.decode_value(item.value) for key, item in held.items() if item.value is not None}
        for pool, total in holder.pool_bytes().items():
            assert total == sum(size for key, size in sizes.items() if key in live and key[:1] == pool.encode())
            assert total <= quotas[pool]
        assert {key for key in held if key in holder.tombstones} == set(held) - set(live)
        assert holder.tombstones.total_bytes == sum(size for key, size in sizes.items() if key not in live)
        for prefix in (b"a", b"b"):
            values = [value for key, value in live.items() if key[:1] == prefix]
            count = holder.census.counts.get(prefix, Count())
            ends = [value.expires_unix_ms for value in values if value.expires_unix_ms]
            assert (count.keys, count.brief, count.ends_unix_ms) == (len(values), len(ends), sum(ends))
        assert not any(value.is_expired(now.unix_ms) for value in live.values())
        assert holder.replies == {
            key: b"$%d\r\n%b\r\n" % (len(value.body), value.body)
            for key, value in live.items()
            if cost(held[key].value) > len(held[key].value or b"")
        }


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["put", "brief", "drop", "wait", "clear", "ask"])),
        max_size=30,
    ),
    st.integers(0, 2),
)
def test_the_tree_of_a_unit_follows_writes_evictions_and_lifetimes(steps: list[tuple[str, str]], step_ms: int) -> None:
    """Whenever somebody asks, it is that of the entries held then, also when lifetimes end while it is asked for."""
    now = Now()
    now.step_ms = step_ms
    bound = memory(2, now)
    units = [
        HeldUnit(unit, bound.open(unit), durable=False, complete=True, join_key=None)
        for unit in (UnitId("cache/0"), UnitId("cache/1"))
    ]
    for at, (key, what) in enumerate(steps, 1):
        unit = units[ord(key) % 2]
        match what:
            case "put":
                unit.put([entry(key, at)])
            case "brief":
                unit.put([entry(key, at, expires_unix_ms=now.unix_ms + 5)])
            case "drop":
                unit.drop([key.encode()])
            case "wait":
                now.unix_ms += 10
            case "clear":
                unit.clear()
            case "ask":
                unit.tree()
    now.step_ms = 0
    for unit in units:
        assert unit.tree() == hashtree.build(unit.store.entries())


def test_a_unit_remembers_only_so_many_changes() -> None:
    """Beyond that its tree is built from all entries, and is right again."""
    store = memory(10_000).open(UNIT)
    unit = HeldUnit(UNIT, store, durable=False, complete=True, join_key=None)
    unit.tree()
    unit.put([entry(f"key:{number}", number) for number in range(CHANGES_MAX + 1)])
    assert store.was is None
    unit.put([entry("key:1", 10_000)])
    assert unit.tree() == hashtree.build(unit.store.entries())

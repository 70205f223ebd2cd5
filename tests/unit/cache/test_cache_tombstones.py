"""Tombstones in memory: how many stay, what they give way to, and that nothing old comes back when they go."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.plugins.cache.cache import CacheValue, pack
from frys_node.plugins.cache.memory import ENTRY_OVERHEAD_BYTES, CacheMemory
from frys_node.plugins.cache.policy import PolicyName
from frys_node.plugins.cache.tombstones import AGE_MS_MAX, FILLING_SHARE, KEPT_MS, TOMBSTONES_SHARE, Standing
from frys_node.plugins.cache.unit import CacheUnit
from frys_node.replication.unit import HeldUnit

UNIT = UnitId("cache/0")
ONE_BYTES = ENTRY_OVERHEAD_BYTES + 100


class Now:
    """A wall clock that stands still until it is moved."""

    unix_ms = 1_000_000

    def __call__(self) -> int:
        return self.unix_ms


def version(hlc_ms: int) -> Version:
    """A version of one node at a time."""
    return Version(hlc_ms, 0, NodeId("a" * 32), 7)


def value(key: str, hlc_ms: int, expires_unix_ms: int = 0) -> Entry:
    """A small value under a version."""
    return Entry(key.encode(), version(hlc_ms), pack(CacheValue(expires_unix_ms, "text/plain", b"x" * 20)))


def deletion(key: str, hlc_ms: int) -> Entry:
    """A tombstone under a version."""
    return Entry(key.encode(), version(hlc_ms), None)


def opened(entries: int, standing: Standing = Standing.WHOLE, policy: PolicyName = PolicyName.LRU) -> CacheUnit:
    """An empty unit in a memory for that many small entries."""
    memory = CacheMemory(entries * ONE_BYTES, Now(), policy)
    memory.standing = lambda _unit: standing
    return memory.open(UNIT)


def live(unit: CacheUnit) -> set[bytes]:
    """The keys that have values."""
    return set(unit.live(b""))


@pytest.mark.parametrize("standing", list(Standing))
@pytest.mark.parametrize("policy", list(PolicyName))
def test_lasting_keys_survive_a_flood_of_brief_ones(policy: PolicyName, standing: Standing) -> None:
    """A hundred times as many keys as fit come, expire and are gone; what has no end is all there."""
    unit = opened(200, standing, policy)
    memory, now = unit.memory, unit.memory.now_unix_ms
    assert isinstance(now, Now)
    lasting = [value(f"lasting:{number}", number + 1) for number in range(50)]
    unit.put(lasting)
    for number in range(20_000):
        now.unix_ms += 2
        unit.put([value(f"brief:{number}", 100 + number, now.unix_ms + 100)])
        memory.expire_due()
    now.unix_ms += 100
    memory.sweep()
    assert live(unit) == {entry.key for entry in lasting}
    assert unit.get([entry.key for entry in lasting]) == lasting
    assert memory.evicted == 0
    assert memory.total_bytes <= memory.bytes_max
    share = FILLING_SHARE if standing is Standing.FILLING else TOMBSTONES_SHARE
    assert memory.tombstones.total_bytes <= share * memory.bytes_max


def test_a_flood_of_deletions_leaves_lasting_keys_alone() -> None:
    """Deleted keys are bounded as expired ones are, also keys that were never here."""
    unit = opened(200)
    unit.put([value("lasting", 1)])
    for number in range(5_000):
        unit.put([deletion(f"{number}", 100 + number)])
    assert live(unit) == {b"lasting"}
    assert unit.memory.tombstones.total_bytes <= TOMBSTONES_SHARE * unit.memory.bytes_max


def test_the_only_replica_keeps_no_tombstone_and_lets_nothing_old_come_back() -> None:
    """Neither expiry nor deletion leaves anything but the floor, which what is held does not mind."""
    unit = opened(20, Standing.ALONE)
    now = unit.memory.now_unix_ms
    assert isinstance(now, Now)
    unit.put([value("stays", 1), value("deleted", 5), value("brief", 6, now.unix_ms + 10)])
    unit.put([deletion("deleted", 8)])
    now.unix_ms += 10
    (stays, *gone) = unit.get([b"stays", b"deleted", b"brief"])
    assert stays == value("stays", 1)
    assert len(unit) == len(unit.memory) == 1
    assert len(unit.memory.tombstones) == 0
    for entry in gone:
        assert entry is not None
        assert entry.value is None
        assert entry.version > version(8)
    held = HeldUnit(UNIT, unit, durable=False, complete=True, join_key=None)
    assert held.merge([value("deleted", 7)]).taken == []
    assert held.merge([value("deleted", 9)]).taken == [value("deleted", 9)]


def test_a_unit_that_is_being_filled_raises_no_floor_before_its_values_have_come() -> None:
    """Tombstones of a flood come first, then the values of the others, which are older; later they are as others."""
    unit = opened(400, Standing.FILLING)
    memory = unit.memory
    held = HeldUnit(UNIT, unit, durable=False, complete=False, join_key=None)
    held.merge([deletion(f"gone:{number}", 1_000 + number) for number in range(200)])
    assert unit.evict_floor is None
    values = [value(f"value:{number}", number + 1) for number in range(100)]
    assert held.merge(values).taken == values
    memory.standing = lambda _unit: Standing.WHOLE
    memory.sweep()
    assert unit.evict_floor is not None
    assert live(unit) == {entry.key for entry in values}
    assert memory.tombstones.total_bytes <= TOMBSTONES_SHARE * memory.bytes_max


def test_old_tombstones_go_before_values_and_young_ones_after() -> None:
    """When memory is short those that came long ago give way first, whatever was not used for longest."""
    unit = opened(10)
    memory, now = unit.memory, unit.memory.now_unix_ms
    assert isinstance(now, Now)
    unit.put([deletion("gone", 1)])
    for number in range(11):
        unit.put([value(f"{number}", 10 + number)])
    assert (len(memory.tombstones), memory.tombstones_evicted) == (1, 0)
    assert memory.evicted == 1
    now.unix_ms += KEPT_MS + 1
    unit.put([value("next", 50)])
    assert (len(memory.tombstones), memory.tombstones_evicted) == (0, 1)
    assert memory.evicted == 1


def test_a_tombstone_is_given_up_when_it_has_become_too_old() -> None:
    """Even if a member is away for ever and nobody agrees, it goes within the hour."""
    unit = opened(10)
    now = unit.memory.now_unix_ms
    assert isinstance(now, Now)
    unit.put([value("old", 1), deletion("gone", 2)])
    now.unix_ms += AGE_MS_MAX
    unit.memory.sweep()
    assert len(unit) == 2
    now.unix_ms += 1
    unit.memory.sweep()
    assert live(unit) == {b"old"}
    assert len(unit) == 1


def test_a_tombstone_below_the_floor_is_not_kept() -> None:
    """The floor says what it says."""
    unit = opened(10)
    unit.put([value("old", 1)])
    unit.raise_floor(version(5))
    unit.put([deletion("old", 2)])
    assert len(unit) == 0
    (found,) = unit.get([b"old"])
    assert found is not None
    assert found.version > version(5)


def test_a_unit_that_begins_empty_keeps_the_floor_of_its_store() -> None:
    """A refill that found nobody drops what is old, and not what it knew of what it had to give up meanwhile."""
    unit = opened(10)
    held = HeldUnit(UNIT, unit, durable=False, complete=False, join_key=None)
    held.put([value("old", 5), value("new", 60)])
    unit.raise_floor(version(50))
    held.raise_floor(version(10))
    assert live(unit) == {b"new"}
    assert held.merge([value("other", 30)]).taken == []
    assert held.merge([value("other", 70)]).taken == [value("other", 70)]


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.sampled_from(["put", "brief", "delete", "wait", "stale", "stand"])), max_size=60
    ),
    st.sampled_from(list(PolicyName)),
)
def test_nothing_older_is_read_than_what_was_taken_before(steps: list[tuple[int, str]], policy: PolicyName) -> None:
    """Whatever is evicted, expires or stands alone: a key never goes back, though older writes come again."""
    unit = opened(12, policy=policy)
    memory, now = unit.memory, unit.memory.now_unix_ms
    assert isinstance(now, Now)
    held = HeldUnit(UNIT, unit, durable=False, complete=True, join_key=None)
    newest: dict[bytes, Version] = {}
    written: list[Entry] = []
    for at, (number, what) in enumerate(steps, 1):
        key = f"k{number}"
        match what:
            case "wait":
                now.unix_ms += 20_000
                memory.sweep()
            case "stand":
                memory.standing = lambda _unit, standing=list(Standing)[number % 2]: standing
            case "stale":
                held.merge(written[number : number + 1])
            case _:
                entry = {
                    "put": value(key, at),
                    "brief": value(key, at, now.unix_ms + 5),
                    "delete": deletion(key, at),
                }[what]
                written.append(entry)
                held.merge([entry])
        for other in {entry.key for entry in written}:
            (found,) = held.get([other])
            assert found is not None
            assert found.version >= newest.get(other, found.version)
            newest[other] = found.version

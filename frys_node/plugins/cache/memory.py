"""What one node holds of the cache's units, under one bound of bytes.

Sans-I/O. Theory of operation. The replication engine merges entries by version; three rules make that safe for
data that may vanish (design D6, replication study section 4):

* The unit is the hash of the key (or of its ``{tag}``) alone, never of the namespace (fine print 14).
* An expired value reads as a tombstone that is newer than the value by the smallest step, not as an absence: otherwise
  an older value on a replica that missed the write would come back. Every replica derives the same tombstone.
  `tombstones` says how long it is kept.
* An eviction cannot afford a tombstone per key. It raises the unit's *floor* just above the evicted version, and a key
  that is not held reads as a tombstone at the floor. So anything older than the floor, wherever it comes from, is a
  miss, and repair cannot put it back. A miss is always legal, a stale hit is not.

Expiry is a heap that is looked at before anything is read, so that a read itself need not look at lifetimes. Short
strings have their Redis answer ready (`replies`), so that a pipeline of reads is one pass over one dictionary.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence

from frys_node.base.types import UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.plugins.cache.cache import decode_value, just_above, plain_body
from frys_node.plugins.cache.census import Census
from frys_node.plugins.cache.policy import Policy, PolicyName, make_policy
from frys_node.plugins.cache.tombstones import AGE_MS_MAX, KEPT_MS, Standing, Tombstones
from frys_node.plugins.cache.unit import CacheUnit

ENTRY_OVERHEAD_BYTES = 430
"""What one small entry costs beside its key and value in CPython: dict slots, entry, version and byte headers."""

REPLY_OVERHEAD_BYTES = 60
"""What an answer that is kept ready costs beside the bytes of the value."""

REPLY_BYTES_MAX = 288
"""Values that take no more than this, packed, have their answer ready if they are strings."""

_REPLY_HEADS = tuple(b"$%d\r\n" % length for length in range(REPLY_BYTES_MAX))

DUE_LEFT_MAX = 1_024
"""Lifetimes that no longer hold and stay in the heap, beside one for each that does."""


class Pool:
    """Values that share a bound: those of a namespace with a quota, or all others."""

    __slots__ = ("bytes_max", "policy", "total_bytes")

    def __init__(self, policy: PolicyName, bytes_max: int) -> None:
        self.policy: Policy = make_policy(policy)
        self.bytes_max = bytes_max
        self.total_bytes = 0


class CacheMemory:
    """Every unit of one node under one bound of bytes."""

    __slots__ = (
        "_due",
        "_lifetimes",
        "_pools",
        "_shared",
        "bytes_max",
        "census",
        "evicted",
        "expired",
        "homes",
        "keeps_replies",
        "now_unix_ms",
        "policy",
        "replies",
        "standing",
        "tombstones",
        "tombstones_evicted",
        "total_bytes",
        "units",
    )

    def __init__(
        self,
        bytes_max: int,
        now_unix_ms: Callable[[], int],
        policy: PolicyName = PolicyName.LRU,
        quotas: Mapping[str, int] | None = None,
    ) -> None:
        self.bytes_max = bytes_max
        self.policy = policy
        self.now_unix_ms = now_unix_ms
        self.units: dict[str, CacheUnit] = {}
        self.homes: dict[bytes, CacheUnit] = {}
        """The unit of each entry held."""
        self.census = Census()
        self.replies: dict[bytes, bytes] = {}
        """Redis' answer to GET for the short strings among the entries, if `keeps_replies`."""
        self.keeps_replies = False
        self.tombstones = Tombstones()
        self.standing: Callable[[UnitId], Standing] = lambda _unit: Standing.WHOLE
        """What this node is to a unit; the driver knows."""
        self.total_bytes = 0
        """What all entries take; the pools and `tombstones` have their parts of it."""
        self.evicted = 0
        """Values evicted since the start."""
        self.tombstones_evicted = 0
        """Tombstones that gave way to a floor before all members had agreed to free them, since the start."""
        self.expired = 0
        """Values that expired here since the start."""
        self._shared = Pool(policy, bytes_max)
        self._pools = {name.encode(): Pool(policy, quota) for name, quota in (quotas or {}).items()}
        self._due: list[tuple[int, bytes]] = []
        self._lifetimes: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self.homes)

    def open(self, unit: UnitId) -> CacheUnit:
        """Return a new, empty store of a unit; what an earlier one held is forgotten."""
        old = self.units.get(unit)
        if old is not None:
            old.clear()
        store = CacheUnit(unit, self)
        self.units[unit] = store
        return store

    def configure(self, bytes_max: int, policy: PolicyName, quotas: Mapping[str, int], *, keeps_replies: bool) -> None:
        """Take new bounds and evict what no longer fits; a new policy begins with what is held, in no order."""
        is_same = policy is self.policy and set(self._pools) == {name.encode() for name in quotas}
        self.bytes_max, self.policy = bytes_max, policy
        if keeps_replies is not self.keeps_replies:
            self.keeps_replies, is_same = keeps_replies, False
            self.replies.clear()
        if is_same:
            for name, quota in quotas.items():
                self._pools[name.encode()].bytes_max = quota
        else:
            self._rebuild(policy, quotas)
        self.shrink()

    def _rebuild(self, policy: PolicyName, quotas: Mapping[str, int]) -> None:
        """Make new pools of what is held, and its answers."""
        self._shared = Pool(policy, self.bytes_max)
        self._pools = {name.encode(): Pool(policy, quota) for name, quota in quotas.items()}
        self.total_bytes = 0
        for key, unit in self.homes.items():
            entry = unit.held[key]
            size_bytes = self._size(entry)
            self.total_bytes += size_bytes
            if entry.value is not None:
                pool = self._pool(key)
                pool.policy.add(key)
                pool.total_bytes += size_bytes
                self._end_lifetime(key)
                self._read_value(entry)

    def pool_bytes(self) -> dict[str, int]:
        """Bytes held of each namespace that has a quota."""
        return {name.decode(): pool.total_bytes for name, pool in self._pools.items()}

    def hit(self, keys: Sequence[bytes]) -> None:
        """Note that values that are held were read."""
        if not self._pools:
            self._shared.policy.hit(keys)
            return
        for key in keys:
            self._pool(key).policy.hit((key,))

    def peek(self, key: bytes) -> Entry | None:
        """Return the entry held under a full key, whatever its unit; `expire_due` comes before."""
        home = self.homes.get(key)
        return None if home is None else home.held[key]

    def read(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """Return the entries held under full keys, and note that they were read; what is not held is None."""
        self.expire_due()
        homes = self.homes
        found = [homes[key].held[key] if key in homes else None for key in keys]
        self.hit([entry.key for entry in found if entry is not None and entry.value is not None])
        return found

    def put(self, version: Version, items: Mapping[bytes, bytes | None], unit_of: Callable[[bytes], UnitId]) -> None:
        """Apply values, None for a deletion, under a version that is newer than all that is held."""
        homes, units, keep = self.homes, self.units, self.keep
        for key, value in items.items():
            unit = homes.get(key)
            keep(units[unit_of(key)] if unit is None else unit, Entry(key, version, value))
        self.shrink()

    def keep(self, unit: CacheUnit, entry: Entry) -> None:
        """Put an entry in the place of the one held under its key; the caller lets `shrink` follow."""
        key = entry.key
        old = unit.held.get(key)
        if entry.value is None:
            self._bury(unit, entry, old)
            return
        pool = self._pool(key) if self._pools else self._shared
        size_bytes = self._cost(entry.value)
        if old is not None and old.value is not None:
            size_bytes -= self._cost(old.value)
            if self._lifetimes:
                self._end_lifetime(key)
        else:
            if old is not None:
                self._unbury(old)
            self.homes[key] = unit
            self.census.add(key)
            size_bytes += ENTRY_OVERHEAD_BYTES + len(key)
        unit.held[key] = entry
        if unit.was is not None:
            unit.note(key, old)
        pool.total_bytes += size_bytes
        self.total_bytes += size_bytes
        pool.policy.add(key)
        if not self._read_value(entry):
            self.replies.pop(key, None)

    def _bury(self, unit: CacheUnit, tombstone: Entry, old: Entry | None) -> None:
        """Put a tombstone in the place of what is held, or raise the floor above it where nobody needs it."""
        key = tombstone.key
        if old is not None:
            self.forget(old)
        standing = self.standing(unit.unit)
        if standing is Standing.ALONE or not unit.needs(tombstone):
            unit.held.pop(key, None)
            unit.raise_floor(tombstone.version)
        else:
            size_bytes = self._size(tombstone)
            unit.held[key] = tombstone
            self.homes[key] = unit
            self.total_bytes += size_bytes
            self.tombstones.add(key, size_bytes, self.now_unix_ms(), is_filling=standing is Standing.FILLING)
        unit.note(key, old)

    def _unbury(self, tombstone: Entry) -> None:
        size_bytes = self._size(tombstone)
        self.tombstones.remove(tombstone.key, size_bytes)
        self.total_bytes -= size_bytes

    def forget(self, entry: Entry) -> None:
        """Take an entry out of every account but its unit's own."""
        if entry.value is None:
            self._unbury(entry)
            del self.homes[entry.key]
            return
        pool = self._pool(entry.key)
        pool.policy.remove(entry.key)
        self._gone(pool, entry)

    def shrink(self) -> None:
        """Give up until every bound holds: tombstones over their share, what is over a quota, then whatever is left.

        Of that old tombstones go first, then what the policy says, and at last young tombstones.
        """
        self._shrink_tombstones()
        for pool in self._pools.values():
            while pool.total_bytes > pool.bytes_max and len(pool.policy):
                self._evict(pool)
        if self.total_bytes <= self.bytes_max:
            return
        kept_ms = self.now_unix_ms() - KEPT_MS
        while self.total_bytes > self.bytes_max and self.homes:
            key = self.tombstones.before(kept_ms)
            pool = self._shared
            if not len(pool.policy) and self._pools:
                pool = max(self._pools.values(), key=lambda other: other.total_bytes)
            if key is None and len(pool.policy):
                self._evict(pool)
            elif (key := key or self.tombstones.any()) is not None:
                self._evict_tombstone(key)

    def _shrink_tombstones(self) -> None:
        while (key := self.tombstones.surplus(self.bytes_max)) is not None:
            self._evict_tombstone(key)

    def sweep(self) -> None:
        """Do what only time asks for: end lifetimes, and give up tombstones that are too old to be kept."""
        self.expire_due()
        tombstones, found = self.tombstones, dict[UnitId, bool]()

        def is_filling(key: bytes) -> bool:
            unit = self.homes[key].unit
            if unit not in found:
                found[unit] = self.standing(unit) is Standing.FILLING
            return found[unit]

        tombstones.settle(is_filling, lambda key: ENTRY_OVERHEAD_BYTES + len(key))
        at_ms = self.now_unix_ms() - AGE_MS_MAX
        while (key := tombstones.before(at_ms)) is not None:
            self._evict_tombstone(key)
        self._shrink_tombstones()

    def expire_due(self) -> int:
        """Turn values whose lifetime is over into tombstones; returns how many."""
        due = self._due
        if not due:
            return 0
        now_unix_ms = self.now_unix_ms()
        count = 0
        while due and due[0][0] <= now_unix_ms:
            expires_unix_ms, key = heapq.heappop(due)
            if self._lifetimes.get(key) == expires_unix_ms:
                self._expire(key)
                count += 1
        self.expired += count
        self._shrink_tombstones()
        return count

    def _expire(self, key: bytes) -> None:
        unit = self.homes[key]
        old = unit.held[key]
        self._bury(unit, Entry(key, just_above(old.version), None), old)

    def _evict(self, pool: Pool) -> None:
        key = pool.policy.pop_victim()
        self._gone(pool, self.homes[key].evict(key))
        self.evicted += 1

    def _evict_tombstone(self, key: bytes) -> None:
        self.forget(self.homes[key].evict(key))
        self.tombstones_evicted += 1

    def _gone(self, pool: Pool, entry: Entry) -> None:
        size_bytes = self._size(entry)
        pool.total_bytes -= size_bytes
        self.total_bytes -= size_bytes
        del self.homes[entry.key]
        self._end_lifetime(entry.key)
        self.census.remove(entry.key)
        self.replies.pop(entry.key, None)

    def _end_lifetime(self, key: bytes) -> None:
        expires_unix_ms = self._lifetimes.pop(key, 0)
        if expires_unix_ms:
            self.census.end(key, expires_unix_ms)

    def _pool(self, key: bytes) -> Pool:
        return self._pools.get(key.partition(b"\0")[0], self._shared) if self._pools else self._shared

    def _size(self, entry: Entry) -> int:
        return ENTRY_OVERHEAD_BYTES + len(entry.key) + self._cost(entry.value)

    def _cost(self, value: bytes | None) -> int:
        """Return the bytes of a value, and of its answer if it is short enough to have one ready."""
        if value is None:
            return 0
        size_bytes = len(value)
        if self.keeps_replies and size_bytes <= REPLY_BYTES_MAX:
            return 2 * size_bytes + REPLY_OVERHEAD_BYTES
        return size_bytes

    def _read_value(self, entry: Entry) -> bool:
        """Take down a value's lifetime and make its answer; False if it has none ready."""
        if entry.value is None:
            return False
        body = plain_body(entry.value)
        if body is not None:
            if self.keeps_replies and len(entry.value) <= REPLY_BYTES_MAX:
                self.replies[entry.key] = _REPLY_HEADS[len(body)] + body + b"\r\n"
                return True
            return False
        value = decode_value(entry.value)
        has_reply = self.keeps_replies and value.fields is None and len(entry.value) <= REPLY_BYTES_MAX
        if has_reply:
            self.replies[entry.key] = b"$%d\r\n%b\r\n" % (len(value.body), value.body)
        if value.expires_unix_ms:
            self._lifetimes[entry.key] = value.expires_unix_ms
            self.census.begin(entry.key, value.expires_unix_ms)
            heapq.heappush(self._due, (value.expires_unix_ms, entry.key))
            if len(self._due) > 2 * len(self._lifetimes) + DUE_LEFT_MAX:
                self._due = sorted((at_ms, key) for key, at_ms in self._lifetimes.items())
        return has_reply

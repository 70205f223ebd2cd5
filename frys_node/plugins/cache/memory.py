"""What one node holds of the cache's units, under one bound of bytes.

Sans-I/O. Theory of operation. The replication engine merges entries by version; three rules make that safe for
data that may vanish (design D6, replication study section 4):

* The unit is the hash of the key (or of its ``{tag}``) alone, never of the namespace (fine print 14).
* An expired value reads as a tombstone that is newer than the value by the smallest step, not as an absence: otherwise
  an older value on a replica that missed the write would come back. Every replica derives the same tombstone.
* An eviction cannot afford a tombstone per key. It raises the unit's *floor* just above the evicted version, and a key
  that is not held reads as a tombstone at the floor. So anything older than the floor, wherever it comes from, is a
  miss, and repair cannot put it back. A miss is always legal, a stale hit is not.

Expiry is a heap that is looked at before anything is read, so that a read itself need not look at lifetimes. Short
strings have their Redis answer ready (`replies`), so that a pipeline of reads is one pass over one dictionary.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from frys_node.base.types import UnitId
from frys_node.kernel.services.replication import ENTRY_BYTES, Changes, Entry, Version
from frys_node.plugins.cache.cache import decode_value, just_above, plain_body
from frys_node.plugins.cache.policy import Policy, PolicyName, make_policy

ENTRY_OVERHEAD_BYTES = 430
"""What one small entry costs beside its key and value in CPython: dict slots, entry, version and byte headers."""

REPLY_OVERHEAD_BYTES = 60
"""What an answer that is kept ready costs beside the bytes of the value."""

REPLY_BYTES_MAX = 288
"""Values that take no more than this, packed, have their answer ready if they are strings."""

_REPLY_HEADS = tuple(b"$%d\r\n" % length for length in range(REPLY_BYTES_MAX))

CHANGES_MAX = 1_024
"""Changed keys of a unit that are remembered for its hash tree; of more it is built anew."""

DUE_LEFT_MAX = 1_024
"""Lifetimes that no longer hold and stay in the heap, beside one for each that does."""


class Pool:
    """Entries that share a bound: those of a namespace with a quota, or all others."""

    __slots__ = ("bytes_max", "policy", "total_bytes")

    def __init__(self, policy: PolicyName, bytes_max: int) -> None:
        self.policy: Policy = make_policy(policy)
        self.bytes_max = bytes_max
        self.total_bytes = 0


class CacheUnit:
    """What this node holds of one unit (a `UnitStore`)."""

    __slots__ = ("floor", "held", "memory", "unit", "was")

    def __init__(self, unit: UnitId, memory: CacheMemory) -> None:
        self.unit = unit
        self.memory = memory
        """What bounds this unit together with the others of the node."""
        self.floor: Version | None = None
        """Just above the newest version evicted since the unit was empty."""
        self.held: dict[bytes, Entry] = {}
        """Entries by key; an expired one is a tombstone only after `expire_due`."""
        self.was: dict[bytes, Entry | None] | None = None
        """What was held under the keys that changed since somebody asked; None: nobody has, or too many changed."""

    def __len__(self) -> int:
        return len(self.held)

    def get(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """The entries held, expired and evicted ones as tombstones, in the order of the keys."""
        self.memory.expire_due()
        found: list[Entry | None] = list(map(self.held.get, keys))
        if None not in found:
            self.memory.hit(keys)
            return found
        self.memory.hit([key for key, entry in zip(keys, found, strict=True) if entry is not None])
        floor = self.floor
        if floor is None:
            return found
        return [entry or Entry(key, floor, None) for key, entry in zip(keys, found, strict=True)]

    def put(self, entries: Sequence[Entry]) -> None:
        """Apply entries that are newer than what is held, then evict what no longer fits on the node."""
        for entry in entries:
            self.memory.keep(self, entry)
        self.memory.shrink()

    def drop(self, keys: Sequence[bytes]) -> None:
        """Forget entries as if they had never been here; no floor rises."""
        for key in keys:
            entry = self.held.pop(key, None)
            if entry is not None:
                self.memory.forget(entry)
                self.note(key, entry)

    def keys(self) -> Iterable[bytes]:
        """The key of every entry held."""
        return list(self.held)

    def changed(self) -> Changes:
        """What changed since the last call; everything when that was too long ago."""
        self.memory.expire_due()
        was, self.was = self.was, {}
        if was is None:
            return Changes(True, [(None, entry) for entry in self.held.values()])
        return Changes(False, [(before, self.held.get(key)) for key, before in was.items()])

    def note(self, key: bytes, before: Entry | None) -> None:
        """Take down what is held under a key that changes now."""
        was = self.was
        if was is not None and key not in was:
            was[key] = before
            if len(was) > CHANGES_MAX:
                self.was = None

    def entries(self) -> Iterable[Entry]:
        """Every entry held, by key; expired ones as tombstones."""
        self.memory.expire_due()
        return [self.held[key] for key in sorted(self.held)]

    def size_bytes(self) -> int:
        """What the entries take when they travel."""
        return sum(ENTRY_BYTES + len(key) + len(entry.value or b"") for key, entry in self.held.items())

    def clear(self) -> None:
        """Forget everything, the floor included: what was known of older data is gone with it (rule 12)."""
        for entry in self.held.values():
            self.memory.forget(entry)
        self.held.clear()
        self.floor = self.was = None

    def evict(self, key: bytes) -> Entry:
        """Drop an entry for want of memory and raise the floor above it; its pool has forgotten it already."""
        entry = self.held.pop(key)
        self.note(key, entry)
        floor = just_above(entry.version)
        self.floor = floor if self.floor is None else max(self.floor, floor)
        return entry

    def live(self, prefix: bytes) -> Iterator[bytes]:
        """The keys of a namespace that have values, in no order."""
        self.memory.expire_due()
        return (key for key, entry in self.held.items() if entry.value is not None and key.startswith(prefix))


class CacheMemory:
    """Every unit of one node under one bound of bytes."""

    __slots__ = (
        "_due",
        "_lifetimes",
        "_pools",
        "_shared",
        "bytes_max",
        "evicted",
        "expired",
        "homes",
        "keeps_replies",
        "now_unix_ms",
        "policy",
        "replies",
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
        self.replies: dict[bytes, bytes] = {}
        """Redis' answer to GET for the short strings among the entries, if `keeps_replies`."""
        self.keeps_replies = False
        self.total_bytes = 0
        self.evicted = 0
        """Entries evicted since the start."""
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
            pool = self._pool(key)
            pool.policy.add(key)
            pool.total_bytes += size_bytes
            self.total_bytes += size_bytes
            self._read_value(entry)

    def pool_bytes(self) -> dict[str, int]:
        """Bytes held of each namespace that has a quota."""
        return {name.decode(): pool.total_bytes for name, pool in self._pools.items()}

    def hit(self, keys: Sequence[bytes]) -> None:
        """Note that entries that are held were read."""
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
        self.hit([key for key in keys if key in homes])
        return [homes[key].held[key] if key in homes else None for key in keys]

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
        pool = self._pool(key) if self._pools else self._shared
        old = unit.held.get(key)
        size_bytes = self._cost(entry.value)
        if old is None:
            self.homes[key] = unit
            size_bytes += ENTRY_OVERHEAD_BYTES + len(key)
        else:
            size_bytes -= self._cost(old.value)
            if self._lifetimes:
                self._lifetimes.pop(key, None)
        unit.held[key] = entry
        if unit.was is not None:
            unit.note(key, old)
        pool.total_bytes += size_bytes
        self.total_bytes += size_bytes
        pool.policy.add(key)
        if not self._read_value(entry):
            self.replies.pop(key, None)

    def forget(self, entry: Entry) -> None:
        """Take an entry out of every account but its unit's own."""
        pool = self._pool(entry.key)
        pool.policy.remove(entry.key)
        self._gone(pool, entry)

    def shrink(self) -> None:
        """Evict until every bound holds: first in namespaces over their quota, then among the others."""
        for pool in self._pools.values():
            while pool.total_bytes > pool.bytes_max and len(pool.policy):
                self._evict(pool)
        while self.total_bytes > self.bytes_max and self.homes:
            pool = self._shared
            if not len(pool.policy):
                pool = max(self._pools.values(), key=lambda other: other.total_bytes)
            self._evict(pool)

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
        return count

    def _expire(self, key: bytes) -> None:
        del self._lifetimes[key]
        self.replies.pop(key, None)
        unit = self.homes[key]
        old = unit.held[key]
        unit.held[key] = Entry(key, just_above(old.version), None)
        unit.note(key, old)
        freed_bytes = self._cost(old.value)
        self._pool(key).total_bytes -= freed_bytes
        self.total_bytes -= freed_bytes

    def _evict(self, pool: Pool) -> None:
        key = pool.policy.pop_victim()
        self._gone(pool, self.homes[key].evict(key))
        self.evicted += 1

    def _gone(self, pool: Pool, entry: Entry) -> None:
        size_bytes = self._size(entry)
        pool.total_bytes -= size_bytes
        self.total_bytes -= size_bytes
        del self.homes[entry.key]
        self._lifetimes.pop(entry.key, None)
        self.replies.pop(entry.key, None)

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
            heapq.heappush(self._due, (value.expires_unix_ms, entry.key))
            if len(self._due) > 2 * len(self._lifetimes) + DUE_LEFT_MAX:
                self._due = sorted((at_ms, key) for key, at_ms in self._lifetimes.items())
        return has_reply

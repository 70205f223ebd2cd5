"""The cache's data: how keys map to units, how values are packed, and what one unit holds in memory.

Sans-I/O. Theory of operation. The replication engine merges entries by version; three rules make that safe for
data that may vanish (design D6, replication study section 4):

* The unit is the hash of the key (or of its ``{tag}``) alone, never of the namespace (fine print 14).
* An expired value reads as a tombstone that is newer than the value by the smallest step, not as an absence: otherwise
  an older value on a replica that missed the write would come back. Every replica derives the same tombstone.
* An eviction cannot afford a tombstone per key. It raises the unit's *floor* just above the evicted version, and a key
  that is not held reads as a tombstone at the floor. So anything older than the floor, wherever it comes from, is a
  miss, and repair cannot put it back. A miss is always legal, a stale hit is not.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

import msgspec

from frys_node.base.errors import UsageError
from frys_node.base.types import UnitId
from frys_node.kernel.services.replication import Entry, Version
from frys_node.plugins.cache.policy import LruBytes, Slot

TTL_MS_MAX = 10 * 365 * 86_400_000
"""Ten years: longer is a mistake in the unit."""

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TTL = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)?")
_TTL_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class CacheMiss(UsageError):
    """There is no such entry, or it has expired or was evicted. State is unchanged."""

    code = "cache.miss"
    status = 404


class InvalidCacheRequest(UsageError):
    """A key, value, namespace or lifetime is outside its limits. State is unchanged."""

    code = "cache.invalid"


class CacheTooLarge(UsageError):
    """A value or batch is over its limit. State is unchanged."""

    code = "cache.too_large"
    status = 413


class CacheValue(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A stored value. `expires_unix_ms` 0 means never."""

    expires_unix_ms: int
    content_type: str
    body: bytes

    def is_expired(self, now_unix_ms: int) -> bool:
        """True once the lifetime is over."""
        return 0 < self.expires_unix_ms <= now_unix_ms


_encode_value = msgspec.msgpack.Encoder().encode
_decode_value = msgspec.msgpack.Decoder(CacheValue).decode


def full_key(namespace: str, key: bytes) -> bytes:
    """Return the key under which an entry is stored in its unit.

    Raises:
        InvalidCacheRequest: The namespace is not 1 to 64 letters, digits, dots, dashes and underscores.
    """
    if not _NAMESPACE.fullmatch(namespace):
        raise InvalidCacheRequest(
            f"namespace '{namespace[:80]}' is not valid", hint="use 1 to 64 of letters, digits, '.', '_', '-'"
        )
    return namespace.encode() + b"\x00" + key


def parse_ttl_ms(text: str) -> int:
    """Read ``30``, ``30s``, ``500ms``, ``5m``, ``2h`` or ``1d`` as milliseconds, 1 to TTL_MS_MAX.

    Raises:
        InvalidCacheRequest: Not a lifetime, or out of range.
    """
    match = _TTL.fullmatch(text.strip())
    if match is None:
        raise InvalidCacheRequest(f"ttl '{text[:40]}' is not a lifetime", hint="write 30, 30s, 500ms, 5m, 2h or 1d")
    ttl_ms = round(float(match[1]) * _TTL_UNIT_MS[match[2] or "s"])
    if not 1 <= ttl_ms <= TTL_MS_MAX:
        raise InvalidCacheRequest(f"ttl '{text[:40]}' is not between 1 ms and 10 years")
    return ttl_ms


def pack(value: CacheValue) -> bytes:
    """Return the bytes that are replicated."""
    return _encode_value(value)


def unpack(entry: Entry | None, now_unix_ms: int) -> CacheValue | None:
    """Return the value of an entry, or None for a miss: absent, deleted or expired."""
    if entry is None or entry.value is None:
        return None
    value = _decode_value(entry.value)
    return None if value.is_expired(now_unix_ms) else value


def just_above(version: Version) -> Version:
    """Return the smallest version above one that anybody wrote; nobody stamps it, since boots are sparse."""
    return version._replace(boot=version.boot + 1)


class CacheUnit:
    """What this node holds of one unit (a `UnitStore`)."""

    __slots__ = ("_entries", "_expiry", "_lru", "_now_unix_ms", "floor", "memory", "unit")

    def __init__(self, unit: UnitId, memory: CacheMemory) -> None:
        self.unit = unit
        self.memory = memory
        """What bounds this unit together with the others of the node."""
        self.floor: Version | None = None
        """Just above the newest version evicted since the unit was empty."""
        self._entries: dict[bytes, Entry] = {}
        self._expiry: dict[bytes, int] = {}
        self._lru = memory.lru
        self._now_unix_ms = memory.now_unix_ms

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, keys: Sequence[bytes]) -> list[Entry | None]:
        """The entries held, expired and evicted ones as tombstones, in the order of the keys."""
        now_unix_ms = self._now_unix_ms()
        found: list[Entry | None] = []
        for key in keys:
            entry = self._current(key, now_unix_ms)
            if entry is not None:
                self._lru.touch(Slot(self.unit, key))
            elif self.floor is not None:
                entry = Entry(key, self.floor, None)
            found.append(entry)
        return found

    def put(self, entries: Sequence[Entry]) -> None:
        """Apply entries that are newer than what is held, then evict what no longer fits on the node."""
        for entry in entries:
            self._entries[entry.key] = entry
            self._expiry.pop(entry.key, None)
            if entry.value is not None:
                expires_unix_ms = _decode_value(entry.value).expires_unix_ms
                if expires_unix_ms:
                    self._expiry[entry.key] = expires_unix_ms
            self._lru.set(Slot(self.unit, entry.key), len(entry.key) + len(entry.value or b""))
        victims = self._lru.pop_excess()
        if victims:
            self.memory.evict(victims)

    def entries(self) -> Iterable[Entry]:
        """Every entry held, by key; expired ones as tombstones."""
        now_unix_ms = self._now_unix_ms()
        return self._sorted(now_unix_ms)

    def clear(self) -> None:
        """Forget everything, the floor included: what was known of older data is gone with it (rule 12)."""
        for key in self._entries:
            self._lru.forget(Slot(self.unit, key))
        self._entries.clear()
        self._expiry.clear()
        self.floor = None

    def evict(self, key: bytes) -> None:
        """Drop an entry for want of memory and raise the floor above it; the LRU has forgotten it already."""
        entry = self._entries.pop(key, None)
        self._expiry.pop(key, None)
        if entry is not None:
            floor = just_above(entry.version)
            self.floor = floor if self.floor is None else max(self.floor, floor)

    def sweep(self) -> int:
        """Turn expired values into tombstones in memory; returns how many."""
        if not self._expiry:
            return 0
        now_unix_ms = self._now_unix_ms()
        due = [key for key, expires_unix_ms in self._expiry.items() if expires_unix_ms <= now_unix_ms]
        for key in due:
            self._current(key, now_unix_ms)
        return len(due)

    def _sorted(self, now_unix_ms: int) -> Iterator[Entry]:
        for key in sorted(self._entries):
            entry = self._current(key, now_unix_ms)
            if entry is not None:
                yield entry

    def _current(self, key: bytes, now_unix_ms: int) -> Entry | None:
        entry = self._entries.get(key)
        if entry is not None and 0 < self._expiry.get(key, 0) <= now_unix_ms:
            entry = Entry(key, just_above(entry.version), None)
            self._entries[key] = entry
            del self._expiry[key]
            self._lru.shrink(Slot(self.unit, key), len(key))
        return entry


class CacheMemory:
    """Every unit of one node under one bound of bytes."""

    __slots__ = ("evicted", "expired", "lru", "now_unix_ms", "units")

    def __init__(self, bytes_max: int, now_unix_ms: Callable[[], int]) -> None:
        self.lru = LruBytes(bytes_max)
        self.units: dict[str, CacheUnit] = {}
        self.evicted = 0
        """Entries evicted since the start."""
        self.expired = 0
        """Expired values that the sweep found since the start."""
        self.now_unix_ms = now_unix_ms

    def open(self, unit: UnitId) -> CacheUnit:
        """Return a new, empty store of a unit; what an earlier one held is forgotten."""
        old = self.units.get(unit)
        if old is not None:
            old.clear()
        store = CacheUnit(unit, self)
        self.units[unit] = store
        return store

    def resize(self, bytes_max: int) -> None:
        """Change the bound and evict what no longer fits."""
        self.lru.bytes_max = bytes_max
        self.evict(self.lru.pop_excess())

    def evict(self, victims: list[Slot]) -> None:
        """Drop entries that the LRU gave up."""
        self.evicted += len(victims)
        for slot in victims:
            unit = self.units.get(slot.unit)
            if unit is not None:
                unit.evict(slot.key)

    def sweep(self) -> None:
        """Give back the memory of expired values."""
        for unit in self.units.values():
            self.expired += unit.sweep()

"""Cache operations through any node: keys are checked, grouped by unit and handed to replication in parallel."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import NamedTuple

from frys_node.base.types import Consistency, UnitId
from frys_node.base.units import cache_unit_of
from frys_node.kernel.parallel import run_all
from frys_node.kernel.services.replication import Entry, Replication, Version
from frys_node.kernel.services.topology import Topology
from frys_node.observe.metrics import Metrics
from frys_node.plugins.cache.cache import (
    CacheTooLarge,
    CacheValue,
    InvalidCacheRequest,
    full_key,
    pack,
    unpack,
)
from frys_node.plugins.cache.config import CacheConfig


class Stored(NamedTuple):
    """A value that was found, its version and the seconds it has left (None: no end)."""

    value: CacheValue
    version: Version
    ttl_s: float | None


class CacheService:
    """Get, put and delete by namespace and key."""

    def __init__(
        self,
        *,
        replication: Replication,
        topology: Topology,
        config: CacheConfig,
        metrics: Metrics,
        now_unix_ms: Callable[[], int],
    ) -> None:
        self.config = config
        self._replication = replication
        self._topology = topology
        self._now_unix_ms = now_unix_ms
        self._operations = metrics.counter("frys_cache_operations_total", "Keys asked for or written.", ("operation",))
        self._lookups = metrics.counter("frys_cache_lookups_total", "Outcome of reads, by key.", ("result",))

    def value(self, body: bytes, content_type: str, ttl_ms: int | None) -> CacheValue:
        """Return a value that lives for `ttl_ms` from now, or for ever.

        Raises:
            CacheTooLarge: The body is over `value_bytes_max`.
        """
        if len(body) > self.config.value_bytes_max:
            raise CacheTooLarge(
                f"a value of {len(body)} bytes is over the limit of {self.config.value_bytes_max}",
                hint="raise [plugins.cache] value_bytes_max, or split the value",
            )
        return CacheValue(0 if ttl_ms is None else self._now_unix_ms() + ttl_ms, content_type, body)

    def check_batch(self, items: int) -> None:
        """Refuse a batch over its limit (`CacheTooLarge`) before any of it is done."""
        if items > self.config.batch_items_max:
            raise CacheTooLarge(
                f"a batch of {items} keys is over the limit of {self.config.batch_items_max}",
                hint="send several batches",
            )

    def check(self, namespace: str, keys: Sequence[str], items: Sequence[tuple[str, CacheValue]]) -> None:
        """Refuse invalid names and a key that is written twice, before any of the batch is done."""
        for key in keys:
            self._key(namespace, key)
        written = [key for key, _ in items]
        for key in written:
            self._key(namespace, key)
        if len(set(written)) != len(written):
            raise InvalidCacheRequest("a batch writes one key twice", hint="send the last value only")

    async def get(self, namespace: str, keys: Sequence[str], consistency: Consistency) -> list[Stored | None]:
        """Return the live values in the order of the keys; None is a miss."""
        raw = [self._key(namespace, key) for key in keys]
        found: dict[bytes, Entry | None] = {}

        async def read(unit: UnitId, positions: list[int]) -> None:
            wanted = list(dict.fromkeys(raw[position] for position in positions))
            found.update(zip(wanted, await self._replication.read(unit, wanted, consistency), strict=True))

        await self._each_unit(keys, read)
        now_unix_ms = self._now_unix_ms()
        answers = [self._stored(found[key], now_unix_ms) for key in raw]
        hits = len(answers) - answers.count(None)
        self._operations.inc("get", by=len(answers))
        self._lookups.inc("hit", by=hits)
        self._lookups.inc("miss", by=len(answers) - hits)
        return answers

    async def put(
        self, namespace: str, items: Sequence[tuple[str, CacheValue]], consistency: Consistency
    ) -> list[Version]:
        """Store values under distinct keys; returns their versions in order."""
        self._operations.inc("put", by=len(items))
        return await self._write(namespace, [(key, pack(value)) for key, value in items], consistency)

    async def delete(self, namespace: str, keys: Sequence[str], consistency: Consistency) -> list[Version]:
        """Delete keys; returns the versions of the tombstones, one for each distinct key."""
        self._operations.inc("delete", by=len(keys))
        return await self._write(namespace, [(key, None) for key in dict.fromkeys(keys)], consistency)

    async def _write(
        self, namespace: str, items: Sequence[tuple[str, bytes | None]], consistency: Consistency
    ) -> list[Version]:
        raw = [(self._key(namespace, key), value) for key, value in items]
        versions: dict[int, Version] = {}

        async def write(unit: UnitId, positions: list[int]) -> None:
            version = await self._replication.write(unit, [raw[position] for position in positions], consistency)
            versions.update(dict.fromkeys(positions, version))

        await self._each_unit([key for key, _ in items], write)
        return [versions[position] for position in range(len(items))]

    async def _each_unit(self, keys: Sequence[str], work: Callable[[UnitId, list[int]], Awaitable[None]]) -> None:
        """Run `work` for the positions of each unit, in parallel when there are several; the first error wins."""
        groups: dict[UnitId, list[int]] = {}
        for position, key in enumerate(keys):
            groups.setdefault(cache_unit_of(key.encode(), self._topology.partitions), []).append(position)
        await run_all([partial(work, unit, positions) for unit, positions in groups.items()])

    def _key(self, namespace: str, key: str) -> bytes:
        try:
            raw = key.encode()
        except UnicodeEncodeError:
            raise InvalidCacheRequest("a key is not valid UTF-8") from None
        if not 1 <= len(raw) <= self.config.key_bytes_max:
            raise InvalidCacheRequest(f"a key has 1 to {self.config.key_bytes_max} bytes, this one has {len(raw)}")
        return full_key(namespace, raw)

    def _stored(self, entry: Entry | None, now_unix_ms: int) -> Stored | None:
        value = unpack(entry, now_unix_ms)
        if entry is None or value is None:
            return None
        ttl_s = (value.expires_unix_ms - now_unix_ms) / 1_000 if value.expires_unix_ms else None
        return Stored(value, entry.version, ttl_s)

"""Cache operations through any node: keys are grouped by unit and handed to replication in parallel.

Keys are full keys (`cache.full_key`): the namespace, a zero byte, then the key, whose hash alone chooses the unit.

Reads of one replica that are asked for while the same read is under way share its answer (single flight), so that a
thousand clients that miss one hot key at once cost its owner one request. A write through this node parts what came
before it from what comes after. Reads at quorum are never shared: each must begin after it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import trio

from frys_node.base.types import Consistency, Epoch, NodeId, UnitId
from frys_node.base.units import SLOTS, slot_of
from frys_node.kernel.parallel import run_all
from frys_node.kernel.services.replication import Entry, Replication, Version
from frys_node.kernel.services.sessions import SESSION
from frys_node.kernel.services.topology import Topology
from frys_node.observe.metrics import Metrics
from frys_node.plugins.cache.cache import CacheTooLarge, CacheValue, InvalidCacheRequest, full_key, unpack
from frys_node.plugins.cache.config import CacheConfig
from frys_node.plugins.cache.memory import CacheMemory

NAMESPACES_MAX = 64
"""Namespaces that have metrics of their own; the others share the label ``other``."""

HERE_CHECK_S = 0.1
"""How often is looked whether this node has come to hold every unit."""


class Stored(NamedTuple):
    """A value that was found, its version and the seconds it has left (None: no end)."""

    value: CacheValue
    version: Version
    ttl_s: float | None


class _Flight:
    """A read of one replica under way."""

    __slots__ = ("entry", "has_failed", "landed")

    def __init__(self) -> None:
        self.landed = trio.Event()
        self.entry: Entry | None = None
        self.has_failed = True


class CacheService:
    """Get, put and delete by full key."""

    def __init__(
        self,
        *,
        replication: Replication,
        topology: Topology,
        memory: CacheMemory,
        config: CacheConfig,
        metrics: Metrics,
        now_unix_ms: Callable[[], int],
        node: NodeId | None = None,
    ) -> None:
        self.config = config
        self.memory = memory
        self.now_unix_ms = now_unix_ms
        self._replication = replication
        self._topology = topology
        self._alone = () if node is None else (node,)
        self._alone_epoch: Epoch | None = None
        self._flights: dict[bytes, _Flight] = {}
        self._units: list[UnitId] = []
        self._here_epoch: Epoch | None = None
        self._here_check_s = 0.0
        self._labels: dict[bytes, str] = {}
        self._operations = metrics.counter(
            "frys_cache_operations_total", "Keys asked for or written.", ("operation", "namespace")
        )
        self._lookups = metrics.counter(
            "frys_cache_lookups_total", "Outcome of reads, by key.", ("result", "namespace")
        )
        self._shared = metrics.counter("frys_cache_shared_reads_total", "Reads that shared the answer to another.")

    # ------------------------------------------------------------------ names and limits

    def key(self, namespace: str, key: bytes) -> bytes:
        """Return the full key.

        Raises:
            InvalidCacheRequest: The namespace is not valid, or the key is not 1 to `key_bytes_max` bytes long.
        """
        self.check_key(key)
        return full_key(namespace, key)

    def check_key(self, key: bytes) -> None:
        """Refuse a key that is not 1 to `key_bytes_max` bytes long (`InvalidCacheRequest`)."""
        if not 1 <= len(key) <= self.config.key_bytes_max:
            raise InvalidCacheRequest(f"a key has 1 to {self.config.key_bytes_max} bytes, this one has {len(key)}")

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
        return CacheValue(0 if ttl_ms is None else self.now_unix_ms() + ttl_ms, content_type, body)

    def check_batch(self, items: int) -> None:
        """Refuse a batch over its limit (`CacheTooLarge`) before any of it is done."""
        if items > self.config.batch_items_max:
            raise CacheTooLarge(
                f"a batch of {items} keys is over the limit of {self.config.batch_items_max}",
                hint="send several batches",
            )

    def unit_of(self, key: bytes) -> UnitId:
        """Return the unit of a full key."""
        home = self.memory.homes.get(key)
        if home is not None:
            return home.unit
        units = self._units
        if not units:
            units = self._units = [UnitId(f"cache/{number}") for number in range(self._topology.partitions)]
        return units[slot_of(key[key.index(0) + 1 :]) * len(units) // SLOTS]

    def units(self) -> list[UnitId]:
        """Return every unit of the cache, in the order of their slots."""
        return [UnitId(f"cache/{number}") for number in range(self._topology.partitions)]

    # ------------------------------------------------------------------ reads

    def is_all_here(self) -> bool:
        """True if this node can answer reads of one replica for every unit: then `memory` is all that is needed."""
        epoch = self._topology.epoch
        if epoch == self._here_epoch:
            return True
        now_s = trio.current_time()
        if now_s < self._here_check_s:
            return False
        self._here_check_s = now_s + HERE_CHECK_S
        if all(self._replication.local(unit) is not None for unit in self.units()):
            # Under one record a unit that is complete stays so.
            self._here_epoch = epoch
            return True
        return False

    def is_alone(self) -> bool:
        """True if every unit lives on this node only: then it is every quorum."""
        epoch = self._topology.epoch
        if epoch == self._alone_epoch:
            return True
        if not self.is_all_here():
            return False
        for unit in self.units():
            sets = self._topology.sets(unit)
            if sets.current != self._alone or sets.next != self._alone:
                return False
        self._alone_epoch = epoch
        return True

    async def get(self, keys: Sequence[bytes], consistency: Consistency) -> list[Stored | None]:
        """Return the live values in the order of the full keys; None is a miss."""
        entries = await self.entries(keys, consistency)
        now_unix_ms = self.now_unix_ms()
        answers = [_stored(entry, now_unix_ms) for entry in entries]
        self.count_reads(keys, [answer is not None for answer in answers])
        return answers

    async def entries(self, keys: Sequence[bytes], consistency: Consistency) -> list[Entry | None]:
        """Return the newest entries, tombstones included, in the order of the full keys; counts nothing."""
        is_free = consistency is Consistency.ONE and SESSION.get() is None
        if self.is_alone() or (is_free and self.is_all_here()):
            return self.memory.read(keys)
        found: dict[bytes, Entry | None] = {}
        jobs = [partial(self._read, unit, wanted, consistency, found) for unit, wanted in self._by_unit(keys).items()]
        await run_all(jobs)
        return [found[key] for key in keys]

    async def _read(
        self, unit: UnitId, keys: list[bytes], consistency: Consistency, found: dict[bytes, Entry | None]
    ) -> None:
        is_free = consistency is Consistency.ONE and SESSION.get() is None
        if not is_free or self._replication.local(unit) is not None:
            found.update(zip(keys, await self._replication.read(unit, keys, consistency), strict=True))
            return
        shared = {key: flight for key in keys if (flight := self._flights.get(key)) is not None}
        mine = [key for key in keys if key not in shared]
        if mine:
            await self._fly(unit, mine, found)
        for key, flight in shared.items():
            await flight.landed.wait()
            if flight.has_failed:
                # Who began it may have had less time than this reader, or nobody waits for it any more.
                found.update(zip([key], await self._replication.read(unit, [key], consistency), strict=True))
            else:
                found[key] = flight.entry
                self._shared.inc()

    async def _fly(self, unit: UnitId, keys: list[bytes], found: dict[bytes, Entry | None]) -> None:
        flights = {key: _Flight() for key in keys}
        self._flights.update(flights)
        try:
            entries = await self._replication.read(unit, keys, Consistency.ONE)
            for flight, entry in zip(flights.values(), entries, strict=True):
                flight.entry, flight.has_failed = entry, False
        finally:
            for key, flight in flights.items():
                if self._flights.get(key) is flight:
                    del self._flights[key]
                flight.landed.set()
        found.update(zip(keys, entries, strict=True))

    # ------------------------------------------------------------------ writes

    async def put(
        self, items: Mapping[bytes, bytes | None], consistency: Consistency, prefix: bytes = b""
    ) -> dict[bytes, Version]:
        """Store packed values (None deletes) under full keys; returns their versions.

        With a prefix all are values of that namespace, and counted at once.
        """
        self.part(items)
        if prefix:
            self._operations.inc("put", self.label(prefix), by=len(items))
        else:
            self.count_writes(items)
        version = self._replication.stamp_alone("cache") if self.is_alone() else None
        if version is not None:
            self.memory.put(version, items, self.unit_of)
            return dict.fromkeys(items, version)
        groups = self._by_unit(items)
        try:
            done = await self._replication.write_units(
                {unit: [(key, items[key]) for key in keys] for unit, keys in groups.items()}, consistency
            )
        finally:
            self.part(items)
        return {key: done[unit] for unit, keys in groups.items() for key in keys}

    def part(self, keys: Mapping[bytes, object] | Sequence[bytes]) -> None:
        """Let no read that is asked for from now on share one that began before."""
        if self._flights:
            for key in keys:
                self._flights.pop(key, None)

    def _by_unit(self, keys: Sequence[bytes] | Mapping[bytes, object]) -> dict[UnitId, list[bytes]]:
        groups: dict[UnitId, list[bytes]] = {}
        for key in dict.fromkeys(keys):
            groups.setdefault(self.unit_of(key), []).append(key)
        return groups

    # ------------------------------------------------------------------ metrics

    def count_reads(self, keys: Sequence[bytes], hits: Sequence[bool]) -> None:
        """Count lookups by namespace."""
        for key, is_hit in zip(keys, hits, strict=True):
            label = self.label(key[: key.index(0) + 1])
            self._operations.inc("get", label)
            self._lookups.inc("hit" if is_hit else "miss", label)

    def count_hits(self, prefix: bytes, asked: int, hits: int) -> None:
        """Count lookups of one namespace at once."""
        label = self.label(prefix)
        self._operations.inc("get", label, by=asked)
        self._lookups.inc("hit", label, by=hits)
        self._lookups.inc("miss", label, by=asked - hits)

    def count_writes(self, items: Mapping[bytes, bytes | None]) -> None:
        """Count values stored and deleted by namespace."""
        for key, value in items.items():
            self._operations.inc("delete" if value is None else "put", self.label(key[: key.index(0) + 1]))

    def lookups(self) -> tuple[int, int]:
        """Return the hits and misses of all namespaces since the start."""
        counts = {"hit": 0.0, "miss": 0.0}
        for (result, _), value in self._lookups.values.items():
            counts[result] += value
        return int(counts["hit"]), int(counts["miss"])

    def label(self, prefix: bytes) -> str:
        """Return the metric label of a namespace, given with its zero byte."""
        label = self._labels.get(prefix)
        if label is None:
            label = prefix[:-1].decode() if len(self._labels) < NAMESPACES_MAX else "other"
            if label != "other":
                self._labels[prefix] = label
        return label


def _stored(entry: Entry | None, now_unix_ms: int) -> Stored | None:
    value = unpack(entry, now_unix_ms)
    if entry is None or value is None:
        return None
    ttl_s = (value.expires_unix_ms - now_unix_ms) / 1_000 if value.expires_unix_ms else None
    return Stored(value, entry.version, ttl_s)

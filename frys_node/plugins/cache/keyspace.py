"""Every key of a namespace: counted, listed page by page, flushed, unit by unit at one replica of each.

A page of a unit is in the order of a hash of its keys, so that a place in it is a number that fits into a cursor of
Redis' and stays good while keys come and go. A key that is there all along is listed once; one replica may lag behind a
quorum.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import partial
from typing import NamedTuple

import mmh3

from frys_node.base.errors import NoReplica, NotOwner
from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.parallel import run_all
from frys_node.kernel.services.replication import Replication
from frys_node.kernel.services.rpc import Method, Rpc
from frys_node.plugins.cache.cache import decode_value
from frys_node.plugins.cache.driver import CacheService
from frys_node.plugins.cache.unit import CacheUnit
from frys_node.wire.codec import Message

HASHES = 1 << 32
"""Places in a unit."""

REMOTE_UNITS_MAX = 16
"""Units of other nodes that one page of a scan asks for."""

FLUSH_KEYS = 1_000
"""Keys deleted in one go."""


class CountRequest(Message, frozen=True):
    """How many live keys begin so, in each of these units?"""

    units: list[UnitId]
    prefix: bytes


class PageRequest(Message, frozen=True):
    """Up to `limit` keys of a unit that begin so, from a place on; `kind` is ``string``, ``hash`` or empty for any."""

    unit: UnitId
    prefix: bytes
    place: int
    limit: int
    kind: str = ""


class Page(Message, frozen=True):
    """Keys without their namespace, and the place where the next page begins (`HASHES`: there is none)."""

    keys: list[bytes]
    next_place: int


COUNT: Method[CountRequest, int] = Method("cache.count", CountRequest, int)
PAGE: Method[PageRequest, Page] = Method("cache.page", PageRequest, Page)


class Found(NamedTuple):
    """A part of a scan; the cursor is 0 at the end."""

    cursor: int
    keys: list[bytes]


class Keyspace:
    """Lists what is in the cache, here and on other nodes."""

    def __init__(self, *, service: CacheService, replication: Replication, rpc: Rpc) -> None:
        self._service = service
        self._replication = replication
        self._rpc = rpc
        rpc.serve(COUNT, self._on_count)
        rpc.serve(PAGE, self._on_page)

    def close(self) -> None:
        """Answer other nodes no more."""
        self._rpc.unserve(COUNT)
        self._rpc.unserve(PAGE)

    async def count(self, prefix: bytes, only: Container[UnitId] | None = None) -> int:
        """Return the number of live keys that begin so, in every unit or only in some."""
        places: dict[NodeId, list[UnitId]] = {}
        for unit in self._service.units():
            if only is None or unit in only:
                places.setdefault(self._holder(unit), []).append(unit)
        counts = await run_all(
            [partial(self._rpc.call, node, COUNT, CountRequest(units, prefix)) for node, units in places.items()]
        )
        return sum(counts)

    async def scan(
        self, prefix: bytes, cursor: int, limit: int, kind: str = "", only: Container[UnitId] | None = None
    ) -> Found:
        """Return about `limit` keys from a cursor on, without their namespace, of every unit or only of some.

        There may be none and still be more.
        """
        number, place = divmod(cursor, HASHES)
        units = self._service.units()
        keys: list[bytes] = []
        remote = 0
        while number < len(units) and len(keys) < limit and remote < REMOTE_UNITS_MAX:
            if only is not None and units[number] not in only:
                number, place = number + 1, 0
                continue
            node = self._holder(units[number])
            remote += node != self._rpc.self_id
            request = PageRequest(units[number], prefix, place, limit - len(keys), kind)
            if node == self._rpc.self_id:
                page = self._page(request)
            else:
                page = await self._rpc.call(node, PAGE, request)
            keys += page.keys
            number, place = (number, page.next_place) if page.next_place < HASHES else (number + 1, 0)
        return Found(number * HASHES + place if number < len(units) else 0, keys)

    async def flush(self, prefix: bytes, consistency: Consistency) -> int:
        """Delete every key that begins so; what is written meanwhile may stay."""
        cursor, count = 0, 0
        while True:
            found = await self.scan(prefix, cursor, FLUSH_KEYS)
            if found.keys:
                await self._service.put(dict.fromkeys(prefix + key for key in found.keys), consistency)
                count += len(found.keys)
            cursor = found.cursor
            if not cursor:
                return count

    def _holder(self, unit: UnitId) -> NodeId:
        if self._replication.local(unit) is not None:
            return self._rpc.self_id
        replicas = self._replication.replicas(unit)
        if not replicas:
            raise NoReplica(f"no member of the set of '{unit}' is alive", hint="see `frys-node members`")
        return replicas[0]

    def _store(self, unit: UnitId) -> CacheUnit:
        store = self._replication.local(unit)
        if not isinstance(store, CacheUnit):
            raise NotOwner(f"'{unit}' is not held here", hint="retry")
        return store

    async def _on_count(self, caller: NodeId, request: CountRequest) -> int:
        del caller
        return sum(sum(1 for _ in self._store(unit).live(request.prefix)) for unit in request.units)

    async def _on_page(self, caller: NodeId, request: PageRequest) -> Page:
        del caller
        return self._page(request)

    def _page(self, request: PageRequest) -> Page:
        store, prefix = self._store(request.unit), request.prefix
        keys = store.live(prefix)
        if request.kind:
            keys = (key for key in keys if _kind(store, key) == request.kind)
        placed = [(mmh3.hash(key, signed=False), key) for key in keys]
        ahead = sorted(pair for pair in placed if pair[0] >= request.place)
        return Page(*_cut(ahead, max(1, request.limit), len(prefix)))


def _cut(ahead: Sequence[tuple[int, bytes]], limit: int, skip: int) -> tuple[list[bytes], int]:
    """Return the first keys and where the rest begins; keys in one place stay together."""
    end = min(limit, len(ahead))
    while 0 < end < len(ahead) and ahead[end][0] == ahead[end - 1][0]:
        end += 1
    next_place = ahead[end - 1][0] + 1 if end < len(ahead) else HASHES
    return [key[skip:] for _, key in ahead[:end]], next_place


def _kind(store: CacheUnit, key: bytes) -> str:
    value = store.held[key].value
    return "string" if value is None or decode_value(value).fields is None else "hash"

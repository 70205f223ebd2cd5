"""Who works in a place: many may use its chunks, or one may collect those that nobody names.

Each side first says what it is about to do, as an object, and then looks whether the other side has said so (Dekker):
at least one of two sees the other, on any store where a listing shows what was written before. A user that meets a
collector waits a while; a collector that meets anybody goes away, and the chunks wait for the next time.

A lock whose owner is gone must not stand for ever. It counts until `LEASE_S` after it was renewed last, by the reader's
wall clock, and a lock of this node's earlier process counts for nothing. A user that was asleep for longer finds its
own lock gone when it looks, which it does before and after it makes its snapshot visible.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from frys_node.base.errors import FrysError
from frys_node.base.ports import Clock
from frys_node.base.types import NodeId
from snapshots.errors import StoreBusy, StoreRefused, StoreUnfit
from snapshots.index import LOCKS
from snapshots.objects import Objects

LEASE_S: Final = 900.0
"""How long a lock counts that is not renewed: longer than any request, however often tried again."""

RENEW_S: Final = 120.0
"""How often a lock is renewed."""

WAIT_S: Final = 60.0
"""How long a user waits for a collector."""

POLL_S: Final = 0.5
RELEASE_S: Final = 10.0

USE: Final = "use"
COLLECT: Final = "collect"

log = logging.getLogger(__name__)


class LockBody(msgspec.Struct, frozen=True):
    """What a lock says."""

    kind: str
    node: NodeId
    process: str
    """Of that node: when it started, in ns."""
    renewed_unix_ns: int
    purpose: str


class Lock:
    """A lock that this node holds."""

    def __init__(self, objects: Objects, clock: Clock, key: str, body: LockBody) -> None:
        self.key = key
        self._objects = objects
        self._clock = clock
        self._body = body
        self._renewed_s = clock.now_s()

    async def keep(self) -> None:
        """Renew the lock if that is due: to be called as the work goes on."""
        if self._clock.now_s() - self._renewed_s >= RENEW_S:
            await self.write()

    async def write(self) -> None:
        """Write the lock with the present time."""
        self._renewed_s = self._clock.now_s()
        self._body = msgspec.structs.replace(self._body, renewed_unix_ns=self._clock.unix_ns())
        await self._objects.put(self.key, msgspec.json.encode(self._body))

    async def is_held(self) -> bool:
        """True if nobody has taken the lock away."""
        return await self._objects.get(self.key) is not None


class Locks:
    """The locks of one place, as one node takes them."""

    def __init__(self, objects: Objects, clock: Clock, node: NodeId, process: str) -> None:
        self._objects = objects
        self._clock = clock
        self._node = node
        self._process = process
        self._count = 0

    @asynccontextmanager
    async def using(self, purpose: str, *, may_fail: bool = False) -> AsyncIterator[Lock | None]:
        """Have nothing collected meanwhile.

        With `may_fail` a place that may only be read is used without a lock (None).

        Raises:
            StoreBusy: Somebody collects, and was not done in time.
            StoreUnfit: The place overwrites what it should refuse to, so that locks and names are worth nothing there.
        """
        try:
            lock = await self._take(USE, purpose)
        except StoreRefused:
            if not may_fail:
                raise
            lock = None
        try:
            if lock is not None:
                await self._until_nobody_collects(lock)
            yield lock
        finally:
            if lock is not None:
                await self._release(lock)

    @asynccontextmanager
    async def collecting(self, purpose: str) -> AsyncIterator[tuple[Lock, LockBody | None]]:
        """Have nobody use the place meanwhile; yields who does if somebody does: then nothing may be collected."""
        lock = await self._take(COLLECT, purpose)
        try:
            others = await self._others(lock)
            yield lock, others[0] if others else None
        finally:
            await self._release(lock)

    async def _until_nobody_collects(self, lock: Lock) -> None:
        give_up_s = self._clock.now_s() + WAIT_S
        while True:
            collectors = [other for other in await self._others(lock) if other.kind == COLLECT]
            if not collectors:
                return
            if self._clock.now_s() >= give_up_s:
                raise StoreBusy(
                    f"node {collectors[0].node} collects unneeded chunks in {self._objects.place}",
                    hint="try again in a while; a collector that died counts for 15 minutes",
                )
            await trio.sleep(POLL_S)

    async def _take(self, kind: str, purpose: str) -> Lock:
        self._count += 1
        key = f"{LOCKS}/{kind}.{self._node}.{self._process}.{self._count}"
        body = LockBody(kind, self._node, self._process, self._clock.unix_ns(), purpose)
        data = msgspec.json.encode(body)
        await self._objects.create(key, data)
        lock = Lock(self._objects, self._clock, key, body)
        try:
            if await self._objects.create(key, data):
                raise StoreUnfit(
                    f"{self._objects.place} ignores `If-None-Match: *`: nodes could overwrite each other's snapshots",
                    hint="use a store with conditional writes (Amazon S3, recent MinIO, Ceph, R2), or a directory",
                )
        except BaseException:
            await self._release(lock)
            raise
        return lock

    async def _others(self, mine: Lock) -> list[LockBody]:
        """Return the locks of others that count; the others are cleared away."""
        found: list[LockBody] = []
        for name in await self._objects.list(LOCKS):
            key = f"{LOCKS}/{name}"
            if key == mine.key:
                continue
            data = await self._objects.get(key)
            if data is None:
                continue
            if (body := self._counts(data)) is not None:
                found.append(body)
            else:
                await self._objects.remove([key])
        return found

    def _counts(self, data: bytes) -> LockBody | None:
        try:
            body = msgspec.json.decode(data, type=LockBody)
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError):
            return None
        is_former = body.node == self._node and body.process != self._process
        is_old = body.renewed_unix_ns < self._clock.unix_ns() - LEASE_S * 1e9
        return None if is_former or is_old else body

    async def _release(self, lock: Lock) -> None:
        with trio.move_on_after(RELEASE_S, shield=True):
            try:
                await self._objects.remove([lock.key])
            except FrysError as error:
                log.warning("snapshots.lock_left", extra={"key": lock.key, "code": error.code})

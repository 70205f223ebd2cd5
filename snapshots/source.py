"""The giving side of a move: captures units for other nodes, pins what they still need, serves chunks.

A pin ends when the receiver releases it, when it was not used for a while, or when there are too many and it was
unused longest. A receiver whose pin is gone is told so and asks for a new offer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Mapping

import trio

from frys_node.base.errors import NotReady
from frys_node.base.ports import Clock
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.snapshots import Snapshottable
from snapshots.capture import capture, kind_of, provider_of
from snapshots.config import SnapshotsConfig
from snapshots.errors import CorruptChunk, NotPinned
from snapshots.manifest import ChunkRef, Manifest
from snapshots.messages import (
    REFS_PAGE,
    Chunk,
    ChunkRequest,
    Offer,
    OfferRequest,
    Refs,
    RefsRequest,
    Released,
    ReleaseRequest,
    Wish,
)
from snapshots.metrics import SnapshotMetrics
from snapshots.store import ChunkStore
from snapshots.throttle import UNIT_BYTES, Throttle


class _Pin:
    """A captured state and who still needs it."""

    __slots__ = ("by_digest", "manifest", "readers", "used_s")

    def __init__(self, manifest: Manifest, now_s: float) -> None:
        self.manifest = manifest
        self.by_digest: dict[bytes, ChunkRef] = {chunk.digest: chunk for chunk in manifest.chunks}
        self.readers: set[NodeId] = set()
        self.used_s = now_s


class Source:
    """Answers ``snapshots.*`` calls of other nodes."""

    def __init__(
        self,
        *,
        store: ChunkStore,
        clock: Clock,
        providers: Mapping[str, Snapshottable],
        config: SnapshotsConfig,
        metrics: SnapshotMetrics,
        throttle: Throttle,
        sealed_kinds: Container[str] = (),
    ) -> None:
        self.config = config
        self.is_open = False
        """False before the node is ready and while it drains: new offers are refused, chunks still served."""
        self._store = store
        self._clock = clock
        self._providers = providers
        self._metrics = metrics
        self._throttle = throttle
        self._sealed_kinds = sealed_kinds
        self._captures = trio.Semaphore(config.captures_max)
        self._pins: OrderedDict[bytes, _Pin] = OrderedDict()

    @property
    def pins(self) -> int:
        """Captured states held for receivers."""
        return len(self._pins)

    async def offer(self, caller: NodeId, request: OfferRequest) -> Offer:
        """Capture a unit, or repeat an offer that is still pinned."""
        if request.root:
            return self._first_page(self._pin(caller, request.root), Wish())
        if not self.is_open:
            raise NotReady("this node does not give snapshots now")
        provider = provider_of(self._providers, request.unit)
        async with self._captures:
            manifest = await capture(self._store, provider, request.unit)
        digests = [chunk.digest for chunk in manifest.chunks]
        pin = self._pins.get(manifest.root)
        if pin is None:
            pin = self._pins[manifest.root] = _Pin(manifest, self._clock.now_s())
        else:
            # Equal states have one pin; the capture's own references are one set too many.
            self._store.unpin(digests)
        pin.readers.add(caller)
        self._touch(manifest.root, pin)
        self._metrics.captures.inc()
        while len(self._pins) > self.config.pins_max:
            await self._drop(next(iter(self._pins)))
        return self._first_page(pin, self._give(caller, request.unit, UNIT_BYTES))

    def _give(self, caller: NodeId, unit: UnitId, size_bytes: int) -> Wish:
        """Count what a receiver gets; units that are sealed while they move are never held back."""
        return self._throttle.give(caller, size_bytes, is_sealed=kind_of(unit) in self._sealed_kinds)

    def _first_page(self, pin: _Pin, wish: Wish) -> Offer:
        manifest = pin.manifest
        return Offer(
            manifest.unit,
            manifest.size_bytes,
            manifest.chunk_bytes,
            len(manifest.chunks),
            manifest.root,
            manifest.format,
            manifest.chunks[:REFS_PAGE],
            wish,
        )

    async def refs(self, caller: NodeId, request: RefsRequest) -> Refs:
        """The next page of references."""
        await trio.lowlevel.checkpoint()
        start = max(0, request.start)
        return Refs(self._pin(caller, request.root).manifest.chunks[start : start + REFS_PAGE])

    async def chunk(self, caller: NodeId, request: ChunkRequest) -> Chunk:
        """One chunk of a state that is pinned for the caller; nothing else is ever served."""
        pin = self._pin(caller, request.root)
        ref = pin.by_digest.get(request.digest)
        if ref is None:
            raise NotPinned(f"chunk {request.digest.hex()[:16]} is not of that snapshot")
        try:
            data = await self._store.get(ref)
        except CorruptChunk:
            # This copy is spoiled; the receiver's next offer captures the state anew.
            await self._drop(request.root)
            raise NotPinned("the captured state was damaged on the source's disk") from None
        self._metrics.transferred.inc("sent", by=len(data))
        return Chunk(data, self._give(caller, pin.manifest.unit, len(data)))

    async def release(self, caller: NodeId, request: ReleaseRequest) -> Released:
        """A receiver is done; the last one frees the state."""
        pin = self._pins.get(request.root)
        if pin is not None:
            pin.readers.discard(caller)
            if not pin.readers:
                await self._drop(request.root)
        return Released()

    async def expire(self) -> None:
        """Drop states that nobody asked for in a while."""
        oldest_s = self._clock.now_s() - self.config.pin_ttl_s
        for root in [root for root, pin in self._pins.items() if pin.used_s < oldest_s]:
            await self._drop(root)

    def _pin(self, caller: NodeId, root: bytes) -> _Pin:
        pin = self._pins.get(root)
        if pin is None or caller not in pin.readers:
            raise NotPinned("that snapshot is not held for this node any more")
        self._touch(root, pin)
        return pin

    def _touch(self, root: bytes, pin: _Pin) -> None:
        pin.used_s = self._clock.now_s()
        self._pins.move_to_end(root)

    async def _drop(self, root: bytes) -> None:
        pin = self._pins.pop(root, None)
        if pin is not None:
            digests = [chunk.digest for chunk in pin.manifest.chunks]
            self._store.unpin(digests)
            await self._store.discard(digests)

"""The receiving side of a move: performs what the transfer machine asks for.

An offer is captured anew by each pull, so that the state is never older than the pull; within one pull a broken
connection resumes the same offer, and only chunks that are not here are asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from frys_node.base.errors import DeadlineExceeded, FrysError
from frys_node.base.ports import Clock
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.rpc import Rpc
from frys_node.kernel.services.snapshots import MoveProgress, Snapshottable
from snapshots.capture import SHIELD_S, check_unit, closing, parts_of, verify_stored
from snapshots.config import SnapshotsConfig
from snapshots.errors import CorruptChunk, CorruptManifest, NotPinned
from snapshots.machine import Discard, Effect, Fetch, Keep, Transfer, TransferState
from snapshots.manifest import CHUNKS_MAX, ChunkRef, Manifest, check_manifest
from snapshots.messages import (
    CHUNK,
    OFFER,
    REFS,
    RELEASE,
    ChunkRequest,
    OfferRequest,
    RefsRequest,
    ReleaseRequest,
    Wish,
)
from snapshots.metrics import SnapshotMetrics
from snapshots.store import ChunkStore
from snapshots.throttle import UNIT_BYTES, Throttle

OFFERS_MAX = 3
"""Offers that one pull asks for when the source drops them (its restart, its bound of pins)."""

HELD_BACK = ("waiting", str(TransferState.OFFERED), str(TransferState.TRANSFERRING))
"""States of a move that a throttle keeps waiting."""

log = logging.getLogger(__name__)


class Pull:
    """One unit's way to this node."""

    def __init__(
        self,
        unit: UnitId,
        source: NodeId,
        *,
        provider: Snapshottable,
        rpc: Rpc,
        store: ChunkStore,
        clock: Clock,
        throttle: Throttle,
        is_sealed: bool,
        config: SnapshotsConfig,
        metrics: SnapshotMetrics,
        on_progress: Callable[[MoveProgress], None] | None = None,
    ) -> None:
        self.unit = unit
        self.source = source
        self.state = "waiting"
        self.transferred_bytes = 0
        self.scope = trio.CancelScope()
        self._provider = provider
        self._rpc = rpc
        self._store = store
        self._clock = clock
        self._throttle = throttle
        self._is_sealed = is_sealed
        self._config = config
        self._metrics = metrics
        self._on_progress = on_progress
        self._started_unix_ns = clock.unix_ns()
        self._transfer: Transfer | None = None
        self._error: FrysError | None = None

    def progress(self) -> MoveProgress:
        """How far it is."""
        transfer = self._transfer
        now = transfer.progress(self._clock.now_s()) if transfer else None
        return MoveProgress(
            unit=self.unit,
            source=self.source,
            state=self.state,
            bytes_done=now.bytes_done if now else 0,
            bytes_total=now.bytes_total if now else 0,
            rate_bytes_s=now.rate_bytes_s if now else 0.0,
            eta_s=now.eta_s if now else None,
            started_unix_ns=self._started_unix_ns,
            held_back=self._throttle.why(self.source) if self.state in HELD_BACK and not self._is_sealed else "",
        )

    def give_up(self) -> None:
        """End the move, unless its state is being installed."""
        if self.state not in (TransferState.VERIFYING, TransferState.INSTALLED):
            self.scope.cancel()

    async def run(self) -> int:
        """Move the unit; returns the bytes transferred.

        Raises:
            TransferAborted: Chunks did not come, or came wrong, too often. The unit is unchanged.
            FrysError: What the source or the disk said. The unit is unchanged, unless `restore` itself failed.
        """
        started_s = self._clock.now_s()
        try:
            for attempt in range(1, OFFERS_MAX + 1):
                try:
                    await self._once()
                except (NotPinned, CorruptChunk) as error:
                    # The source dropped its state, or a chunk left over here from an earlier try was spoiled (it is
                    # removed by now). Both are mended by a new offer.
                    if attempt == OFFERS_MAX:
                        raise
                    log.info("snapshots.offer_repeated", extra={"unit": self.unit, "code": error.code})
                    continue
                break
        except BaseException:
            self._set_state(TransferState.ABORTED)
            self._metrics.moves.inc("aborted")
            raise
        self._metrics.moves.inc("installed")
        self._metrics.duration.observe(self._clock.now_s() - started_s)
        return self.transferred_bytes

    async def _once(self) -> None:
        """One offer, from its capture to the installed state."""
        manifest = await self._offer()
        digests = [chunk.digest for chunk in manifest.chunks]
        self._store.pin(digests)
        try:
            transfer = self._transfer = Transfer(manifest, window=self._config.window_chunks)
            self._error = None
            await self._transfer_chunks(transfer)
            self.transferred_bytes += transfer.fetched_bytes
            self._metrics.reused.inc(by=transfer.reused_bytes)
            self._metrics.corrupt.inc(by=transfer.corrupt_chunks)
            if self._error is not None:
                raise self._error
            self._set_state(TransferState.VERIFYING)
            await verify_stored(self._store, manifest)
            async with closing(parts_of(self._store, manifest)) as parts:
                await self._provider.restore(self.unit, parts)
            transfer.installed()
            self._set_state(TransferState.INSTALLED)
        finally:
            self._store.unpin(digests)
            with trio.move_on_after(SHIELD_S, shield=True):
                await self._release(manifest.root)
        await self._store.discard(digests)

    async def _offer(self) -> Manifest:
        """Have the unit captured and read its whole manifest, checked."""
        self._set_state(TransferState.OFFERED)
        await trio.sleep_until(self._throttle.ask_at(self.source, UNIT_BYTES, is_sealed=self._is_sealed))
        with trio.move_on_after(self._config.offer_timeout_s) as waited:
            offer = await self._rpc.call(self.source, OFFER, OfferRequest(self.unit))
            self._note(offer.wish)
            chunks: list[ChunkRef] = list(offer.chunks)
            if not 0 <= offer.chunk_count <= CHUNKS_MAX:
                raise CorruptManifest(f"an offer of {offer.chunk_count} chunks for '{self.unit}'")
            while len(chunks) < offer.chunk_count:
                page = await self._rpc.call(self.source, REFS, RefsRequest(offer.root, len(chunks)))
                if not page.chunks:
                    raise CorruptManifest(f"the offer of '{self.unit}' ends at {len(chunks)} of {offer.chunk_count}")
                chunks += page.chunks
            manifest = Manifest(
                offer.unit, offer.size_bytes, offer.chunk_bytes, tuple(chunks), offer.root, offer.format
            )
            check_unit(check_manifest(manifest), self.unit)
            return manifest
        assert waited.cancelled_caught
        raise DeadlineExceeded(
            f"{self.source} did not capture '{self.unit}' within {self._config.offer_timeout_s:g} s",
            hint="raise plugins.snapshots.offer_timeout_s",
        )

    async def _transfer_chunks(self, transfer: Transfer) -> None:
        """Fetch what is missing; ends with every chunk stored, or with `_error`."""
        async with trio.open_nursery() as nursery:
            effects = transfer.begin(self._store.has, self._clock.now_s())
            self._set_state(transfer.state)
            self._perform(transfer, nursery, effects)

    def _perform(self, transfer: Transfer, nursery: trio.Nursery, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Fetch):
                nursery.start_soon(self._fetch, transfer, nursery, effect)
            elif isinstance(effect, Keep):
                nursery.start_soon(self._keep, transfer, nursery, effect)
            elif isinstance(effect, Discard):
                self._error = effect.error
                nursery.cancel_scope.cancel()
        self._report()

    async def _fetch(self, transfer: Transfer, nursery: trio.Nursery, fetch: Fetch) -> None:
        """Ask for one chunk at its time and tell the machine how it went."""
        digest, clock = fetch.chunk.digest, self._clock
        at_s = max(fetch.at_s, self._throttle.ask_at(self.source, fetch.chunk.size_bytes, is_sealed=self._is_sealed))
        if at_s > clock.now_s():
            await trio.sleep_until(at_s)
        error: FrysError = DeadlineExceeded(f"no answer within {self._config.chunk_timeout_s:g} s")
        with trio.move_on_after(self._config.chunk_timeout_s):
            try:
                reply = await self._rpc.call(self.source, CHUNK, ChunkRequest(transfer.manifest.root, digest))
            except NotPinned as gone:
                self._perform(transfer, nursery, transfer.abort(gone))
                return
            except FrysError as failure:
                error = failure
            else:
                self._note(reply.wish)
                self._metrics.transferred.inc("received", by=len(reply.data))
                self._perform(transfer, nursery, transfer.received(digest, reply.data, clock.now_s()))
                return
        log.info("snapshots.chunk_failed", extra={"unit": self.unit, "peer": self.source, "code": error.code})
        self._perform(transfer, nursery, transfer.failed(digest, error, clock.now_s()))

    async def _keep(self, transfer: Transfer, nursery: trio.Nursery, keep: Keep) -> None:
        """Store one chunk; a disk that refuses ends the move."""
        try:
            await self._store.put(keep.chunk, keep.data)
        except FrysError as error:
            self._perform(transfer, nursery, transfer.abort(error))
            return
        self._perform(transfer, nursery, transfer.stored(keep.chunk.digest, self._clock.now_s()))

    async def _release(self, root: bytes) -> None:
        """Tell the source that it may forget the state; if it cannot be told, its pin expires."""
        try:
            await self._rpc.call(self.source, RELEASE, ReleaseRequest(root))
        except FrysError as error:
            log.info("snapshots.release_failed", extra={"unit": self.unit, "peer": self.source, "code": error.code})

    def _note(self, wish: Wish) -> None:
        if not self._is_sealed:
            self._throttle.told(self.source, wish)

    def _set_state(self, state: TransferState) -> None:
        self.state = str(state)
        self._report()

    def _report(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self.progress())

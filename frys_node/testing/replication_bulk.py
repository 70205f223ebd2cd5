"""The bulk of joining units by chunks, in the simulator: real manifests, chunks, transfers and pages over its network.

Sans-I/O. Theory of operation. In a node the driver (`frys_node.replication.bulk`, `snapshots.pull`, `snapshots.source`)
carries these between the same pure parts: the source fixes the entries that it holds when it is asked, cuts their dump
into chunks and offers a manifest; the receiver's `Transfer` asks for what it does not have; and the pages go into the
replica one after another, each durable before the next. A second copy of a unit waits for the first, a source that says
nothing gives way to the next one, one that has forgotten its offer makes another, and what nobody could give is tried
again, as there. Chunks and pages are small here, so that a copy takes several round trips and syncs. Memory is lost
with a crash, and with it the chunks, which a node keeps on its disk.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from frys_node.base.errors import DeadlineExceeded, FrysError
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.replication import Entry
from frys_node.replication import effects as fx
from frys_node.replication.bulk import BULK_RETRY_S
from frys_node.replication.replica import ReplicaMachine
from frys_node.replication.snapshot import PageReader, decode_page, encode_page
from frys_node.wire.codec import Codec, Message
from snapshots.chunking import Chunker, verify_chunk
from snapshots.machine import Effect, Fetch, Keep, Transfer, TransferState, Verify
from snapshots.manifest import Manifest, decode_manifest

CHUNK_BYTES = 256
PAGE_ENTRIES = 6
PINS_MAX = 4
"""Offers that a source remembers; the oldest are forgotten, and their receivers ask anew."""

OFFER_TIMEOUT_S = 1.5
CHUNK_TIMEOUT_S = 0.8


class OfferAsk(Message, tag=1, frozen=True):
    """Asks a member to fix what it holds of a unit."""

    token: int
    unit: UnitId


class Offered(Message, tag=2, frozen=True):
    """The manifest of what was fixed."""

    token: int
    manifest: bytes


class ChunkAsk(Message, tag=3, frozen=True):
    """Asks for a chunk of an offer."""

    token: int
    root: bytes
    digest: bytes


class ChunkGiven(Message, tag=4, frozen=True):
    """A chunk; empty: the source does not know the offer any more."""

    token: int
    digest: bytes
    data: bytes


BulkMessage = OfferAsk | Offered | ChunkAsk | ChunkGiven
BULK_MESSAGES: Codec[BulkMessage] = Codec(BulkMessage)


class Asked(NamedTuple):
    """A chunk that is asked for, or will be."""

    at_s: float
    is_under_way: bool


class Copy:
    """One unit on its way here."""

    def __init__(self, bulk: fx.BulkPull, sources: Sequence[NodeId]) -> None:
        self.bulk = bulk
        self.sources = deque(sources)
        self.token = 0
        self.transfer: Transfer | None = None
        self.until_s = math.inf
        """When an offer that does not come is given up."""
        self.asked: dict[bytes, Asked] = {}
        self.pages: deque[list[Entry]] = deque()

    @property
    def next_s(self) -> float:
        """When something is due."""
        return min(self.until_s, min((asked.at_s for asked in self.asked.values()), default=math.inf))


class BulkCopies:
    """Both sides of the copies at one node."""

    def __init__(
        self,
        replica: ReplicaMachine,
        boot: int,
        *,
        send: Callable[[NodeId, BulkMessage], None],
        perform: Callable[[Sequence[fx.Effect], float], None],
        is_usable: Callable[[NodeId], bool],
        on_copied: Callable[[], None],
    ) -> None:
        self._replica = replica
        self._send = send
        self._perform = perform
        self._is_usable = is_usable
        self._on_copied = on_copied
        """Told of copies that have something in them."""
        self._token = boot << 20
        self._wanted: dict[UnitId, fx.BulkPull] = {}
        self._retries: list[tuple[float, fx.BulkPull]] = []
        self._copies: dict[UnitId, Copy] = {}
        self._chunks: dict[bytes, bytes] = {}
        self._pins: OrderedDict[bytes, dict[bytes, bytes]] = OrderedDict()

    # ------------------------------------------------------------------ the receiver

    def adopted(self) -> None:
        """Forget what waits: another record is in force. What is under way goes on to its end."""
        self._wanted.clear()

    def add(self, bulk: fx.BulkPull, now_s: float) -> None:
        """Copy a unit, once the copy of it that is under way is over."""
        self._wanted[bulk.unit] = bulk
        self._start(bulk.unit, now_s)

    def _start(self, unit: UnitId, now_s: float) -> None:
        if unit in self._copies:
            return
        bulk = self._wanted.pop(unit, None)
        if bulk is None or bulk.epoch != self._replica.epoch:
            return
        sources = sorted(bulk.sources, key=lambda node: not self._is_usable(node))
        copy = self._copies[unit] = Copy(bulk, sources)
        self._ask_next(copy, now_s)

    def _ask_next(self, copy: Copy, now_s: float) -> None:
        """Ask the next source for an offer; with none left the copy is over, and tried again if it is wanted still."""
        copy.transfer = None
        copy.asked.clear()
        if not copy.sources:
            self._end(copy, now_s)
            if copy.bulk.epoch == self._replica.epoch:
                self._retries.append((now_s + BULK_RETRY_S, copy.bulk))
            return
        self._token += 1
        copy.token = self._token
        copy.until_s = now_s + OFFER_TIMEOUT_S
        self._send(copy.sources[0], OfferAsk(copy.token, copy.bulk.unit))

    def _fail(self, copy: Copy, now_s: float) -> None:
        copy.sources.popleft()
        self._ask_next(copy, now_s)

    def _end(self, copy: Copy, now_s: float) -> None:
        if self._copies.get(copy.bulk.unit) is copy:
            del self._copies[copy.bulk.unit]
            self._start(copy.bulk.unit, now_s)

    def _of(self, source: NodeId, token: int) -> Copy | None:
        found = (copy for copy in self._copies.values() if copy.token == token and copy.sources)
        return next((copy for copy in found if copy.sources[0] == source), None)

    def _take_offer(self, copy: Copy, message: Offered, now_s: float) -> None:
        if copy.transfer is not None:
            return  # a second copy of the answer
        manifest = decode_manifest(message.manifest)
        assert manifest.unit == copy.bulk.unit
        copy.until_s = math.inf
        copy.transfer = Transfer(manifest)
        self._do(copy, copy.transfer.begin(self._chunks.__contains__, now_s), now_s)

    def _take_chunk(self, copy: Copy, message: ChunkGiven, now_s: float) -> None:
        transfer = copy.transfer
        if transfer is None or transfer.state is not TransferState.TRANSFERRING:
            return
        copy.asked.pop(message.digest, None)
        if not message.data:
            self._ask_next(copy, now_s)  # the same source captures it anew
            return
        self._do(copy, transfer.received(message.digest, message.data, now_s), now_s)

    def _do(self, copy: Copy, effects: Sequence[Effect], now_s: float) -> None:
        assert copy.transfer is not None
        for effect in effects:
            if isinstance(effect, Fetch):
                copy.asked[effect.chunk.digest] = Asked(effect.at_s, is_under_way=False)
            elif isinstance(effect, Keep):
                self._chunks[effect.chunk.digest] = effect.data
                self._do(copy, copy.transfer.stored(effect.chunk.digest, now_s), now_s)
            elif isinstance(effect, Verify):
                self._install(copy, effect.manifest, now_s)
            else:
                self._fail(copy, now_s)
                return
        self._ask_due(copy, now_s)

    def _ask_due(self, copy: Copy, now_s: float) -> None:
        transfer = copy.transfer
        for digest, asked in list(copy.asked.items()):
            if transfer is None or asked.is_under_way or asked.at_s > now_s:
                continue
            copy.asked[digest] = Asked(now_s + CHUNK_TIMEOUT_S, is_under_way=True)
            self._send(copy.sources[0], ChunkAsk(copy.token, transfer.manifest.root, digest))

    def _install(self, copy: Copy, manifest: Manifest, now_s: float) -> None:
        reader = PageReader(manifest.unit)
        for ref in manifest.chunks:
            for body in reader.push(verify_chunk(ref, self._chunks[ref.digest])):
                copy.pages.append(decode_page(manifest.unit, body))
        reader.finish()
        for ref in manifest.chunks:
            self._chunks.pop(ref.digest, None)
        if copy.pages:
            self._on_copied()
        self._perform(self._merge_next(copy, now_s), now_s)

    def _merge_next(self, copy: Copy, now_s: float) -> list[fx.Effect]:
        """Hand the next page to the replica; with none left the bulk is done."""
        unit, epoch = copy.bulk.unit, copy.bulk.epoch
        if not copy.pages:
            self._end(copy, now_s)
            return self._replica.bulk_finished(unit, epoch, now_s)
        page = copy.pages.popleft()
        effects = self._replica.restore(unit, page, lambda at_s: self._merge_next(copy, at_s), now_s)
        if effects is None:
            copy.pages.clear()
            self._fail(copy, now_s)
        return effects or []

    @property
    def next_deadline_s(self) -> float:
        """When `advance` has something to do."""
        retries = (at_s for at_s, _bulk in self._retries)
        return min(
            min(retries, default=math.inf), min((copy.next_s for copy in self._copies.values()), default=math.inf)
        )

    def advance(self, now_s: float) -> None:
        """Give up what does not come, ask for what is due, try again what nobody could give."""
        due = [bulk for at_s, bulk in self._retries if at_s <= now_s]
        self._retries = [(at_s, bulk) for at_s, bulk in self._retries if at_s > now_s]
        for bulk in due:
            if bulk.epoch == self._replica.epoch:
                self.add(bulk, now_s)
        for copy in list(self._copies.values()):
            if now_s >= copy.until_s:
                self._fail(copy, now_s)
                continue
            for digest, asked in list(copy.asked.items()):
                if asked.is_under_way and asked.at_s <= now_s and copy.transfer is not None:
                    del copy.asked[digest]
                    late: FrysError = DeadlineExceeded("no answer")
                    self._do(copy, copy.transfer.failed(digest, late, now_s), now_s)
            self._ask_due(copy, now_s)

    # ------------------------------------------------------------------ the source

    def receive(self, source: NodeId, message: BulkMessage, now_s: float) -> None:
        """Take a message of the other side, whichever this node is."""
        match message:
            case OfferAsk():
                self._offer(source, message)
            case ChunkAsk():
                data = self._pins.get(message.root, {}).get(message.digest, b"")
                self._send(source, ChunkGiven(message.token, message.digest, data))
            case Offered():
                copy = self._of(source, message.token)
                if copy is not None:
                    self._take_offer(copy, message, now_s)
            case ChunkGiven():
                copy = self._of(source, message.token)
                if copy is not None:
                    self._take_chunk(copy, message, now_s)

    def _offer(self, receiver: NodeId, ask: OfferAsk) -> None:
        """Fix what is held now; nothing of a unit that is not whole, and no answer for one that lost something."""
        held = self._replica.table.units.get(ask.unit)
        if held is not None and held.is_damaged:
            return
        entries = list(held.store.entries()) if held is not None and held.complete else []
        chunker, chunks = Chunker(ask.unit, CHUNK_BYTES), dict[bytes, bytes]()
        for first in range(0, len(entries), PAGE_ENTRIES):
            whole = chunker.push(encode_page(entries[first : first + PAGE_ENTRIES]))
            chunks.update((ref.digest, data) for ref, data in whole)
        rest, manifest = chunker.finish()
        chunks.update((ref.digest, data) for ref, data in rest)
        self._pins[manifest.root] = chunks
        self._pins.move_to_end(manifest.root)
        while len(self._pins) > PINS_MAX:
            self._pins.popitem(last=False)
        self._send(receiver, Offered(ask.token, manifest.encode()))

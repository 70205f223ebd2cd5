"""One unit on its way to this node: which chunks to ask for, when to give up, how far it is.

Sans-I/O. Theory of operation. The receiver drives. It starts `offered` with a checked manifest; `begin` compares it
with the chunks that are here already and asks for the missing ones, each distinct chunk once, never more than the
credit window at a time; credit returns when a chunk is stored, so that a slow disk slows the network. A chunk that is
corrupt or does not come is asked for again after a pause, and given up after a bound of attempts. When every chunk is
stored the driver verifies all of them from the store and installs the state.

::

    offered --begin--> transferring --last chunk stored--> verifying --installed--> installed
       |                    |                                  |
       +-------abort--------+---------------abort--------------+------------------> aborted

Every state but the two last has exactly one abort edge, and it has no effect on the unit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple

from frys_node.base.errors import CorruptData, FrysError
from snapshots.chunking import verify_chunk
from snapshots.errors import TransferAborted
from snapshots.manifest import ChunkRef, Manifest

WINDOW_CHUNKS = 8
"""Chunks asked for and not yet stored, by default."""

ATTEMPTS_MAX = 6
"""Tries for one chunk before the transfer is given up."""

RETRY_S = 0.2
"""Pause before the second try; it doubles with each."""

RATE_WINDOW_S = 5.0
"""Over how long the rate is measured."""


class TransferState(StrEnum):
    """Where a transfer stands."""

    OFFERED = "offered"
    TRANSFERRING = "transferring"
    VERIFYING = "verifying"
    INSTALLED = "installed"
    ABORTED = "aborted"


class Fetch(NamedTuple):
    """Ask the source for a chunk, not before `at_s`."""

    chunk: ChunkRef
    at_s: float


class Keep(NamedTuple):
    """Store a chunk whose digest is right, then say `stored`."""

    chunk: ChunkRef
    data: bytes


class Verify(NamedTuple):
    """Every chunk is here: check them from the store and install the state, then say `installed`."""

    manifest: Manifest


class Discard(NamedTuple):
    """The transfer is given up: stop what is under way and report the error."""

    error: FrysError


Effect = Fetch | Keep | Verify | Discard


class Progress(NamedTuple):
    """How far a transfer is. `eta_s` is None until there is a rate."""

    state: TransferState
    bytes_done: int
    bytes_total: int
    rate_bytes_s: float
    eta_s: float | None


class Transfer:
    """The receiving side of one move."""

    __slots__ = (
        "_attempts", "_attempts_max", "_in_flight", "_missing", "_samples", "_waiting", "_window",
        "corrupt_chunks", "fetched_bytes", "manifest", "reused_bytes", "state",
    )  # fmt: skip

    def __init__(self, manifest: Manifest, *, window: int = WINDOW_CHUNKS, attempts_max: int = ATTEMPTS_MAX) -> None:
        self.manifest = manifest
        self.state = TransferState.OFFERED
        self.fetched_bytes = 0
        """Bytes that came over the network and were right."""
        self.reused_bytes = 0
        """Bytes that were here already or occur more than once."""
        self.corrupt_chunks = 0
        self._window = window
        self._attempts_max = attempts_max
        self._attempts: dict[bytes, int] = {}
        self._waiting: deque[ChunkRef] = deque()
        self._missing: dict[bytes, ChunkRef] = {}
        self._in_flight: set[bytes] = set()
        self._samples: deque[tuple[float, int]] = deque()

    def begin(self, is_here: Callable[[bytes], bool], now_s: float) -> list[Effect]:
        """Accept the offer: ask for what is not here."""
        assert self.state is TransferState.OFFERED, self.state
        self.state = TransferState.TRANSFERRING
        for chunk in self.manifest.chunks:
            if chunk.digest not in self._missing and not is_here(chunk.digest):
                self._missing[chunk.digest] = chunk
                self._waiting.append(chunk)
        self.reused_bytes = self.manifest.size_bytes - sum(chunk.size_bytes for chunk in self._missing.values())
        self._samples.append((now_s, 0))
        return self._next(now_s)

    def received(self, digest: bytes, data: bytes, now_s: float) -> list[Effect]:
        """Take a chunk's bytes. Wrong ones are dropped and asked for again; ones nobody asked for are ignored."""
        chunk = self._missing.get(digest)
        if self.state is not TransferState.TRANSFERRING or chunk is None or digest not in self._in_flight:
            return []
        try:
            verify_chunk(chunk, data)
        except CorruptData as error:
            self.corrupt_chunks += 1
            return self.failed(digest, error, now_s)
        self.fetched_bytes += len(data)
        self._sample(now_s)
        return [Keep(chunk, data)]

    def stored(self, digest: bytes, now_s: float) -> list[Effect]:
        """A chunk is in the store: its credit returns."""
        if self.state is not TransferState.TRANSFERRING:
            return []
        self._in_flight.discard(digest)
        self._missing.pop(digest, None)
        return self._next(now_s)

    def failed(self, digest: bytes, error: FrysError, now_s: float) -> list[Effect]:
        """A chunk did not come, or came wrong: ask again after a pause, or give up."""
        chunk = self._missing.get(digest)
        if self.state is not TransferState.TRANSFERRING or chunk is None or digest not in self._in_flight:
            return []
        attempts = self._attempts[digest] = self._attempts.get(digest, 0) + 1
        if attempts >= self._attempts_max:
            text = f"chunk {digest.hex()[:16]} of '{self.manifest.unit}' failed {attempts} times: {error.message}"
            return self.abort(TransferAborted(text, hint=error.hint))
        return [Fetch(chunk, now_s + RETRY_S * 2.0 ** (attempts - 1))]

    def installed(self) -> None:
        """The state is in place."""
        assert self.state is TransferState.VERIFYING, self.state
        self.state = TransferState.INSTALLED

    def abort(self, error: FrysError) -> list[Effect]:
        """Give up, from any state that is not an end."""
        if self.state in (TransferState.INSTALLED, TransferState.ABORTED):
            return []
        self.state = TransferState.ABORTED
        self._waiting.clear()
        return [Discard(error)]

    def progress(self, now_s: float) -> Progress:
        """How far it is, at what rate."""
        total = self.manifest.size_bytes
        done = self.reused_bytes + self.fetched_bytes if self.state is not TransferState.OFFERED else 0
        start_s, start_bytes = self._samples[0] if self._samples else (now_s, 0)
        elapsed_s = now_s - start_s
        rate = (self.fetched_bytes - start_bytes) / elapsed_s if elapsed_s > 0 else 0.0
        eta_s = (total - done) / rate if rate > 0 else (0.0 if done >= total else None)
        return Progress(self.state, done, total, rate, eta_s)

    def _next(self, now_s: float) -> list[Effect]:
        effects: list[Effect] = []
        while self._waiting and len(self._in_flight) < self._window:
            chunk = self._waiting.popleft()
            self._in_flight.add(chunk.digest)
            effects.append(Fetch(chunk, now_s))
        if not self._missing:
            self.state = TransferState.VERIFYING
            effects.append(Verify(self.manifest))
        return effects

    def _sample(self, now_s: float) -> None:
        self._samples.append((now_s, self.fetched_bytes))
        while len(self._samples) > 2 and self._samples[0][0] < now_s - RATE_WINDOW_S:
            self._samples.popleft()

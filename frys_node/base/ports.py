"""The ports: the only ways to a clock, randomness, a socket, a file or a thread.

Sans-I/O: Protocols only. Each has a real implementation in `frys_node.transport` and a shipped fake in
`frys_node.testing`, and both pass one conformance suite. Machines take `now_s` and a `random.Random` as arguments and
need no port at all.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

from frys_node.base.types import Address, NodeId

T = TypeVar("T")


class Clock(Protocol):
    """Time. Monotonic seconds for protocol decisions, wall time for records only."""

    def now_s(self) -> float:
        """Monotonic seconds; the origin is arbitrary. trio's clock, so that a test clock reaches every driver."""
        ...

    def unix_ns(self) -> int:
        """Wall time in nanoseconds since 1970, UTC. It may step."""
        ...


class Entropy(Protocol):
    """Randomness: secret bytes and a seeded generator for protocol choices."""

    def token_bytes(self, count: int) -> bytes:
        """Return `count` bytes fit for keys."""
        ...

    def rng(self, name: str) -> random.Random:
        """Return an independent generator for the named use."""
        ...


class Datagram(Protocol):
    """Best-effort packets."""

    @property
    def address(self) -> Address:
        """The bound local address, with the real port."""
        ...

    def send(self, payload: bytes, destination: Address) -> bool:
        """Send at once without waiting; False when the kernel refused (counted by the caller, never raised)."""
        ...

    async def receive(self) -> list[tuple[bytes, Address]]:
        """Wait for packets and return a batch of 1 to 64 (drain semantics)."""
        ...

    async def aclose(self) -> None:
        """Close; a pending `receive` raises `trio.ClosedResourceError`."""
        ...


class Stream(Protocol):
    """A reliable byte stream, plain or encrypted."""

    async def send_all(self, data: bytes) -> None:
        """Send everything; raises `trio.BrokenResourceError` when the peer is gone."""
        ...

    def send_nowait(self, data: bytes) -> bool:
        """Take all of `data` and send what goes at once; True when that is everything.

        After False the rest is kept, and the next call must be `send_all`, which sends the rest first.

        Raises:
            trio.BrokenResourceError: The peer is gone.
            trio.BusyResourceError: Another send is under way, or a rest is kept.
        """
        ...

    def unacknowledged_bytes(self) -> int | None:
        """How much was sent that the peer's kernel has not acknowledged, or None where that is not known.

        The kernel acknowledges for a process that stands still, and not for one that is gone.
        """
        ...

    async def receive_some(self, max_bytes: int = 65_536) -> bytes:
        """Return some bytes, or ``b""`` at the peer's orderly end."""
        ...

    async def aclose(self) -> None:
        """Close at once."""
        ...


class StreamListener(Protocol):
    """Accepts streams."""

    @property
    def address(self) -> Address:
        """The bound local address, with the real port."""
        ...

    async def accept(self) -> tuple[Stream, Address]:
        """Wait for the next connection. Transient errors (EMFILE, ECONNABORTED) are waited out inside."""
        ...

    async def aclose(self) -> None:
        """Stop listening."""
        ...


class Network(Protocol):
    """Opens sockets."""

    async def listen(self, address: Address) -> StreamListener:
        """Bind a TCP listener; `AddressInUse` names the port and the fix."""
        ...

    async def connect(self, address: Address) -> Stream:
        """Connect by TCP; `ConnectFailed` says why. The caller's cancel scope bounds the wait."""
        ...

    async def bind(self, address: Address) -> Datagram:
        """Bind a UDP socket."""
        ...

    async def resolve(self, host: str) -> Sequence[str]:
        """Resolve a name to literal addresses in a stable order; empty when there is none."""
        ...

    async def resolve_service(self, name: str) -> Sequence[Address]:
        """Resolve the SRV records of a name such as ``_frys._tcp.example.org`` to literal addresses, in their order."""
        ...


class Disk(Protocol):
    """Files under one root directory. Paths are relative, ``/``-separated.

    Calls are synchronous, so that machines' drivers decide where they run (see `Executor`); `sync` and `write` with
    ``durable`` return only after fsync of the file and, for new names, of the directory. A failed fsync raises
    `StorageError`, and the file must not be trusted again by this process.
    """

    def read(self, path: str) -> bytes | None:
        """Return the whole file, or None if there is none."""
        ...

    def write(self, path: str, data: bytes, *, durable: bool = True) -> None:
        """Replace the file atomically and durably (temporary file, fsync, rename, fsync of the directory).

        With `durable` False nothing is synced: a crash may leave the file old, new, torn or missing. Only for bytes
        that are checked when they are read and can be had again.
        """
        ...

    def create(self, path: str, data: bytes) -> bool:
        """Write a file durably if there is none of that name; False, with nothing changed, if there is one.

        Of several writers that create one name at once, also from several processes, exactly one is told True.
        """
        ...

    def append(self, path: str, data: bytes) -> None:
        """Append without syncing; created when missing."""
        ...

    def sync(self, path: str) -> None:
        """Make all appends to the file durable."""
        ...

    def truncate(self, path: str, size_bytes: int) -> None:
        """Cut the file to a size, durably."""
        ...

    def size_bytes(self, path: str) -> int:
        """Size of the file, 0 if there is none."""
        ...

    def list(self, directory: str) -> Sequence[str]:
        """Names in a directory, sorted; empty if there is none."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file or a whole directory, durably; nothing happens when it is missing."""
        ...


class Executor(Protocol):
    """Work that would hold the event loop: fsync, index builds, key generation."""

    async def run(self, function: Callable[..., T], *args: object) -> T:
        """Run in a worker and return its result; never abandoned on cancel."""
        ...

    async def run_aside(self, function: Callable[..., T], *args: object) -> T:
        """Run what can wait in a worker with less claim to the processor than the node's own thread; else like `run`.

        Only for work that gives up the interpreter lock nearly all the time: who holds it and is not scheduled makes
        everybody wait. One call at a time, and a cancel waits for its end, so long work comes in slices.
        """
        ...


class Signer(Protocol):
    """Signatures by node keys, over exact bytes."""

    def sign(self, data: bytes) -> bytes:
        """Sign with this node's key."""
        ...

    def verify(self, node: NodeId, data: bytes, signature: bytes) -> bool:
        """True if the signature is the node's."""
        ...

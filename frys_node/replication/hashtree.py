"""A flat hash tree of one unit: 256 leaves, each the xor of its entries' digests.

Sans-I/O. Two replicas compare roots, then 2 KiB of leaves, and then exchange only the leaves that differ (rule 15). The
leaves of a durable unit are kept as its entries change (`LiveTree`), and those of a unit in memory when
somebody asks, for what its store says has changed: a unit may have thousands of entries, and to read them all whenever
a move or a round of anti-entropy asks would hold the event loop.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterable
from itertools import chain

import mmh3

from frys_node.base.errors import MalformedFrame
from frys_node.kernel.services.replication import Entry
from frys_node.replication.version import digest

LEAF_COUNT = 256
ALL_LEAVES = bytes(range(LEAF_COUNT))
_LEAVES = struct.Struct(f">{LEAF_COUNT}Q")
_HALF = _LEAVES.size // 2


def leaf_of(key: bytes) -> int:
    """Return the leaf of a key, 0 to 255."""
    return int(mmh3.hash(key, signed=False)) % LEAF_COUNT


def build(entries: Iterable[Entry]) -> bytes:
    """Return the 256 leaves of 8 bytes each over all entries, tombstones included; order does not matter."""
    leaves = [0] * LEAF_COUNT
    for entry in entries:
        leaves[leaf_of(entry.key)] ^= digest(entry)
    return _LEAVES.pack(*leaves)


def root(leaves: bytes) -> bytes:
    """Return the 16 bytes that stand for all leaves."""
    # hashlib gives up the interpreter lock for 2,048 bytes and more, and a thread that computes keeps it for 5 ms.
    found = hashlib.blake2b(leaves[:_HALF], digest_size=16)
    found.update(leaves[_HALF:])
    return found.digest()


def differing(mine: bytes, theirs: bytes) -> bytes:
    """Return the indexes of leaves that differ, one byte each, ascending.

    Raises:
        MalformedFrame: `theirs` is not a tree. It is ignored.
    """
    if len(theirs) != _LEAVES.size:
        raise MalformedFrame(f"a hash tree has {_LEAVES.size} bytes, not {len(theirs)}")
    if mine == theirs:
        return b""
    pairs = zip(_LEAVES.unpack(mine), _LEAVES.unpack(theirs), strict=True)
    return bytes(index for index, (left, right) in enumerate(pairs) if left != right)


def keys_in(keys: Iterable[bytes], leaves: Collection[int]) -> list[bytes]:
    """Return the keys that fall into the leaves, sorted."""
    wanted = frozenset(leaves)
    return sorted(key for key in keys if leaf_of(key) in wanted)


class LiveTree:
    """The leaves of a unit, kept as its entries change."""

    __slots__ = ("_leaves", "_packed")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Nothing is held any more."""
        self._leaves = [0] * LEAF_COUNT
        self._packed: bytes | None = None

    def change(self, pairs: Iterable[tuple[Entry | None, Entry | None]]) -> None:
        """Take out entries that were held and put in those that are held instead; None: nothing."""
        leaves = self._leaves
        for entry in chain.from_iterable(pairs):
            if entry is not None:
                leaves[leaf_of(entry.key)] ^= digest(entry)
        self._packed = None

    def without(self, entries: Iterable[Entry | None]) -> bytes:
        """Return the leaves as they would be if some of the entries that are held were not."""
        leaves = list(self._leaves)
        for entry in entries:
            if entry is not None:
                leaves[leaf_of(entry.key)] ^= digest(entry)
        return _LEAVES.pack(*leaves)

    def pack(self) -> bytes:
        """Return the leaves as `build` would over all that is held."""
        if self._packed is None:
            self._packed = _LEAVES.pack(*self._leaves)
        return self._packed

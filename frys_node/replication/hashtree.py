"""A flat hash tree of one unit: 256 leaves, each the xor of its entries' digests.

Sans-I/O. Built only when somebody asks and the unit has changed since, so that writes pay nothing for it.
Two replicas compare roots, then 2 KiB of leaves, and then exchange only the leaves that differ (rule 15).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Collection, Iterable

import mmh3

from frys_node.base.errors import MalformedFrame
from frys_node.kernel.services.replication import Entry
from frys_node.replication.version import digest

LEAF_COUNT = 256
_LEAVES = struct.Struct(f">{LEAF_COUNT}Q")


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
    return hashlib.blake2b(leaves, digest_size=16).digest()


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


def keys_in(entries: Iterable[Entry], leaves: Collection[int]) -> list[bytes]:
    """Return the sorted keys of the entries that fall into the leaves."""
    wanted = frozenset(leaves)
    return sorted(entry.key for entry in entries if leaf_of(entry.key) in wanted)

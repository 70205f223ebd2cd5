"""Which unit a key, a run or a point belongs to: the same on every node and in every component that asks.

Sans-I/O. Cache keys follow Redis' hash slots, so that cluster-aware clients can be served (D4, D9): CRC16 of the key,
or of the first non-empty ``{tag}`` in it, and never of the namespace (fine print 14). Runs are spread by MurmurHash3.
"""

from __future__ import annotations

import re
from binascii import crc_hqx

import mmh3

from frys_node.base.types import UnitId

SLOTS = 16_384
"""Slots of a Redis cluster; a cache unit is a run of them."""


def slot_of(key: bytes) -> int:
    """Return the Redis slot of a key: CRC16 (XMODEM) of the key, or of the first non-empty ``{tag}`` in it."""
    start = key.find(b"{")
    if start >= 0:
        end = key.find(b"}", start + 1)
        if end > start + 1:
            key = key[start + 1 : end]
    return crc_hqx(key, 0) % SLOTS


def cache_unit_of(key: bytes, partitions: int) -> UnitId:
    """Return the unit of a key; `partitions` (1 to 16,384) runs of slots, 64 slots each by default."""
    return UnitId(f"cache/{slot_of(key) * partitions // SLOTS}")


def partition_of(run: str, partitions: int) -> int:
    """Return the workflow partition of a run: mmh3 of its id modulo the cluster's number of partitions (D5)."""
    return int(mmh3.hash(run.encode(), 0, False)) % partitions


def workflow_unit(partition: int) -> UnitId:
    """Name the unit of a workflow partition."""
    return UnitId(f"workflow/{partition}")


_UUID = re.compile(r"(?:urn:uuid:)?\{?([0-9a-f]{8})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{4})-?([0-9a-f]{12})\}?")


def point_key(point: object) -> bytes | None:
    """Return the key of a point's id, None if it is neither an unsigned 64-bit integer nor a UUID.

    The order of the keys is Qdrant's order of ids: integers first, then UUIDs.
    """
    if isinstance(point, int) and not isinstance(point, bool) and 0 <= point < 1 << 64:
        return b"\x00" + point.to_bytes(8, "big")
    if isinstance(point, str):
        match = _UUID.fullmatch(point.lower())
        if match is not None:
            return b"\x01" + bytes.fromhex("".join(match.groups()))
    return None


def shard_of(key: bytes, shard_number: int) -> int:
    """Return the shard of a point's key: a stable hash of it, modulo the number of shards."""
    return int(mmh3.hash(key, seed=0x66727973, signed=False)) % shard_number


def vector_unit(collection: str, shard: int) -> UnitId:
    """Name the unit of a shard of a collection, by the collection's id."""
    return UnitId(f"vector/{collection}/{shard}")

"""What a collection is made of: point ids, shards, units and stored values.

Sans-I/O. A point's id is encoded so that the order of the bytes is Qdrant's order of ids: integers first, then UUIDs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import msgspec

from frys_node.base.types import UnitId
from frys_node.base.units import point_key, shard_of, vector_unit
from frys_node.kernel.services.replication import Version
from frys_node.kernel.services.topology import Collection
from frys_node.plugins.vector.errors import InvalidPointId, InvalidVectorRequest

PointId = int | str

_NAME_BAD = re.compile(r'[/\\<>:"|?*\x00-\x1f\x7f]')
NAME_CHARS_MAX = 255


class Distance(StrEnum):
    """How vectors are compared, spelled as Qdrant spells it."""

    COSINE = "Cosine"
    DOT = "Dot"
    EUCLID = "Euclid"
    MANHATTAN = "Manhattan"

    @property
    def is_similarity(self) -> bool:
        """True if a larger score is better."""
        return self in {Distance.COSINE, Distance.DOT}


class StoredPoint(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A point as it is replicated. `vector`: float32 little-endian, normalised under Cosine; `payload`: JSON."""

    vector: bytes
    payload: bytes = b""


encode_point = msgspec.msgpack.Encoder().encode
decode_point = msgspec.msgpack.Decoder(StoredPoint).decode


def check_name(name: str) -> None:
    """Refuse a collection name that Qdrant would refuse (`InvalidVectorRequest`)."""
    if not 1 <= len(name) <= NAME_CHARS_MAX or _NAME_BAD.search(name):
        raise InvalidVectorRequest(
            f"'{name[:80]}' is not a collection name",
            hint=f'use 1 to {NAME_CHARS_MAX} characters without control characters and / \\ < > : " | ? *',
        )


def encode_id(point: object) -> bytes:
    """Return the key of a point id.

    Raises:
        InvalidPointId: Neither an unsigned 64-bit integer nor a UUID.
    """
    key = point_key(point)
    if key is not None:
        return key
    raise InvalidPointId(
        f"value {str(point)[:64]} is not a valid point ID", hint="use an unsigned 64-bit integer or a UUID"
    )


def decode_id(key: bytes) -> PointId:
    """Return the point id of a key."""
    if key[:1] == b"\x00":
        return int.from_bytes(key[1:], "big")
    text = key[1:].hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def unit_of(collection: Collection, shard: int) -> UnitId:
    """Return the unit of a shard."""
    return vector_unit(collection.id, shard)


def by_shard(keys: Sequence[bytes], shard_number: int) -> dict[int, list[int]]:
    """Return the positions of the keys by shard, shards in ascending order."""
    groups: dict[int, list[int]] = {}
    for position, key in enumerate(keys):
        groups.setdefault(shard_of(key, shard_number), []).append(position)
    return dict(sorted(groups.items()))


def parse_payload(source: bytes) -> dict[str, Any]:
    """Return a stored payload as a dict, empty when there is none."""
    value = msgspec.json.decode(source) if source else {}
    return value if isinstance(value, dict) else {}


def operation_number(version: Version) -> int:
    """Return the version as one growing integer below 2**53, for Qdrant's `version` and `operation_id`."""
    return version.hlc_ms * 1_000 + min(version.counter, 999)

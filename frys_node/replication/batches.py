"""Cutting what has many keys into messages that fit a frame.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from frys_node.base.errors import UsageError
from frys_node.base.pieces import pieces
from frys_node.kernel.services.replication import Entry
from frys_node.replication.messages import (
    ITEMS_BYTES_MAX,
    KEY_BYTES_MAX,
    KEYS_BYTES_MAX,
    READ_BYTES_MAX,
    VALUE_BYTES_MAX,
)
from frys_node.replication.version import sent_bytes

T = TypeVar("T")

HEAD_BYTES = 5
"""What MessagePack puts in front of a key, or of a part of a batch."""


def split(items: list[tuple[bytes, bytes | None]]) -> list[list[tuple[bytes, bytes | None]]]:
    """Cut items into batches of at most ITEMS_BYTES_MAX, one item at least; of none there is one batch, empty.

    Raises:
        UsageError: A key is over KEY_BYTES_MAX, or a key and its value over VALUE_BYTES_MAX.
    """
    return list(pieces(items, _item_bytes, ITEMS_BYTES_MAX)) or [[]]


def _item_bytes(item: tuple[bytes, bytes | None]) -> int:
    key, value = item
    item_bytes = len(key) + len(value or b"") + 16
    if len(key) > KEY_BYTES_MAX:
        raise UsageError(f"a key of {len(key)} bytes is over the limit of {KEY_BYTES_MAX}", hint="use a shorter key")
    if item_bytes > VALUE_BYTES_MAX:
        raise UsageError(
            f"a key and value of {item_bytes} bytes are over the limit of {VALUE_BYTES_MAX}",
            hint="store big values elsewhere and keep a reference",
        )
    return item_bytes


def batches(parts: Iterable[bytes]) -> Iterator[list[bytes]]:
    """Cut encoded messages for one node into batches of at most ITEMS_BYTES_MAX, one at least."""
    return pieces(parts, lambda part: len(part) + HEAD_BYTES, ITEMS_BYTES_MAX)


def first_keys(keys: Sequence[bytes]) -> Sequence[bytes]:
    """Return the first keys that fit in KEYS_BYTES_MAX, one at least."""
    return _first(keys, (HEAD_BYTES + len(key) for key in keys), KEYS_BYTES_MAX)


def first_entries(entries: Sequence[Entry | None]) -> Sequence[Entry | None]:
    """Return the first entries that fit in READ_BYTES_MAX, one at least."""
    return _first(entries, (1 if entry is None else sent_bytes(entry) for entry in entries), READ_BYTES_MAX)


def _first(items: Sequence[T], sizes: Iterable[int], bytes_max: int) -> Sequence[T]:
    size_bytes = 0
    for count, item_bytes in enumerate(sizes):
        size_bytes += item_bytes
        if size_bytes > bytes_max:
            return items[: max(count, 1)]
    return items

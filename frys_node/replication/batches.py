"""Cutting writes of many keys into messages that fit a frame.

Sans-I/O.
"""

from __future__ import annotations

from frys_node.base.errors import UsageError
from frys_node.replication.messages import ITEMS_BYTES_MAX, VALUE_BYTES_MAX


def split(items: list[tuple[bytes, bytes | None]]) -> list[list[tuple[bytes, bytes | None]]]:
    """Cut items into batches of at most ITEMS_BYTES_MAX, one item at least."""
    batches: list[list[tuple[bytes, bytes | None]]] = [[]]
    size_bytes = 0
    for key, value in items:
        item_bytes = len(key) + len(value or b"") + 16
        if item_bytes > VALUE_BYTES_MAX:
            raise UsageError(
                f"a key and value of {item_bytes} bytes are over the limit of {VALUE_BYTES_MAX}",
                hint="store big values elsewhere and keep a reference",
            )
        if batches[-1] and size_bytes + item_bytes > ITEMS_BYTES_MAX:
            batches.append([])
            size_bytes = 0
        batches[-1].append((key, value))
        size_bytes += item_bytes
    return batches

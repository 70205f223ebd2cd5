"""Compressed messages, and how large they may become.

Sans-I/O. A compressed message begins with a byte that begins no MessagePack, so that either form may come at any time.
What it expands to is bounded before it is expanded: a few bytes of zeros are no way to take a node's memory.
"""

from __future__ import annotations

import zlib
from typing import Any, TypeVar

from frys_node.base.errors import MalformedFrame
from frys_node.wire.codec import Codec

T = TypeVar("T")

MARK = b"\xc1"
"""The one byte that MessagePack never uses."""

LEVEL = 1
"""The fastest: names, ids and addresses repeat so much that more effort gains little."""


def pack(data: bytes, above_bytes: int) -> bytes:
    """Return the data compressed if it is longer than that and gains by it; 0 never compresses."""
    if not above_bytes or len(data) <= above_bytes:
        return data
    packed = MARK + zlib.compress(data, LEVEL)
    return packed if len(packed) < len(data) else data


def unpack(data: bytes | memoryview, size_bytes_max: int) -> bytes | memoryview:
    """Return what was packed, or the data itself if nothing was.

    Raises:
        MalformedFrame: Damaged, cut short, followed by junk, or over the limit. The bytes are dropped.
    """
    if data[:1] != MARK:
        return data
    inflater = zlib.decompressobj()
    try:
        plain = inflater.decompress(data[1:], size_bytes_max)
    except zlib.error as error:
        raise MalformedFrame(f"not a compressed message: {error}") from error
    if not inflater.eof or inflater.unused_data:
        raise MalformedFrame(f"a compressed message is cut short, has a tail or is over {size_bytes_max} bytes")
    return plain


class PackedCodec(Codec[T]):
    """A codec that reads both forms, and compresses what is longer than `above_bytes`; 0: it writes only plain ones."""

    __slots__ = ("_above_bytes", "_size_bytes_max")

    def __init__(self, union: Any, size_bytes_max: int, above_bytes: int = 0) -> None:
        super().__init__(union)
        self._size_bytes_max = size_bytes_max
        self._above_bytes = above_bytes

    def encode(self, message: T) -> bytes:
        """Return the message's bytes; equal messages give equal bytes."""
        return pack(super().encode(message), self._above_bytes)

    def decode(self, data: bytes | memoryview) -> T:
        """Return the message.

        Raises:
            MalformedFrame: Not a message of this union, or not one that may be expanded. The bytes are dropped.
        """
        return super().decode(unpack(data, self._size_bytes_max))

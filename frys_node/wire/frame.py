"""Length-prefixed frames: u32 length (of what follows), u8 kind, body.

Sans-I/O stream machine: bytes in, whole frames out. The limit is checked on the header, before anything is
allocated.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

from frys_node.base.errors import FrameTooLarge, MalformedFrame

FRAME_BYTES_MAX = 1 << 20
"""Default limit of one frame; larger things travel in chunks."""

_HEADER = struct.Struct(">IB")


class Frame(NamedTuple):
    """One frame."""

    kind: int
    body: bytes


def encode_frame(kind: int, body: bytes, limit_bytes: int = FRAME_BYTES_MAX) -> bytes:
    """Return header and body.

    Raises:
        FrameTooLarge: The body is over the limit. Nothing was sent.
    """
    if len(body) + 1 > limit_bytes:
        raise FrameTooLarge(f"a frame of {len(body)} bytes is over the limit of {limit_bytes}")
    return _HEADER.pack(len(body) + 1, kind) + body


class FrameReader:
    """Cuts a byte stream into frames."""

    __slots__ = ("_buffer", "_limit_bytes", "_start")

    def __init__(self, limit_bytes: int = FRAME_BYTES_MAX) -> None:
        self._buffer = bytearray()
        self._start = 0
        self._limit_bytes = limit_bytes

    @property
    def buffered_bytes(self) -> int:
        """Bytes received and not yet returned."""
        return len(self._buffer) - self._start

    def receive_data(self, data: bytes, *, at_most: float = math.inf) -> list[Frame]:
        """Take bytes and return every frame that is now whole, or the first `at_most` of them.

        What is left comes with the next call, which may bring no bytes: who is not trusted yet could send thousands of
        frames in one read, and each costs a microsecond of the event loop.

        Raises:
            FrameTooLarge: A header announces more than the limit. Close the connection.
            MalformedFrame: A header announces nothing. Close the connection.
        """
        self._buffer += data
        frames: list[Frame] = []
        while len(self._buffer) - self._start >= _HEADER.size and len(frames) < at_most:
            length, kind = _HEADER.unpack_from(self._buffer, self._start)
            if length > self._limit_bytes:
                raise FrameTooLarge(f"a frame of {length} bytes is over the limit of {self._limit_bytes}")
            if length == 0:
                raise MalformedFrame("an empty frame")
            end = self._start + 4 + length
            if len(self._buffer) < end:
                break
            frames.append(Frame(kind, bytes(memoryview(self._buffer)[self._start + 5 : end])))
            self._start = end
        if self._start > 65_536 or self._start == len(self._buffer):
            del self._buffer[: self._start]
            self._start = 0
        return frames

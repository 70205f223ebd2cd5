"""One MessagePack codec per tagged union.

Sans-I/O. Wire Structs are frozen, array-like, with integer tags; fields are only ever added at the end, with
defaults (D10).
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

import msgspec

from frys_node.base.errors import MalformedFrame

T = TypeVar("T")


class Message(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of wire messages: subclass with ``tag=<int>``; new fields go at the end and have defaults."""


class Codec(Generic[T]):
    """Encodes and decodes one type or union; the decoder validates types and limits depth itself."""

    __slots__ = ("_decoder", "_encoder")

    def __init__(self, union: Any) -> None:
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[T] = msgspec.msgpack.Decoder(union)

    def encode(self, message: T) -> bytes:
        """Return the message's bytes; equal messages give equal bytes."""
        return self._encoder.encode(message)

    def decode(self, data: bytes | memoryview) -> T:
        """Return the message.

        Raises:
            MalformedFrame: Not a message of this union. The bytes are dropped.
        """
        try:
            return self._decoder.decode(data)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
            raise MalformedFrame(f"not a valid message: {error}") from error

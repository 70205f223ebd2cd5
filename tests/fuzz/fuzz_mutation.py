"""How inputs are changed: in the structure of MessagePack, through byte strings and compression, or byte by byte.

Decoders written in C give a fuzzer no coverage to follow, and random bytes rarely pass their types. So most changes
keep the shape and put something else into it: limits of integers, names of members, what is too long. The same seed
makes the same change.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable
from typing import Any

import msgspec
from membership_hands import ME, B, C, D

from membership.packing import MARK

EDGES = (0, 1, 2, 7, 31, 32, 63, 64, 128, 255, 256, 65_535, 65_536, 1 << 31, 1 << 32, (1 << 62) - 1, 1 << 62, 1 << 63)
INTEGERS = (*EDGES, *(edge - 1 for edge in EDGES), *(edge + 1 for edge in EDGES), -(1 << 63), (1 << 64) - 1)

STRINGS = (
    *("", ".", "..", "\x00", "ping", "10.0.0.2", "fe80::1%lo", "a..b", "[::1]:1", "h:" + "9" * 5_000),
    *("a" * 64, "a" * 255, "\N{SNOWMAN}" * 64, "\N{SNOWMAN}" * 255, "\N{GRINNING FACE}" * 512),
    *(ME, B, C, D, "f" * 32),
)

BLOBS = (
    *(b"", MARK, b"\x90", b"\xdf\xff\xff\xff\xff", b"\xdd\xff\xff\xff\xff"),
    *(b"\x91" * 2_000, bytes(512), b"x" * 2_048),
)

BOMB = MARK + zlib.compress(bytes(1 << 21), 9)
"""It expands to more than every limit."""

INFLATED_BYTES_MAX = 1 << 16
"""As much of a compressed input is changed inside."""

DEPTH_MAX = 12


def mutate(data: bytes, size_max: int, seed: int, raw: Callable[[bytes], bytes] | None = None) -> bytes:
    """Return the input changed once or a few times; `raw` changes bytes where there is no structure to change."""
    rng = random.Random(seed)
    change = Change(rng, raw or Flips(rng).flip)
    return change.apply(data)[:size_max]


class Flips:
    """Changes bytes at random."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def flip(self, data: bytes) -> bytes:
        """Return the bytes with one or a few of them changed, dropped, repeated or added."""
        rng = self._rng
        out = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4, 8))):
            at = rng.randrange(len(out) + 1)
            match rng.randrange(4):
                case 0 if at < len(out):
                    out[at] ^= 1 << rng.randrange(8)
                case 1:
                    del out[at : at + rng.randrange(1, 5)]
                case 2:
                    out[at:at] = rng.randbytes(rng.randrange(1, 5))
                case _:
                    out[at:at] = out[at : at + rng.randrange(1, 65)]
        return bytes(out)


class Change:
    """One change of one input."""

    def __init__(self, rng: random.Random, raw: Callable[[bytes], bytes]) -> None:
        self._rng = rng
        self._raw = raw

    def apply(self, data: bytes) -> bytes:
        """Return the input changed."""
        if self._rng.random() < 0.1:
            return self._raw(data)
        for _ in range(self._rng.choice((1, 1, 1, 2, 3))):
            data = self.bytes(data, 0)
        return data

    def bytes(self, data: bytes, depth: int) -> bytes:
        """Change bytes: what they hold, if they hold MessagePack."""
        rng = self._rng
        roll = rng.random()
        if roll < 0.03:
            return rng.choice(BLOBS)
        if roll < 0.06:
            if rng.random() < 0.2:
                return BOMB
            return MARK + zlib.compress(data * rng.choice((1, 1, 50)), 1) + rng.choice((b"", b"", b"\x00"))
        if data[:1] == MARK:
            try:
                inside = zlib.decompressobj().decompress(data[1:], INFLATED_BYTES_MAX)
            except zlib.error:
                return self._raw(data)
            return MARK + zlib.compress(self.bytes(inside, depth + 1), 1)
        if roll < 0.12 or depth > DEPTH_MAX:
            return self._raw(data)
        try:
            value = msgspec.msgpack.decode(data)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError, ValueError):
            return self._raw(data)
        try:
            return msgspec.msgpack.encode(self.value(value, depth))
        except (OverflowError, RecursionError, UnicodeEncodeError, TypeError):
            return self._raw(data)

    def value(self, value: Any, depth: int) -> Any:
        """Change one place inside a value."""
        rng = self._rng
        if depth > DEPTH_MAX or rng.random() < 0.03:
            return self._anything()
        if isinstance(value, list):
            return self._list(value, depth)
        if isinstance(value, bytes):
            return self.bytes(value, depth + 1)
        if isinstance(value, bool) or value is None:
            return rng.choice((True, False, None, 0, 1))
        if isinstance(value, int):
            return rng.choice((rng.choice(INTEGERS), value + 1, value - 1, value ^ 1 << rng.randrange(63)))
        if isinstance(value, str):
            return rng.choice((rng.choice(STRINGS), value + "x", value[:-1], value[::-1], value * 2))
        return self._anything()

    def _list(self, items: list[Any], depth: int) -> list[Any]:
        rng = self._rng
        items = [*items]
        if items and rng.random() < 0.8:
            at = rng.randrange(len(items))
            items[at] = self.value(items[at], depth + 1)
            return items
        at = rng.randrange(len(items) + 1)
        match rng.randrange(5):
            case 0:
                del items[at : at + 1]
            case 1:
                items[at:at] = items[at : at + 1] * rng.choice((1, 2, 70, 300))
            case 2 if items:
                other = rng.randrange(len(items))
                at = min(at, len(items) - 1)
                items[at], items[other] = items[other], items[at]
            case 3:
                items.append(self._anything())
            case _:
                items[at:at] = [self._anything()]
        return items[:600]

    def _anything(self) -> Any:
        rng = self._rng
        return rng.choice(
            (rng.choice(INTEGERS), rng.choice(STRINGS), rng.choice(BLOBS), [], [[]], True, None, 1.5, {"k": 1})
        )

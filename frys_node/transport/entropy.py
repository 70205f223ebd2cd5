"""The real source of randomness: the kernel's generator."""

from __future__ import annotations

import os
import random


class SystemEntropy:
    """`Entropy` of a running node."""

    __slots__ = ()

    def token_bytes(self, count: int) -> bytes:
        """Return `count` bytes from the kernel, fit for keys."""
        return os.urandom(count)

    def rng(self, name: str) -> random.Random:
        """Return a fresh generator seeded with 256 bits from the kernel; the name only separates the uses."""
        return random.Random(name.encode() + os.urandom(32))

"""Randomness that repeats: the same seed gives the same bytes and the same generators, in any process."""

from __future__ import annotations

import random


class FakeEntropy:
    """`Entropy` from a seed. Never for real keys."""

    def __init__(self, seed: int | str = 0) -> None:
        self._seed = seed
        self._tokens = random.Random(f"{seed}/tokens")
        self._uses: dict[str, int] = {}

    def token_bytes(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        return self._tokens.randbytes(count)

    def rng(self, name: str) -> random.Random:
        """Return a generator for the name; asking again gives the next, independent one."""
        use = self._uses[name] = self._uses.get(name, 0) + 1
        return random.Random(f"{self._seed}/{name}/{use}")

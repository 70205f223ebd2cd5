"""When the issuer rotates the gossip keys by age.

Sans-I/O.
"""

from __future__ import annotations

import hashlib

from frys_node.secure.keyring import EpochKey

JITTER = 0.1
"""A rotation comes up to this share of the period earlier or later, so that clusters made together do not rotate so."""


class RotationPlan:
    """When the issuer rotates."""

    def __init__(self, every_s: float) -> None:
        """`every_s` 0: never by itself."""
        self._every_s = every_s
        self._key = b""
        self._held_since_s = 0.0

    @property
    def is_on(self) -> bool:
        """True if keys rotate by themselves."""
        return self._every_s > 0

    def life_s(self, key: EpochKey) -> float:
        """How old a key becomes: the period with its jitter, which every node computes alike."""
        digest = hashlib.sha256(b"rotation" + key.rank[1].to_bytes(8, "big") + key.made_unix_s.to_bytes(8, "big"))
        share = int.from_bytes(digest.digest()[:4], "big") / 0xFFFF_FFFF
        return self._every_s * (1.0 - JITTER + 2.0 * JITTER * share)

    def due_in_s(self, key: EpochKey, unix_s: float, now_s: float) -> float:
        """Seconds until the key has to be replaced, 0 or less when it is time; infinite if never.

        The wall clock counts across restarts; a clock that was wrong when the key was made, or is now, only makes the
        age that this process has seen count instead.
        """
        if key.key != self._key:
            self._key, self._held_since_s = key.key, now_s
        if not self.is_on:
            return float("inf")
        held_s = now_s - self._held_since_s
        age_s = unix_s - key.made_unix_s if 0 < key.made_unix_s <= unix_s else 0.0
        return self.life_s(key) - max(held_s, age_s)

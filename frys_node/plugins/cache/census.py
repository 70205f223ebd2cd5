"""How many values a node holds of each namespace, and how many of them have an end.

Sans-I/O. For INFO, which must not walk through all that is held.
"""

from __future__ import annotations


class Count:
    """Of one namespace."""

    __slots__ = ("brief", "ends_unix_ms", "keys")

    def __init__(self) -> None:
        self.keys = 0
        self.brief = 0
        """Keys that have an end."""
        self.ends_unix_ms = 0
        """The sum of their ends."""


class Census:
    """Counts by namespace; one without values has none."""

    __slots__ = ("counts",)

    def __init__(self) -> None:
        self.counts: dict[bytes, Count] = {}

    def add(self, key: bytes) -> None:
        """A full key has a value now."""
        prefix = key.partition(b"\0")[0]
        count = self.counts.get(prefix)
        if count is None:
            count = self.counts[prefix] = Count()
        count.keys += 1

    def remove(self, key: bytes) -> None:
        """It has none any more; its end is told by itself."""
        prefix = key.partition(b"\0")[0]
        count = self.counts[prefix]
        count.keys -= 1
        if not count.keys:
            del self.counts[prefix]

    def begin(self, key: bytes, end_unix_ms: int) -> None:
        """The value of a key has an end."""
        count = self.counts[key.partition(b"\0")[0]]
        count.brief += 1
        count.ends_unix_ms += end_unix_ms

    def end(self, key: bytes, end_unix_ms: int) -> None:
        """It has no longer; said before the key is removed."""
        count = self.counts[key.partition(b"\0")[0]]
        count.brief -= 1
        count.ends_unix_ms -= end_unix_ms

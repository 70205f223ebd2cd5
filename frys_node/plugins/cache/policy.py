"""Which entries stay when memory is short: least recently used, measured in bytes.

Sans-I/O. One instance bounds all cache units of a node together, so that a busy unit may use what idle ones do not.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

ENTRY_OVERHEAD_BYTES = 400
"""What one small entry costs beside its key and value in CPython: dict slots, entry, version and byte headers."""


class Slot(NamedTuple):
    """The place of an entry: unit name and key."""

    unit: str
    key: bytes


class LruBytes:
    """Order of use and total size of the entries of a node."""

    __slots__ = ("_sizes", "bytes_max", "total_bytes")

    def __init__(self, bytes_max: int) -> None:
        self._sizes: OrderedDict[Slot, int] = OrderedDict()
        self.bytes_max = bytes_max
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._sizes)

    def touch(self, slot: Slot) -> None:
        """Make an entry the most recently used one; nothing happens for an unknown entry."""
        if slot in self._sizes:
            self._sizes.move_to_end(slot)

    def set(self, slot: Slot, payload_bytes: int) -> None:
        """Record an entry's key and value bytes and make it the most recently used one."""
        size_bytes = payload_bytes + ENTRY_OVERHEAD_BYTES
        self.total_bytes += size_bytes - self._sizes.pop(slot, 0)
        self._sizes[slot] = size_bytes

    def shrink(self, slot: Slot, payload_bytes: int) -> None:
        """Record a smaller size without changing the order of use."""
        size_bytes = payload_bytes + ENTRY_OVERHEAD_BYTES
        if slot in self._sizes:
            self.total_bytes += size_bytes - self._sizes[slot]
            self._sizes[slot] = size_bytes

    def forget(self, slot: Slot) -> None:
        """Remove an entry; nothing happens for an unknown one."""
        self.total_bytes -= self._sizes.pop(slot, 0)

    def pop_excess(self) -> list[Slot]:
        """Remove and return the least recently used entries until the rest fits."""
        victims: list[Slot] = []
        while self.total_bytes > self.bytes_max and self._sizes:
            slot, size_bytes = self._sizes.popitem(last=False)
            self.total_bytes -= size_bytes
            victims.append(slot)
        return victims

"""Which tombstones are held in memory, and which of them goes next.

Sans-I/O. Theory of operation. A deleted or expired key leaves a tombstone, so that an older value on another replica
does not come back. Tombstones are no part of what the cache is for: they have no place in a policy and count for no
quota. Most are freed within minutes, when all members of the unit's set agree (`frys_node.replication.purge`). What
that is too slow for is bounded here, and given up oldest first. Who gives one up raises its unit's floor above it
(`memory`), which is as safe as the tombstone was and only costs misses: an older value that this replica does not hold
can come to it no more.

* Of a unit of which this is the only replica none is kept: nobody else can have an older value, the floor is free.
* Of a unit that is being filled they are kept apart and longer: a floor would refuse what is still on its way.
* All others take up to `TOMBSTONES_SHARE` of the memory. When that is short, those older than `KEPT_MS` go before any
  value.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from enum import Enum
from itertools import islice

TOMBSTONES_SHARE = 1 / 8
"""Part of the memory that tombstones take at most."""

FILLING_SHARE = 1 / 2
"""The same for those of units that are being filled."""

KEPT_MS = 10_000
"""Younger ones stay when memory is short: a write on its way to this replica would be refused by the floor."""

AGE_MS_MAX = 3_600_000
"""None is kept longer, whether or not all members have agreed to free it."""

SETTLED_MAX = 4_096
"""Tombstones of units that have been filled which count as others from one sweep on: most of them are given up then,
and the event loop waits for that."""


class Standing(Enum):
    """What this node is to a unit."""

    ALONE = "alone"
    """The only replica, which no other joins."""
    WHOLE = "whole"
    """A replica among others, with all that it should have."""
    FILLING = "filling"
    """One that is still to get what the others have."""


class Tombstones:
    """The keys of tombstones in the order of their coming, with the wall clock in milliseconds when they came."""

    __slots__ = ("_filling", "_filling_bytes", "_whole", "_whole_bytes")

    def __init__(self) -> None:
        self._whole: OrderedDict[bytes, int] = OrderedDict()
        self._filling: OrderedDict[bytes, int] = OrderedDict()
        self._whole_bytes = 0
        self._filling_bytes = 0

    def __len__(self) -> int:
        return len(self._whole) + len(self._filling)

    def __contains__(self, key: bytes) -> bool:
        return key in self._whole or key in self._filling

    @property
    def total_bytes(self) -> int:
        """What all of them take."""
        return self._whole_bytes + self._filling_bytes

    def add(self, key: bytes, size_bytes: int, now_ms: int, *, is_filling: bool) -> None:
        """Hold one that was not held, as the youngest."""
        if is_filling:
            self._filling[key] = now_ms
            self._filling_bytes += size_bytes
        else:
            self._whole[key] = now_ms
            self._whole_bytes += size_bytes

    def remove(self, key: bytes, size_bytes: int) -> None:
        """Forget one that is held."""
        if self._whole.pop(key, None) is not None:
            self._whole_bytes -= size_bytes
        else:
            del self._filling[key]
            self._filling_bytes -= size_bytes

    def surplus(self, bytes_max: int) -> bytes | None:
        """Return the oldest one of those that take more than their share of the memory; None if none do."""
        if self._whole_bytes > bytes_max * TOMBSTONES_SHARE:
            return next(iter(self._whole))
        if self._filling_bytes > bytes_max * FILLING_SHARE:
            return next(iter(self._filling))
        return None

    def before(self, at_ms: int) -> bytes | None:
        """Return the oldest one that came before an instant, of units that are whole; None if there is none."""
        if self._whole:
            key = next(iter(self._whole))
            if self._whole[key] < at_ms:
                return key
        return None

    def any(self) -> bytes | None:
        """Return the oldest one there is."""
        return next(iter(self._whole or self._filling), None)

    def settle(self, is_filling: Callable[[bytes], bool], size: Callable[[bytes], int]) -> None:
        """Let those whose units have been filled by now count as the others, up to `SETTLED_MAX` in one go."""
        for key in list(islice((key for key in self._filling if not is_filling(key)), SETTLED_MAX)):
            size_bytes = size(key)
            self._whole[key] = self._filling.pop(key)
            self._filling_bytes -= size_bytes
            self._whole_bytes += size_bytes

"""Stores of units that are held here no more, emptied one at a time.

Sans-I/O. A node that leaves, or that another joins, gives up hundreds of units at one instant. Of what the record says
that is one step; of forgetting a hundred thousand entries it need not be.
"""

from __future__ import annotations

import math
from collections import deque

from frys_node.kernel.services.replication import UnitStore


class Emptying:
    """What is still to be emptied. A store that is opened anew for the same unit has nothing to do with it."""

    __slots__ = ("_next_s", "_stores")

    def __init__(self) -> None:
        self._stores: deque[UnitStore] = deque()
        self._next_s = math.inf

    def __len__(self) -> int:
        return len(self._stores)

    def add(self, store: UnitStore, now_s: float) -> None:
        """Have a store emptied from this instant on."""
        self._stores.append(store)
        self._next_s = min(self._next_s, now_s)

    @property
    def next_s(self) -> float:
        """When `advance` has something to do."""
        return self._next_s

    def advance(self) -> None:
        """Empty the next one, if there is one."""
        if self._stores:
            self._stores.popleft().clear()
        if not self._stores:
            self._next_s = math.inf

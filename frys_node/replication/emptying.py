"""Stores of units that are held here no more, emptied one at a time.

Sans-I/O. A node that leaves, or that another joins, gives up hundreds of units at one instant. Of what the record says
that is one step; of forgetting a hundred thousand entries it need not be.
"""

from __future__ import annotations

import math
from collections import deque

from frys_node.kernel.services.replication import UnitStore

PAUSE_S = 0.01
"""Between two stores: nobody waits for the room, but all members come to give up theirs at the same instant."""


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

    def advance(self, now_s: float) -> None:
        """Empty the next one, if it is due."""
        if now_s < self._next_s:
            return
        self._stores.popleft().clear()
        self._next_s = now_s + PAUSE_S if self._stores else math.inf

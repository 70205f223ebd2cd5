"""Where a request goes: a pure function of a unit's sets, this node and who looks well.

Sans-I/O. The answer carries the epoch it was made under; whoever receives the request checks it, so at most one
redirect follows (D4).
"""

from __future__ import annotations

from collections.abc import Callable

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import UNUSABLE
from frys_node.kernel.services.topology import Forward, Local, Route, Unavailable, UnitSets


def route(sets: UnitSets, self_id: NodeId, rank: Callable[[NodeId], int]) -> Route:
    """Return `Local` if this node is in the current set, else the first of the best members, else `Unavailable`.

    New work is kept from members that are slow, stalled or suspect while another one is well (`Members.rank`).
    """
    if self_id in sets.current:
        return Local(sets.epoch)
    best = min(sets.current, key=rank, default=None)
    if best is None or rank(best) >= UNUSABLE:
        return Unavailable(sets.epoch, sets.current)
    return Forward(best, sets.epoch)

"""Where a request goes: a pure function of a unit's sets, this node and who looks usable.

Sans-I/O. The answer carries the epoch it was made under; whoever receives the request checks it, so at most one
redirect follows (D4).
"""

from __future__ import annotations

from collections.abc import Callable

from frys_node.base.types import NodeId
from frys_node.kernel.services.topology import Forward, Local, Route, Unavailable, UnitSets


def route(sets: UnitSets, self_id: NodeId, is_usable: Callable[[NodeId], bool]) -> Route:
    """Return `Local` if this node is in the current set, else the first usable member, else `Unavailable`."""
    if self_id in sets.current:
        return Local(sets.epoch)
    for node in sets.current:
        if is_usable(node):
            return Forward(node, sets.epoch)
    return Unavailable(sets.epoch, sets.current)

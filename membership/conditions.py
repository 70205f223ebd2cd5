"""Which members' conditions are not, or may no longer be, what was last published of them.

Sans-I/O. A condition follows from several facts, some of which pass with time. Only the few members for which there is
such a fact are looked at in each turn.
"""

from __future__ import annotations

from frys_node.base.types import NodeId
from frys_node.kernel.services.members import Condition


class Conditions:
    """The last published condition of every member that is not ok, and of those that may have changed."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[NodeId, Condition] = {}

    def __len__(self) -> int:
        return len(self._known)

    def touch(self, node: NodeId) -> None:
        """Look at a member at the end of this turn."""
        self._known.setdefault(node, Condition.OK)

    def watched(self) -> tuple[NodeId, ...]:
        """Return whom to look at."""
        return tuple(self._known)

    def of(self, node: NodeId) -> Condition:
        """Return what was last published of a member."""
        return self._known.get(node, Condition.OK)

    def settle(self, node: NodeId, condition: Condition) -> Condition:
        """Take what a member's condition is now; returns what it was."""
        old = self._known.pop(node, Condition.OK)
        if condition is not Condition.OK:
            self._known[node] = condition
        return old

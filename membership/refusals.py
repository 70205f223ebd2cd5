"""Members to which this node's own system refuses to send: no route, no such family on its socket, a filter of its own.

Sans-I/O. What such a member does not answer it has never been asked: that is trouble here, and no silence of the
member. Its own packets, which still come in, prove that it is there. If none come for long either, the difference does
not matter any more, and it is accused as any other.
"""

from __future__ import annotations

import math

from frys_node.base.types import NodeId

RECENT_S = 5.0
"""A silence is explained by a refusal that is no older: a watcher repeats its beats more often."""

STALE_S = 60.0
"""A refusal says nothing any more after so long without another one: nothing was sent, or it went."""

QUIET_S = 600.0
"""A refusal after so long without one is told anew."""


class _Refusal:
    """What is known of one member."""

    __slots__ = ("first_s", "heard_s", "is_over", "last_s")

    def __init__(self, now_s: float) -> None:
        self.first_s = self.last_s = now_s
        self.heard_s = -math.inf
        self.is_over = False
        """An answer has come since."""


class Refusals:
    """The refusals that one node has met with."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[NodeId, _Refusal] = {}

    def __len__(self) -> int:
        return len(self._known)

    def note(self, node: NodeId, now_s: float) -> bool:
        """Take that sending to a member was refused; True if that is worth telling."""
        known = self._known.get(node)
        is_new = known is None or now_s - known.last_s > QUIET_S
        if known is None or known.is_over:
            known = self._known[node] = _Refusal(now_s)
        known.last_s = now_s
        return is_new

    def heard(self, node: NodeId, now_s: float, *, is_answer: bool) -> None:
        """Take that a packet has come straight from a member; an answer says that something has reached it."""
        known = self._known.get(node)
        if known is not None:
            known.heard_s = now_s
            known.is_over = known.is_over or is_answer

    def forget(self, node: NodeId) -> None:
        """Drop what is known of a member."""
        self._known.pop(node, None)

    def shift(self, gap_s: float) -> None:
        """Move all of them by a time during which this node itself stood still."""
        for known in self._known.values():
            known.first_s += gap_s
            known.last_s += gap_s
            known.heard_s += gap_s

    def nodes(self, now_s: float) -> list[NodeId]:
        """Return to whom this node cannot send."""
        return [node for node in self._known if self.since_s(node, now_s) is not None]

    def since_s(self, node: NodeId, now_s: float) -> float | None:
        """Return since when this node cannot send to a member, None if it can or has not tried lately."""
        known = self._known.get(node)
        is_past = known is None or known.is_over or now_s - known.last_s > STALE_S
        return None if known is None or is_past else known.first_s

    def is_recent(self, node: NodeId, now_s: float) -> bool:
        """Return True if the last packet to a member, a moment ago, was refused."""
        known = self._known.get(node)
        return known is not None and not known.is_over and now_s - known.last_s < RECENT_S

    def excuses(self, node: NodeId, now_s: float, limit_s: float) -> bool:
        """Return True if this node cannot send to a member, which has been heard within the limit."""
        known = self._known.get(node)
        return known is not None and not known.is_over and now_s - max(known.first_s, known.heard_s) < limit_s

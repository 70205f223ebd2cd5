"""What made this node think of a member as it does: the last few turns of its story, for `frys-node why`.

Sans-I/O. Bounded, and only for members to which something happened: a thousand quiet members cost nothing.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from frys_node.base.types import NodeId
from membership.messages import Evidence

ENTRIES_MAX = 24
"""Turns remembered of each member; the oldest make room."""


class Entry(NamedTuple):
    """One turn."""

    now_s: float
    """When, monotonic."""
    what: str
    """One word or two: `suspected`, `confirmed`, `vouched`, `refuted`, `dead` and the like."""
    who: NodeId = NodeId("")
    """Whose doing: accuser, voucher; empty when it is this node's conclusion."""
    evidence: Evidence | None = None
    """What an accusation rests on."""
    detail: str = ""
    """Figures, for people."""


class Story:
    """The turns of one member, oldest first."""

    __slots__ = ("_entries",)

    def __init__(self) -> None:
        self._entries: deque[Entry] = deque(maxlen=ENTRIES_MAX)

    def add(self, entry: Entry) -> None:
        """Append a turn. The same thing said by the same one again takes the place of the last turn."""
        if self._entries and self._entries[-1][1:] == entry[1:]:
            self._entries.pop()
        self._entries.append(entry)

    def entries(self) -> tuple[Entry, ...]:
        """Return the turns, oldest first."""
        return tuple(self._entries)

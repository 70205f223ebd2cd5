"""The hybrid logical clock that stamps writes.

Sans-I/O. Wall milliseconds when they move on, otherwise the last stamp plus one in the counter. The boot id makes
two stamps of one node different even when its clock steps back over a restart (replication rule 3). A clock that others
refused for being ahead is disowned (rule 5): what it had stamped is forgotten, what replicas forced upward stays.
"""

from __future__ import annotations

from frys_node.base.types import NodeId
from frys_node.kernel.services.replication import Version


class HybridClock:
    """Stamps of one node during one boot; never the same twice, and increasing as long as nothing is disowned."""

    __slots__ = ("_base", "_boot", "_counter", "_forced", "_last_ms", "_node", "_used")

    def __init__(self, node: NodeId, boot: int) -> None:
        self._node = node
        self._boot = boot
        self._last_ms = 0
        self._counter = 0
        self._base = 0
        """Counters begin here: above all that were used before the clock was disowned last."""
        self._used = 0
        self._forced = (0, 0)
        """The highest place that a replica has forced this clock to."""

    def stamp(self, wall_ms: int) -> Version:
        """Return a version above every one stamped or observed so far; `wall_ms` is the wall clock since 1970."""
        if wall_ms > self._last_ms:
            self._last_ms, self._counter = wall_ms, self._base
        else:
            self._counter += 1
            self._used = max(self._used, self._counter)
        return Version(self._last_ms, self._counter, self._node, self._boot)

    def observe(self, version: Version) -> None:
        """Move past a version that another replica holds (rule 4), whatever the wall clock says."""
        place = (version.hlc_ms, max(version.counter, self._base - 1))
        self._forced = max(self._forced, place)
        self._last_ms, self._counter = max((self._last_ms, self._counter), place)

    def disown(self) -> None:
        """Forget how far this node's own clock had come: a replica refused it. No stamp is ever made twice."""
        self._base = max(self._used, self._counter) + 1
        self._last_ms, self._counter = self._forced[0], max(self._forced[1], self._base - 1)

"""The hybrid logical clock that stamps writes.

Sans-I/O. Wall milliseconds when they move on, otherwise the last stamp plus one in the counter. The boot id makes
two stamps of one node different even when its clock steps back over a restart (replication rule 3).
"""

from __future__ import annotations

from frys_node.base.types import NodeId
from frys_node.kernel.services.replication import Version


class HybridClock:
    """Stamps of one node during one boot; strictly increasing."""

    __slots__ = ("_boot", "_counter", "_last_ms", "_node")

    def __init__(self, node: NodeId, boot: int) -> None:
        self._node = node
        self._boot = boot
        self._last_ms = 0
        self._counter = 0

    def stamp(self, wall_ms: int) -> Version:
        """Return a version above every one stamped or observed so far; `wall_ms` is the wall clock since 1970."""
        if wall_ms > self._last_ms:
            self._last_ms, self._counter = wall_ms, 0
        else:
            self._counter += 1
        return Version(self._last_ms, self._counter, self._node, self._boot)

    def observe(self, version: Version) -> None:
        """Move past a version that another replica holds (rule 4), whatever the wall clock says."""
        self._last_ms, self._counter = max((self._last_ms, self._counter), (version.hlc_ms, version.counter))

"""The rate of moves in the replication scenario: copies that go by messages are held to it at both ends."""

from __future__ import annotations

from collections.abc import Callable

from frys_node.base.types import NodeId
from snapshots.pace import BURST_S, Pace


class SeedPace:
    """What `snapshots.throttle.Throttle` is to a node, at a rate that the seed has drawn."""

    def __init__(self, rate_bytes_s: float, held_back: Callable[[], None]) -> None:
        self._held_back = held_back
        self.now_s = 0.0
        """Set by the node with each input."""
        self._in, self._out = Pace(rate_bytes_s), Pace(rate_bytes_s)

    def _is_paid(self, pace: Pace) -> bool:
        is_paid = pace.busy_s(self.now_s) <= BURST_S
        if not is_paid:
            self._held_back()
        return is_paid

    def may_give(self) -> bool:
        """True if what was given is paid for."""
        return self._is_paid(self._out)

    def gave(self, receiver: NodeId, size_bytes: int) -> None:
        """Count bytes."""
        del receiver
        self._out.reserve(size_bytes, self.now_s)

    def may_take(self) -> bool:
        """True if what was taken is paid for."""
        return self._is_paid(self._in)

    def took(self, size_bytes: int) -> None:
        """Count bytes."""
        self._in.reserve(size_bytes, self.now_s)

    def asked(self) -> None:
        """Rates here do not depend on who asks."""

"""When the machine's periodic work is due.

Sans-I/O.
"""

from __future__ import annotations

import math


class Timers:
    """Instants in monotonic seconds; infinity means not armed."""

    __slots__ = ("gossip_s", "persist_s", "push_pull_s", "reap_s", "reconnect_s")

    def __init__(self) -> None:
        self.gossip_s = math.inf
        self.push_pull_s = math.inf
        self.reconnect_s = math.inf
        self.persist_s = math.inf
        self.reap_s = math.inf

    @property
    def next_s(self) -> float:
        """The earliest one."""
        return min(self.gossip_s, self.push_pull_s, self.reconnect_s, self.persist_s, self.reap_s)

    def catch_up(self, now_s: float) -> None:
        """Move everything that was missed during a pause to now, once instead of as often as it was missed."""
        for name in self.__slots__:
            setattr(self, name, max(getattr(self, name), now_s))

"""A node whose network blocks: the anomaly of the Lifeguard paper, as its authors describe it.

Sans-I/O. What arrives waits in a buffer, and the first packet that the node wants to send blocks its loop, so that no
probe, no gossip and no state exchange follows. Only the timers of suspicions, which run by themselves, go on: hence a
stalled node calls members dead whose refutation lies unread in its buffer, and tells everybody at the next opportunity.
How it stalls decides the outcome: a node whose loops run free and whose packets pile up floods the others instead.

The pause guard of the machine would see through this (its loop has been late), so it is told that all is well: the
experiment compares the parts of Lifeguard. Subclass `GuardedStallNode` leaves the guard on, as in a real node.
Source: Dadgar et al., "Lifeguard", arXiv:1707.00788, section V.
"""

from __future__ import annotations

from collections.abc import Sequence

from frys_node.testing.lifelines import SimLifelines
from frys_node.testing.membership_node import MembershipNode
from frys_node.testing.simulator import Packet, SimHost
from membership.config import MembershipConfig

STALL = "stall"
"""The command to block."""

GO_ON = "go on"
"""The command to go on."""

BUFFER_MAX = 4_096
"""Packets that wait to be read; more are dropped, as by a full socket buffer."""


class StallNode(MembershipNode):
    """A node that can be blocked."""

    has_guard = False
    """True if the machine may notice that it was late."""

    def __init__(
        self, host: SimHost, config: MembershipConfig, seeds: Sequence[str], lifelines: SimLifelines | None = None
    ) -> None:
        super().__init__(host, config, seeds, lifelines)
        self.is_blocked = False
        """True once it has tried to send while stalled."""
        self._unsent: list[Packet] = []
        self._unread: list[tuple[bytes, str]] = []

    @property
    def next_deadline_s(self) -> float:
        """The machine's next deadline, while blocked that of its suspicions."""
        return self.machine.suspicion_at_s if self.is_blocked else self.machine.next_deadline_s

    def receive(self, payload: bytes, source: str, now_s: float) -> Sequence[Packet]:
        """Take a packet, or keep it for later."""
        if self.is_reading:
            return super().receive(payload, source, now_s)
        if len(self._unread) < BUFFER_MAX:
            self._unread.append((payload, source))
        return ()

    def advance(self, now_s: float) -> Sequence[Packet]:
        """Do what is due, as far as nothing has to be sent."""
        if self.is_reading:
            return super().advance(now_s)
        packets = (
            self._perform(self.machine.end_suspicions(now_s), now_s) if self.is_blocked else super().advance(now_s)
        )
        if packets:
            self.is_blocked = True
            self._unsent.extend(packets)
        return ()

    def wake(self, token: object, now_s: float) -> Sequence[Packet]:
        """Stall, go on, or take a command."""
        if token == STALL:
            self.is_reading = False
            return ()
        if token != GO_ON:
            return super().wake(token, now_s)
        return self._unblock(now_s)

    def _unblock(self, now_s: float) -> Sequence[Packet]:
        """What blocked is sent, then what is overdue is done, and only then is the buffer read."""
        packets, unread = self._unsent, self._unread
        self._unsent, self._unread = [], []
        self.is_reading, self.is_blocked = True, False
        if not self.has_guard:
            self.machine.sees_no_gap(now_s)
            packets += super().advance(now_s)
        for payload, source in unread:
            packets += super().receive(payload, source, now_s)
        return packets


class GuardedStallNode(StallNode):
    """The same with the pause guard, which reads the buffer first, as the driver does."""

    has_guard = True
    may_oversleep = True

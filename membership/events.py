"""User events: told by one node, delivered once at each.

Sans-I/O. An origin numbers its events without gaps, so a node knows what it has missed: per origin it keeps the highest
number and the holes below it (`Window`). Gossip brings an event to nearly everybody; whoever has a hole gets the
event from the next node that it exchanges states with (`membership.catchup`), as long as somebody remembers it.
"""

from __future__ import annotations

from collections.abc import Iterator

from frys_node.base.errors import UsageError
from frys_node.base.types import NodeId
from membership.allowance import Allowance
from membership.effects import Tallies
from membership.errors import GossipTooLarge
from membership.rumours import EVENT_NAME_MAX, EVENT_PAYLOAD_BYTES_MAX, Rumours, UserEvent

EVENTS_PER_S = 10.0
EVENTS_BURST = 50

WINDOW = 256
"""Holes are remembered this far back; an event that is older than that is taken for known."""

RECENT_MAX = 1_024
"""Events kept for those who missed them."""

ORIGINS_MAX = 8_192
"""Nodes of whose events and state anything is kept; beyond it newcomers are refused and counted."""

LAMPORT_MAX = (1 << 62) - 1
"""Where the logical clock stands still, so that no forged time makes this node's own events unreadable."""

RECENT_S = 300.0
"""For how long an event is kept for those who missed it."""


class Window:
    """Which events of one boot of an origin have been delivered here."""

    __slots__ = ("boot", "head", "missing", "touched_s")

    def __init__(self, boot: int, now_s: float) -> None:
        self.boot = boot
        self.head = 0
        self.missing: set[int] = set()
        self.touched_s = now_s

    def take(self, sequence: int) -> bool:
        """Note an event; False if it is known, or too old to tell."""
        if sequence > self.head:
            oldest = sequence - WINDOW
            self.missing = {number for number in self.missing if number > oldest}
            self.missing.update(range(max(self.head, oldest) + 1, sequence))
            self.head = sequence
            return True
        if sequence in self.missing:
            self.missing.remove(sequence)
            return True
        return False

    def adopt(self, head: int, missing: frozenset[int]) -> int:
        """Take for known whatever the other knows and cannot tell any more; returns how many events that loses."""
        missing = frozenset(number for number in missing if head - WINDOW < number < head)
        lost = sum(number <= head and number not in missing for number in self.missing)
        self.missing = {number for number in self.missing if number > head or number in missing}
        if head > self.head:
            lost += head - self.head - sum(number > self.head for number in missing)
            self.missing |= {number for number in missing if number > self.head}
            self.head = head
        return lost


class Events:
    """What one node knows of everybody's events."""

    def __init__(self, node: NodeId, boot: int, rumours: Rumours, tallies: Tallies) -> None:
        self._node = node
        self._boot = boot
        self._rumours = rumours
        self._tallies = tallies
        self._allowance: Allowance | None = None
        self._recent: dict[str, tuple[float, UserEvent]] = {}
        self.windows: dict[NodeId, Window] = {}
        self.lamport = 0
        self.delivered: list[UserEvent] = []
        """Events that the composing machine has not handed out yet."""

    def fire(self, name: str, payload: bytes, now_s: float, unix_ns: int) -> UserEvent:
        """Tell everybody, and deliver here.

        Raises:
            GossipTooLarge: Over a limit, or over what a packet holds. Nothing was sent.
            GossipTooFast: Over the rate. Nothing was sent.
        """
        check_name("event", name)
        if len(payload) > EVENT_PAYLOAD_BYTES_MAX:
            raise GossipTooLarge(
                f"the payload of an event has {len(payload)} bytes, the limit is {EVENT_PAYLOAD_BYTES_MAX}",
                hint="put the data elsewhere (a cache key, an object) and its name into the event",
            )
        own = self.windows.get(self._node)
        sequence = 1 if own is None or own.boot != self._boot else own.head + 1
        event = UserEvent(self._node, self._boot, sequence, self.next_lamport, max(0, unix_ns), name, payload)
        event = self._rumours.signed(event)
        self._rumours.queue.check_fits(event)
        if self._allowance is None:
            self._allowance = Allowance("events", per_s=EVENTS_PER_S, burst=EVENTS_BURST, now_s=now_s)
        self._allowance.spend(now_s)
        self._deliver(event, now_s)
        return event

    @property
    def next_lamport(self) -> int:
        """The logical time of whatever this node says next."""
        return min(self.lamport + 1, LAMPORT_MAX)

    def take(self, event: UserEvent, now_s: float) -> bool:
        """Deliver an event of another node and pass it on, unless it is known; True if it was news."""
        if self._is_own(event.origin, event.boot):
            own = self.windows.get(self._node)
            is_echo = own is not None and own.boot == event.boot and event.sequence <= own.head
            self._tallies.add(self._tallies.rumours_dropped, "known" if is_echo else "forged", "event")
            return False
        return self._deliver(event, now_s)

    def _is_own(self, origin: NodeId, boot: int) -> bool:
        """True for what only this node can have said: who says otherwise must not number its events for it."""
        return origin == self._node and boot >= self._boot

    def _deliver(self, event: UserEvent, now_s: float) -> bool:
        window = self.window(event.origin, event.boot, now_s)
        if window is None and event.origin not in self.windows:
            self._tallies.add(self._tallies.rumours_dropped, "too_many", "event")
            return False
        if window is None or not window.take(event.sequence):
            self._tallies.add(self._tallies.rumours_dropped, "known", "event")
            return False
        window.touched_s = now_s
        self.lamport = max(self.lamport, event.lamport)
        self._remember(event, now_s)
        self._rumours.queue.put(event)
        self.delivered.append(event)
        return True

    def window(self, origin: NodeId, boot: int, now_s: float) -> Window | None:
        """The window of an origin's boot, a new one for a later boot; None for an earlier one, or one too many."""
        window = self.windows.get(origin)
        if window is None and len(self.windows) >= ORIGINS_MAX and origin != self._node:
            return None
        if window is None or window.boot < boot:
            window = self.windows[origin] = Window(boot, now_s)
        return window if window.boot == boot else None

    def _remember(self, event: UserEvent, now_s: float) -> None:
        self._recent[event.key] = (now_s + RECENT_S, event)
        while self._recent:
            key, (until_s, _) = next(iter(self._recent.items()))
            if until_s > now_s and len(self._recent) <= RECENT_MAX:
                return
            del self._recent[key]

    def recent(self, now_s: float) -> Iterator[UserEvent]:
        """Every event that can still be told to those who missed it, the oldest first."""
        return (event for until_s, event in self._recent.values() if until_s > now_s)

    def adopt(self, origin: NodeId, boot: int, head: int, missing: frozenset[int], now_s: float, is_new: bool) -> None:
        """Give up what another node knows and can no longer tell; to a newcomer that is no loss but history."""
        if self._is_own(origin, boot):
            return
        window = self.window(origin, boot, now_s)
        if window is not None:
            lost = window.adopt(head, missing)
            if lost and not is_new:
                key = ("lost", "event")
                dropped = self._tallies.rumours_dropped
                dropped[key] = dropped.get(key, 0) + lost

    def forget(self, origin: NodeId, now_s: float) -> None:
        """Drop what is known of an origin that is no member, unless it has just spoken."""
        window = self.windows.get(origin)
        if window is not None and now_s - window.touched_s > RECENT_S:
            del self.windows[origin]


def check_name(what: str, name: str) -> None:
    """Refuse a name that is empty, too long, or not to be shown on one line of a terminal.

    Raises:
        GossipTooLarge: It has too few or too many bytes. Nothing was sent.
        UsageError: It is not printable. Nothing was sent.
    """
    if not name.isprintable():
        raise UsageError(
            f"the name of this {what} has characters that are not printable: {name[:EVENT_NAME_MAX]!a}",
            hint="every member's terminal would obey them; put such bytes into the payload or value",
        )
    size_bytes = len(name.encode())
    if not 1 <= size_bytes <= EVENT_NAME_MAX:
        raise GossipTooLarge(
            f"the name of this {what} has {size_bytes} bytes, it may have 1 to {EVENT_NAME_MAX}",
            hint="use a short name and put the rest into the payload",
        )

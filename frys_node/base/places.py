"""Who holds the places of a listener: clients that have shown a token, and strangers, by the network they come from.

Sans-I/O. Strangers have a share of the places and no more. When it is full, or their network is, the next one does not
wait outside: it takes the place of the stranger that has been there longest, among those of the network that has most.
So whoever floods a listener turns itself out, and a client that shows its token at once gets in.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

STRANGERS_SHARE = 0.5
"""Of all places, how many strangers may hold at a time."""

T = TypeVar("T", bound=Hashable)


class Places(Generic[T]):
    """The places of one listener."""

    __slots__ = ("_networks", "_strangers", "_strangers_count", "_who")

    def __init__(self) -> None:
        self._who: dict[T, str] = {}
        self._networks: dict[str, int] = {}
        self._strangers: dict[str, dict[T, None]] = {}
        """By network, the oldest first."""
        self._strangers_count = 0

    def __len__(self) -> int:
        return len(self._who)

    def held_by(self, network: str) -> int:
        """How many places a network has."""
        return self._networks.get(network, 0)

    def enter(self, who: T, network: str, *, is_stranger: bool) -> None:
        """Give somebody a place."""
        self._who[who] = network
        self._networks[network] = self._networks.get(network, 0) + 1
        if is_stranger:
            self._strangers.setdefault(network, {})[who] = None
            self._strangers_count += 1

    def known(self, who: T) -> None:
        """Note that somebody has shown a token."""
        network = self._who.get(who, "")
        strangers = self._strangers.get(network, {})
        if who in strangers:
            del strangers[who]
            self._strangers_count -= 1
            if not strangers:
                del self._strangers[network]

    def leave(self, who: T) -> None:
        """Take a place back; again does nothing."""
        self.known(who)
        network = self._who.pop(who, None)
        if network is not None:
            self._networks[network] -= 1
            if not self._networks[network]:
                del self._networks[network]

    def make_room(self, network: str, places: int, places_of_network: int) -> T | None:
        """Take the place of the stranger away that has to go before one more of `network` comes in, and return it.

        None if nobody has to, or nobody can: then `held_by` and the length say whether there is room.
        """
        if self.held_by(network) >= places_of_network:
            crowd = self._strangers.get(network)
        elif self._strangers_count >= max(1, int(places * STRANGERS_SHARE)) or len(self._who) >= places:
            crowd = max(self._strangers.values(), key=len, default=None)
        else:
            return None
        if crowd is None:
            return None
        oldest = next(iter(crowd))
        self.leave(oldest)
        return oldest

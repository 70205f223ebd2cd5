"""New connections and half-open ones: counted and limited.

Sans-I/O.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Sequence
from typing import Protocol

HALF_OPEN_MAX = 256
"""Connections that are not authenticated yet, in all."""
HALF_OPEN_PER_NETWORK_MAX = 16
"""Of one IPv4 address or one IPv6 /64, which is what one customer of a provider gets."""
NEW_PER_NETWORK_S = 20.0
"""New connections a second of one IPv4 address or one IPv6 /64, over time; loopback is exempt."""
NEW_PER_NETWORK_BURST = 100
"""So many may come at once: a whole cluster behind one address that comes back from a partition."""
NEW_PER_S = 500.0
"""New connections a second in all: what a quarter of a core shakes hands with."""
NEW_BURST = 2_000
MEMBERS_PER_S = 100.0
MEMBERS_BURST = 400
"""Over and above, for addresses of members that are known: strangers cannot use these up."""
NETWORKS_MAX = 8_192
"""Networks whose rate is remembered; of more the one that was quiet longest is forgotten."""
VERDICTS_MAX = 8_192
"""Addresses whose verdict is remembered: each packet asks, and to judge one takes microseconds."""


class Ticket(Protocol):
    """A half-open connection that can be ended; trio's `CancelScope` is one."""

    def cancel(self) -> None:
        """End the connection."""
        ...


class HalfOpen:
    """The connections between accept and authentication.

    When there are too many, the oldest of the network with the most makes room: an honest handshake takes
    milliseconds, one that only occupies its place is old by then. So a flood cannot keep newcomers out.
    """

    __slots__ = ("_by_network", "_networks", "expelled")

    def __init__(self) -> None:
        self._networks: dict[Ticket, str] = {}
        self._by_network: dict[str, dict[Ticket, None]] = {}
        self.expelled = 0
        """Connections that had to make room so far."""

    @property
    def total(self) -> int:
        """Connections that are half-open now."""
        return len(self._networks)

    def enter(self, host: str, ticket: Ticket) -> bool:
        """Let one more in; False if its network has too many. Loopback has only the limit in all."""
        network = network_of(host)
        mine = self._by_network.get(network, {})
        if len(mine) >= HALF_OPEN_PER_NETWORK_MAX and not is_loopback(host):
            return False
        if self.total >= HALF_OPEN_MAX:
            crowd = max(self._by_network, key=lambda name: len(self._by_network[name]))
            victim = next(iter(self._by_network[crowd]))
            self.leave(victim)
            self.expelled += 1
            victim.cancel()
        self._networks[ticket] = network
        self._by_network.setdefault(network, {})[ticket] = None
        return True

    def leave(self, ticket: Ticket) -> None:
        """Forget a connection; one that had to make room is forgotten already."""
        network = self._networks.pop(ticket, None)
        if network is None:
            return
        mine = self._by_network[network]
        del mine[ticket]
        if not mine:
            del self._by_network[network]


class Bucket:
    """A token bucket: `rate_s` a second, `burst` at once."""

    __slots__ = ("_at_s", "_burst", "_left", "_rate_s")

    def __init__(self, rate_s: float, burst: float, now_s: float) -> None:
        self._rate_s = rate_s
        self._burst = burst
        self._left = burst
        self._at_s = now_s

    def has_one(self, now_s: float) -> bool:
        """True if there is a token left."""
        self._left = min(self._burst, self._left + self._rate_s * max(0.0, now_s - self._at_s))
        self._at_s = now_s
        return self._left >= 1.0

    def take(self) -> None:
        """Use one."""
        self._left -= 1.0


class AcceptRate:
    """How often who may connect. A refused connection costs no handshake, and takes nothing from anybody else.

    Strangers at 25 addresses can use up what there is for all; then members still come in from the reserve.
    """

    __slots__ = ("_all", "_is_member", "_members", "_networks")

    def __init__(self, now_s: float, is_member: Callable[[str], bool] = lambda _host: False) -> None:
        """`is_member` says whether a member is known to live at that host."""
        self._is_member = is_member
        self._all = Bucket(NEW_PER_S, NEW_BURST, now_s)
        self._members = Bucket(MEMBERS_PER_S, MEMBERS_BURST, now_s)
        self._networks: dict[str, Bucket] = {}

    def refusal(self, host: str, now_s: float) -> str | None:
        """Take one connection, or return why not: ``rate_network`` or ``rate``."""
        bucket = None
        if not is_loopback(host):
            network = network_of(host)
            bucket = self._networks.pop(network, None) or Bucket(NEW_PER_NETWORK_S, NEW_PER_NETWORK_BURST, now_s)
            if len(self._networks) >= NETWORKS_MAX:
                del self._networks[next(iter(self._networks))]
            self._networks[network] = bucket
            if not bucket.has_one(now_s):
                return "rate_network"
        if self._all.has_one(now_s):
            self._all.take()
        elif self._members.has_one(now_s) and self._is_member(host):
            self._members.take()
        else:
            return "rate"
        if bucket is not None:
            bucket.take()
        return None


class AllowList:
    """Networks of the members (``[cluster] allow``); an empty list lets everybody try."""

    __slots__ = ("_networks", "_verdicts")

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]
        self._verdicts: dict[str, bool] = {}

    def permits(self, host: str) -> bool:
        """True if the literal address is in one of the networks; IPv4 in IPv6 clothes counts as IPv4."""
        if not self._networks:
            return True
        verdict = self._verdicts.get(host)
        if verdict is None:
            if len(self._verdicts) >= VERDICTS_MAX:
                self._verdicts.clear()
            verdict = self._verdicts[host] = self._judge(host)
        return verdict

    def _judge(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((inner or address) in network for network in self._networks)


def is_loopback(host: str) -> bool:
    """True for literal loopback addresses."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False


def network_of(host: str) -> str:
    """Return what one sender can be expected to own: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))

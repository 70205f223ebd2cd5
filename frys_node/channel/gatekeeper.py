"""Half-open connections and refusals: counted, limited, logged without letting a flood fill the log.

Sans-I/O.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

HALF_OPEN_MAX = 256
HALF_OPEN_PER_HOST_MAX = 16
LOG_EVERY_S = 1.0
"""At most one log line per reason in this time; the next one says how many were left out."""


class HalfOpen:
    """How many connections are between accept and authentication."""

    __slots__ = ("_by_host", "total")

    def __init__(self) -> None:
        self.total = 0
        self._by_host: dict[str, int] = {}

    def enter(self, host: str) -> str | None:
        """Count one more; the reason why it may not enter, or None. Loopback has only the limit in all."""
        if self.total >= HALF_OPEN_MAX:
            return "half_open"
        count = self._by_host.get(host, 0)
        if count >= HALF_OPEN_PER_HOST_MAX and not is_loopback(host):
            return "half_open_address"
        self._by_host[host] = count + 1
        self.total += 1
        return None

    def leave(self, host: str) -> None:
        """Count one less."""
        self.total -= 1
        left = self._by_host[host] - 1
        if left:
            self._by_host[host] = left
        else:
            del self._by_host[host]


class AllowList:
    """Networks whose addresses may connect (``[cluster] allow``); an empty list lets everybody try."""

    __slots__ = ("_networks",)

    def __init__(self, networks: Sequence[str] = ()) -> None:
        self._networks = [ipaddress.ip_network(network) for network in networks]

    def permits(self, host: str) -> bool:
        """True if the literal address is in one of the networks; IPv4 in IPv6 clothes counts as IPv4."""
        if not self._networks:
            return True
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        inner = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
        return any((inner or address) in network for network in self._networks)


class LogLimit:
    """Which refusals to log."""

    __slots__ = ("_last_s", "_skipped")

    def __init__(self) -> None:
        self._last_s: dict[str, float] = {}
        self._skipped: dict[str, int] = {}

    def take(self, reason: str, now_s: float) -> int | None:
        """Return how many lines were left out since the last one, or None to leave this one out too."""
        last_s = self._last_s.get(reason)
        if last_s is not None and now_s - last_s < LOG_EVERY_S:
            self._skipped[reason] = self._skipped.get(reason, 0) + 1
            return None
        self._last_s[reason] = now_s
        return self._skipped.pop(reason, 0)


def is_loopback(host: str) -> bool:
    """True for literal loopback addresses."""
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False

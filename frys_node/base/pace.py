"""Token buckets: how many requests one client may make.

Sans-I/O. Each bucket is one number, the instant at which it would be full again (the generic cell rate algorithm): a
request moves it on by ``1 / rate``, and may do so while it lies less than ``burst / rate`` ahead.

Source: ITU-T I.371, generic cell rate algorithm (virtual scheduling).
"""

from __future__ import annotations

BUCKETS_MAX = 4_096
"""Clients that are remembered. Beyond it full buckets are forgotten, and if there are none the oldest ones."""


class Pace:
    """The buckets of one listener, by name."""

    __slots__ = ("_full_s",)

    def __init__(self) -> None:
        self._full_s: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._full_s)

    def wait_s(self, name: str, count: int, *, rate_per_s: float, burst: float, now_s: float) -> float:
        """Take `count` requests out of a bucket, or say in how many seconds they may be made; then none was taken.

        Args:
            name: Whose bucket.
            count: How many requests at once; more than `burst` are let through when the bucket is full.
            rate_per_s: Requests that a bucket gains each second; 0 means no limit.
            burst: Requests that a full bucket holds, >= 1.
            now_s: Monotonic seconds.
        """
        if rate_per_s <= 0:
            return 0.0
        full_s = max(self._full_s.get(name, now_s), now_s)
        ahead_s = full_s - now_s + (min(count, burst) - burst) / rate_per_s
        if ahead_s > 1e-9:
            return ahead_s
        if name not in self._full_s and len(self._full_s) >= BUCKETS_MAX:
            self._forget(now_s)
        self._full_s[name] = full_s + count / rate_per_s
        return 0.0

    def _forget(self, now_s: float) -> None:
        self._full_s = {name: full_s for name, full_s in self._full_s.items() if full_s > now_s}
        while len(self._full_s) >= BUCKETS_MAX:
            del self._full_s[next(iter(self._full_s))]


def network_of(host: str) -> str:
    """Return what one sender can be expected to own: an IPv4 address, or the /64 of an IPv6 address."""
    if ":" not in host:
        return host
    import ipaddress

    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))

"""Token buckets: what passes, how long the rest waits, and that many clients cost a bounded amount."""

from __future__ import annotations

import pytest

from frys_node.base.pace import BUCKETS_MAX, Pace, network_of


def take(pace: Pace, now_s: float, count: int = 1, name: str = "a") -> float:
    """Ask for requests of a bucket of 10 that gains 2 a second."""
    return pace.wait_s(name, count, rate_per_s=2.0, burst=10, now_s=now_s)


def test_a_burst_passes_and_then_the_rate_holds() -> None:
    """Ten at once, then one every half second; a pause fills the bucket again, and no further."""
    pace = Pace()
    assert [take(pace, 100.0) for _ in range(10)] == [0.0] * 10
    assert take(pace, 100.0) == pytest.approx(0.5)
    assert take(pace, 100.4) == pytest.approx(0.1)
    assert take(pace, 100.5) == 0.0
    assert take(pace, 100.5) == pytest.approx(0.5)
    assert [take(pace, 1_000.0) for _ in range(11)][-2:] == [0.0, pytest.approx(0.5)]


def test_over_any_stretch_no_more_passes_than_the_burst_and_the_rate() -> None:
    """Asking a thousand times a second gains nothing."""
    pace = Pace()
    passed = sum(take(pace, 100.0 + n / 1_000) == 0.0 for n in range(60_000))
    assert passed == 10 + 2 * 60 - 1 or passed == 10 + 2 * 60


def test_more_than_a_burst_passes_a_full_bucket_and_is_paid_for_later() -> None:
    """A pipeline of any length is served some time."""
    pace = Pace()
    assert take(pace, 0.0, count=50) == 0.0
    assert take(pace, 0.0, count=50) == pytest.approx(25.0)
    assert take(pace, 24.9, count=50) == pytest.approx(0.1)
    assert take(pace, 25.0, count=50) == 0.0


def test_clients_have_a_bucket_each_and_zero_is_no_limit() -> None:
    """One that floods costs another nothing."""
    pace = Pace()
    assert [take(pace, 0.0) for _ in range(11)][-1] > 0
    assert take(pace, 0.0, name="b") == 0.0
    assert all(pace.wait_s("c", 1_000, rate_per_s=0, burst=1, now_s=0.0) == 0.0 for _ in range(10))


def test_a_million_addresses_cost_a_bounded_amount() -> None:
    """Full buckets are forgotten first; one that floods is remembered while there is room for it."""
    pace = Pace()
    assert [take(pace, 0.0, name="flood") for _ in range(11)][-1] > 0
    for number in range(3 * BUCKETS_MAX):
        take(pace, 0.001 * number, name=f"n{number}")
        assert len(pace) <= BUCKETS_MAX


def test_an_ipv6_network_is_one_sender() -> None:
    """A /64 is what one customer gets; IPv4 in IPv6 clothes is IPv4."""
    assert network_of("fd00::1:2:3:4") == network_of("fd00::9") == "fd00::/64"
    assert network_of("fd00:0:0:1::1") != network_of("fd00::1")
    assert [network_of(h) for h in ("10.0.0.1", "::ffff:10.0.0.1", "fe80::1%eth0", "/run/x")] == [
        "10.0.0.1",
        "10.0.0.1",
        "fe80::/64",
        "/run/x",
    ]

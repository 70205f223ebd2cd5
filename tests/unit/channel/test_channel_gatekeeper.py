"""How often who may connect, and what is remembered of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from frys_node.channel import gatekeeper
from frys_node.channel.door import FIXES, REFUSED_TEXT
from frys_node.channel.gatekeeper import (
    HALF_OPEN_MAX,
    HALF_OPEN_PER_NETWORK_MAX,
    MEMBERS_BURST,
    NETWORKS_MAX,
    NEW_BURST,
    NEW_PER_NETWORK_BURST,
    NEW_PER_NETWORK_S,
    NEW_PER_S,
    AcceptRate,
    HalfOpen,
    is_loopback,
    network_of,
)
from frys_node.secure.tls import _ERROR_REASONS, _VERIFY_REASONS


def _let_in(rate: AcceptRate, host: str, count: int, now_s: float) -> int:
    return sum(rate.refusal(host, now_s) is None for _ in range(count))


@pytest.mark.parametrize("pair", [("192.0.2.7", "192.0.2.7"), ("2001:db8::1", "2001:db8::2")])
def test_one_network_has_a_burst_and_then_a_rate(pair: tuple[str, str]) -> None:
    """An IPv4 address, or all of an IPv6 /64: a flood from there takes nothing from anybody else."""
    rate = AcceptRate(0.0)
    for second in range(5):
        wanted = NEW_PER_NETWORK_BURST if second == 0 else int(NEW_PER_NETWORK_S)
        assert _let_in(rate, pair[second % 2], 1_000, float(second)) == wanted
    assert rate.refusal(pair[0], 4.0) == "rate_network"
    assert rate.refusal("192.0.2.8", 4.0) is None
    assert rate.refusal("2001:db8:0:1::1", 4.0) is None


def test_all_networks_together_have_a_rate_too() -> None:
    """Many senders with one connection each: what they are refused is told apart, and loopback is counted too."""
    rate = AcceptRate(0.0)
    hosts = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}" for number in range(NEW_BURST + 100)]
    outcomes = [rate.refusal(host, 0.0) for host in hosts]
    assert outcomes == [None] * NEW_BURST + ["rate"] * 100
    assert rate.refusal("127.0.0.1", 0.0) == "rate"
    assert _let_in(rate, "127.0.0.1", 10_000, 1.0) == NEW_PER_S


def test_members_still_come_in_when_strangers_have_used_up_what_there_is_for_all() -> None:
    """Twenty-five addresses are enough for that; the reserve is bounded, fills up again, and is nobody else's."""
    rate = AcceptRate(0.0, {"192.0.2.7"}.__contains__)
    for number in range(25):
        _let_in(rate, f"198.51.100.{number}", 1_000, 0.0)
    assert rate.refusal("198.51.101.1", 0.0) == "rate"
    assert _let_in(rate, "192.0.2.7", 1_000, 0.0) == NEW_PER_NETWORK_BURST
    loopback = AcceptRate(0.0, {"127.0.0.1"}.__contains__)
    assert _let_in(loopback, "127.0.0.1", 10_000, 0.0) == NEW_BURST + MEMBERS_BURST
    assert loopback.refusal("127.0.0.1", 0.0) == "rate"


def test_a_refused_network_does_not_use_up_what_all_share() -> None:
    """Ten thousand connections of one address leave nearly everything to the others."""
    rate = AcceptRate(0.0)
    _let_in(rate, "192.0.2.7", 10_000, 0.0)
    assert _let_in(rate, "127.0.0.1", NEW_BURST, 0.0) == NEW_BURST - NEW_PER_NETWORK_BURST


def test_the_networks_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sender with many addresses cannot grow the memory; who knocks now is not the one that is forgotten."""
    monkeypatch.setattr(gatekeeper, "NEW_BURST", 1e9)
    rate = AcceptRate(0.0)
    _let_in(rate, "192.0.2.7", NEW_PER_NETWORK_BURST, 0.0)
    for number in range(NETWORKS_MAX + 10):
        assert rate.refusal(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", 0.0) is None
        assert rate.refusal("192.0.2.7", 0.0) == "rate_network"
    assert len(rate._networks) <= NETWORKS_MAX


def test_a_clock_that_does_not_move_gives_nothing_back() -> None:
    """The bucket is filled by time alone, and never beyond its burst."""
    rate = AcceptRate(10.0)
    assert _let_in(rate, "192.0.2.7", 1_000, 9.0) == NEW_PER_NETWORK_BURST
    assert _let_in(rate, "192.0.2.7", 1_000, 1e9) == NEW_PER_NETWORK_BURST


def test_every_reason_of_a_refusal_has_its_fix() -> None:
    """What an operator reads in the log says what to do; found in the source, so that a new reason needs one too."""
    root = Path(__file__).resolve().parents[3] / "frys_node"
    text = "".join(path.read_text() for path in [*(root / "channel").glob("*.py"), *(root / "secure").glob("*.py")])
    reasons = set(re.findall(r'HandshakeRefused\(\s*"([a-z_]+)"', text)) | set(REFUSED_TEXT)
    reasons |= set(re.findall(r'(?:refuse|refusals\.count)\("([a-z_]+)"', text)) | {
        "tls_version",
        "cipher",
        "group",
        "alpn",
    }
    reasons |= {label for _, label in _ERROR_REASONS} | set(_VERIFY_REASONS.values())
    assert len(reasons) > 20
    assert "forged" in reasons
    assert sorted(reasons - set(FIXES)) == []


class _Ticket:
    """A half-open connection."""

    def __init__(self) -> None:
        self.is_cancelled = False

    def cancel(self) -> None:
        """Note it."""
        self.is_cancelled = True


def test_half_open_connections_are_limited_by_network_and_the_oldest_make_room() -> None:
    """A network has its share; over the limit in all, the oldest of the network with the most has to go."""
    half_open = HalfOpen()
    few = [_Ticket() for _ in range(HALF_OPEN_PER_NETWORK_MAX)]
    assert all(half_open.enter("10.0.0.1", ticket) for ticket in few)
    assert not half_open.enter("10.0.0.1", _Ticket())
    flood = [_Ticket() for _ in range(HALF_OPEN_MAX)]
    assert all(half_open.enter("127.0.0.1", ticket) for ticket in flood)
    newcomer = _Ticket()
    assert half_open.enter("10.0.0.2", newcomer)
    assert half_open.total == HALF_OPEN_MAX
    assert half_open.expelled == HALF_OPEN_PER_NETWORK_MAX + 1
    assert [ticket.is_cancelled for ticket in flood] == [n <= HALF_OPEN_PER_NETWORK_MAX for n in range(HALF_OPEN_MAX)]
    assert not any(ticket.is_cancelled for ticket in (*few, newcomer))
    for ticket in (*few, *flood, newcomer):
        half_open.leave(ticket)
        half_open.leave(ticket)
    assert half_open.total == 0
    assert half_open.enter("10.0.0.1", _Ticket())


def test_a_network_is_what_one_sender_can_own() -> None:
    """An IPv4 address, also in IPv6 clothes; an IPv6 /64."""
    hosts = ("10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "2001:db8::ffff", "2001:db8:0:1::1", "fe80::1%eth0", "x")
    assert [network_of(host) for host in hosts] == [
        "10.0.0.1",
        "10.0.0.1",
        "2001:db8::/64",
        "2001:db8::/64",
        "2001:db8:0:1::/64",
        "fe80::/64",
        "x",
    ]
    assert [is_loopback(host) for host in ("::1", "127.9.9.9", "10.0.0.1", "fe80::1%eth0", "x")] == [
        True,
        True,
        False,
        False,
        False,
    ]

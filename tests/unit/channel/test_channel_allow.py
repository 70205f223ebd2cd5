"""The allow list of the cluster port."""

from __future__ import annotations

import pytest

from frys_node.base.types import Address
from frys_node.channel.allowed import AllowedDatagram, AllowedNetwork, Turnstile
from frys_node.channel.gatekeeper import VERDICTS_MAX, AllowList
from frys_node.observe.metrics import Metrics
from frys_node.testing.clock import FakeClock
from frys_node.testing.network import FakeNetwork
from frys_node.transport.errors import ConnectFailed


@pytest.mark.parametrize(
    ("networks", "host", "permitted"),
    [
        ((), "203.0.113.9", True),
        (("10.0.0.0/8",), "10.1.2.3", True),
        (("10.0.0.0/8",), "11.1.2.3", False),
        (("10.0.0.0/8",), "::ffff:10.1.2.3", True),
        (("fd00::/8", "127.0.0.1/32"), "fd00::1%eth0", True),
        (("fd00::/8",), "127.0.0.1", False),
        (("10.0.0.0/8",), "not an address", False),
    ],
)
def test_only_addresses_of_the_listed_networks_may_connect(
    networks: tuple[str, ...], host: str, permitted: bool
) -> None:
    """An empty list lets everybody try; else an address must be in a network, IPv4-mapped ones included."""
    assert AllowList(networks).permits(host) is permitted


def test_verdicts_are_remembered_within_a_bound() -> None:
    """A flood of forged sources cannot grow the memory, and what is judged again is judged alike."""
    allow = AllowList(("10.0.0.0/8",))
    for number in range(VERDICTS_MAX + 10):
        assert not allow.permits(f"11.0.{number >> 8}.{number & 255}")
    assert allow.permits("10.1.2.3")
    assert allow.permits("10.1.2.3")
    assert len(allow._verdicts) <= VERDICTS_MAX


async def test_packets_of_strangers_are_dropped_and_none_is_sent_to_them(caplog: pytest.LogCaptureFixture) -> None:
    """The port of the cluster is one by TCP and UDP: both are closed to addresses outside the list, and counted."""
    fake, metrics = FakeNetwork(), Metrics()
    refused = metrics.counter("frys_channel_not_allowed_total", "", ("what",))
    turnstile = Turnstile(AllowList(("10.0.0.0/8",)), FakeClock(), metrics)
    guarded = AllowedDatagram(await fake.host("10.0.0.1").bind(Address("10.0.0.1", 7946)), turnstile)
    friend = await fake.host("10.0.0.2").bind(Address("10.0.0.2", 7946))
    stranger = await fake.host("11.0.0.3").bind(Address("11.0.0.3", 7946))
    for sender in (stranger, stranger, friend):
        assert sender.send(b"from " + sender.address.host.encode(), guarded.address)
    received: list[tuple[bytes, Address]] = []
    while not received:
        received += await guarded.receive()
    assert received == [(b"from 10.0.0.2", friend.address)]
    assert guarded.send(b"x", friend.address)
    assert not guarded.send(b"x", stranger.address)
    assert refused.values == {("packet",): 2, ("send",): 1}
    lines = [record for record in caplog.records if "not_allowed" in record.getMessage()]
    assert len(lines) == 2  # one a kind, not one a packet


async def test_addresses_outside_the_list_are_not_dialled() -> None:
    """A member that gossip places outside is not connected to; the error names the setting."""
    fake, metrics = FakeNetwork(), Metrics()
    refused = metrics.counter("frys_channel_not_allowed_total", "", ("what",))
    fake.names["node.example"] = ["1.0.0.3", "10.0.0.2"]
    network = AllowedNetwork(fake.host("10.0.0.1"), Turnstile(AllowList(("10.0.0.0/8",)), FakeClock(), metrics))
    listener = await fake.host("10.0.0.2").listen(Address("10.0.0.2", 7946))
    await fake.host("11.0.0.3").listen(Address("11.0.0.3", 7946))
    for host in ("10.0.0.2", "node.example"):
        stream = await network.connect(Address(host, 7946))
        await (await listener.accept())[0].aclose()
        await stream.aclose()
    with pytest.raises(ConnectFailed, match=r"\[cluster\] allow") as caught:
        await network.connect(Address("11.0.0.3", 7946))
    assert (caught.value.reason, "allow on this node" in caught.value.hint) == ("not_allowed", True)
    assert refused.values == {("dial",): 2}  # the name's other address was passed over

"""The allow list of the cluster port."""

from __future__ import annotations

import pytest

from frys_node.channel.gatekeeper import AllowList


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

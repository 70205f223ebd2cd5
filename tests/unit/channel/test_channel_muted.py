"""An expelled node opens no connection, whoever of its components looks at ports."""

from __future__ import annotations

import pytest

from frys_node.base.types import Address
from frys_node.channel.allowed import MutedNetwork
from frys_node.secure.errors import Expelled
from frys_node.testing.network import FakeNetwork
from frys_node.transport.errors import ConnectFailed


async def test_an_expelled_node_opens_no_connection_and_listens_on() -> None:
    """Its look at ports of members was counted by them as a port scan, twice a second."""
    hosts, is_muted = FakeNetwork(), False
    network = MutedNetwork(hosts.host("a"), lambda: is_muted)
    listener = await hosts.host("b").listen(Address("b", 7946))
    await (await network.connect(Address("b", 7946))).aclose()
    is_muted = True
    with pytest.raises(ConnectFailed) as refused:
        await network.connect(Address("b", 7946))
    assert (refused.value.reason, refused.value.hint) == ("not_allowed", Expelled.FIX)
    assert list(await network.resolve("b"))
    await listener.aclose()
    await (await network.listen(Address("a", 7946))).aclose()

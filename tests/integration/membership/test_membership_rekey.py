"""Connections that are replaced to have fresh keys are no evidence of anything."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from frys_node.channel.driver import Channel, ChannelSettings
from frys_node.kernel.services.members import Status
from frys_node.testing.network import FakeNetwork
from tests.integration.membership.test_membership_crash_stack import stack

AFTER_S = 20.0
REPLACEMENTS = 10


async def test_lifelines_hear_nothing_of_connections_that_are_replaced(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten rounds over three nodes: nobody is suspected, no lifeline is lost, no port is tried."""
    defaults = Channel.__init__.__kwdefaults__
    assert defaults is not None
    monkeypatch.setitem(defaults, "settings", ChannelSettings(rekey_after_s=AFTER_S))
    async with stack(FakeNetwork(), 3) as nodes:
        before = [dict(node.driver._machine.tallies.events) for node in nodes]
        await trio.sleep(1.5 * AFTER_S * REPLACEMENTS)
        ids = [node.channel.self_id for node in nodes]
        counts = [node.channel.rekeying._count.values.get(("done",), 0) for node in nodes]
        assert sum(counts) >= REPLACEMENTS
        for node, events in zip(nodes, before, strict=True):
            assert dict(node.driver._machine.tallies.events) == events
            assert all(node.sees(other) in (Status.ALIVE, None) for other in ids)
            assert len(node.channel._peers.open()) == 2

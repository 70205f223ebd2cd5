"""What one node remembers of where others can be dialled."""

from __future__ import annotations

import random

import pytest

from frys_node.base.types import Address, NodeId
from frys_node.channel import peers as module
from frys_node.channel.peers import Peers

SELF, B, C = (NodeId(digit * 32) for digit in "abc")


async def _dial(_node: NodeId, _address: Address) -> None:
    raise AssertionError("nobody is dialled here")


def test_a_host_is_a_members_for_as_long_as_one_is_known_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at one host, one that moves away, and one that is forgotten for want of room."""
    monkeypatch.setattr(module, "ADDRESSES_MAX", 2)
    peers = Peers(SELF, random.Random(1), _dial)
    peers.learn(B, Address("192.0.2.1", 1))
    peers.learn(C, Address("192.0.2.1", 2))
    assert peers.is_at("192.0.2.1")
    peers.learn(B, Address("192.0.2.2", 1))
    assert peers.is_at("192.0.2.1")
    assert peers.is_at("192.0.2.2")
    peers.learn(NodeId("d" * 32), Address("192.0.2.3", 1))
    assert [node for node, _ in peers.known()] == [B, NodeId("d" * 32)]
    assert not peers.is_at("192.0.2.1")
    assert not peers.is_at("192.0.2.9")
    peers.learn(SELF, Address("192.0.2.9", 1))
    assert not peers.is_at("192.0.2.9")

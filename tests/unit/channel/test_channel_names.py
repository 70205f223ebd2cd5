"""Names of nodes, half-open limits, and log lines under a flood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.errors import CorruptData
from frys_node.base.log_limit import LogLimit
from frys_node.base.types import NodeId
from frys_node.channel.gatekeeper import (
    HALF_OPEN_MAX,
    HALF_OPEN_PER_NETWORK_MAX,
    HalfOpen,
    is_loopback,
    network_of,
)
from frys_node.secure.errors import InvalidCertificate, NameTaken
from frys_node.trust.names import NameRegistry


def _id(number: int) -> NodeId:
    return NodeId(f"{number:032x}")


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "a-2"]), st.integers(0, 9), st.booleans()), max_size=60))
def test_no_two_nodes_ever_hold_one_name(claims: list[tuple[str, int, bool]]) -> None:
    """Whatever is claimed in whatever order: each node has one name, each name one node, and it survives the disk."""
    names = NameRegistry()
    for name, node, is_chosen in claims:
        try:
            given_name = names.claim(name, _id(node), is_chosen=is_chosen)
        except NameTaken:
            assert is_chosen
        else:
            assert given_name == name or not is_chosen
        held = names.all()
        assert len({holder for _, holder in held}) == len(held)
    again = NameRegistry()
    again.restore(names.encode())
    assert again.all() == names.all()


def test_a_node_that_asks_again_keeps_its_name() -> None:
    """A lost reply does not cost a number; a node may choose another free name."""
    names = NameRegistry()
    names.claim("host", _id(1), is_chosen=False)
    assert names.claim("host", _id(2), is_chosen=False) == "host-2"
    assert names.claim("host", _id(2), is_chosen=False) == "host-2"
    assert names.claim("better", _id(2), is_chosen=True) == "better"
    assert names.all() == [("better", _id(2)), ("host", _id(1))]
    assert names.claim("host", _id(3), is_chosen=False) == "host-2"
    assert names.release(_id(1))
    assert not names.release(_id(1))
    assert names.claim("host", _id(4), is_chosen=True) == "host"


def test_a_node_that_has_been_dead_for_long_loses_its_name_to_one_that_asks_for_it() -> None:
    """A replaced machine gets its name back; while its holder may return, the name is refused."""
    names = NameRegistry()
    names.claim("a", NodeId("old"), is_chosen=True)
    with pytest.raises(NameTaken, match="belongs to node old"):
        names.claim("a", NodeId("new"), is_chosen=True, is_lost=lambda node: node != "old")
    assert names.claim("a", NodeId("new"), is_chosen=True, is_lost=lambda node: node == "old") == "a"
    assert names.find(NodeId("old")) is None


def test_long_names_make_room_for_their_number() -> None:
    """The number never pushes a name over 63 characters."""
    names = NameRegistry()
    long = "x" * 63
    assert names.claim(long, _id(1), is_chosen=False) == long
    assert names.claim(long, _id(2), is_chosen=False) == "x" * 61 + "-2"
    with pytest.raises(InvalidCertificate):
        names.claim(long + "x", _id(3), is_chosen=False)
    with pytest.raises(CorruptData):
        names.restore(b"[]")


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


def test_a_flood_of_refusals_gives_one_line_a_second() -> None:
    """The next line says how many were left out; reasons do not hide one another."""
    limit = LogLimit()
    assert [limit.take("tag", 0.01 * number) for number in range(3)] == [0, None, None]
    assert limit.take("other", 0.5) == 0
    assert limit.take("tag", 1.0) == 2
    assert limit.take("tag", 2.0) == 0

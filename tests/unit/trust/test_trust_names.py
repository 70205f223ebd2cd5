"""Names of nodes: one holder each."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from frys_node.base.errors import CorruptData
from frys_node.base.types import NodeId
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

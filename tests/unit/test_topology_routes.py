"""What a forced promotion says of the nodes that it expels."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from frys_node.base.errors import NotFound, StorageError
from frys_node.base.types import NodeId
from frys_node.topology_routes import TopologyRoutes

GONE = NodeId("0e" * 16)
HERE = NodeId("1e" * 16)


def _routes(revoke: Callable[[NodeId], bool]) -> TopologyRoutes:
    """Return routes over a membership that has forgotten everybody."""
    return TopologyRoutes(cast("Any", None), cast("Any", SimpleNamespace(get=lambda _node: None)), revoke)


def test_an_expulsion_that_nobody_signed_or_the_disk_refused_is_said() -> None:
    """It was as good as none, and silently; and one refusal left the nodes behind it in the cluster."""

    def refuse(_node: NodeId) -> bool:
        raise StorageError("the disk is full")

    assert _routes(lambda _node: True)._give_up(GONE) == []
    (weak,) = _routes(lambda _node: False)._give_up(GONE)
    assert "is refused by this node alone" in weak
    assert "issuer handover" in weak
    (failed,) = _routes(refuse)._give_up(GONE)
    assert "the disk is full" in failed
    assert f"node revoke {GONE}" in failed


def test_a_dead_node_whose_name_nobody_remembers_is_told_by_its_id() -> None:
    """After a start of all nodes but it the error sent people to a list that does not have it."""

    def refuse(_name: str) -> NodeId:
        raise NotFound("there is no member 'd'", hint="`frys-node members` lists them")

    def routes(*remembered: NodeId) -> TopologyRoutes:
        record = SimpleNamespace(members=lambda: (GONE, HERE))
        balancer = SimpleNamespace(placement=SimpleNamespace(record=record))
        known = SimpleNamespace(get=lambda node: node if node in remembered else None, insight=insight)
        return TopologyRoutes(cast("Any", balancer), cast("Any", known), lambda _node: True)

    insight = SimpleNamespace(find=refuse)
    with pytest.raises(NotFound, match="no member 'd'") as forgotten:
        routes(HERE)._find("d")
    assert forgotten.value.hint == f"nobody here remembers the names of nodes that are on the ring: {GONE}; give the id"
    assert routes(HERE)._find(GONE) == GONE
    with pytest.raises(NotFound) as unknown:
        routes(HERE, GONE)._find("d")
    assert unknown.value.hint == "`frys-node members` lists them"

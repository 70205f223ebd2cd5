"""What a forced promotion says of the nodes that it expels."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from frys_node.base.errors import StorageError
from frys_node.base.types import NodeId
from frys_node.topology_routes import TopologyRoutes

GONE = NodeId("0e" * 16)


def _routes(revoke: Callable[[NodeId], bool]) -> TopologyRoutes:
    """Return routes over a membership that has forgotten everybody."""
    return TopologyRoutes(cast("Any", None), cast("Any", SimpleNamespace(get=lambda _node: None)), revoke)


def test_an_expulsion_that_nobody_signed_or_the_disk_refused_is_said() -> None:
    """It was as good as none, and silently; and one refusal left the nodes behind it in the cluster."""

    def refuse(_node: NodeId) -> bool:
        raise StorageError("the disk is full")

    assert _routes(lambda _node: True)._give_up(GONE) == []
    (weak,) = _routes(lambda _node: False)._give_up(GONE)
    assert "this node's word alone" in weak
    assert "issuer handover" in weak
    (failed,) = _routes(refuse)._give_up(GONE)
    assert "the disk is full" in failed
    assert f"node revoke {GONE}" in failed

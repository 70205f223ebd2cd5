"""What `frys-node status` says of units that have no quorum, or would lose it with the next death."""

from __future__ import annotations

from frys_node.base.types import NodeId
from frys_node.replication.quorums import quorum_lines
from frys_node.testing.replica_desk import UNIT, record_of


def lines(factor: int, nodes: int, *down: str) -> list[str]:
    """Return what is said of one unit (and of workflow partitions, which have one owner) with some nodes down."""
    placement = record_of(2, [f"n{number}" for number in range(1, nodes + 1)], factor=factor)
    return quorum_lines(placement, lambda node: node not in down, lambda node: NodeId(node.upper()))


def test_with_two_replicas_it_is_said_beforehand_that_one_death_stops_quorums() -> None:
    """W = R = 2; nothing is said of one replica or of three that are all up."""
    (line,) = lines(2, 2)
    assert line.startswith("units with two replicas: 1. A quorum of two is two: one death stops ")
    assert lines(1, 1) == lines(3, 3) == lines(3, 3, "n2") == []


def test_units_without_a_quorum_are_named_with_who_is_down_and_what_goes_on() -> None:
    """Two of which one is down, three of which two are, and none left."""
    (line,) = lines(2, 2, "n2")
    assert line == (
        f"{UNIT}: 1 of 2 replicas up, and a quorum is 2: reads and writes at quorum fail until enough of N2 are back or"
        f" removed; at one they go on"
    )
    (line,) = lines(3, 3, "n1", "n3")
    assert line.startswith(f"{UNIT}: 1 of 3 replicas up, and a quorum is 2: ")
    assert "N1, N3" in line
    (line,) = lines(3, 3, "n1", "n2", "n3")
    assert line.startswith(f"{UNIT}: 0 of 3 replicas up")
    assert "go on" not in line

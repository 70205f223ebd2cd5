"""How many replicas are enough.

Sans-I/O. `majority` meets itself; `fence` is the smallest set that meets every majority (replication rules 9-11).
"""

from __future__ import annotations

from collections.abc import Collection

from frys_node.base.types import Consistency, NodeId
from frys_node.kernel.services.topology import UnitSets


def majority(count: int) -> int:
    """Return the smallest number of `count` members that is more than half: 1, 2, 2, 3, 3 for 1..5."""
    return count // 2 + 1


def fence(count: int) -> int:
    """Return the smallest number of members that meets every majority of `count`: 1, 1, 2, 2, 3 for 1..5."""
    return count - majority(count) + 1


def required(consistency: Consistency, count: int) -> int:
    """Return how many of `count` members a request of that consistency waits for."""
    if consistency is Consistency.QUORUM:
        return majority(count)
    return count if consistency is Consistency.ALL else min(1, count)


def count_in(members: Collection[NodeId], voters: Collection[NodeId]) -> int:
    """Return how many members are among the voters."""
    return sum(1 for member in members if member in voters)


def targets(sets: UnitSets) -> tuple[NodeId, ...]:
    """Return the members of both sets in preference order, each once (rule 7: writes go to C + N)."""
    return sets.current + tuple(node for node in sets.next if node not in sets.current)


def write_is_met(sets: UnitSets, consistency: Consistency, acked: Collection[NodeId]) -> bool:
    """True once enough members of C have acknowledged, and of N too in ``joint`` (rule 7)."""
    if count_in(sets.current, acked) < required(consistency, len(sets.current)):
        return False
    return sets.phase != "joint" or count_in(sets.next, acked) >= required(consistency, len(sets.next))


def read_is_met(
    sets: UnitSets, consistency: Consistency, complete: Collection[NodeId], answered: Collection[NodeId]
) -> bool:
    """True once enough complete members of C answered, and in ``joint`` enough of N, complete or not (rules 7, 8).

    What a replica of N that is not complete says counts for the epoch only, and that is what the second quorum checks.
    A read of one needs no epoch check of N: it promises nothing across a move.
    """
    if count_in(sets.current, complete) < required(consistency, len(sets.current)):
        return False
    if sets.phase != "joint" or consistency is Consistency.ONE:
        return True
    return count_in(sets.next, answered) >= required(consistency, len(sets.next))

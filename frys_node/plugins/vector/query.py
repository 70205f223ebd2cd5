"""Merging what shards and replicas found.

Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from heapq import merge, nsmallest
from itertools import islice

from frys_node.kernel.services.replication import Version
from frys_node.plugins.vector.messages import Hit


def order(hit: Hit, is_similarity: bool) -> tuple[float, bytes]:
    """Return the sort key of a hit: best score first, ties by id so that every node gives the same list."""
    return (-hit.score if is_similarity else hit.score, hit.id)


def merge_top_k(lists: Sequence[Sequence[Hit]], limit: int, *, is_similarity: bool) -> list[Hit]:
    """Return the best `limit` hits of lists that are sorted best first; of one id the newest version counts."""
    if len(lists) == 1:
        return list(lists[0][:limit])
    best = newest(lists)
    return nsmallest(limit, best, key=lambda hit: order(hit, is_similarity))


def merge_by_id(lists: Sequence[Sequence[Hit]], limit: int) -> list[Hit]:
    """Return the first `limit` hits by id of lists that are sorted by id."""
    if len(lists) == 1:
        return list(lists[0][:limit])
    ordered = merge(*lists, key=lambda hit: hit.id)
    unique: dict[bytes, Hit] = {}
    for hit in islice(ordered, None):
        held = unique.get(hit.id)
        if held is None and len(unique) == limit:
            break
        if held is None or held.version < hit.version:
            unique[hit.id] = hit
    return list(unique.values())


def newest(lists: Iterable[Sequence[Hit]]) -> list[Hit]:
    """Return one hit per id, the newest version of each, in the order in which ids first appear."""
    unique: dict[bytes, Hit] = {}
    for hits in lists:
        for hit in hits:
            held = unique.get(hit.id)
            if held is None or held.version < hit.version:
                unique[hit.id] = hit
    return list(unique.values())


def is_within(score: float, threshold: float | None, *, is_similarity: bool) -> bool:
    """True if a score is good enough: at least the threshold for similarities, at most it for distances."""
    if threshold is None:
        return True
    return score >= threshold if is_similarity else score <= threshold


def stale(hits: Sequence[Hit], current: Sequence[Version | None]) -> list[int]:
    """Return the positions of hits whose point has another version by now than the one that was found."""
    return [position for position, hit in enumerate(hits) if hit.version != current[position]]

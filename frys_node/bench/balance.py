"""How evenly the ring spreads units and keys, and what a join or a leave moves, beside plain consistent hashing.

Nothing here takes time or a node: placement is a pure function of the record. Rings have 10 to 20 members with random
ids, one ring a seed. The peer is the same ring without bounds of load: the first members clockwise.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from balancer.placement import cache_unit
from balancer.ring import Ring
from balancer.spread import RingMember
from frys_node.base.types import NodeId
from frys_node.base.units import cache_unit_of
from frys_node.bench.figure import Figure

UNITS = 256
SEEDS_PER_ROUND = 20
"""Five rounds, the default, are the hundred seeds of the budget."""

MEMBERS = range(10, 21)
KEYS = 1_000_000

Placed = Mapping[str, Sequence[NodeId]]
Place = Callable[[Ring, int], Placed]
Samples = dict[tuple[str, str, str], list[float]]
"""By name, unit and budget of a figure."""

_NAMES = [cache_unit(index) for index in range(UNITS)]


def bounded(ring: Ring, copies: int) -> Placed:
    """Place the units as a node does."""
    return ring.assign(_NAMES, copies)


def plain(ring: Ring, copies: int) -> Placed:
    """Place each unit on the first members clockwise, whatever they hold already."""
    return {name: [member.node for member, _ in zip(ring.walk(name), range(copies), strict=False)] for name in _NAMES}


def members_of(seed: int) -> list[RingMember]:
    """Return one member more than the seed's ring has; the last is the one that comes and goes."""
    rng = random.Random(seed)
    count = MEMBERS[seed % len(MEMBERS)]
    return [RingMember(NodeId(f"{rng.getrandbits(128):032x}")) for _ in range(count + 1)]


def over_mean(load: Mapping[NodeId, int], members: int) -> float:
    """Return the highest load over the mean one."""
    return max(load.values()) * members / sum(load.values())


def moved(before: Placed, after: Placed) -> float:
    """Return the share of replicas that are new where they are."""
    new = sum(len(set(after[name]) - set(before[name])) for name in after)
    return new / sum(len(nodes) for nodes in after.values())


def run(rounds: int) -> list[Figure]:
    """Measure the rings of so many times twenty seeds, then a million keys on one of them."""
    seeds = range(rounds * SEEDS_PER_ROUND)
    figures: list[Figure] = []
    for copies in (1, 3):
        ours, peers = [ring_figures(seeds, copies, place) for place in (bounded, plain)]
        figures += figures_of(copies, ours, peers)
    return figures + _keys()


def figures_of(copies: int, ours: Samples, peers: Samples) -> list[Figure]:
    """Return the mean of each figure beside that of rings without bounds."""
    return [
        Figure(
            f"{name}, {copies} {'copy' if copies == 1 else 'copies'}",
            unit,
            fmean(samples),
            "no bound",
            fmean(peers[name, unit, budget]),
            budget,
            samples,
        )
        for (name, unit, budget), samples in ours.items()
    ]


def ring_figures(seeds: Sequence[int], copies: int, place: Place) -> Samples:
    """Return the samples of each figure, by name, unit and budget."""
    figures: Samples = {}

    def add(name: str, unit: str, budget: str, value: float) -> None:
        figures.setdefault((name, unit, budget), []).append(value)

    for seed in seeds:
        members = members_of(seed)
        count = len(members) - 1
        small, large = place(Ring(members[:-1]), copies), place(Ring(members), copies)
        held = Counter(node for nodes in small.values() for node in nodes)
        first = Counter(nodes[0] for nodes in small.values())
        add("units held", "max/mean", "<= 1.25", over_mean(held, count))
        if copies > 1:
            add("first places", "max/mean", "<= 1.25", over_mean(first, count))
        # A joiner's fair share is 1/(N+1); the leave of the same node makes room for as much elsewhere.
        add("moved by a join", "x 1/(N+1)", "<= 1.5", moved(small, large) * (count + 1))
        add("moved by a leave", "x 1/(N+1)", "<= 1.5", moved(large, small) * (count + 1))
    return figures


def _keys() -> list[Figure]:
    """Count a million keys of the cache by the node that holds them, and where the plain ring would put each."""
    ring = Ring(members_of(0)[:-1])
    placed = bounded(ring, 3)
    per_unit = Counter(cache_unit_of(b"user:%d" % number, UNITS) for number in range(KEYS))
    ours = Counter[NodeId]()
    first = Counter[NodeId]()
    for unit, count in per_unit.items():
        first[placed[unit][0]] += count
        for node in placed[unit]:
            ours[node] += count
    peer = Counter(ring.owner(f"user:{number}") for number in range(KEYS))
    plain_peer = over_mean(peer, len(ring))
    return [
        Figure(f"{KEYS:,} keys, 3 copies", "max/mean", over_mean(ours, len(ring)), "keys on the ring", plain_peer),
        Figure(f"{KEYS:,} keys, first places", "max/mean", over_mean(first, len(ring)), "keys on the ring", plain_peer),
    ]

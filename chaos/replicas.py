"""Whether all replicas of a vector shard hold the same, by snapshots: their bytes depend on the state alone.

Cache units are not compared. One that could not be refilled after a restart has a floor, below which it takes and gives
nothing, so its bytes differ from those of a replica that did not have to forget; reads at quorum are what must agree.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from balancer.placement import Placement
from balancer.record import RECORD
from balancer.saved import ADOPTED_PATH
from balancer.topology_messages import SIGNED_RECORD
from chaos import checker
from chaos.cluster import Cluster, say
from frys_node.base.errors import FrysError

POLL_S = 3.0


def placement(cluster: Cluster) -> dict[str, list[str]]:
    """Return the names of the nodes that are to hold each shard, under the record that the first node has adopted."""
    first = cluster.nodes[0]
    record = SIGNED_RECORD.decode((first.data_dir / ADOPTED_PATH).read_bytes()).data
    shards = [unit for unit in Placement(RECORD.decode(record)).units() if unit.startswith("vector/")]
    return {unit: first.call("GET", f"/v1/ring?unit={unit}")["owner"]["current"] for unit in shards}


def roots(cluster: Cluster, held_by: dict[str, list[str]], name: str) -> dict[str, dict[str, str]]:
    """Have every node save its units, and return unit -> node -> hash of its bytes.

    Raises:
        FrysError: A node does not hold a unit that it ought to, or cannot save it.
    """
    found: dict[str, dict[str, str]] = {unit: {} for unit in held_by}
    for node in cluster.nodes:
        units = [unit for unit, names in held_by.items() if node.name in names]
        if not units:
            continue
        saved = node.call("POST", "/v1/snapshots", {"name": name, "units": units})
        for unit in saved["units"]:
            found[unit["unit"]][node.name] = unit["root"]
        node.call("DELETE", f"/v1/snapshots/{name}")
    return found


class Comparison(NamedTuple):
    """What the replicas of every shard held when they were last compared."""

    roots: dict[str, dict[str, str]]
    held_by: dict[str, list[str]]
    """Who is to hold each shard."""
    seconds: float
    """From the first comparison to the last."""


def wait_equal(cluster: Cluster, seconds_max: float) -> Comparison:
    """Compare until all replicas are there and equal, or the time is over."""
    begun = time.monotonic()
    held_by = placement(cluster)
    unequal = set(held_by)
    number = 0
    found: dict[str, dict[str, str]] = {}
    while True:
        number += 1
        try:
            # Nobody writes any more: what was equal stays so.
            found |= roots(
                cluster, {unit: names for unit, names in held_by.items() if unit in unequal}, f"all-{number}"
            )
            unequal = {
                unit for unit in held_by if checker.check_equal({unit: found.get(unit, {})}, {unit: held_by[unit]})
            }
        except FrysError as error:
            if time.monotonic() - begun > seconds_max:
                raise
            say(f"cannot compare yet: {error}")
        if not unequal or time.monotonic() - begun > seconds_max:
            return Comparison(found, held_by, time.monotonic() - begun)
        named = ", ".join(sorted(unequal)[:5])
        say(f"{len(unequal)} of {len(held_by)} units differ between their replicas, or not all were compared: {named}")
        time.sleep(POLL_S)

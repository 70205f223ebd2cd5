"""Changes of the ring while members are dead, with the patience that the product has: seconds, not ten minutes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

from frys_node.base.types import Consistency, NodeId, UnitId
from frys_node.kernel.services.topology import Collection
from frys_node.testing.data_cluster import DataCluster, open_data_cluster

PARTITIONS = 16
UNITS = [UnitId(f"cache/{number}") for number in range(PARTITIONS)]
STEP_S = 15.0
"""A step in which nobody living is slow, pins and the time until a death is seen included."""


@asynccontextmanager
async def open_cluster(names: Iterable[str]) -> AsyncIterator[DataCluster]:
    """Run a settled cluster with a key in every unit."""
    async with open_data_cluster(list(names), partitions=PARTITIONS) as cluster:
        with trio.fail_after(120):
            await cluster.settle()
        for unit in UNITS:
            await cluster["n1"].replication.write(unit, [(b"k", unit.encode())])
        yield cluster


async def all_there(cluster: DataCluster, through: str) -> bool:
    """True if every unit answers at quorum with what was written."""
    for unit in UNITS:
        entry = (await cluster[through].replication.read(unit, [b"k"], Consistency.QUORUM))[0]
        if entry is None or entry.value != unit.encode():
            return False
    return True


def ring_of(cluster: DataCluster, through: str) -> dict[str, int]:
    """Return the members of the ring by weight."""
    return {str(member.node): member.weight for member in cluster[through].balancer.placement.record.ring}


async def until_ring(cluster: DataCluster, through: str, wanted: Iterable[str]) -> None:
    """Wait until a settled record has exactly these members with a weight."""
    names = sorted(wanted)

    def holds() -> bool:
        machine = cluster[through].balancer.machine
        held = sorted(name for name, weight in ring_of(cluster, through).items() if weight)
        return held == names and machine.settled == machine.epoch

    with trio.fail_after(STEP_S):
        await until(holds)


async def until(what: Callable[[], bool], pause_s: float = 0.05) -> None:
    """Wait until something holds, for a minute of the virtual clock."""
    with trio.fail_after(60):
        while not what():  # noqa: ASYNC110 (several nodes, no one event)
            await trio.sleep(pause_s)


async def test_a_node_leaves_while_another_is_dead_and_collections_are_made(autojump_clock: MockClock) -> None:
    """Four nodes, one dead for good: another leaves within seconds, and the catalogue changes at once."""
    async with open_cluster(["n1", "n2", "n3", "n4"]) as cluster:
        await cluster["n4"].kill()
        with trio.fail_after(STEP_S):
            await cluster["n3"].balancer.leave()
        await cluster["n3"].kill()
        await until_ring(cluster, "n2", ["n1", "n2", "n4"])
        with trio.fail_after(STEP_S):
            await cluster["n2"].balancer.create_collection(Collection(name="c", id="c", dimension=2, distance="Dot"))
        assert await all_there(cluster, "n2")
        await cluster["n1"].balancer.verbs.remove(NodeId("n4"))
        await until_ring(cluster, "n2", ["n1", "n2"])
        assert await all_there(cluster, "n1")


async def test_a_node_that_dies_just_after_another_began_to_leave_is_left_out(autojump_clock: MockClock) -> None:
    """The step under way gives it units: it begins anew around it, and the leave is not to be asked for again."""
    async with open_cluster(["n1", "n2", "n3", "n4"]) as cluster:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster["n3"].balancer.leave)
            await until(lambda: bool(cluster["n1"].balancer.machine.steps.waiting), 0.001)
            await cluster["n4"].kill()
            nursery.cancel_scope.deadline = trio.current_time() + STEP_S
        assert "n3" not in ring_of(cluster, "n1")
        assert await all_there(cluster, "n2")


async def test_a_node_joins_while_another_is_dead_and_that_one_gets_its_places_back(autojump_clock: MockClock) -> None:
    """The fifth is in within seconds; when the dead one is back it holds what the ring gives it, and serves it."""
    async with open_cluster(["n1", "n2", "n3", "n4"]) as cluster:
        await cluster["n4"].kill()
        await cluster.add("n5")
        await until_ring(cluster, "n2", ["n1", "n2", "n3", "n4", "n5"])
        with trio.fail_after(STEP_S):
            await cluster["n3"].balancer.leave()
        await cluster["n3"].kill()
        await until_ring(cluster, "n2", ["n1", "n2", "n4", "n5"])
        assert [bypass.node for bypass in cluster["n2"].balancer.placement.record.bypassed] == ["n4"]
        assert (await cluster["n2"].balancer.describe()).bypassed.keys() == {"n4"}
        await cluster.restart("n4")
        await until(lambda: not cluster["n4"].balancer.placement.record.bypassed)
        await until_ring(cluster, "n4", ["n1", "n2", "n4", "n5"])
        assert all(len(cluster.stores(unit)) == 3 for unit in UNITS)
        assert await all_there(cluster, "n4")


async def test_one_of_two_dead_of_five_is_removed_by_a_promoted_issuer(autojump_clock: MockClock) -> None:
    """Five copies, the issuer among the dead: promotion, then the removals of both, each in seconds."""
    async with open_cluster(["n1", "n2", "n3", "n4", "n5"]) as cluster:
        await cluster["n1"].balancer.verbs.change_factor("", 5)
        await until(lambda: cluster["n2"].balancer.placement.record.replication_factor == 5)
        with trio.fail_after(STEP_S):
            await cluster.settle()
        for name in ("n1", "n2"):
            await cluster[name].kill()
        await cluster["n3"].balancer.verbs.promote()
        await until(lambda: cluster["n4"].balancer.machine.issuer == "n3")
        await cluster["n4"].balancer.verbs.remove(NodeId("n1"))
        await until_ring(cluster, "n4", ["n2", "n3", "n4", "n5"])
        await cluster["n4"].balancer.verbs.remove(NodeId("n2"))
        await until_ring(cluster, "n4", ["n3", "n4", "n5"])
        assert await all_there(cluster, "n5")


async def test_a_leave_that_the_dead_hold_up_says_so_and_goes_on_when_they_are_back(autojump_clock: MockClock) -> None:
    """Of three one is dead: two would be left without a majority. The others serve, and the reason is shown."""
    async with open_cluster(["n1", "n2", "n3"]) as cluster:
        await cluster["n3"].kill()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster["n2"].balancer.leave)
            steps = cluster["n1"].balancer.machine.steps
            await until(
                lambda: any("n3: dead, and without it too few members live of " in x for x in steps.waits_for())
            )
            assert (await cluster["n2"].balancer.describe()).waits_for == steps.waits_for()
            assert await all_there(cluster, "n2")
            await cluster.restart("n3")
            await until(lambda: "n2" not in ring_of(cluster, "n1"))
        assert await all_there(cluster, "n3")

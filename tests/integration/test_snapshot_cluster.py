"""Snapshots of a whole cluster, and restores into clusters of another size."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from frys_node.base.errors import NotReady
from frys_node.base.types import NodeId, UnitId
from frys_node.testing.saved import SavedCluster, open_saved_cluster
from snapshots.errors import RingMoved, SnapshotError, WouldReplace

PLACE = "/shared"


def _held(*nodes: str) -> dict[str, dict[UnitId, bytes]]:
    """Each node its own workflow partition, and a copy of one cache unit that differs on the last."""
    held = {
        node: {UnitId(f"workflow/{number}"): node.encode() * 10_000, UnitId("cache/0"): b"common" * 20_000}
        for number, node in enumerate(nodes)
    }
    held[nodes[-1]][UnitId("cache/0")] += b" and one more"
    return held


async def _open(cluster: SavedCluster, *, partitions: int) -> None:
    names = [NodeId(name) for name in cluster.nodes]
    for number in range(partitions):
        cluster.ring.members[UnitId(f"workflow/{number}")] = (names[number % len(names)],)
        cluster.ring.members[UnitId(f"cache/{number}")] = tuple(names)
    await trio.lowlevel.checkpoint()


async def test_every_node_saves_its_share_under_one_name() -> None:
    """One index names all copies; equal copies are stored once; it says which nodes and which epoch."""
    async with open_saved_cluster(_held("a", "b", "c"), kinds=("cache", "workflow"), partitions=3) as cluster:
        await _open(cluster, partitions=3)
        for node in cluster.nodes.values():
            node.units["cache"].held |= {UnitId(f"cache/{number}"): b"" for number in (1, 2)}
        saved = await cluster["b"].desk.create("all", place=PLACE, is_cluster=True)
        assert (saved.scope, saved.nodes, str(saved.epoch)) == ("cluster", {"a": "A", "b": "B", "c": "C"}, "1.1")
        copies = [(one.unit, one.node) for one in saved.units]
        assert copies.count((UnitId("cache/0"), NodeId("c"))) == 1
        assert len(copies) == 12
        assert saved.size_bytes == 3 * 120_000 + 13 + 3 * 10_000
        assert len(cluster.shared.list("_chunks")) == 6
        assert cluster.shared.list("_locks") == []
        assert (await cluster["a"].desk.verify("all", PLACE)).problems == ()
        again = await cluster["a"].desk.create("again", place=PLACE, is_cluster=True)
        assert again.new_bytes == 0
        for node in cluster.nodes.values():
            node.units["workflow"].held = dict.fromkeys(node.units["workflow"].held, b"")
        report = await cluster["c"].desk.restore("all", place=PLACE)
        assert (report.failed, report.skipped) == ((), ())
        for number, node in enumerate(cluster.nodes.values()):
            assert node.units["workflow"].held == {UnitId(f"workflow/{number}"): node.id.encode() * 10_000}


async def test_nodes_that_see_different_places_are_told_so() -> None:
    """A directory of the same path on each machine is no common place, and nothing becomes visible in either."""
    async with open_saved_cluster(_held("a", "b"), kinds=("workflow",), partitions=2) as cluster:
        await _open(cluster, partitions=2)
        with pytest.raises(SnapshotError, match="does not see the same place") as caught:
            await cluster["a"].desk.create("all", place="/backup", is_cluster=True)
        assert "mounted on every node" in caught.value.hint
        assert (await cluster["a"].desk.list("/backup"))[0] == []


async def test_a_silent_node_is_named_and_left_out_only_when_that_is_asked_for() -> None:
    """Its partition has no other copy; a replicated unit has enough without it."""
    async with open_saved_cluster(_held("a", "b", "c"), kinds=("cache", "workflow"), partitions=3) as cluster:
        await _open(cluster, partitions=3)
        for node in cluster.nodes.values():
            node.units["cache"].held |= {UnitId(f"cache/{number}"): b"" for number in (1, 2)}
        cluster.network.stop("b")
        with pytest.raises(SnapshotError, match="1 units cannot be saved, such as workflow/1: 0 of 1 copies") as caught:
            await cluster["a"].desk.create("all", place=PLACE, is_cluster=True)
        assert "--partial" in caught.value.hint
        saved = await cluster["a"].desk.create("all", place=PLACE, is_cluster=True, is_partial=True)
        assert [(one.unit, "(B: " in one.reason) for one in saved.missing] == [("workflow/1", True)]
        assert sorted(saved.nodes) == ["a", "c"]


async def test_a_copy_that_is_not_whole_yet_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    """The ring is stable a moment before the last copy is; one that does not come is named after a while."""
    async with open_saved_cluster(_held("a", "b"), kinds=("workflow",), partitions=2) as cluster:
        await _open(cluster, partitions=2)
        late = cluster["b"].units["workflow"].held.pop(UnitId("workflow/1"))

        async def arrive() -> None:
            await trio.sleep(3.0)
            cluster["b"].units["workflow"].held[UnitId("workflow/1")] = late

        with pytest.raises(SnapshotError, match="it is not whole there"):
            await cluster["a"].desk.create("none", place=PLACE, is_cluster=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrive)
            saved = await cluster["a"].desk.create("all", place=PLACE, is_cluster=True)
        assert sorted(one.unit for one in saved.units) == ["workflow/0", "workflow/1"]


async def test_a_ring_in_motion_is_not_saved() -> None:
    """A record that is not stable, or another one at the end, is an error that may be tried again."""
    async with open_saved_cluster(_held("a", "b"), kinds=("workflow",), partitions=2) as cluster:
        await _open(cluster, partitions=2)
        cluster.ring.phase = "joint"
        with pytest.raises(RingMoved):
            await cluster["a"].desk.create("all", place=PLACE, is_cluster=True)
        cluster.ring.phase = "stable"
        capture = cluster["b"].units["workflow"].capture

        async def moving(unit: UnitId) -> object:
            cluster.ring.seq += 1
            return await capture(unit)

        cluster["b"].units["workflow"].capture = moving  # type: ignore[method-assign,assignment]
        with pytest.raises(RingMoved):
            await cluster["a"].desk.create("all", place=PLACE, is_cluster=True)
        assert (await cluster["a"].desk.list(PLACE))[0] == []


async def test_a_large_state_travels_in_parts_to_its_owner() -> None:
    """More than a message holds, to whoever holds the unit now; what has runs is replaced only on demand."""
    state = bytes(range(256)) * 12_000
    async with open_saved_cluster({"a": {UnitId("t/1"): state}, "b": {UnitId("t/2"): b""}}, replacing=["t"]) as cluster:
        cluster.ring.members = {UnitId("t/1"): (NodeId("a"),), UnitId("t/2"): (NodeId("b"),)}
        await cluster["a"].desk.create("s", place=PLACE)
        del cluster["a"].units["t"].held[UnitId("t/1")]
        cluster["b"].units["t"].held[UnitId("t/1")] = b"since"
        cluster.ring.members[UnitId("t/1")] = (NodeId("b"),)
        with pytest.raises(WouldReplace):
            await cluster["a"].desk.restore("s", place=PLACE)
        report = await cluster["a"].desk.restore("s", place=PLACE, replace=True)
        assert (report.units, report.failed) == (1, ())
        assert cluster["b"].units["t"].held[UnitId("t/1")] == state


async def test_a_restore_that_reaches_no_quorum_is_told_and_the_rest_goes_on() -> None:
    """Two of three members are enough; one of three is not, and each unit says so."""
    names = ("a", "b", "c")
    units = {UnitId("t/1"): b"one", UnitId("t/2"): b"two"}
    async with open_saved_cluster({name: dict(units) for name in names}) as cluster:
        await cluster["a"].desk.create("s", place=PLACE)
        for node in cluster.nodes.values():
            node.units["t"].held = dict.fromkeys(units, b"")
        cluster.network.stop("c")
        report = await cluster["a"].desk.restore("s", place=PLACE)
        assert (report.units, report.failed) == (2, ())
        assert cluster["b"].units["t"].held == units
        cluster.network.stop("b")
        report = await cluster["a"].desk.restore("s", place=PLACE)
        assert (report.units, [one.unit for one in report.failed]) == (0, ["t/1", "t/2"])
        assert "1 of 3 members took it, that is no quorum (" in report.failed[0].reason


async def test_an_only_member_hears_when_all_of_its_unit_is_in_and_several_need_not() -> None:
    """Empty units too, wherever they live: one that was damaged has nobody else to be filled from."""
    one, two, three = UnitId("t/1"), UnitId("t/2"), UnitId("t/3")
    held = {one: b"one", two: b"", three: b"three"}
    async with open_saved_cluster({"a": dict(held), "b": dict(held)}) as cluster:
        cluster.ring.members = {one: (NodeId("a"),), two: (NodeId("b"),), three: (NodeId("a"), NodeId("b"))}
        await cluster["a"].desk.create("s", place=PLACE)
        report = await cluster["a"].desk.restore("s", place=PLACE)
        assert report.failed == ()
        assert [node.units["t"].whole for node in (cluster["a"], cluster["b"])] == [[one], [two]]


async def test_parts_that_come_out_of_order_are_refused() -> None:
    """A receiver restores whole states only, and only of units that it holds."""
    from frys_node.base.errors import UsageError
    from frys_node.testing.saved import ByteUnits
    from snapshots.messages import SurveyRequest, TakeRequest
    from snapshots.taking import TRANSFERS_MAX, Taking

    unit, caller = UnitId("t/1"), NodeId("x")
    units = ByteUnits({unit: b"before"})
    taking = Taking({"t": units})
    await taking.take(caller, TakeRequest(unit, 1, 0, False, b"a"))
    with pytest.raises(UsageError):
        await taking.take(caller, TakeRequest(unit, 1, 2, True, b"c"))
    with pytest.raises(UsageError):
        await taking.take(caller, TakeRequest(unit, 1, 1, True, b"b"))
    for number in range(TRANSFERS_MAX + 1):
        await taking.take(caller, TakeRequest(unit, 10 + number, 0, False, b"a"))
    with pytest.raises(UsageError):
        await taking.take(caller, TakeRequest(unit, 10, 1, True, b"b"))
    assert units.held[unit] == b"before"
    await taking.take(caller, TakeRequest(unit, 11, 1, True, b"b"))
    assert units.held[unit] == b"ab"
    with pytest.raises(NotReady):
        await taking.take(caller, TakeRequest(UnitId("t/9"), 1, 0, True, b"a"))
    assert (await taking.survey(caller, SurveyRequest([unit]))).units == [unit]

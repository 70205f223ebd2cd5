"""Restores while owners of workflow partitions are dead: they cost their own units, and a second run brings those."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio.testing

from frys_node.base.errors import IssuerUnreachable, NotFound, UsageError
from frys_node.base.types import NodeId, UnitId
from frys_node.kernel.services.topology import Collection
from frys_node.testing.saved import SavedCluster, open_saved_cluster
from snapshots.errors import SnapshotError, WouldReplace

PLACE = "/shared"
KINDS = ("cache", "vector", "workflow")
A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
VECTOR = UnitId("vector/one/0")
RUNS = {UnitId("workflow/0"): b"run of a", UnitId("workflow/1"): b"run of b", UnitId("workflow/2"): b""}
OWNERS = {UnitId("workflow/0"): A, UnitId("workflow/1"): B, UnitId("workflow/2"): B, UnitId("workflow/3"): C}


@asynccontextmanager
async def _saved() -> AsyncIterator[SavedCluster]:
    """Three nodes with a snapshot ``mon`` of all; then all is lost, and b is dead. Partitions 2 and 3 were empty."""
    runs = {**RUNS, UnitId("workflow/3"): b""}
    shared = {UnitId("cache/0"): b"cached", VECTOR: b"points"}
    held = {name: {**shared, **{unit: runs[unit] for unit in runs if OWNERS[unit] == name}} for name in (A, B, C)}
    async with open_saved_cluster(held, kinds=KINDS, replacing=["workflow"]) as cluster:
        cluster.ring.members = {unit: (owner,) for unit, owner in OWNERS.items()}
        cluster.ring.catalogue["c"] = Collection(name="c", id="one", dimension=2, distance="Dot", shard_number=1)
        for node in cluster.nodes.values():
            node.units["cache"].held |= {UnitId(f"cache/{number}"): b"" for number in (1, 2, 3)}
        await cluster["a"].desk.create("mon", place=PLACE, is_cluster=True)
        for node in cluster.nodes.values():
            for source in node.units.values():
                source.held = dict.fromkeys(source.held, b"")
        cluster.network.stop("b")
        yield cluster


async def test_a_dead_owner_costs_its_own_units_and_a_second_run_brings_them() -> None:
    """All else is back, the lost one is named with its owner and why; what is there stands when it is done again."""
    async with _saved() as cluster:
        first = await cluster["a"].desk.restore("mon", place=PLACE)
        [failed] = first.failed
        assert failed.unit == "workflow/1"
        assert failed.reason.startswith("its owner B does not answer: ")
        assert first.skipped == first.standing == ()
        assert {UnitId("workflow/0"), UnitId("cache/0"), VECTOR} <= set(first.restored)
        assert not {UnitId("workflow/1"), UnitId("workflow/2")} & set(first.restored)
        assert cluster["a"].units["workflow"].held == {UnitId("workflow/0"): b"run of a"}
        assert cluster["c"].units["vector"].held == {VECTOR: b"points"}
        assert cluster["c"].units["cache"].held[UnitId("cache/0")] == b"cached"
        cluster.network.resume("b")
        cluster["a"].units["workflow"].held[UnitId("workflow/0")] += b", which went on"
        second = await cluster["c"].desk.restore("mon", place=PLACE)
        assert (second.failed, second.standing) == ((), ("workflow/0",))
        assert UnitId("workflow/1") in second.restored
        assert cluster["b"].units["workflow"].held == {UnitId("workflow/1"): b"run of b", UnitId("workflow/2"): b""}
        assert cluster["a"].units["workflow"].held == {UnitId("workflow/0"): b"run of a, which went on"}


async def test_partitions_that_are_empty_in_the_snapshot_stand_unless_all_is_to_be_replaced() -> None:
    """Nobody is asked about them; with `replace` they are emptied, and those of a dead owner are skipped with why."""
    async with _saved() as cluster:
        cluster["c"].units["workflow"].held[UnitId("workflow/3")] = b"started since"
        report = await cluster["a"].desk.restore("mon", place=PLACE, kinds=["workflow"])
        assert ([one.unit for one in report.failed], report.skipped) == (["workflow/1"], ())
        assert cluster["c"].units["workflow"].held == {UnitId("workflow/3"): b"started since"}
        report = await cluster["a"].desk.restore("mon", place=PLACE, kinds=["workflow"], replace=True)
        assert [one.unit for one in report.failed] == ["workflow/1"]
        assert [(one.unit, one.reason.partition(":")[0]) for one in report.skipped] == [
            ("workflow/2", "it is empty in the snapshot, and what it has now stands")
        ]
        assert cluster["c"].units["workflow"].held == {UnitId("workflow/3"): b""}


async def test_a_partition_with_other_runs_is_still_asked_about_before_anything_changes() -> None:
    """A dead owner does not hide what a living one would lose."""
    async with _saved() as cluster:
        cluster["a"].units["workflow"].held[UnitId("workflow/0")] = b"another run"
        with pytest.raises(WouldReplace, match="replaces 1 workflow partitions that have runs, such as workflow/0"):
            await cluster["c"].desk.restore("mon", place=PLACE)
        assert cluster["c"].units["vector"].held == {VECTOR: b""}
        report = await cluster["c"].desk.restore("mon", place=PLACE, kinds=["vector", "cache"])
        assert (report.failed, cluster["c"].units["vector"].held) == ((), {VECTOR: b"points"})
        assert cluster["a"].units["workflow"].held == {UnitId("workflow/0"): b"another run"}


async def test_runs_that_start_during_a_restore_are_not_replaced() -> None:
    """The owner looks again when all of the state is there: its partition was empty only when it was asked."""
    async with _saved() as cluster:
        restore = cluster["a"].units["vector"].restore

        async def meanwhile(unit: UnitId, parts: AsyncIterator[bytes], *, only_empty: bool = False) -> None:
            cluster["a"].units["workflow"].held[UnitId("workflow/0")] = b"acknowledged meanwhile"
            await restore(unit, parts, only_empty=only_empty)

        cluster["a"].units["vector"].restore = meanwhile  # type: ignore[method-assign]
        report = await cluster["c"].desk.restore("mon", place=PLACE)
        assert [one.unit for one in report.failed] == ["workflow/0", "workflow/1"]
        assert cluster["a"].units["workflow"].held == {UnitId("workflow/0"): b"acknowledged meanwhile"}


async def test_an_owner_that_stands_still_is_waited_for_once(autojump_clock: trio.testing.MockClock) -> None:
    """A stopped process keeps its connections and says nothing: the wait has a bound, and its units are named."""
    async with _saved() as cluster:
        cluster.network.resume("b")

        async def stands_still(unit: UnitId) -> bool:
            await trio.sleep_forever()
            return bool(unit)

        cluster["b"].units["workflow"].has_data = stands_still  # type: ignore[method-assign]
        report = await cluster["a"].desk.restore("mon", place=PLACE, kinds=["workflow"])
        assert [one.reason for one in report.failed] == ["its owner B did not answer within 30 s"]
        assert report.restored == ("workflow/0",)


async def test_a_member_that_stands_still_is_not_asked_for_each_piece(autojump_clock: trio.testing.MockClock) -> None:
    """Of a thousand pieces only the first few wait for it; the quorum is enough."""
    names = ("a", "b", "c")
    units = {UnitId(f"t/{number}"): b"%d" % number for number in range(40)}
    async with open_saved_cluster({name: dict(units) for name in names}) as cluster:
        await cluster["a"].desk.create("s", place=PLACE)

        async def stands_still(unit: UnitId, parts: AsyncIterator[bytes], *, only_empty: bool = False) -> None:
            await trio.sleep_forever()

        cluster["b"].units["t"].restore = stands_still  # type: ignore[method-assign]
        begun_s = trio.current_time()
        report = await cluster["a"].desk.restore("s", place=PLACE)
        assert (report.units, report.failed) == (40, ())
        assert trio.current_time() - begun_s < 2 * 120.0


async def test_a_collection_that_cannot_be_made_costs_its_own_points() -> None:
    """The issuer is dead: the cache and the runs come back all the same, and a second run makes the collection."""
    async with _saved() as cluster:
        definition = cluster.ring.catalogue.pop("c")
        create = cluster.ring.create_collection

        async def refuse(collection: Collection) -> None:
            raise IssuerUnreachable(f"the issuer does not answer, {collection.name} has to wait")

        cluster.ring.create_collection = refuse  # type: ignore[method-assign]
        report = await cluster["a"].desk.restore("mon", place=PLACE)
        assert [one.unit for one in report.failed] == [VECTOR, "workflow/1"]
        assert "its collection 'c' cannot be made: the issuer does not answer" in report.failed[0].reason
        assert report.collections == ()
        assert cluster["c"].units["cache"].held[UnitId("cache/0")] == b"cached"
        cluster.ring.create_collection = create  # type: ignore[method-assign]
        cluster.network.resume("b")
        second = await cluster["a"].desk.restore("mon", place=PLACE)
        assert second.collections == ("c",)
        assert cluster.ring.catalogue["c"].dimension == definition.dimension


async def test_units_are_chosen_by_kind() -> None:
    """Saved so and restored so; a kind that is not there is refused by name, and so are two choices at once."""
    async with _saved() as cluster:
        desk = cluster["a"].desk
        report = await desk.restore("mon", place=PLACE, kinds=["vector"])
        assert (report.restored, report.failed) == ((VECTOR,), ())
        saved = await desk.create("points", place=PLACE, kinds=["vector"])
        assert ([one.unit for one in saved.units], saved.kinds) == ([VECTOR], ("vector",))
        with pytest.raises(NotFound, match="snapshot 'points' has no units of kind 'cache'") as caught:
            await desk.restore("points", place=PLACE, kinds=["cache"])
        assert caught.value.hint == "kinds there: vector"
        with pytest.raises(NotFound, match="this node has no units of kind 'vectors'"):
            await desk.create("x", place=PLACE, kinds=["vectors"], is_cluster=True)
        for kinds, units in ((["vector"], [VECTOR]), ([], None), (None, [])):
            with pytest.raises(UsageError):
                await desk.restore("mon", place=PLACE, kinds=kinds, units=units)
            with pytest.raises(UsageError):
                await desk.create("x", place=PLACE, kinds=kinds, units=units)


async def test_a_cluster_is_saved_by_kind_whoever_owns_other_kinds() -> None:
    """A dead owner of partitions does not hinder a save of the points; a save of all names it."""
    async with _saved() as cluster:
        desk = cluster["a"].desk
        with pytest.raises(SnapshotError, match=r"2 units cannot be saved, such as workflow/1: 0 of 1 .*\(B: "):
            await desk.create("all", place=PLACE, is_cluster=True)
        saved = await desk.create("points", place=PLACE, is_cluster=True, kinds=["vector"])
        assert {one.unit for one in saved.units} == {VECTOR}
        assert (sorted(saved.nodes), saved.missing, saved.kinds) == (["a", "c"], (), ("vector",))
        assert (await desk.verify("points", PLACE)).problems == ()

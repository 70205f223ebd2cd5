"""Rot in synced data of the log: the node starts, tells which units it hit, and serves all others."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
import trio
from trio.testing import MockClock

from balancer.placement import cache_unit
from frys_node.base.types import Consistency, UnitId
from frys_node.replication.errors import UnitDamaged
from frys_node.replication.frames import LogReader, Taken
from frys_node.testing.data_cluster import DataCluster, DataNode, open_data_cluster
from frys_node.testing.disk import Failure

LOG = "replication/log-00000000"
UNIT, OTHER = cache_unit(1), cache_unit(2)


async def settled(cluster: DataCluster) -> None:
    """Wait until every join is through."""
    with trio.fail_after(120):
        await cluster.settle()


def rot(node: DataNode, unit: UnitId) -> None:
    """Flip a bit in the first records of a unit."""
    data = node.disk.read(LOG)
    assert data is not None
    steps = [step for step in LogReader([data], 0) if isinstance(step, Taken) and step.section.unit == unit]
    node.disk.flip_bit(LOG, steps[0].section.start * 8 + 40)


async def read(node: DataNode, unit: UnitId, key: bytes, consistency: Consistency = Consistency.QUORUM) -> bytes | None:
    """Read one key."""
    (entry,) = await node.replication.read(unit, [key], consistency)
    return None if entry is None else entry.value


async def test_the_only_replica_refuses_the_damaged_unit_by_name_and_serves_the_rest(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Reads name the restore command, status and log name the unit and the file; writes and other units go on."""
    async with open_data_cluster(["n1"]) as cluster:
        await settled(cluster)
        one = cluster["n1"]
        for number in range(3):
            await one.replication.write(UNIT, [(b"k%d" % number, b"v")])
        await one.replication.write(OTHER, [(b"k", b"v")])
        await one.kill()
        rot(one, UNIT)
        for _ in range(2):
            with caplog.at_level(logging.ERROR):
                await cluster.restart("n1")
            await settled(cluster)
            assert await read(one, OTHER, b"k") == b"v"
            with trio.fail_after(1), pytest.raises(UnitDamaged, match=UNIT) as caught:
                await read(one, UNIT, b"k1")
            assert f"frys-node snapshot restore NAME --unit {UNIT}" in caught.value.hint
            with pytest.raises(UnitDamaged):
                await one.replication.scan(UNIT)
            with pytest.raises(UnitDamaged, match="this node's copy"):
                await one.replication._source("cache", None).capture(UNIT)
            await one.replication.write(UNIT, [(b"new", b"v")])
            (damaged,) = one.replication.status()["damaged"]
            assert (damaged.unit, damaged.entries, damaged.others) == (UNIT, 3, "")
            await one.kill()
        told = [record for record in caplog.records if record.message == "replication.log_damaged"]
        assert [(record.path, record.units) for record in told] == [(LOG, [UNIT])]  # type: ignore[attr-defined]


async def test_restoring_a_snapshot_makes_the_only_replica_whole_again(autojump_clock: MockClock) -> None:
    """What was lost is back, what was written since stands, and it stays so over a restart."""
    async with open_data_cluster(["n1"], with_snapshots=True) as cluster:
        await settled(cluster)
        one = cluster["n1"]
        await one.replication.write(UNIT, [(b"k1", b"v1")])
        source = one.replication._source("cache", None)
        captured = await source.capture(UNIT)
        dump = [part async for part in captured.parts()]
        await one.replication.write(UNIT, [(b"k2", b"v2")])
        await one.kill()
        rot(one, UNIT)
        await cluster.restart("n1")
        await settled(cluster)
        with pytest.raises(UnitDamaged):
            await read(one, UNIT, b"k1")

        async def parts() -> AsyncGenerator[bytes, None]:
            for part in dump:
                yield part

        async with aclosing(parts()) as saved:
            await one.replication._source("cache", None).restore(UNIT, saved)
        with pytest.raises(UnitDamaged):
            await read(one, UNIT, b"k1")
        await one.replication._source("cache", None).restored(UNIT)
        for _ in range(2):
            assert [await read(one, UNIT, key) for key in (b"k1", b"k2")] == [b"v1", b"v2"]
            assert one.replication.status()["damaged"] == []
            await one.kill()
            await cluster.restart("n1")
            await settled(cluster)


async def test_a_damaged_replica_of_three_gives_no_data_names_the_others_and_is_filled_from_them(
    autojump_clock: MockClock,
) -> None:
    """Quorum reads and writes go on by the others, whichever node is asked; its own copy is read once it is whole."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await settled(cluster)
        three = cluster["n3"]
        for number in range(3):
            await cluster["n1"].replication.write(UNIT, [(b"k%d" % number, b"v")], Consistency.ALL)
        await three.kill()
        rot(three, UNIT)
        await cluster.restart("n3")
        assert three.replication.local(UNIT) is None
        told = three.replication.status()["damaged"]
        await settled(cluster)
        for node in (three, cluster["n1"]):
            assert [await read(node, UNIT, b"k%d" % number) for number in range(3)] == [b"v"] * 3
        assert await read(three, UNIT, b"k0", Consistency.ONE) == b"v"
        await three.replication.write(UNIT, [(b"k9", b"v")])
        (damaged,) = told
        assert damaged.others == "n1, n2"
        with trio.fail_after(60):
            while three.replication.status()["damaged"]:  # noqa: ASYNC110
                await trio.sleep(0.05)
        store = three.replication.local(UNIT)
        assert store is not None
        assert {entry.key for entry in store.entries()} == {b"k0", b"k1", b"k2", b"k9"}
        for name in ("n1", "n2"):
            await cluster[name].kill()
        assert await read(three, UNIT, b"k0", Consistency.ONE) == b"v"


async def test_the_only_replica_of_a_log_that_is_gone_is_refused_and_restored_in_the_same_way(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """One cause, one alarm: each unit is told as lost, and no hole. After the restore, and a restart, it serves."""
    async with open_data_cluster(["n1"], with_snapshots=True) as cluster:
        await settled(cluster)
        one = cluster["n1"]
        await one.replication.write(UNIT, [(b"k", b"v")])
        await one.kill()
        one.disk.remove("replication")
        with caplog.at_level(logging.ERROR):
            await cluster.restart("n1")
            await settled(cluster)
        names = [record.message for record in caplog.records if record.message.startswith("replication.")]
        assert set(names) == {"replication.unit_lost_for_good"}
        with pytest.raises(UnitDamaged, match=UNIT):
            await read(one, UNIT, b"k")
        await one.replication._source("cache", None).restored(UNIT)
        for _ in range(2):
            assert await read(one, UNIT, b"k") is None
            assert UNIT not in {damaged.unit for damaged in one.replication.status()["damaged"]}
            assert OTHER in {damaged.unit for damaged in one.replication.status()["damaged"]}
            await one.kill()
            await cluster.restart("n1")
            await settled(cluster)


async def test_damage_found_while_the_disk_is_full_is_kept_in_mind(autojump_clock: MockClock) -> None:
    """The new file finds no room: the node starts all the same, and the next start finds the same hole."""
    async with open_data_cluster(["n1"]) as cluster:
        await settled(cluster)
        one = cluster["n1"]
        for number in range(3):
            await one.replication.write(UNIT, [(b"k%d" % number, b"v")])
        await one.kill()
        rot(one, UNIT)
        for _ in range(2):
            one.disk.fail_next(Failure.FULL)
            await cluster.restart("n1")
            assert one.disk.size_bytes(LOG) > 0
            with pytest.raises(UnitDamaged):
                await read(one, UNIT, b"k1")
            await one.kill()
        await cluster.restart("n1")
        assert one.disk.size_bytes(LOG) == 0
        assert [damaged.unit for damaged in one.replication.status()["damaged"]] == [UNIT]


async def test_a_hole_that_nobody_can_name_makes_every_unit_suspect_and_new_ones_are_born_whole(
    autojump_clock: MockClock,
) -> None:
    """Also units that the log lost with all their records: they are not taken for new and empty."""
    async with open_data_cluster(["n1"]) as cluster:
        await settled(cluster)
        one = cluster["n1"]
        await one.replication.write(UNIT, [(b"k", b"v")])
        await one.kill()
        one.disk.write("replication/checkpoint-00000001", b"all that is left of a checkpoint")
        one.disk.remove(LOG)
        await cluster.restart("n1")
        names = {damaged.unit for damaged in one.replication.status()["damaged"]}
        assert {UNIT, OTHER} <= names
        with pytest.raises(UnitDamaged):
            await read(one, OTHER, b"k")
        await one.kill()
        await cluster.restart("n1")
        assert {damaged.unit for damaged in one.replication.status()["damaged"]} == names

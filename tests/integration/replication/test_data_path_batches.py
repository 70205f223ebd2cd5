"""Writes of many units in one turn: one note for each replica, and one that waits."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from trio.testing import MockClock

from balancer.placement import cache_unit
from frys_node.base.errors import NoReplica, UsageError
from frys_node.replication.messages import ITEMS_BYTES_MAX, MESSAGES, VALUE_BYTES_MAX, Batch, Write
from frys_node.testing.data_cluster import open_data_cluster

UNITS = [cache_unit(number) for number in range(4)]


async def test_a_write_of_many_units_takes_one_note_for_each_replica_and_each_answer(
    autojump_clock: MockClock,
) -> None:
    """Four units on three nodes: two notes out, two back, where there were eight each way."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        await cluster.settle()
        outboxes = {name: cluster[name].replication._outbox for name in ("n1", "n2", "n3")}
        before = {name: (box.notes_count, box.messages_count) for name, box in outboxes.items()}
        versions = await cluster["n1"].replication.write_units({unit: [(b"k", b"v")] for unit in UNITS})
        assert set(versions) == set(UNITS)
        grown = {
            name: (box.notes_count - before[name][0], box.messages_count - before[name][1])
            for name, box in outboxes.items()
        }
        assert grown["n1"] == (2, 8)
        assert grown["n2"][0] == 1
        for unit in UNITS:
            (entry,) = await cluster["n2"].replication.read(unit, [b"k"])
            assert entry is not None
            assert entry.version == versions[unit]


async def test_messages_of_one_turn_are_cut_to_what_a_frame_takes(autojump_clock: MockClock) -> None:
    """Values of 300 KB to four units do not fit one note: each goes in one of its own, none is lost."""
    async with open_data_cluster(["n1", "n2"]) as cluster:
        await cluster.settle()
        value = b"x" * 300_000
        await cluster["n1"].replication.write_units({unit: [(b"k", value)] for unit in UNITS})
        assert all(store[b"k"].value == value for unit in UNITS for store in cluster.stores(unit).values())
        assert 2 * len(value) > ITEMS_BYTES_MAX


async def test_one_unit_that_fails_is_told_after_all_were_answered(autojump_clock: MockClock) -> None:
    """With a member gone, quorum writes of two fail together and the error says how many answered."""
    async with open_data_cluster(["n1", "n2"]) as cluster:
        await cluster.settle()
        await cluster["n2"].kill()
        with pytest.raises(NoReplica, match="1 of 2 replicas"):
            await cluster["n1"].replication.write_units({unit: [(b"k", b"v")] for unit in UNITS})
        with pytest.raises(UsageError):
            await cluster["n1"].replication.write_units({UNITS[0]: [(b"k", b"x" * VALUE_BYTES_MAX)]})


async def test_junk_inside_a_batch_is_dropped_and_counted(autojump_clock: MockClock) -> None:
    """A batch within a batch is ignored, and one part that cannot be read drops the note."""
    async with open_data_cluster(["n1"]) as cluster:
        await cluster.settle()
        node = cluster["n1"].replication
        assert node.replica.epoch is not None
        version = (await node.write_units({UNITS[0]: [(b"k", b"v")]}))[UNITS[0]]
        write = MESSAGES.encode(Write(node.replica.epoch, UNITS[0], 1, 1, replace(version, counter=9), [(b"j", b"v")]))
        node._inbox.take(node.node, MESSAGES.encode(Batch([write, b"junk"])))
        node._inbox.take(node.node, MESSAGES.encode(Batch([MESSAGES.encode(Batch([write]))])))
        assert node._dropped.values[("malformed",)] == 1
        assert await node.read(UNITS[0], [b"j"]) == [None]

"""Sessions and lost logs through the drivers, on loopback calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from trio.testing import MockClock

from balancer.placement import cache_unit
from frys_node.base.types import Consistency, NodeId
from frys_node.kernel.services.sessions import SESSION, Session
from frys_node.replication.config import ReplicationConfig
from frys_node.replication.errors import ClockDrift
from frys_node.replication.log import DIRECTORY
from frys_node.testing.data_cluster import open_data_cluster

UNIT = cache_unit(0)
NAMES = ("n1", "n2", "n3")


@contextmanager
def session_of(session: Session) -> Iterator[None]:
    """Work within a session."""
    before = SESSION.set(session)
    try:
        yield
    finally:
        SESSION.reset(before)


async def test_a_client_reads_its_own_write_at_one_through_a_node_that_missed_it(autojump_clock: MockClock) -> None:
    """n3 did not get the write: its own store is not good enough for the session, and is for everybody else."""
    async with open_data_cluster(NAMES) as cluster:
        await cluster.settle()
        await cluster["n1"].replication.write(UNIT, [(b"k", b"old")], Consistency.ALL)
        session = Session()
        cluster.network.partition(["n3"], ["n1", "n2"])
        with session_of(session):
            await cluster["n1"].replication.write(UNIT, [(b"k", b"new")])
        assert set(session.places(UNIT) or ()) == {NodeId("n1"), NodeId("n2")}
        for node in cluster.nodes.values():
            node.replication.coordinator.hints.keep(lambda _unit, _node: False)
        cluster.network.heal()
        (entry,) = await cluster["n3"].replication.read(UNIT, [b"k"])
        assert entry is not None
        assert entry.value == b"old"
        with session_of(session):
            (entry,) = await cluster["n3"].replication.read(UNIT, [b"k"])
        assert entry is not None
        assert entry.value == b"new"
        assert len(session.places(UNIT) or ()) == 1


async def test_a_node_whose_log_was_removed_is_filled_again_and_says_so(autojump_clock: MockClock) -> None:
    """It comes back incomplete, asks the issuer for another record, and holds every key afterwards (rule 14)."""
    async with open_data_cluster(NAMES) as cluster:
        await cluster.settle()
        for number in range(20):
            await cluster["n1"].replication.write(UNIT, [(b"k%d" % number, b"v")])
        seq = cluster["n1"].balancer.epoch.seq
        await cluster["n3"].kill()
        cluster["n3"].disk.remove(DIRECTORY)
        await cluster.restart("n3")
        assert cluster["n3"].replication.local(UNIT) is None
        with trio.fail_after(60):
            while cluster["n3"].replication.local(UNIT) is None:  # noqa: ASYNC110
                await trio.sleep(0.1)
        assert cluster["n3"].balancer.epoch.seq > seq
        assert len(cluster.stores(UNIT)[NodeId("n3")]) == 20
        await cluster["n3"].kill()
        await cluster.restart("n3")
        assert cluster["n3"].replication.replica.local(UNIT) is not None


async def test_a_node_whose_clock_is_ahead_is_told_to_set_it_right_and_still_reads(autojump_clock: MockClock) -> None:
    """The error names the other nodes and the fix; what the others write through their own clocks is served."""
    async with open_data_cluster(NAMES) as cluster:
        await cluster.settle()
        await cluster["n1"].replication.write(UNIT, [(b"k", b"v")], Consistency.ALL)
        cluster["n1"].clock.step(61.0)
        with pytest.raises(ClockDrift, match="n2") as caught:
            await cluster["n1"].replication.write(UNIT, [(b"k", b"w")])
        assert "NTP" in caught.value.hint
        (entry,) = await cluster["n1"].replication.read(UNIT, [b"k"], Consistency.QUORUM)
        assert entry is not None
        assert cluster["n2"].replication.reports.view()["writes_refused"] == {ClockDrift.code: 1}
        cluster["n1"].clock.step(-61.0)
        await cluster["n1"].replication.write(UNIT, [(b"k", b"x")])


async def test_the_status_of_a_node_says_what_one_death_among_two_replicas_stops(autojump_clock: MockClock) -> None:
    """Before it happens, and, with the name of who is down, when it has."""
    async with open_data_cluster(("n1", "n2")) as cluster:
        await cluster.settle()
        (line,) = cluster["n1"].replication.status()["quorums"]
        assert "A quorum of two is two: one death stops" in line
        await cluster["n2"].kill()
        (line,) = cluster["n1"].replication.status()["quorums"]
        assert "1 of 2 replicas up, and a quorum is 2: " in line
        assert "n2" in line
        await cluster["n1"].replication.write(UNIT, [(b"k", b"v")], Consistency.ONE)


@pytest.mark.parametrize("place", [0, 2])
async def test_tombstones_that_wait_for_a_node_name_it_and_go_once_it_is_back(
    autojump_clock: MockClock, place: int
) -> None:
    """Thirty seconds after the delete (`gc_min_age_s`) everything is ready but one member (rule 19).

    The first member of the set that is up names it, also if it is the first one of all that is down.
    """
    async with open_data_cluster(NAMES, settings=ReplicationConfig(gc_min_age_s=30.0)) as cluster:
        await cluster.settle()
        await cluster["n1"].replication.write(UNIT, [(b"k", None)], Consistency.ALL)
        members = cluster["n1"].balancer.sets(UNIT).current
        gone = members[place]
        teller = members[0] if place else members[1]
        await cluster[gone].kill()
        await trio.sleep(70)
        waits = {name: cluster[name].replication.reports.purge_waits_for() for name in members if name != gone}
        assert [name for name, lines in waits.items() if lines] == [teller]
        (line,) = waits[teller]
        assert line.startswith(f"tombstones of {UNIT} wait for {gone} since ")
        assert "does not answer" in line
        assert cluster[teller].replication.status()["tombstones_wait_for"] == [line]
        told = cluster[teller].replication.reports.purge_wait(gone)
        assert told is not None
        assert told["first"] == [UNIT]
        assert all(b"k" in store for store in cluster.stores(UNIT).values())
        await cluster.restart(gone)
        await trio.sleep(70)
        assert [dict(store) for store in cluster.stores(UNIT).values()] == [{}, {}, {}]
        assert all(cluster[name].replication.reports.purge_waits_for() == [] for name in NAMES)

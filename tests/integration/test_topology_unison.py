"""A record comes into force on all members at once, however unlike their disks, and late where a word is lost."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
from trio.testing import MockClock

from balancer.driver import NOTE
from balancer.topology_messages import TOPOLOGY_MESSAGES, PromiseAsk, RecordDigest, RecordGo, RecordPush
from balancer.unison import HOLD_S, WAIT_S
from balancer.unison_driver import SAY_S
from frys_node.base.types import NodeId, Term
from frys_node.kernel.services.topology import Collection
from frys_node.testing.data_cluster import DataCluster, open_data_cluster
from frys_node.testing.executor import InlineExecutor

POINTS = Collection(name="points", id="p1", dimension=4, distance="Dot")
NAMES = ("n1", "n2", "n3")
DELAY_S = 0.001
"""Of every note in these clusters."""
WRITES_S = {"n1": 0.005, "n2": 0.03, "n3": 0.08}
"""How long each takes to write a record and to place its units."""


@asynccontextmanager
async def settled_cluster() -> AsyncIterator[DataCluster]:
    """Three nodes that have joined."""
    async with open_data_cluster(NAMES, delay_s=DELAY_S) as cluster:
        with trio.fail_after(120):
            await cluster.settle()
        yield cluster


@contextmanager
def watched(cluster: DataCluster) -> Iterator[dict[str, float]]:
    """Give every node its pace, and note when each adopts a record; seconds from now."""
    found: dict[str, float] = {}
    begun_s = trio.current_time()
    for name in cluster.nodes:
        node = cluster[name]
        node.balancer._executor = InlineExecutor(WRITES_S[name])

        def adopted(_placement: object, name: str = name) -> None:
            found.setdefault(name, trio.current_time() - begun_s)

        node.balancer.attach(adopted, lambda _epoch: None)
    found.clear()
    yield found


async def all_have(cluster: DataCluster, found: dict[str, float]) -> None:
    """Wait until every node has adopted something."""
    with trio.fail_after(30):
        while len(found) < len(cluster.nodes):  # noqa: ASYNC110
            await trio.sleep(DELAY_S)


def lose(cluster: DataCluster, kind: type, monkeypatch: pytest.MonkeyPatch, *targets: str) -> None:
    """Lose every topology message of a kind that the issuer sends to these nodes."""
    send = cluster.network.send_note

    def lossy(source: NodeId, target: NodeId, name: str, payload: bytes) -> bool:
        if (
            source == "n1"
            and target in targets
            and name == NOTE
            and isinstance(TOPOLOGY_MESSAGES.decode(payload), kind)
        ):
            return True
        return send(source, target, name, payload)

    monkeypatch.setattr(cluster.network, "send_note", lossy)


async def test_members_adopt_a_record_at_once_though_one_takes_sixteen_times_as_long_to_write_it(
    autojump_clock: MockClock,
) -> None:
    """The quick ones wait for the slow one: between the first and the last lies what one message takes."""
    async with settled_cluster() as cluster:
        with watched(cluster) as found:
            await cluster["n2"].balancer.create_collection(POINTS)
            await all_have(cluster, found)
        assert max(found.values()) - min(found.values()) <= max(SAY_S, DELAY_S) + 1e-9
        # The register's own write, the way there, the slowest write, and the way back.
        assert min(found.values()) >= WRITES_S["n3"]
        assert max(found.values()) <= WRITES_S["n1"] + WRITES_S["n3"] + 6 * DELAY_S + SAY_S


async def test_a_member_that_is_never_ready_holds_the_others_up_for_a_bounded_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It runs and does not answer: the others adopt together without it, and it follows when it can."""
    async with settled_cluster() as cluster:
        monkeypatch.setitem(WRITES_S, "n3", 3.0)
        with watched(cluster) as found:
            await cluster["n2"].balancer.create_collection(POINTS)
            await all_have(cluster, found)
        assert abs(found["n1"] - found["n2"]) <= max(SAY_S, DELAY_S) + 1e-9
        assert found["n1"] <= HOLD_S + 2 * WRITES_S["n1"] + 4 * DELAY_S + SAY_S
        assert found["n3"] >= 3.0


async def test_a_member_whose_word_was_lost_adopts_when_another_shows_that_it_has(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever adopts sends the record to all; that is word enough."""
    async with settled_cluster() as cluster:
        lose(cluster, RecordGo, monkeypatch, "n3")
        with watched(cluster) as found:
            await cluster["n2"].balancer.create_collection(POINTS)
            await all_have(cluster, found)
        assert found["n3"] - found["n2"] <= 2 * DELAY_S


async def test_members_of_an_issuer_that_falls_silent_wait_for_a_bounded_time(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has sent the record and says nothing more: they adopt it by themselves."""
    async with settled_cluster() as cluster:
        monkeypatch.setitem(WRITES_S, "n1", 5.0)
        with watched(cluster) as found:
            lose(cluster, RecordGo, monkeypatch, "n2", "n3")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster["n2"].balancer.create_collection, POINTS)
                await all_have(cluster, found)
                nursery.cancel_scope.cancel()
        assert found["n2"] <= WRITES_S["n1"] + WRITES_S["n2"] + WAIT_S + 4 * DELAY_S
        assert found["n1"] > found["n2"]


async def test_a_record_that_was_not_sent_ahead_is_adopted_without_waiting(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushes were lost until the issuer had adopted it: a member asks once, and is told to go on."""
    async with settled_cluster() as cluster:
        lose(cluster, RecordPush, monkeypatch, "n2", "n3")
        with watched(cluster) as found:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster["n1"].balancer.create_collection, POINTS)
                with trio.fail_after(10):
                    while "n1" not in found:  # noqa: ASYNC110
                        await trio.sleep(DELAY_S)
                monkeypatch.undo()
                begun_s = found["n1"]
                cluster["n2"].balancer.want(NodeId("n1"))
                await all_have(cluster, found)
        assert found["n2"] - begun_s <= WRITES_S["n2"] + 6 * DELAY_S


async def test_a_promise_does_not_wait_for_others_to_be_ready(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered after every record before it (rule 21): what comes behind a record that waits ends the wait."""
    async with settled_cluster() as cluster:
        lose(cluster, RecordGo, monkeypatch, "n2", "n3")
        lose(cluster, RecordDigest, monkeypatch, "n2", "n3")
        with watched(cluster) as found:
            monkeypatch.setitem(WRITES_S, "n1", 5.0)
            cluster["n1"].balancer._executor = InlineExecutor(WRITES_S["n1"])
            async with trio.open_nursery() as nursery:
                nursery.start_soon(cluster["n2"].balancer.create_collection, POINTS)
                # The register's write and the members' own: both are ready, and wait for the issuer.
                await trio.sleep(5.0 + WRITES_S["n3"] + 10 * DELAY_S)
                assert not found
                ask = PromiseAsk(Term(2, NodeId("n3")))
                cluster.network.node("n3").note(NodeId("n2"), NOTE, TOPOLOGY_MESSAGES.encode(ask))
                await trio.sleep(WRITES_S["n2"] + 10 * DELAY_S)
                assert set(found) >= {"n2"}
                assert cluster["n2"].balancer.machine.promised == Term(2, NodeId("n3"))
                nursery.cancel_scope.cancel()

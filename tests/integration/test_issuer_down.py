"""What a cluster says while the node that changes its topology record is down."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from frys_node.base.errors import IssuerUnreachable
from frys_node.kernel.services.topology import Collection
from frys_node.testing.data_cluster import DataCluster, open_data_cluster


async def test_a_change_names_the_issuer_that_it_waits_for(autojump_clock: MockClock) -> None:
    """Create and delete are refused with the issuer's name, and the ring says that it does not answer."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        with trio.fail_after(60):
            await cluster.settle()
        two = cluster["n2"].balancer
        assert (await two.describe()).issuer_answers
        await cluster["n1"].kill()
        with pytest.raises(IssuerUnreachable, match="the issuer n1 does not answer"):
            await two.create_collection(Collection(name="c", id="1", dimension=2, distance="Dot"))
        with pytest.raises(IssuerUnreachable, match="the issuer n1 does not answer"):
            await two.delete_collection("c")
        view = await two.describe()
        assert (view.issuer, view.issuer_answers, view.phase) == ("n1", False, "stable")


async def test_a_leave_says_what_it_waits_for_and_goes_on_when_the_issuer_is_back(autojump_clock: MockClock) -> None:
    """Its stage is in words: the issuer that does not answer first, then the move."""
    async with open_data_cluster(["n1", "n2", "n3"]) as cluster:
        with trio.fail_after(60):
            await cluster.settle()
        await cluster["n1"].kill()
        stages: list[str] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cluster["n3"].balancer.leave)
            nursery.start_soon(_watch, cluster, stages, nursery.cancel_scope)
            await trio.sleep(5)
            assert stages[-1] == "waiting: the issuer n1 does not answer"
            await cluster.restart("n1")
            with trio.fail_after(60):
                await cluster.settle(["n1", "n2"])
        assert "moving units to other nodes" in stages


async def _watch(cluster: DataCluster, stages: list[str], scope: trio.CancelScope) -> None:
    """Note each stage until the leaver is off the ring."""
    balancer = cluster["n3"].balancer
    while balancer.node in balancer.placement.record.members():
        if balancer.seat.stage not in stages[-1:]:
            stages.append(balancer.seat.stage)
        with trio.move_on_after(0.01):
            await balancer.changed()
    scope.cancel()

"""A join while one of the old members lags by more than a pass brings within the patience of `joint`."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock

from balancer.placement import cache_unit
from frys_node.base.types import Consistency, NodeId
from frys_node.replication import pull
from frys_node.replication.hints import HintStore
from frys_node.replication.puller import Puller
from frys_node.testing.data_cluster import DataCluster, open_data_cluster

UNIT = cache_unit(1)
KEYS = [f"k{number:04}".encode() for number in range(2_000)]


async def settled(cluster: DataCluster) -> None:
    """Wait until every join is through."""
    with trio.fail_after(120):
        await cluster.settle()


async def test_a_pass_over_a_member_that_lags_may_take_longer_than_joint_waits_without_progress(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newcomer's pass asks a member all of whose leaves differ, page by page for 12 s: the step is not given up."""
    monkeypatch.setattr(pull, "PAGE_KEYS_MAX", 30)
    async with open_data_cluster(["n1", "n2", "n3"], delay_s=0.1) as cluster:
        await settled(cluster)
        write = cluster["n1"].replication.write
        await write(UNIT, [(key, b"old") for key in KEYS], consistency=Consistency.ALL)
        # Nothing brings the third one up to date: no hint, no repair, no comparison.
        monkeypatch.setattr(HintStore, "add", lambda *_arguments: None)
        monkeypatch.setattr(Puller, "sync", lambda *_arguments: [])
        cluster.network.partition(["n3"], ["n1", "n2"])
        await write(UNIT, [(key, b"new") for key in KEYS[:1_500]])
        cluster.network.heal()
        steps = cluster["n1"].balancer.machine.steps
        await cluster.add("n4")
        await settled(cluster)
        assert steps.abort_count == 0
        assert NodeId("n4") in cluster["n1"].balancer.sets(UNIT).current

"""A join while one of the old members lags by more than a pass brings within the patience of `joint`."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from trio.testing import MockClock

from balancer.placement import cache_unit
from frys_node.base.types import Consistency, NodeId
from frys_node.replication import pull
from frys_node.replication.hints import HintStore
from frys_node.replication.messages import LeafAsk
from frys_node.replication.puller import Puller
from frys_node.replication.unit import HeldUnit
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
    """A newcomer's pass asks a member all of whose leaves differ, page by page for 13 s: the step is not given up.

    The members that stay are done at once, so that what the newcomer says is the only progress. Before, it was copied
    more than a pass brings: only what comes under this record counts.
    """
    ask = pull.PullSource.page

    def small_for_newcomers(self: pull.PullSource, held: HeldUnit, taker: NodeId, wanted: LeafAsk) -> Any:
        monkeypatch.setattr(pull, "PAGE_KEYS_MAX", 30 if taker == "n4" else 4_096)
        return ask(self, held, taker, wanted)

    monkeypatch.setattr(pull.PullSource, "page", small_for_newcomers)
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

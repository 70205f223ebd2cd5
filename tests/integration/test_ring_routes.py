"""The ring's routes over a running cluster in one process: what is held, what a plan says, what then happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import trio
from trio.testing import MockClock

from balancer.placement import cache_unit
from frys_node.base.types import NodeId
from frys_node.ring_routes import RingRoutes
from frys_node.testing.data_cluster import ClusterMembers, DataCluster, open_data_cluster
from frys_node.testing.executor import InlineExecutor
from frys_node.testing.services import FakeHttp

VALUE = bytes(1_000)


def routes(cluster: DataCluster, name: str) -> FakeHttp:
    """Return the route table of one node."""
    node = cluster[name]
    http = FakeHttp()
    assert node.snapshots is not None
    RingRoutes(
        balancer=node.balancer,
        snapshots=node.snapshots,
        members=ClusterMembers(cluster, NodeId(name)),
        executor=InlineExecutor(),
    ).register(http)
    return http


async def ask(http: FakeHttp, method: str, target: str, body: Any = b"") -> Mapping[str, Any]:
    """Return the body of an answer, with its status."""
    response = await http.request(method, target, body)
    return {"status": response.status, **json.loads(response.body)}


async def test_a_plan_says_what_the_join_then_moves(autojump_clock: MockClock) -> None:
    """Copies and bytes of a plan are those that the newcomer holds when it has joined; planning changes nothing."""
    async with open_data_cluster(["n1", "n2", "n3"], with_snapshots=True, partitions=16) as cluster:
        with trio.fail_after(120):
            await cluster.settle()
        for index in range(16):
            await cluster["n1"].replication.write(cache_unit(index), [(b"k", VALUE)])
        http, epoch = routes(cluster, "n2"), cluster["n2"].balancer.epoch
        before = await ask(http, "GET", "/v1/ring/show")
        assert sum(member["units"] for member in before["members"]) == 16 * 3 + 16
        assert all(16 * 1_000 < member["bytes"] < 16 * 1_100 for member in before["members"])
        planned = await ask(http, "POST", "/v1/ring/plan", {"add": [{"node": "n4"}]})
        assert planned["status"] == 200
        assert planned["silent"] == []
        assert cluster["n2"].balancer.epoch == epoch
        new = next(node for node in planned["nodes"] if node["name"] == "n4")
        assert new["copies"] * 1_000 > new["bytes"] > 0
        await cluster.add("n4")
        with trio.fail_after(120):
            await cluster.settle()
        after = await ask(http, "GET", "/v1/ring/show")
        assert {member["name"] for member in after["members"]} == {"n1", "n2", "n3", "n4"}
        assert set(after["sectors"]) == {0, 1, 2, 3}
        joined = next(member for member in after["members"] if member["name"] == "n4")
        # An id made of the name stood for the newcomer's: which units it takes differs, hardly how many.
        assert abs(joined["units"] - new["units_after"]) <= 4
        moved = await ask(http, "GET", "/v1/moves?cluster")
        assert {move["target_name"] for move in moved["moves"]} >= {"n4"}
        assert {move["state"] for move in moved["moves"]} == {"installed"}
        assert moved["silent"] == []


async def test_a_node_that_is_down_is_named_and_what_cannot_be_planned_is_refused(autojump_clock: MockClock) -> None:
    """Bytes of a dead node are unknown, not zero; wrong names, empty plans and the last node's leave are errors."""
    async with open_data_cluster(["n1", "n2"], with_snapshots=True) as cluster:
        with trio.fail_after(120):
            await cluster.settle()
        await cluster["n2"].kill()
        http = routes(cluster, "n1")
        shown = await ask(http, "GET", "/v1/ring/show")
        assert [member["bytes"] is None for member in shown["members"]] == [False, True]
        assert shown["members"][1]["error"]
        planned = await ask(http, "POST", "/v1/ring/plan", {"remove": ["n2"]})
        assert [each["name"] for each in planned["silent"]] == ["n2"]
        assert (planned["steps_ready"], [each["name"] for each in planned["waits_for"]]) == (0, ["n2"])
        for body, status in (
            ({}, 400),
            ({"remove": ["n9"]}, 404),
            ({"remove": ["n1", "n2"]}, 400),
            ({"add": [{"node": "n2"}]}, 409),
            ({"add": [{"node": "n3", "weight": 0}]}, 400),
            ({"add": [{"node": "n3", "weight": 1e308}]}, 400),
            ({"add": [{"node": "n3"}], "remove": ["n3"]}, 400),
            ({"replication_factor": 2, "collection": "none"}, 404),
            ({"add": [{"node": "n3"}], "collection": "none"}, 400),
            ({"replication_factor": 0}, 400),
            ({"add": [{"node": f"x{n}"} for n in range(33)]}, 400),
        ):
            assert (await ask(http, "POST", "/v1/ring/plan", body))["status"] == status, body
        added = await ask(http, "POST", "/v1/ring/plan", {"add": [{"node": "new"}, {"node": "more"}]})
        assert [(step["change"], step["what"]) for step in added["steps"]] == [("add", "more, new")]
        assert next(node for node in added["nodes"] if node["name"] == "n2")["copies"] == 0

"""The client against real nodes: straight to owners, while owners die and the ring turns."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import trio

from frys_node.base.errors import FrysError, NodeUnreachable
from frys_node.base.units import cache_unit_of
from frys_node.client import Client, Point, RunFailed, SyncClient
from frys_node.demo.cluster import NodeProcess

pytestmark = pytest.mark.slow

LIMIT_S = 60.0

WORKFLOWS = """
from frys_node import step, workflow

@step(timeout=30)
def double(number):
    return 2 * number

@workflow(name="double", version="1")
async def double_it(ctx, number):
    return await double(number)

@workflow(name="ask", version="1")
async def ask(ctx, question):
    answer = await ctx.signal("answer")
    return {"question": question, "answer": answer}
"""


def wait(what: str, probe: Callable[[], Any]) -> Any:
    """Poll until the probe is true; fail naming what was waited for."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FrysError):
            value = probe()
            if value:
                return value
        time.sleep(0.05)
    raise AssertionError(f"waited {LIMIT_S:g} s for {what}")


class Nodes:
    """Three nodes, and a fourth that may join."""

    def __init__(self, home: Path) -> None:
        module = home / "flows.py"
        module.write_text(WORKFLOWS)
        self.nodes = [NodeProcess(f"n{number}", home / f"n{number}", workflows=module) for number in range(4)]
        self.live = self.nodes[:3]
        self.nodes[0].start()
        self.ready(self.nodes[0])
        for node in self.live[1:]:
            node.start([self.nodes[0].bind])
        for node in self.live[1:]:
            self.ready(node)
        wait("a stable ring of three", lambda: self.is_stable(3))

    def ready(self, node: NodeProcess) -> None:
        """Wait until a node is ready, or fail with its log."""

        def probe() -> bool:
            assert node.is_running, node.log_tail(40)
            return node.is_ready

        wait(f"{node.name} ready", probe)

    def is_stable(self, count: int) -> bool:
        """True when each live node has adopted a stable record of so many members."""
        rings = [node.call("GET", "/v1/ring") for node in self.nodes if node.is_running]
        return all(ring["phase"] == "stable" and len(ring["members"]) == count for ring in rings)

    def urls(self) -> list[str]:
        """Where the first three nodes serve HTTP."""
        return [f"http://127.0.0.1:{node.http_port}" for node in self.nodes[:3]]


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One cluster for the module."""
    made: list[Nodes] = []
    try:
        made.append(Nodes(tmp_path_factory.mktemp("client")))
        yield made[0]
    finally:
        for cluster in made:
            for node in cluster.nodes:
                node.stop()


def requests_of(node: NodeProcess) -> float:
    """How many requests a node has answered."""
    text = node.call("GET", "/metrics")
    lines = [line for line in text.decode().splitlines() if line.startswith("frys_network_requests_total{")]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_every_request_goes_to_the_first_owner_of_its_key(nodes: Nodes) -> None:
    """The placement is that of the ring, and of 90 single requests each node answers those of its own units."""
    url = nodes.urls()[0]
    with SyncClient(url) as client:
        space = client.cache()
        space.put("warm", b"")
        names = {node.name: node for node in nodes.live}
        before = {name: requests_of(node) for name, node in names.items()}
        owners = []
        for number in range(90):
            key = f"straight-{number}"
            space.put(key, b"%d" % number)
            unit = cache_unit_of(key.encode(), 256)
            owners.append(nodes.live[1].call("GET", f"/v1/ring?unit={unit}")["owner"]["current"][0])
    after = {name: requests_of(node) for name, node in names.items()}
    for name in names:
        # The look at the metrics, and at n1 the questions about owners, are requests too.
        asked = after[name] - before[name] - 1 - (90 if name == "n1" else 0)
        assert asked == owners.count(name)
    assert set(owners) == set(names)


def test_all_services_through_the_blocking_client(nodes: Nodes) -> None:
    """Cache, vectors, workflows and members, in the words of docs/client.md."""
    with SyncClient(nodes.urls()) as client:
        space = client.cache("shop")
        version = space.put("a", b"1", ttl="1h")
        found = space.get("a", consistency="quorum")
        assert found is not None
        assert (found.value, found.version, found.ttl_s is not None) == (b"1", version, True)
        second = space.cas("a", b"2", version=version)
        with pytest.raises(FrysError) as conflict:
            space.cas("a", b"3", version=version)
        assert conflict.value.code == "cache.conflict"
        space.delete("a", version=second)
        assert space.get("a") is None
        assert [space.incr("n", 2), space.incr("n", -5)] == [2, -3]
        first, other = space.lookup("hot"), space.lookup("hot")
        assert (first.entry, first.is_leader, other.is_leader) == (None, True, False)
        items = {f"{number}": b"%d" % number for number in range(1_500)}
        assert list(space.mset(items)) == list(items)
        keys = [f"{number}" for number in range(1_600)]
        values = [entry and entry.value for entry in space.mget(keys)]
        assert values == [items.get(key) for key in keys]
        space.mdelete(keys)
        assert space.mget(keys, consistency="quorum") == [None] * 1_600

        notes = client.collection("notes")
        notes.create(4, distance="Cosine")
        points = [Point(number, [1.0, number / 100, 0.0, 0.0], {"n": number}) for number in range(1_200)]
        assert notes.upsert(points) == notes.count(consistency="quorum") == 1_200
        best = notes.query([1.0, 5.0, 0.0, 0.0], limit=3, consistency="quorum")
        assert best[0].id == 500
        assert best[0].payload == {"n": 500}
        page = notes.scroll(limit=2, offset=10)
        assert ([hit.id for hit in page.points], page.next_offset) == ([10, 11], 12)
        both = notes.query_many([[1.0, 0.0, 0.0, 0.0], [1.0, 2.0, 0.0, 0.0]], limit=1)
        assert [hits[0].id for hits in both] == [0, 200]
        notes.delete([1, 2])
        notes.delete(filter={"must": [{"key": "n", "range": {"gte": 1_000}}]})
        assert [hit and hit.id for hit in notes.get([3, 2, 1_100])] == [3, None, None]
        assert notes.count(consistency="quorum") == 998
        assert notes.exists()
        assert notes.drop()

        run = client.workflows.start("double", 21)
        assert client.workflows.result(run.id, timeout_s=30) == 42
        asked = client.workflows.start("default/ask", "why", id="the-question")
        assert client.workflows.start("ask", "why", id="the-question").id == asked.id
        client.workflows.signal(asked.id, "answer", 42)
        assert client.workflows.wait(asked.id, timeout_s=30).output == {"question": "why", "answer": 42}
        stuck = client.workflows.start("ask", "never")
        client.workflows.cancel(stuck.id, reason="enough")
        with pytest.raises(RunFailed):
            client.workflows.result(stuck.id, timeout_s=30)
        assert "the-question" in {one.id for one in client.workflows.list(workflow="ask")}
        assert {member["name"] for member in client.members()} >= {"n0", "n1", "n2"}


class Stream:
    """Stores batches of points and of cache entries in a thread and reads them back; keeps what failed.

    Points are durable, so each has to be there. A cache entry may vanish with the memory of a replica, and what is
    found has to be right.
    """

    def __init__(self, urls: list[str]) -> None:
        self._urls = urls
        self.points: dict[int, dict[str, Any]] = {}
        self.failures: list[BaseException] = []
        self.batches = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with SyncClient(self._urls, timeout_s=20.0) as client:
            while not self._end.is_set():
                try:
                    self._batch(client)
                except (FrysError, AssertionError) as error:
                    self.failures.append(error)
                self.batches += 1

    def _batch(self, client: SyncClient) -> None:
        start = self.batches * 20
        points = [Point(start + n, [1.0, float(n)], {"n": start + n}) for n in range(20)]
        stream = client.collection("stream")
        assert stream.upsert(points) == 20
        self.points |= {int(point.id): dict(point.payload or {}) for point in points}
        asked = list(self.points)[-30:]
        assert [hit and hit.payload for hit in stream.get(asked, consistency="quorum")] == [
            self.points[id_] for id_ in asked
        ]
        space = client.cache("stream")
        items = {f"{self.batches}-{n}": b"%d" % n for n in range(40)}
        assert list(space.mset(items)) == list(items)
        found = space.mget(list(items), consistency="quorum")
        assert all(entry is None or entry.value == items[entry.key] for entry in found)

    def __enter__(self) -> Self:
        self._thread.start()
        wait("the first batches", lambda: self.batches > 3)
        return self

    def more(self, count: int = 5) -> None:
        """Wait for some more batches."""
        goal = self.batches + count
        wait("more batches", lambda: self.batches >= goal)

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()


def lost(url: str, points: dict[int, dict[str, Any]]) -> list[int]:
    """Return the points that a quorum, asked through one node, does not know as they were stored."""
    with SyncClient(url, straight=False) as client:
        found = client.collection("stream").get(list(points), consistency="quorum")
    return [id_ for id_, hit in zip(points, found, strict=True) if hit is None or hit.payload != points[id_]]


def test_batches_go_on_while_a_node_joins_and_the_ring_turns(nodes: Nodes) -> None:
    """The epoch changes three times in the middle of batches: none fails, each is whole and in order."""
    with SyncClient(nodes.urls()) as client:
        client.collection("stream").create(2)
    with Stream(nodes.urls()) as stream:
        nodes.nodes[3].start([nodes.nodes[0].bind])
        nodes.ready(nodes.nodes[3])
        wait("a stable ring of four", lambda: nodes.is_stable(4))
        stream.more()
    assert stream.failures == []

    async def check() -> None:
        async with Client(nodes.urls()) as client:
            found = await client.collection("stream").get(list(stream.points), consistency="quorum")
            assert [hit and hit.payload for hit in found] == list(stream.points.values())

    trio.run(check)


def test_batches_go_on_when_an_owner_is_killed_and_comes_back(nodes: Nodes) -> None:
    """An owner is killed amid a stream: batches succeed at other nodes, and every point that was stored is there."""
    victim = nodes.nodes[1]
    with Stream(nodes.urls()) as stream:
        victim.kill()
        stream.more()
        victim.start()
        nodes.ready(victim)
        stream.more()
    assert stream.failures == []
    assert [(url, gone) for url in nodes.urls() if (gone := lost(url, stream.points))] == []


def test_a_seed_that_is_down_is_no_obstacle_and_nobody_there_is_said(nodes: Nodes) -> None:
    """One live node in the list is enough; without any the error names them."""
    with SyncClient(["http://127.0.0.1:1", nodes.urls()[2]]) as client:
        assert client.cache().put("k", b"v")
    with SyncClient("http://127.0.0.1:1") as client, pytest.raises(NodeUnreachable, match="tried 127"):
        client.cache().get("k")

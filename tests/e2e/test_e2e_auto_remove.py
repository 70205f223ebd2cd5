"""Real processes: a node that stays dead is replaced by itself, and `snapshot moves` tells what that moved."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from frys_node.cli.moves import CLEAR_BELOW, HEADER, HOME
from frys_node.demo.cluster import NodeProcess
from tests.e2e.test_e2e_cluster import frys, wait
from tests.e2e.test_e2e_issuer import ring

pytestmark = pytest.mark.slow

SETTINGS = {
    "FRYS_CLUSTER_PARTITIONS": "8",
    "FRYS_CLUSTER_REPLICATION_FACTOR": "2",
    "FRYS_PLUGINS_BALANCER_AUTO_REMOVE_AFTER_S": "0.5",
}
POINTS = 40
SHARDS = 8
DRAWN_TWICE = 2


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    """Three nodes with a collection in two copies; the state of this user's nodes is the test's own."""
    settings = SETTINGS | {"XDG_STATE_HOME": str(tmp_path / "state")}
    made = {name: NodeProcess(name, tmp_path / name, settings=settings) for name in "abc"}
    try:
        made["a"].start()
        wait("a ready", lambda: made["a"].is_ready)
        for name in "bc":
            made[name].start([made["a"].bind])
        wait("a ring of three", lambda: ring(made["a"]) == {"a": 1.0, "b": 1.0, "c": 1.0})
        body = {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": SHARDS, "replication_factor": 2}
        made["a"].call("PUT", "/collections/c", body)
        points = [{"id": number, "vector": [1.0, number], "payload": {}} for number in range(POINTS)]
        made["a"].call("PUT", "/collections/c/points?wait=true", {"points": points})
        yield made
    finally:
        for node in made.values():
            node.stop()


def count(node: NodeProcess) -> int:
    """Return how many points a quorum knows."""
    found: int = node.call("POST", "/collections/c/points/count?consistency=quorum", {})["result"]["count"]
    return found


def test_a_node_that_stays_dead_is_replaced_by_itself_and_the_moves_are_told(nodes: dict[str, NodeProcess]) -> None:
    """After `auto_remove_after_s` it has no weight; others have its copies; back again, it takes its part as before."""
    a, c = nodes["a"], nodes["c"]
    c.kill()
    wait("c has no place on the ring", lambda: (ring(a) or {"c": 1.0}).get("c", 0.0) == 0.0)
    wait("every copy is made", lambda: a.call("GET", "/v1/ring/show")["settled"])
    assert count(a) == POINTS

    def moves(*arguments: str) -> str:
        done = frys("snapshot", "moves", *arguments, "--data-dir", str(a.data_dir), cwd=a.home)
        assert done.returncode == 0, (done, a.log_tail(30))
        return done.stdout

    everywhere = json.loads(moves("--json"))
    assert {move["state"] for move in everywhere["moves"]} == {"installed"}
    assert "vector" in {move["unit"].partition("/")[0] for move in everywhere["moves"]}
    assert [each["name"] for each in everywhere["silent"]] == []
    here = json.loads(moves("--here", "--json"))["moves"]
    assert here == [move for move in everywhere["moves"] if move["target_name"] == "a"]
    *seen, last = map(json.loads, moves("--watch", "--for", "1s", "--json").splitlines())
    assert [last["moves"], len(seen)] == [everywhere["moves"], 0]
    told = moves("--watch", "--for", "1s", "--here")
    assert told.splitlines()[0] == f"nothing under way; {len(here)} finished"
    assert told.count(HEADER[-1]) == 1
    assert_drawn_until_interrupted(a)

    c.start()
    wait("c is back on the ring", lambda: ring(a) == {"a": 1.0, "b": 1.0, "c": 1.0})
    assert count(c) == POINTS


def assert_drawn_until_interrupted(node: NodeProcess) -> None:
    """On a terminal the table is drawn in place, again and again; Ctrl-C ends it without an error."""
    ours, theirs = pty.openpty()
    line = [sys.executable, "-m", "frys_node", "snapshot", "moves", "--watch", "--data-dir", str(node.data_dir)]
    # A shell starts what it puts into the background with SIGINT ignored, and children inherit that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        environment = os.environ | {"COLUMNS": "60", "LINES": "12"}
        process = subprocess.Popen(line, cwd=node.home, stdout=theirs, env=environment)
    finally:
        signal.signal(signal.SIGINT, before)
    os.close(theirs)
    try:
        drawn = ""
        while drawn.count(CLEAR_BELOW) < DRAWN_TWICE:
            drawn += os.read(ours, 65_536).decode()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    first = drawn.split(HOME)[1]
    rows = first.replace("\x1b[K", "").split(CLEAR_BELOW)[0].splitlines()
    assert rows[0].startswith("epoch ")
    assert max(map(len, rows)) < 60

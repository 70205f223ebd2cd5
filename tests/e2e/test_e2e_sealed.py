"""A cluster of three is exported into one sealed file and comes back in a cluster of one, by the command line alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from frys_node.demo.cluster import NodeProcess
from tests.e2e.test_e2e_cluster import frys, wait
from tests.e2e.test_e2e_snapshots import WORKFLOWS

pytestmark = pytest.mark.slow

MARKER = "sealed-marker-quetzalcoatl"
POINTS = 60


def _fill(node: NodeProcess) -> None:
    node.call("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}})
    points = [
        {"id": number, "vector": [number, 1.0], "payload": {"n": f"{MARKER}-{number}"}} for number in range(POINTS)
    ]
    node.call("PUT", "/collections/c/points?wait=true", {"points": points})
    node.call("PUT", "/v1/cache/default/key", f"{MARKER}-cache".encode())
    wanted = {"workflow": {"name": "doubling"}, "input": 21, "id": "run-1", "wait": True}
    assert node.call("POST", "/v1/runs", wanted)["output"] == 42


def _is_stable(nodes: Sequence[NodeProcess]) -> bool:
    records = [node.call("GET", "/v1/ring") for node in nodes]
    return all(record["phase"] == "stable" and len(record["members"]) == len(nodes) for record in records)


def test_a_cluster_of_three_comes_back_from_one_sealed_file_in_a_cluster_of_one(tmp_path: Path) -> None:
    """Export shows no marker; a wrong key and a cut file change nothing; import and restore bring everything back."""
    flows = tmp_path / "flows.py"
    flows.write_text(WORKFLOWS)
    nodes = [NodeProcess(name, tmp_path / name, workflows=flows) for name in ("a", "b", "c")]
    new = NodeProcess("new", tmp_path / "new", workflows=flows)
    place = str(tmp_path / "place")

    def run(node: NodeProcess, *arguments: str) -> tuple[int, str]:
        done = frys(*arguments, "--data-dir", str(node.data_dir), cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr

    try:
        nodes[0].start()
        wait("the first node is ready", lambda: nodes[0].is_ready)
        for node in nodes[1:]:
            node.start([nodes[0].bind])
        for node in nodes[1:]:
            wait(f"{node.name} is ready", lambda node=node: node.is_ready)
        wait("a stable ring of three", lambda: _is_stable(nodes))
        _fill(nodes[0])
        code, text = run(nodes[1], "snapshot", "create", "full", "--cluster", "--store", place)
        assert code == 0, text
        # The second one is incremental: what it shares with the first has to be in its file all the same.
        assert run(nodes[1], "snapshot", "create", "next", "--cluster", "--store", place)[0] == 0
        for key in ("mine", "other"):
            assert frys("snapshot", "keygen", "--out", key, cwd=tmp_path).returncode == 0
        code, text = run(nodes[1], "snapshot", "export", "next", "--to", "mine.pub", "--store", place, "--json")
        assert code == 0, text
        assert MARKER.encode() in b"".join(path.read_bytes() for path in Path(place).glob("*/*"))
        sealed = (tmp_path / "next.sealed").read_bytes()
        assert (json.loads(text)["size_bytes"], MARKER.encode() in sealed) == (len(sealed), False)
        for node in nodes:
            node.stop()
        (tmp_path / "cut.sealed").write_bytes(sealed[:-1])

        new.start()
        wait("the new node is ready", lambda: new.is_ready)
        code, text = run(new, "snapshot", "import", "next.sealed", "--key", "other")
        assert (code, "security.sealed_key" in text) == (1, True), text
        code, text = run(new, "snapshot", "import", "cut.sealed", "--key", "mine")
        assert (code, "security.sealed_damaged" in text) == (1, True), text
        assert not (new.data_dir / "snapshots" / "saved" / "_chunks").exists()
        assert run(new, "snapshot", "import", "next.sealed", "--key", "mine")[0] == 0
        code, text = run(new, "snapshot", "restore", "next")
        assert (code, "made collections: c" in text) == (0, True), text
        assert new.call("GET", "/collections/c")["result"]["points_count"] == POINTS
        assert new.call("GET", "/collections/c/points/7")["result"]["payload"] == {"n": f"{MARKER}-7"}
        assert new.call("GET", "/v1/cache/default/key") == f"{MARKER}-cache".encode()
        assert new.call("GET", "/v1/runs/run-1")["output"] == 42
        for node in [*nodes, new]:
            assert "Traceback" not in (node.home / "log").read_text()
    finally:
        for node in [*nodes, new]:
            node.stop()

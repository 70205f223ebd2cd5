"""A node is killed and its directory lost; what was saved comes back in a node that is new."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from frys_node.demo.cluster import NodeProcess
from tests.e2e.test_e2e_cluster import frys, wait

pytestmark = pytest.mark.slow

WORKFLOWS = """
from frys_node import step, workflow

@step
def double(value: int) -> int:
    return value * 2

@workflow(name="doubling")
async def doubling(ctx, value: int) -> int:
    return await double(value)
"""


def test_what_was_saved_comes_back_in_an_empty_directory(tmp_path: Path) -> None:
    """Points with payloads, cache entries and finished runs, after kill -9 and the loss of the disk."""
    flows = tmp_path / "flows.py"
    flows.write_text(WORKFLOWS)
    old, new = (NodeProcess(name, tmp_path / name, workflows=flows) for name in ("old", "new"))
    place = str(tmp_path / "backup")
    try:
        old.start()
        wait("the old node is ready", lambda: old.is_ready)
        old.call("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}})
        points = [{"id": number, "vector": [number, 1.0], "payload": {"n": number}} for number in range(50)]
        old.call("PUT", "/collections/c/points?wait=true", {"points": points})
        old.call("PUT", "/v1/cache/default/key", b"kept")
        wanted = {"workflow": {"name": "doubling"}, "input": 21, "id": "run-1", "wait": True}
        assert old.call("POST", "/v1/runs", wanted)["output"] == 42
        saved = frys("snapshot", "create", "s", "--store", place, "--data-dir", str(old.data_dir), cwd=tmp_path)
        assert saved.returncode == 0, saved.stderr
        again = frys(
            "snapshot", "create", "t", "--store", place, "--data-dir", str(old.data_dir), "--json", cwd=tmp_path
        )
        assert json.loads(again.stdout)["new_bytes"] == 0
        old.kill()
        shutil.rmtree(old.data_dir)

        new.start()
        wait("the new node is ready", lambda: new.is_ready)
        restored = frys("snapshot", "restore", "s", "--store", place, "--data-dir", str(new.data_dir), cwd=tmp_path)
        assert (restored.returncode, "made collections: c" in restored.stdout) == (0, True), restored.stderr
        assert new.call("GET", "/collections/c/points/7")["result"]["payload"] == {"n": 7}
        assert new.call("GET", "/collections/c")["result"]["points_count"] == 50
        assert new.call("GET", "/v1/cache/default/key") == b"kept"
        run = new.call("GET", "/v1/runs/run-1")
        assert (run["status"], run["output"]) == ("completed", 42)
        again = frys("snapshot", "restore", "s", "--store", place, "--data-dir", str(new.data_dir), cwd=tmp_path)
        assert (again.returncode, "1 workflow partitions have all of their saved" in again.stdout) == (0, True)
        log = (new.home / "log").read_text()
        assert "Traceback" not in log
    finally:
        old.stop()
        new.stop()

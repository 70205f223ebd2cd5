"""A data directory is one node of one cluster: what a start or a join in it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from frys_node.demo.cluster import NodeProcess
from tests.e2e.test_e2e_cluster import frys, wait

pytestmark = pytest.mark.slow


def test_a_join_to_another_cluster_than_the_directorys_is_refused(tmp_path: Path) -> None:
    """Both clusters are named, also when they have one name; a seed that is down is no reason to stay away."""
    old, new = NodeProcess("old", tmp_path / "old"), NodeProcess("new", tmp_path / "new")
    try:
        old.start()
        new.start()
        wait("both are ready", lambda: old.is_ready and new.is_ready)
        old.stop()
        refused = frys("join", "--seed", new.bind, "--data-dir", str(old.data_dir), "--bind", old.bind, cwd=tmp_path)
        assert refused.returncode == 2
        assert f"is node 'old' of cluster 'frys', and {new.bind} belongs to another cluster, 'frys'" in refused.stderr
        new.stop()
        old.start([new.bind])
        wait("the old node is back", lambda: old.is_ready)
    finally:
        old.stop()
        new.stop()


def test_a_node_that_has_left_stays_away(tmp_path: Path) -> None:
    """Neither a restart nor a join in its directory brings it back; the message says what to do."""
    alpha, beta = NodeProcess("alpha", tmp_path / "a"), NodeProcess("beta", tmp_path / "b")
    try:
        alpha.start()
        wait("alpha is ready", lambda: alpha.is_ready)
        beta.start([alpha.bind])
        wait("beta is ready", lambda: beta.is_ready)
        left = frys("leave", "--data-dir", str(beta.data_dir), cwd=tmp_path)
        assert (left.returncode, "beta has left" in left.stdout) == (0, True), left.stderr
        wait("beta has stopped", lambda: not beta.is_running)
        for verb in (["start"], ["join", "--seed", alpha.bind]):
            again = frys(*verb, "--data-dir", str(beta.data_dir), "--bind", beta.bind, cwd=tmp_path)
            assert again.returncode == 1
            assert "has left cluster 'frys' for good [node.has_left]" in again.stderr
    finally:
        beta.stop()
        alpha.stop()

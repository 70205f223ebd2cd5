"""A newcomer that is killed before it has met anybody."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from frys_node.demo.cluster import NodeProcess

LIMIT_S = 60.0

pytestmark = pytest.mark.slow


def test_a_newcomer_that_was_killed_before_it_noted_anybody_finds_its_cluster(tmp_path: Path) -> None:
    """Its directory has an identity and no peers: it asks those who let it in."""
    one, two = NodeProcess("n1", tmp_path / "n1"), NodeProcess("n2", tmp_path / "n2")
    try:
        one.start()
        until_ready(one)
        token = ["--token-file", str(one.data_dir / "join-token")]
        joining = subprocess.Popen([*two.command([one.bind]), *token], cwd=two.home, stdout=subprocess.DEVNULL)
        two.process = joining  # type: ignore[assignment]
        deadline = time.monotonic() + LIMIT_S
        while not (two.data_dir / "identity" / "identity.json").exists() and time.monotonic() < deadline:
            time.sleep(0.005)
        two.kill()
        (two.data_dir / "peers.json").unlink(missing_ok=True)
        two.start()
        until_ready(two)
        assert two.statuses() == {"n1": "alive", "n2": "alive"}
    finally:
        two.stop()
        one.stop()


def until_ready(node: NodeProcess) -> None:
    """Wait for a node's `/readyz`."""
    deadline = time.monotonic() + LIMIT_S
    while not node.is_ready:
        assert node.is_running, node.log_tail()
        assert time.monotonic() < deadline, node.log_tail()
        time.sleep(0.1)

"""Clusters of real processes that tests take apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from frys_node.demo.cluster import NodeProcess
from tests.e2e.test_e2e_cluster import wait


@contextmanager
def open_ring(home: Path, names: Sequence[str]) -> Iterator[list[NodeProcess]]:
    """Members of one ring, the first of them the issuer; the state of this user's nodes is the test's own."""
    settings = {"FRYS_CLUSTER_PARTITIONS": "8", "XDG_STATE_HOME": str(home / "state")}
    made = [NodeProcess(name, home / name, settings=settings) for name in names]
    try:
        for node in made:
            node.start([] if node is made[0] else [made[0].bind])
            wait(f"{node.name} ready", lambda node=node: node.is_ready)
        wait("all on the ring", lambda: len(ring(made[0])) == len(made))
        yield made
    finally:
        for node in made:
            node.stop()


def ring(node: NodeProcess) -> list[str]:
    """Return the names on the ring while the record is stable."""
    body = node.call("GET", "/v1/ring")
    return [member["name"] for member in body["members"]] if body["phase"] == "stable" else []

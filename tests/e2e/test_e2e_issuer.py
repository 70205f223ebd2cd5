"""Real processes: the issuer leaves, its successor admits a node and dies, another is promoted, the dead is removed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frys_node.demo.cluster import NodeProcess
from frys_node.operations import KEYLESS_PATH
from tests.e2e.test_e2e_cluster import frys, wait
from tests.e2e.test_e2e_removal import trouble

pytestmark = pytest.mark.slow

SETTINGS = {"FRYS_CLUSTER_PARTITIONS": "8"}


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[dict[str, NodeProcess]]:
    """Four nodes, of which `d` is not started; the state of this user's nodes is the test's own."""
    settings = SETTINGS | {"XDG_STATE_HOME": str(tmp_path / "state")}
    made = {name: NodeProcess(name, tmp_path / name, settings=settings) for name in "abcd"}
    made["a"].start()
    wait("a ready", lambda: made["a"].is_ready)
    token = (made["a"].data_dir / "join-token").read_text()
    for node in made.values():
        node._settings["FRYS_TOKEN"] = token.strip()
    for name in "bc":
        made[name].start([made["a"].bind])
    wait("a ring of three", lambda: ring(made["a"]) == {"a": 1.0, "b": 1.0, "c": 1.0})
    try:
        yield made
    finally:
        for node in made.values():
            node.stop()


def ring(node: NodeProcess) -> dict[str, float] | None:
    """Return weights by name while the record is stable."""
    body = node.call("GET", "/v1/ring")
    return {member["name"]: member["weight"] for member in body["members"]} if body["phase"] == "stable" else None


def run(node: NodeProcess, *arguments: str) -> Any:
    """Run a verb against a node; returns the finished process."""
    done = frys(*arguments, "--data-dir", str(node.data_dir), cwd=node.home)
    assert done.returncode == 0, (done, node.log_tail(30))
    return done


def test_the_role_moves_by_a_leave_and_by_promotion_and_the_dead_are_replaced(
    nodes: dict[str, NodeProcess], tmp_path: Path
) -> None:
    """A token of the first issuer admits at its successor; what was written at first is read at the end."""
    nodes["a"].call("PUT", "/v1/cache/default/k", b"v")
    run(nodes["a"], "leave")
    shown = nodes["b"].call("GET", "/v1/issuer")
    assert (shown["term"], shown["can_admit"]) == (2, True)
    issuer = nodes[shown["name"]]
    (other,) = (node for name, node in nodes.items() if name in "bc" and node is not issuer)
    nodes["d"].start([issuer.bind])
    wait("d on the ring", lambda: ring(other) == {"b": 1.0, "c": 1.0, "d": 1.0})
    issuer.kill()
    wait("its death known", lambda: other.statuses().get(issuer.name) == "dead")
    promoted = run(other, "issuer", "promote").stdout
    assert promoted.startswith(f"{other.name} writes the topology record: term 3")
    assert "no node can join" in promoted
    refused = frys("node", "remove", issuer.name, "--data-dir", str(nodes["d"].data_dir), cwd=nodes["d"].home)
    assert refused.returncode == 1
    assert f"{issuer.name} may have the only key of the cluster's authority" in refused.stderr
    late = NodeProcess("e", tmp_path / "e", settings=nodes["a"]._settings)
    refused = frys(*late.command([other.bind])[3:], cwd=late.home, env=late._settings)
    assert f"the issuer, {other.bind}, does not hold the key of the cluster's authority" in refused.stderr
    run(nodes["d"], "node", "remove", issuer.name, "--accept-loss", "--keyless", "--yes")
    wait("it is off the ring", lambda: ring(nodes["d"]) == {other.name: 1.0, "d": 1.0})
    assert (other.data_dir / KEYLESS_PATH).exists(), "nobody is asked again"
    assert nodes["d"].call("GET", "/v1/cache/default/k?consistency=quorum") == b"v"
    issuer.start()
    is_told = lambda: "says that this node was removed" in trouble(issuer)  # noqa: E731
    wait("it stops, or does not begin to serve", lambda: not issuer.is_running or is_told())
    if not issuer.is_running:
        issuer.start()
    wait("it says why", is_told)
    assert f"of {other.name} says" in trouble(issuer)
    assert "move its data directory away, then join as a new node" in trouble(issuer)
    assert not issuer.is_ready
    assert ring(other) == {other.name: 1.0, "d": 1.0}


def test_the_only_key_of_the_authority_comes_back_with_the_old_issuer(nodes: dict[str, NodeProcess]) -> None:
    """It died, another was promoted without the key and does not remove it: started again it is handed the role."""
    a, b, d = (nodes[name] for name in "abd")
    a.kill()
    wait("its death known", lambda: b.statuses().get("a") == "dead")
    assert "start a member that has it" in run(b, "issuer", "promote").stdout
    a.start()
    wait("it is back, and obeys", lambda: a.is_ready and a.call("GET", "/v1/issuer")["name"] == "b")
    run(b, "issuer", "handover", "a")
    assert a.call("GET", "/v1/issuer")["can_admit"]
    d.start([b.bind])
    wait("d on the ring", lambda: set(ring(b) or {}) == {"a", "b", "c", "d"})

"""Real processes with ML-DSA-65 identities: gossip, the signed record, data, a restart, a wrong setting."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from frys_node.demo.cluster import NodeProcess
from tests.e2e.test_e2e_cluster import frys, wait

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    """Three nodes; only the first is told the kind."""
    settings = {"FRYS_CLUSTER_PARTITIONS": "8", "XDG_STATE_HOME": str(tmp_path / "state")}
    made = [NodeProcess(name, tmp_path / name, settings=settings) for name in "abc"]
    made[0]._settings["FRYS_CLUSTER_IDENTITY"] = "ml-dsa-65"
    try:
        made[0].start()
        wait("a ready", lambda: made[0].is_ready)
        for node in made[1:]:
            node.start([made[0].bind])
        wait("a ring of three", lambda: _has_ring_of(made[0], 3))
        yield made
    finally:
        for node in made:
            node.stop()


def _has_ring_of(node: NodeProcess, count: int) -> bool:
    body = node.call("GET", "/v1/ring")
    return body["phase"] == "stable" and len(body["members"]) == count


def _ca(node: NodeProcess, *arguments: str) -> Any:
    done = frys("ca", *arguments, "--json", "--data-dir", str(node.data_dir), cwd=node.home)
    assert done.returncode == 0, (done, node.log_tail(30))
    return json.loads(done.stdout)


def test_a_post_quantum_cluster_serves_and_comes_back_without_the_setting(nodes: list[NodeProcess]) -> None:
    """Members see each other, the record's signature is believed, data is read at quorum, `status` says what holds."""
    a, b, c = nodes
    a.call("PUT", "/v1/cache/default/k", b"v")
    wait("all alive everywhere", lambda: all(set(node.statuses().values()) == {"alive"} for node in nodes))
    assert c.call("GET", "/v1/cache/default/k?consistency=quorum") == b"v"
    shown = frys("status", "--data-dir", str(b.data_dir), cwd=b.home)
    assert "security: post-quantum confidentiality and authentication" in shown.stdout
    b.kill()
    refused = frys("start", "--data-dir", str(b.data_dir), "--identity", "ed25519", cwd=b.home)
    assert refused.returncode == 2
    assert "are of kind ml-dsa-65 for good, not ed25519" in refused.stderr
    assert "leave [cluster] identity" in refused.stderr
    b.start()
    wait("b back", lambda: b.is_ready and b.call("GET", "/v1/cache/default/k?consistency=quorum") == b"v")


def test_the_authority_is_followed_by_another_while_a_member_is_dead(nodes: list[NodeProcess]) -> None:
    """All live members move, requests are served, the old token is refused, and the dead one comes home by itself."""
    a, b, c = nodes
    a.call("PUT", "/v1/cache/default/k", b"v")
    old = _ca(b)
    old_token = (a.data_dir / "join-token").read_text()
    assert (old["stage"], old["moved"], old["total"]) == ("stable", 3, 3)
    c.kill()
    wait("its death known", lambda: a.statuses().get("c") == "dead" and b.statuses().get("c") == "dead")
    new = _ca(b, "rotate")
    assert (new["stage"], new["moved"], new["total"], new["away"]) == ("stable", 2, 2, ["c"])
    assert (new["retired"], new["kind"]) == ([old["authority"]], "ml-dsa-65")
    assert b.call("GET", "/v1/cache/default/k?consistency=quorum") == b"v"
    exported = frys("ca", "export", "--data-dir", str(a.data_dir), cwd=a.home).stdout
    assert exported.count("BEGIN CERTIFICATE") == 1
    assert "PRIVATE" not in exported
    assert (a.data_dir / "join-token").read_text() != old_token
    c.start()
    wait("c is home", lambda: c.is_ready and b.statuses().get("c") == "alive")
    wait("it serves", lambda: c.call("GET", "/v1/cache/default/k?consistency=quorum") == b"v")
    assert _ca(c)["authority"] == new["authority"]
    wait("the issuer has seen it", lambda: (_ca(c)["moved"], _ca(c)["total"]) == (3, 3))

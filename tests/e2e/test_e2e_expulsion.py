"""Real processes: a node is expelled under load, by a command on a member that is not the issuer."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import trio

from frys_node.base.types import Address
from frys_node.demo.cluster import NodeProcess
from frys_node.kernel.services.rpc import Method
from frys_node.secure.errors import NotAdmitted
from frys_node.secure.identity import load_identity
from frys_node.token_routes import CREATE_TOKEN, CreateToken
from frys_node.transport.disk import DirectoryDisk
from frys_node.trust.departures import DEPARTURES_PATH
from frys_node.trust.keys import ROTATE_KEYS, RotateKeys
from tests.e2e.test_e2e_cluster import frys, wait
from tests.integration.channel.channel_rig import open_unadmitted, running

pytestmark = pytest.mark.slow

EXPELLED_WITHIN_S = 10.0
FRESH_KEYS = "[cluster]\nrekey_after_s = 1\nrekey_after_bytes = 65536\n"
"""Connections between nodes are replaced every second, all the time."""

KEYS = 64


class Load:
    """Writes and reads of the cache at every member, until it is over."""

    def __init__(self, nodes: list[NodeProcess]) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(node,)) for node in nodes]

    def _run(self, node: NodeProcess) -> None:
        number = 0
        while not self._is_over.is_set():
            number += 1
            path = f"/v1/cache/default/{node.name}-{number % KEYS}"
            for method, body in (("PUT", {"number": number}), ("GET", None)):
                status, answer = node.request(method, path, body)
                if status >= 400 or (method == "GET" and answer != {"number": number}):
                    self.failed.append(f"{method} {path} at {node.name}: {status} {answer}")
                self.done += 1

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


def _ring(node: NodeProcess) -> int:
    """How many members are on a ring that is stable."""
    status, body = node.request("GET", "/v1/ring")
    return len(body["members"]) if status == 200 and body["phase"] == "stable" else 0


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeProcess]]:
    """Four members of one cluster; the first is the issuer, the last will be expelled."""
    home = tmp_path_factory.mktemp("expulsion")
    settings = {"FRYS_CLUSTER_PARTITIONS": "8"}
    started = [NodeProcess(name, home / name, settings=settings) for name in ("alpha", "beta", "gamma", "mallory")]
    try:
        for node in started:
            (node.home / "frys.toml").write_text(FRESH_KEYS)
            node.start([] if node is started[0] else [started[0].bind])
            wait(f"{node.name} ready", lambda node=node: node.is_ready)
        wait("four alive", lambda: all(list(n.statuses().values()) == ["alive"] * 4 for n in started))
        wait("a ring of four", lambda: _ring(started[0]) == 4)
        yield started
    finally:
        for node in started:
            node.stop()


def test_status_security_tells_how_the_cluster_is_protected(nodes: list[NodeProcess]) -> None:
    """Every session is post-quantum, the keys have converged, and the page names what listens and how it is kept."""
    beta = nodes[1]
    done = frys("status", "--security", "--json", "--data-dir", str(beta.data_dir), cwd=beta.home)
    assert done.returncode == 0, done.stderr
    body = json.loads(done.stdout)
    quantum = body["post_quantum"]
    assert quantum["sessions"] == quantum["of"] > 0
    assert {session["group"] for session in body["sessions"]} == {"X25519MLKEM768"}
    assert (body["keys"]["converged"], body["keys"]["total"]) == (4, 4)
    assert body["certificate"]["least_left_days"] > 300
    assert body["tokens"]["valid"] >= 1
    assert {entry["what"] for entry in body["listeners"]} >= {"cluster, TCP", "cluster, UDP", "HTTP", "admin"}
    page = frys("status", "--security", "--data-dir", str(beta.data_dir), cwd=beta.home).stdout
    assert "post-quantum (100 %)" in page
    assert "epoch 1: 4/4 seal with it; rotates next" in page
    assert "expelled:     nobody" in page


def test_a_running_issuer_does_nothing_for_a_node_that_it_never_admitted(
    nodes: list[NodeProcess], tmp_path: Path
) -> None:
    """Its own process looks into its registry, not only the class that can: a real certificate is not enough."""
    stolen = load_identity(DirectoryDisk(nodes[0].data_dir))
    assert stolen is not None
    asked: list[tuple[Method[Any, Any], object]] = [
        (CREATE_TOKEN, CreateToken(60.0, 1, "node")),
        (ROTATE_KEYS, RotateKeys()),
    ]

    async def ask() -> None:
        async with running(await open_unadmitted(stolen, tmp_path / "ghost")) as node:
            node.channel.learn(stolen.node_id, Address.parse(nodes[0].bind))
            for method, request in asked:
                with trio.fail_after(15), pytest.raises(NotAdmitted, match="never admitted"):
                    await node.channel.call(stolen.node_id, method, request)

    trio.run(ask)


def test_keys_rotate_and_connections_are_replaced_while_no_request_fails(nodes: list[NodeProcess]) -> None:
    """Three rotations over connections that live for a second; nobody is suspected, every write is read."""
    alpha = nodes[0]
    with Load(nodes) as load:
        for epoch in (2, 3, 4):
            done = frys("keys", "rotate", "--json", "--data-dir", str(alpha.data_dir), cwd=alpha.home)
            assert done.returncode == 0, done.stdout + done.stderr
            body = json.loads(done.stdout)
            assert (body["epoch"], body["converged"], body["total"]) == (epoch, 4, 4)
    assert load.failed == []
    assert load.done > KEYS
    for node in nodes:
        events = node.call("GET", "/v1/members")["members"]
        assert [member["status"] for member in events] == ["alive"] * 4
        assert "lifeline_lost" not in node.log_tail(2_000)
        told = frys("status", "--security", "--json", "--data-dir", str(node.data_dir), cwd=node.home)
        ages = [session["age_s"] for session in json.loads(told.stdout)["sessions"]]
        assert len(ages) == 3
        assert max(ages) < 10  # the load took longer than that


def test_an_expelled_node_is_out_within_ten_seconds_and_says_so(nodes: list[NodeProcess]) -> None:
    """The command on another member returns with n/n; the node calls itself expelled, is dead to all, stays out."""
    alpha, beta, gamma, mallory = nodes
    refused = frys("node", "revoke", "alpha", "--yes", "--data-dir", str(beta.data_dir), cwd=beta.home)
    assert refused.returncode != 0
    assert "issuer handover" in refused.stderr
    unknown = frys("node", "revoke", "nobody", "--yes", "--data-dir", str(beta.data_dir), cwd=beta.home)
    assert unknown.returncode != 0
    assert "members" in unknown.stderr
    unconfirmed = frys("node", "revoke", "mallory", "--data-dir", str(beta.data_dir), cwd=beta.home)
    assert "--yes" in unconfirmed.stderr
    start_s = time.monotonic()
    with Load([alpha, beta, gamma]) as load:
        done = frys("node", "revoke", "mallory", "--yes", "--data-dir", str(beta.data_dir), cwd=beta.home)
        assert done.returncode == 0, done.stdout + done.stderr
    assert load.failed == []
    assert time.monotonic() - start_s < EXPELLED_WITHIN_S
    assert "refused by 3/3 members" in done.stdout
    assert "3/3 seal with it" in done.stdout
    assert "frys-node node remove mallory" in done.stdout
    again = frys("node", "revoke", "mallory", "--yes", "--json", "--data-dir", str(beta.data_dir), cwd=beta.home)
    assert json.loads(again.stdout)["is_new"] is False

    def says_so() -> bool:
        told = frys("status", "--json", "--data-dir", str(mallory.data_dir), cwd=mallory.home)
        return "expelled" in json.loads(told.stdout)["trouble"]

    wait("mallory knows", says_so)
    assert "channel.expelled" in mallory.log_tail(4_000)
    assert not mallory.is_ready
    wait("mallory is dead to all", lambda: all(n.statuses()["mallory"] == "dead" for n in (alpha, beta, gamma)))
    page = frys("status", "--security", "--data-dir", str(gamma.data_dir), cwd=gamma.home).stdout
    assert "1, refused by 3/3 members" in page
    assert "mallory" in page
    removed = frys(
        "node", "remove", "mallory", "--accept-loss", "--yes", "--data-dir", str(alpha.data_dir), cwd=alpha.home
    )
    assert removed.returncode == 0, removed.stdout + removed.stderr
    # The removal ends the admission too, in the issuer's own table.
    gone = json.loads(again.stdout)["id"]
    table = alpha.data_dir / DEPARTURES_PATH
    wait("mallory has left", lambda: table.exists() and json.loads(table.read_text()).get(gone, {}).get("left_at"))
    assert all(list(n.statuses().values()).count("alive") == 3 for n in (alpha, beta, gamma))


def test_who_had_the_authoritys_key_is_expelled_only_with_open_eyes_and_the_admin_token_goes_too(
    nodes: list[NodeProcess],
) -> None:
    """The founder has handed its role over: the command refuses, names the flag, and then says what is still to do."""
    alpha, beta, gamma, _ = nodes
    over = frys("issuer", "handover", "gamma", "--data-dir", str(alpha.data_dir), cwd=alpha.home)
    assert over.returncode == 0, over.stdout + over.stderr
    refused = frys("node", "revoke", "alpha", "--yes", "--data-dir", str(beta.data_dir), cwd=beta.home)
    assert refused.returncode != 0
    assert "--holds-authority" in refused.stderr
    assert alpha.statuses()["beta"] == beta.statuses()["alpha"] == "alive"
    done = frys(
        "node", "revoke", "alpha", "--yes", "--holds-authority", "--data-dir", str(beta.data_dir), cwd=beta.home
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "refused by 2/2 members" in done.stdout
    assert "alpha was given the authority's key" in done.stdout
    assert "frys-node ca rotate" in done.stdout
    old = (alpha.data_dir / "admin-token").read_text().strip()
    gone = frys("token", "revoke", "admin", "--json", "--data-dir", str(beta.data_dir), cwd=beta.home)
    assert gone.returncode == 0, gone.stdout + gone.stderr
    assert json.loads(gone.stdout) == {"revoked": "admin", "told": 2, "members": 2}
    soon = frys("token", "revoke", "admin", "--data-dir", str(beta.data_dir), cwd=beta.home)
    assert soon.returncode != 0
    assert "just replaced" in soon.stderr
    new = (gamma.data_dir / "admin-token").read_text().strip()
    assert new != old
    assert (gamma.data_dir / "admin-token").stat().st_mode & 0o777 == 0o600

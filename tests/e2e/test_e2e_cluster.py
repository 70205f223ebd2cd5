"""Real processes through the command line: what a newcomer does, and what must never go wrong."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from frys_node.demo.cluster import NodeProcess, free_port
from frys_node.demo.tap import Tap

pytestmark = pytest.mark.slow

PLANTED = "planted-name-quetzalcoatl"
GROUP_X25519MLKEM768 = 0x11EC
LIMIT_S = 40.0


def wait(what: str, probe: Callable[[], Any], limit_s: float = LIMIT_S) -> Any:
    """Poll until the probe is true; fail naming what was waited for."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        value = probe()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"waited {limit_s:g} s for {what}")


def frys(*arguments: str, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run one command of the CLI to its end."""
    return subprocess.run(
        [sys.executable, "-m", "frys_node", *arguments],
        cwd=cwd,
        env=os.environ | (env or {}),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


class Trio3:
    """Three nodes; `a` stands behind a recording relay."""

    def __init__(self, home: Path) -> None:
        relay_port = free_port()
        self.a = NodeProcess("alpha", home / "a", advertise=f"127.0.0.1:{relay_port}")
        self.b = NodeProcess("beta", home / "b")
        self.c = NodeProcess("gamma", home / "c")
        self.tap = Tap(relay_port, int(self.a.bind.rpartition(":")[2]))
        self.nodes = [self.a, self.b, self.c]
        for node in self.nodes:
            (node.home / "frys.toml").write_text(f'[cluster.tags]\nrole = "{PLANTED}"\n')
        self.a.start()
        self.ready(self.a)
        for node in (self.b, self.c):
            node.start([f"127.0.0.1:{relay_port}"])
        for node in (self.b, self.c):
            self.ready(node)
        wait("three alive", lambda: all(list(n.statuses().values()) == ["alive"] * 3 for n in self.nodes))
        wait("a stable ring of three", self.is_stable)

    def ready(self, node: NodeProcess) -> None:
        """Wait until a node is ready, or fail with its log."""

        def probe() -> bool:
            assert node.is_running, node.log_tail(40)
            return node.is_ready

        try:
            wait(f"{node.name} ready", probe)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{node.log_tail(40)}") from error

    def is_stable(self) -> bool:
        """True when each running node has adopted a stable record of three."""
        rings = [node.call("GET", "/v1/ring") for node in self.nodes if node.is_running]
        return all(ring["phase"] == "stable" and len(ring["members"]) == 3 for ring in rings)

    def stop(self) -> list[int | None]:
        """Stop all; returns the exit codes."""
        codes = [node.stop() for node in self.nodes]
        self.tap.close()
        return codes


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trio3]:
    """One cluster for the module."""
    trio3 = Trio3(tmp_path_factory.mktemp("cluster"))
    try:
        yield trio3
    finally:
        codes = trio3.stop()
        assert codes == [0, 0, 0], [node.log_tail(30) for node in trio3.nodes]


def test_members_json_of_each_node_shows_three_alive(cluster: Trio3) -> None:
    """`frys-node members --json` on each node lists all three, alive, with the fixed keys."""
    for node in cluster.nodes:
        done = frys("members", "--json", "--data-dir", str(node.data_dir), cwd=node.home)
        assert done.returncode == 0, done.stderr
        members = json.loads(done.stdout)["members"]
        assert [(m["name"], m["status"]) for m in members] == [
            ("alpha", "alive"),
            ("beta", "alive"),
            ("gamma", "alive"),
        ]
        keys = {"name", "id", "address", "status", "condition", "incarnation", "tags", "phi", "rtt_s"}
        assert all(keys <= set(member) for member in members)
        assert {member["name"]: member["phi"] is None for member in members}[node.name]


def test_members_tell_of_each_other_when_they_are_asked(cluster: Trio3) -> None:
    """All reach all, a pair has measured its round trips, and a story begins with the meeting."""
    node = cluster.nodes[0]

    def ask(*arguments: str) -> str:
        done = frys(*arguments, "--data-dir", str(node.data_dir), cwd=node.home)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "everybody reaches everybody" in ask("reachability")
    assert json.loads(ask("rtt", "beta", "gamma", "--json"))["estimate_s"] > 0
    assert "became known as alive" in ask("why", "gamma")


def test_every_server_hello_is_post_quantum_and_no_name_is_readable(cluster: Trio3) -> None:
    """The relay reads TLS 1.3, AES-256-GCM and X25519MLKEM768 off every hello, and finds no planted tag in UDP."""
    tagged = {m["tags"].get("role") for m in cluster.b.call("GET", "/v1/members")["members"]}
    assert tagged == {PLANTED}
    assert len(cluster.tap.hellos) >= 2
    for hello in cluster.tap.hellos:
        assert (hello.version, hello.cipher, hello.group) == (0x0304, 0x1302, GROUP_X25519MLKEM768)
    assert len(cluster.tap.udp_payloads) > 5
    assert not [p for p in cluster.tap.udp_payloads if PLANTED.encode() in p or b"alpha" in p or b"beta" in p]


def test_curl_creates_upserts_and_queries_through_different_nodes(cluster: Trio3, tmp_path: Path) -> None:
    """Plain HTTP, three different entry nodes: create, upsert, query."""
    cluster.a.call("PUT", "/collections/curl", {"vectors": {"size": 3, "distance": "Dot"}})
    points = [{"id": i, "vector": [float(i), 1.0, 0.0], "payload": {"n": i}} for i in range(1, 21)]
    cluster.b.call("PUT", "/collections/curl/points?wait=true", {"points": points})
    url = f"http://127.0.0.1:{cluster.c.http_port}/collections/curl/points/query"
    body = json.dumps({"query": [1.0, 0.0, 0.0], "limit": 3, "with_payload": True})
    done = subprocess.run(["curl", "-sS", "-X", "POST", url, "-d", body], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)["result"]["points"]
    assert [p["id"] for p in found] == [20, 19, 18]
    cluster.c.call("DELETE", "/collections/curl")


def test_the_stock_qdrant_client_works_unchanged(cluster: Trio3) -> None:
    """qdrant-client, as installed from the registry, creates, upserts, queries, counts and deletes."""
    from qdrant_client import QdrantClient, models

    client = QdrantClient(url=f"http://127.0.0.1:{cluster.b.http_port}", prefer_grpc=False)
    try:
        client.create_collection("stock", vectors_config=models.VectorParams(size=4, distance=models.Distance.COSINE))
        assert client.collection_exists("stock")
        client.upsert(
            "stock",
            points=[
                models.PointStruct(id=i, vector=[1.0, i / 10, 0.0, 0.0], payload={"even": i % 2 == 0})
                for i in range(10)
            ],
        )
        found = client.query_points("stock", query=[1.0, 0.0, 0.0, 0.0], limit=3).points
        assert [p.id for p in found] == [0, 1, 2]
        only = models.Filter(must=[models.FieldCondition(key="even", match=models.MatchValue(value=True))])
        assert [
            p.id for p in client.query_points("stock", query=[1.0, 0, 0, 0], limit=2, query_filter=only).points
        ] == [0, 2]
        client.delete("stock", points_selector=[0])
        assert client.count("stock").count == 9
        assert [r.id for r in client.retrieve("stock", ids=[0, 3])] == [3]
        client.delete_collection("stock")
        assert not client.collection_exists("stock")
    finally:
        client.close()


def test_a_cached_value_is_read_through_every_node(cluster: Trio3) -> None:
    """What one node stored at quorum, each node returns at quorum; a delete is a delete everywhere."""
    cluster.a.call("PUT", "/v1/cache/shop/cart%2F7?consistency=quorum", b"three apples")
    for node in cluster.nodes:
        assert node.request("GET", "/v1/cache/shop/cart%2F7?consistency=quorum") == (200, b"three apples")
    cluster.c.call("DELETE", "/v1/cache/shop/cart%2F7?consistency=quorum")
    assert {node.request("GET", "/v1/cache/shop/cart%2F7?consistency=quorum")[0] for node in cluster.nodes} == {404}


def test_an_event_a_query_and_a_key_cross_the_cluster(cluster: Trio3) -> None:
    """One node fires, asks and sets a key; another's monitor shows the event, all answer, the key is read elsewhere."""
    a, _, c = cluster.nodes
    monitor = subprocess.Popen(
        [sys.executable, "-m", "frys_node", "monitor", "--json", "--for", "20s", "--data-dir", str(c.data_dir)],
        cwd=c.home,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert monitor.stdout is not None
    try:
        sent = 0
        while not select.select([monitor.stdout], [], [], 0.5)[0] and sent < 30:
            # Events from before the monitor listens are not repeated to it.
            done = frys("event", "deploy", "v1", "--data-dir", str(a.data_dir), cwd=a.home)
            assert done.returncode == 0, done.stderr
            sent += 1
        event = json.loads(monitor.stdout.readline())
        assert (event["type"], event["name"], event["payload"], event["origin_name"]) == (
            "user",
            "deploy",
            "v1",
            "alpha",
        )
    finally:
        monitor.kill()
        monitor.communicate()
    done = frys("query", "ping", "hello", "--json", "--data-dir", str(a.data_dir), cwd=a.home)
    assert done.returncode == 0, done.stderr
    answers = json.loads(done.stdout)["answers"]
    assert sorted((x["name"], x["outcome"], x["payload"]) for x in answers) == [
        (name, "answered", "hello") for name in ("alpha", "beta", "gamma")
    ]
    assert frys("node", "set", "role", "leader", "--data-dir", str(a.data_dir), cwd=a.home).returncode == 0

    def read() -> str:
        return frys("node", "get", "role", "--node", "alpha", "--data-dir", str(c.data_dir), cwd=c.home).stdout

    wait("the key on another node", lambda: read() == "leader")


def test_a_wrong_or_used_up_token_is_refused_with_the_fix(cluster: Trio3, tmp_path: Path) -> None:
    """Each refused join exits with a message that names the fix and leaves no half-made data directory."""
    seed = cluster.a.bind
    made = frys("token", "create", "--uses", "1", "--json", "--data-dir", str(cluster.a.data_dir), cwd=tmp_path)
    assert made.returncode == 0, made.stderr
    token = json.loads(made.stdout)["token"]
    broken = token[:-6] + ("aaaaaa" if not token.endswith("aaaaaa") else "bbbbbb")
    for bad, word in ((broken, "token"), ("frys1.nonsense", "token"), ("hello", "token")):
        done = frys(
            *("join", "--seed", seed, "--data-dir", "d", "--bind", "127.0.0.1:0", "--http", "127.0.0.1:0"),
            cwd=tmp_path,
            env={"FRYS_TOKEN": bad},
        )
        assert done.returncode in (1, 2), done.stderr
        assert word in done.stderr
        assert "Traceback" not in done.stderr
        assert not (tmp_path / "d" / "identity" / "identity.json").exists()


def test_a_duplicate_chosen_name_is_refused(cluster: Trio3, tmp_path: Path) -> None:
    """A name that another node holds is refused when the user chose it, and the node does not start."""
    done = frys(
        *("join", "--name", "beta", "--seed", cluster.a.bind, "--data-dir", "d"),
        *("--bind", "127.0.0.1:0", "--http", "127.0.0.1:0"),
        cwd=tmp_path,
        env={"FRYS_TOKEN": (cluster.a.data_dir / "join-token").read_text().strip()},
    )
    assert done.returncode in (1, 2)
    assert "beta" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_busy_port_an_unknown_key_and_a_read_only_directory_each_say_what_to_do(
    cluster: Trio3, tmp_path: Path
) -> None:
    """Bad settings end in one line that names the setting, never in a traceback."""
    busy = frys("start", "--bind", cluster.a.bind, "--http", "127.0.0.1:0", "--data-dir", "x", cwd=tmp_path)
    assert busy.returncode == 1, busy.stderr
    assert cluster.a.bind.rpartition(":")[2] in busy.stderr
    (tmp_path / "bad.toml").write_text("[network]\nbnid = 'x:1'\n")
    unknown = frys("start", "--config", "bad.toml", "--data-dir", "y", cwd=tmp_path)
    assert unknown.returncode == 2, unknown.stderr
    assert "bnid" in unknown.stderr
    assert "bind" in unknown.stderr
    file = tmp_path / "a-file"
    file.write_text("")
    refused = frys("start", "--data-dir", str(file / "data"), "--bind", "127.0.0.1:0", cwd=tmp_path)
    assert refused.returncode in (1, 2)
    for done in (busy, unknown, refused):
        assert "Traceback" not in done.stderr


def test_a_default_port_that_is_busy_moves_up_and_that_is_said(tmp_path: Path) -> None:
    """Each line that a start prints before it is ready is a whole log line; the banner names the new ports."""
    with socket.socket() as cluster, socket.socket() as http:
        for taken, address in ((cluster, ("0.0.0.0", 7946)), (http, ("127.0.0.1", 8080))):
            with contextlib.suppress(OSError):  # somebody else has it: as good
                taken.bind(address)
                taken.listen()
        started = frys("start", "--detach", "--json", cwd=tmp_path)
    info = json.loads(started.stdout)
    try:
        moved = [json.loads(line) for line in started.stderr.splitlines()]
        assert [line["listener"] for line in moved if line["event"] == "network.port_moved"] == ["cluster", "http"]
        assert [note.partition(" was busy")[0] for note in info["notes"]] == ["port 7946", "port 8080"]
    finally:
        os.kill(info["pid"], signal.SIGTERM)


def test_no_node_here_is_said_plainly(tmp_path: Path) -> None:
    """Verbs without a node to talk to exit 2 or 3 and name the fix."""
    nothing = frys("members", cwd=tmp_path)
    assert nothing.returncode == 2
    assert "--data-dir" in nothing.stderr
    (tmp_path / "frys-data" / "n").mkdir(parents=True)
    empty = frys("members", cwd=tmp_path)
    assert empty.returncode == 3
    assert "no node's data is in frys-data/n" in empty.stderr
    (tmp_path / "frys-data" / "n" / "identity").mkdir()
    (tmp_path / "frys-data" / "n" / "identity" / "identity.json").touch()
    down = frys("members", cwd=tmp_path)
    assert down.returncode == 3
    assert "frys-node start" in down.stderr


def test_a_killed_node_comes_back_with_its_points(cluster: Trio3) -> None:
    """Kill -9 during quorum writes: every acknowledged point is found afterwards at quorum, and the node returns."""
    cluster.a.call("PUT", "/collections/kept", {"vectors": {"size": 2, "distance": "Euclid"}})
    acked: list[int] = []
    for number in range(60):
        if number == 20:
            cluster.c.kill()
        if number == 40:
            cluster.c.start()
        body = {"points": [{"id": number * 10 + i, "vector": [float(number), float(i)]} for i in range(10)]}
        status, _ = cluster.a.request("PUT", "/collections/kept/points?wait=true", body)
        if status == 200:
            acked += [point["id"] for point in body["points"]]
    assert len(acked) >= 400
    cluster.ready(cluster.c)
    for node in cluster.nodes:
        found = node.call("POST", "/collections/kept/points?consistency=quorum", {"ids": acked})["result"]
        assert {point["id"] for point in found} == set(acked)
    cluster.a.call("DELETE", "/collections/kept")


def test_a_cluster_that_was_killed_at_once_comes_back_with_everything(cluster: Trio3) -> None:
    """Kill -9 of all nodes together: points, also in shards that were never written, are back at quorum on each."""
    cluster.a.call("PUT", "/collections/all", {"vectors": {"size": 2, "distance": "Dot"}})
    points = [{"id": number, "vector": [1.0, float(number)]} for number in (1, 2)]
    cluster.b.call("PUT", "/collections/all/points?wait=true", {"points": points})
    for node in cluster.nodes:
        node.kill()
    for node in cluster.nodes:
        node.start()
    for node in cluster.nodes:
        cluster.ready(node)

    def count(node: NodeProcess) -> int | None:
        status, body = node.request("POST", "/collections/all/points/count?consistency=quorum", {"exact": True})
        return body["result"]["count"] if status == 200 else None

    for node in cluster.nodes:
        assert wait("every shard answers at quorum", lambda node=node: count(node), 20) == 2
    cluster.a.call("DELETE", "/collections/all")

"""A real node in trouble with its disk: a full file system, and a flipped bit in its log."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from frys_node.demo.cluster import NodeProcess, free_port
from frys_node.replication.frames import LogReader, Taken

LIMIT_S = 60.0
DISK_BYTES = 8 << 20
POINT = {"points": [{"id": 1, "vector": [1.0, 0.0], "payload": {"n": 1, "text": "x" * 9_000}}]}
UPSERT = "/collections/c/points?wait=true"

pytestmark = pytest.mark.slow


class SmallDiskNode(NodeProcess):
    """A node whose data directory is a small file system in a mount namespace of its own."""

    def command(self, seeds: Sequence[str] = ()) -> list[str]:
        """Return the command line, which mounts first."""
        self.data_dir.mkdir(exist_ok=True)
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        script = f'mount -t tmpfs -o size={DISK_BYTES},mode=700 none "$0" && exec "$@"'
        return ["unshare", *user, "--mount", "sh", "-c", script, str(self.data_dir), *super().command(seeds)]

    @property
    def disk(self) -> Path:
        """The data directory as the process sees it."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root{self.data_dir}")


def until_ready(node: NodeProcess) -> None:
    """Wait for a node's `/readyz`."""
    deadline = time.monotonic() + LIMIT_S
    while not node.is_ready:
        assert node.is_running, node.log_tail()
        assert time.monotonic() < deadline, node.log_tail()
        time.sleep(0.1)


def fill(path: Path) -> None:
    """Write a file until the file system has no room."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1_024))
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise


def say_redis(port: int, line: str) -> str:
    """Send one inline command of the Redis protocol and return its first line."""
    with socket.create_connection(("127.0.0.1", port), LIMIT_S) as connection:
        connection.sendall(line.encode() + b"\r\n")
        return connection.recv(4_096).decode().split("\r\n")[0]


def test_a_full_file_system_refuses_what_it_would_have_to_keep_and_serves_the_rest(tmp_path: Path) -> None:
    """Over HTTP and RESP: points and collections 507 by name, reads and the cache as ever; room ends it by itself."""
    if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode != 0:
        pytest.skip("this machine does not let this user make mount namespaces")
    node, resp = SmallDiskNode("n1", tmp_path / "n1"), free_port()
    (node.home / "frys.toml").write_text(f'[plugins.cache]\nresp = "127.0.0.1:{resp}"\n', encoding="utf-8")
    try:
        node.start()
        until_ready(node)
        node.call("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}})
        node.call("PUT", UPSERT, POINT)
        filler = node.disk / "filler"
        fill(filler)
        for _ in range(3):
            status, body = node.request("PUT", UPSERT, POINT)
            assert status == 507, body
            assert "takes no writes" in json.dumps(body)
        assert node.request("PUT", "/collections/d", {"vectors": {"size": 2, "distance": "Dot"}})[0] == 507
        found = node.call("POST", "/collections/c/points", {"ids": [1], "with_payload": True})["result"]
        assert [point["payload"]["n"] for point in found] == [1]
        hits = node.call("POST", "/collections/c/points/query", {"query": [1.0, 0.0], "limit": 1})["result"]["points"]
        assert [hit["id"] for hit in hits] == [1]
        assert node.request("PUT", "/v1/cache/ns/k", b"v")[0] in (200, 201, 204)
        assert node.request("GET", "/v1/cache/ns/k")[1] == b"v"
        assert [say_redis(resp, line) for line in ("SET a 1", "INCR a", "DEL a")] == ["+OK", ":2", ":1"]
        assert node.call("GET", "/v1/status")["replication"]["disk_refuses"]
        filler.unlink()
        deadline = time.monotonic() + LIMIT_S
        while node.request("PUT", UPSERT, POINT)[0] != 200:
            assert time.monotonic() < deadline, node.log_tail()
            time.sleep(0.1)
        assert not node.call("GET", "/v1/status")["replication"]["disk_refuses"]
    finally:
        node.stop()


def test_a_flipped_bit_costs_one_shard_and_status_says_what_to_do(tmp_path: Path) -> None:
    """The node starts, serves the other shards, names the damaged one, and is whole again after `snapshot restore`."""
    node = NodeProcess("n1", tmp_path / "n1")
    try:
        node.start()
        until_ready(node)
        node.call("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}, "shard_number": 2})
        for number in range(20):
            point = {"id": number, "vector": [1.0, 0.0], "payload": {"text": "x" * 200}}
            node.call("PUT", UPSERT, {"points": [point]})
        log = node.data_dir / "replication" / "log-00000000"
        shards = sorted({step.section.unit for step in LogReader([log.read_bytes()], 0) if isinstance(step, Taken)})
        assert len(shards) == 2
        saved = frys(node, "snapshot", "create", "good", "--unit", shards[0], "--unit", shards[1])
        assert saved.returncode == 0, saved.stderr
        node.kill()
        data = bytearray(log.read_bytes())
        data[data.index(b"xxxxx") + 1] ^= 1
        log.write_bytes(data)
        node.start()
        until_ready(node)
        (damaged,) = json.loads(frys(node, "status", "--json").stdout)["replication"]["damaged"]
        assert damaged["fix"] == f"frys-node snapshot restore NAME --unit {damaged['unit']}"
        assert damaged["unit"] in frys(node, "status").stdout
        answers = [node.request("GET", f"/collections/c/points/{number}") for number in range(20)]
        assert {status for status, _body in answers} == {200, 503}
        assert all("snapshot restore NAME" in json.dumps(body) for status, body in answers if status != 200), answers
        restored = frys(node, "snapshot", "restore", "good", "--unit", damaged["unit"])
        assert restored.returncode == 0, restored.stdout
        assert [node.request("GET", f"/collections/c/points/{number}")[0] for number in range(20)] == [200] * 20
        assert json.loads(frys(node, "status", "--json").stdout)["replication"]["damaged"] == []
    finally:
        node.stop()


def frys(node: NodeProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line against a node."""
    command = [sys.executable, "-m", "frys_node", *arguments, "--data-dir", str(node.data_dir)]
    return subprocess.run(command, check=False, capture_output=True, text=True, timeout=LIMIT_S)

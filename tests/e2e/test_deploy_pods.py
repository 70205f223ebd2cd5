"""The chart's entry point with real nodes: what two pods of a StatefulSet do, here on loopback."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frys_node.demo.cluster import free_port

ROOT = Path(__file__).resolve().parents[2]
ENTRYPOINT = ROOT / "deploy" / "k8s" / "frys" / "files" / "entrypoint.py"
TOKEN = "frys0." + "abcdefghijklmnopqrstuvwxyz012345"
READY_S_MAX = 60.0
GRACE_S = 60.0

pytestmark = pytest.mark.slow


class Pod:
    """One process as the kubelet would start it: environment only, HTTP on every interface."""

    def __init__(
        self, ordinal: int, folder: Path, port: int, seed_port: int, *, host: str = "127.0.0.1", seeds: str = ""
    ) -> None:
        self.data = folder / f"data-{ordinal}"
        self.http_port = free_port()
        self.log = folder / f"log-{ordinal}"
        (folder / "frys.toml").touch()
        environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "XDG_STATE_HOME": str(folder / "state"),
            "POD_NAME": f"shop-frys-{ordinal}",
            "NODE_SEED": f"127.0.0.1:{seed_port}",
            "NODE_CONFIG": str(folder / "frys.toml"),
            "FRYS_DATA_DIR": str(self.data),
            "FRYS_TOKEN": TOKEN,
            "FRYS_NETWORK_BIND": f"{host}:{port}",
            "FRYS_CLUSTER_SEEDS": seeds or f"127.0.0.1:{seed_port}",
            "FRYS_PLUGINS_NETWORK_HTTP": f"0.0.0.0:{self.http_port}",
        }
        with self.log.open("wb") as log:
            self.process = subprocess.Popen([sys.executable, str(ENTRYPOINT)], env=environment, stdout=log, stderr=log)

    def get(self, path: str, token: str = "") -> tuple[int, bytes]:
        """Ask by HTTP over loopback; 0 when nobody listens."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=10)
        try:
            connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return 0, b""
        finally:
            connection.close()

    def wait_ready(self) -> None:
        """Wait for the readiness probe's 200."""
        deadline = time.monotonic() + READY_S_MAX
        while self.get("/readyz")[0] != 200:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.1)

    def members(self) -> dict[str, tuple[str, str]]:
        """Return what this pod says of each member: status and address."""
        admin = (self.data.parent / "data-0" / "admin-token").read_text().strip()
        status, body = self.get("/v1/members", admin)
        found = json.loads(body)["members"] if status == 200 else []
        return {member["name"]: (member["status"], member["address"]) for member in found}

    def stop(self) -> int:
        """Send SIGTERM, as the kubelet does first."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(GRACE_S)


def test_pods_started_together_form_one_cluster_from_one_secret(tmp_path: Path) -> None:
    """Pod 1 waits for pod 0, joins with the pre-made token, and both stop with 0; HTTP demands the admin token."""
    port = free_port()
    pods = [Pod(1, tmp_path, free_port(), port)]
    try:
        pods.append(Pod(0, tmp_path, port, port))
        for pod in pods:
            pod.wait_ready()
        admin = (tmp_path / "data-0" / "admin-token").read_text().strip()
        assert [pod.get("/v1/members")[0] for pod in pods] == [401, 401]
        assert [pod.get("/livez")[0] for pod in pods] == [200, 200]
        status, body = pods[0].get("/v1/members", admin)
        assert status == 200
        assert [member["name"] for member in json.loads(body)["members"]] == ["shop-frys-0", "shop-frys-1"]
    finally:
        codes = [pod.stop() for pod in pods]
    assert codes == [0, 0]
    assert all(TOKEN not in pod.log.read_text() for pod in pods)


def test_pods_that_all_come_back_with_other_addresses_find_each_other(tmp_path: Path) -> None:
    """After an outage of the whole release no remembered address holds; the headless name, as a seed, does."""
    port = free_port()
    pods = [Pod(0, tmp_path, port, port), Pod(1, tmp_path, free_port(), port)]
    try:
        for pod in pods:
            pod.wait_ready()
        assert [pod.stop() for pod in pods] == [0, 0]
        addresses = [f"127.0.0.{host}:{port}" for host in (22, 23)]
        seeds = ",".join(addresses)
        pods = [Pod(n, tmp_path, port, port, host=f"127.0.0.{host}", seeds=seeds) for n, host in ((0, 22), (1, 23))]
        wanted = {f"shop-frys-{n}": ("alive", address) for n, address in enumerate(addresses)}
        deadline = time.monotonic() + READY_S_MAX
        while any(pod.members() != wanted for pod in pods):
            assert time.monotonic() < deadline, [pod.members() for pod in pods]
            time.sleep(0.1)
    finally:
        codes = [pod.stop() for pod in pods]
    assert codes == [0, 0]

"""The story of trust on five real nodes under load: keys, certificates, an expulsion, another authority and issuer.

Requests go to the four nodes that remain, at any time, by clients that try nothing twice; none of them fails. Whoever
was expelled says so itself, and its keys open nothing that is sealed later.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from frys_node.base.types import BootId, NodeId
from frys_node.demo.cluster import NodeProcess, free_port
from frys_node.demo.tap import Tap
from frys_node.secure.keyring import KEYRING_PATH, Keyring
from frys_node.secure.packet import PacketSealer
from tests.e2e.test_e2e_cluster import frys, wait

pytestmark = pytest.mark.slow

NAMES = ("alpha", "beta", "gamma", "delta", "mallory")
COLLECTION = "story"
SETTINGS = {
    "FRYS_CLUSTER_PARTITIONS": "8",
    "FRYS_CLUSTER_REKEY_AFTER_S": "2",
}
"""Connections live for two seconds: every step falls among replacements."""

KEYS = 32
PAUSE_S = 0.02
STEP_REQUESTS = 40
"""So many requests are answered behind each step, before the next one."""


class Load:
    """Writes and reads of the cache and of points at every node that remains; none is tried twice."""

    def __init__(self, nodes: list[NodeProcess]) -> None:
        self.done = 0
        self.failed: list[str] = []
        self._nodes = nodes
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(place,)) for place in range(len(nodes))]

    def _run(self, place: int) -> None:
        node, other = self._nodes[place], self._nodes[(place + 1) % len(self._nodes)]
        number = 0
        while not self._is_over.wait(PAUSE_S):
            number += 1
            key = f"/v1/cache/default/{node.name}-{number % KEYS}?consistency=quorum"
            self._ask(node, "PUT", key, {"number": number})
            answer = self._ask(other, "GET", key)
            if answer != {"number": number}:
                self.failed.append(f"{key} at {other.name}: {answer}, not {number}")
            point = place * KEYS + number % KEYS
            body = {"points": [{"id": point, "vector": [float(number), 1.0], "payload": {"number": number}}]}
            self._ask(node, "PUT", f"/collections/{COLLECTION}/points?wait=true", body)
            path = f"/collections/{COLLECTION}/points?consistency=quorum"
            found = self._ask(other, "POST", path, {"ids": [point]})
            if [each["payload"]["number"] for each in found.get("result", [])] != [number]:
                self.failed.append(f"point {point} at {other.name}: {found}, not {number}")

    def _ask(self, node: NodeProcess, method: str, path: str, body: Any = None) -> Any:
        try:
            status, answer = node.request(method, path, body)
        except Exception as error:  # noqa: BLE001 (whatever it is, the request has failed)
            status, answer = 599, {"error": repr(error)}
        if status >= 400:
            self.failed.append(f"{method} {path} at {node.name}: {status} {answer}")
        self.done += 1
        return answer

    def goes_on(self, step: str) -> None:
        """Wait until more requests were answered, and none failed."""
        enough = self.done + STEP_REQUESTS
        wait(f"requests behind {step}", lambda: self.done >= enough or self.failed)
        assert self.failed == [], step

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._is_over.set()
        for thread in self._threads:
            thread.join()


class Cluster:
    """Five nodes; the first, the issuer, stands behind a relay that keeps its packets."""

    def __init__(self, home: Path) -> None:
        port = free_port()
        settings = SETTINGS | {"XDG_STATE_HOME": str(home / "state")}
        self.nodes = [
            NodeProcess(name, home / name, settings=settings, advertise=f"127.0.0.1:{port}" if not place else None)
            for place, name in enumerate(NAMES)
        ]
        self.tap = Tap(port, int(self.nodes[0].bind.rpartition(":")[2]))

    def start(self) -> None:
        """Start all, until each sees all and all are on the ring."""
        first = self.nodes[0]
        first.start()
        wait("alpha ready", lambda: first.is_ready)
        for node in self.nodes[1:]:
            node.start([first.bind])
        wait("five alive", lambda: all(list(n.statuses().values()) == ["alive"] * 5 for n in self.nodes))
        wait("a ring of five", lambda: self.ring() == set(NAMES))

    def ring(self) -> set[str]:
        """The names on a ring that is stable."""
        body = self.nodes[1].call("GET", "/v1/ring")
        return {member["name"] for member in body["members"]} if body["phase"] == "stable" else set()

    def stop(self) -> None:
        """End all."""
        for node in self.nodes:
            node.stop()
        self.tap.close()


def tell(node: NodeProcess, *arguments: str) -> Any:
    """Run a verb on a node and return what it tells."""
    done = frys(*arguments, "--json", "--data-dir", str(node.data_dir), cwd=node.home)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr, node.log_tail(20))
    return json.loads(done.stdout)


def senders(node: NodeProcess, heard: list[bytes], start: int = 0) -> set[NodeId]:
    """Whose packets, from the start-th on, open with the keyring that a node has stored.

    It knows each sender and boot that long headers have told, so that short ones are no obstacle.
    """
    keyring, packets = Keyring.decode((node.data_dir / KEYRING_PATH).read_bytes()), heard[start:]
    sealer = PacketSealer(keyring, NodeId("ee" * 16), BootId(1))
    for packet in heard:
        if packet[:2] == b"FG":
            sealer.note_boot(NodeId(packet[4:20].hex()), BootId(int.from_bytes(packet[20:28], "big")))
    found = [sealer.open(packet, float(number)) for number, packet in enumerate(packets)]
    return {opened.sender for opened in found if opened is not None}


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    """Started."""
    made = Cluster(tmp_path)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_no_request_fails_while_everything_that_trust_rests_on_changes(cluster: Cluster) -> None:
    """Keys, certificates, an expulsion, the authority and the issuer change; `status --security` tells of each."""
    alpha, beta, gamma, delta, mallory = cluster.nodes
    remaining = [alpha, beta, gamma, delta]
    begun_s = time.monotonic()
    beta.call("PUT", f"/collections/{COLLECTION}", {"vectors": {"size": 2, "distance": "Euclid"}})
    before = tell(beta, "status", "--security")
    with Load(remaining) as load:
        load.goes_on("the start")
        rotated = tell(gamma, "keys", "rotate")
        assert (rotated["epoch"], rotated["converged"], rotated["total"]) == (2, 5, 5)
        load.goes_on("keys rotate")

        for node in remaining:
            assert tell(node, "ca", "renew")["left_days"] > 300
        load.goes_on("ca renew")

        assert len(senders(mallory, cluster.tap.udp_payloads)) > 1
        revoked = tell(beta, "node", "revoke", "mallory", "--yes")
        wait("mallory says so", lambda: "expelled" in tell(mallory, "status")["trouble"])
        load.goes_on("node revoke")
        assert revoked["is_new"]

        changed = tell(delta, "ca", "rotate")
        assert (changed["stage"], changed["moved"], changed["total"]) == ("stable", 4, 4)
        load.goes_on("ca rotate")

        tell(alpha, "issuer", "handover", "gamma")
        load.goes_on("issuer handover")
    assert load.failed == []

    count = len(cluster.tap.udp_payloads)
    wait("packets sealed later", lambda: len(cluster.tap.udp_payloads) > count + 40)
    packets = list(cluster.tap.udp_payloads)
    expelled = NodeId(revoked["id"])
    # It may be calling still, under the key that only it has: that is all it can read.
    assert senders(mallory, packets, count) <= {expelled}
    assert len(senders(delta, packets, count)) >= 2
    assert "channel.expelled" in mallory.log_tail(4_000)

    after = tell(delta, "status", "--security")
    assert (after["keys"]["converged"], after["keys"]["total"], after["keys"]["refusing"]) == (4, 4, 4)
    assert after["keys"]["epoch"] >= 3
    assert [entry["name"] for entry in after["expelled"]] == ["mallory"]
    assert after["post_quantum"]["sessions"] == after["post_quantum"]["of"] > 0
    assert after["post_quantum"]["answered"] == 4
    assert (before["authority"]["trusted"], after["authority"]["trusted"]) == (1, 1)
    assert after["authority"]["id"] == changed["authority"] != before["authority"]["id"]
    assert tell(delta, "issuer")["name"] == "gamma"
    print(f"{load.done} requests in {time.monotonic() - begun_s:.1f} s, {len(packets) - count} packets sealed later")

"""The story of trust on five real nodes under load: keys, certificates, an expulsion, another authority and issuer.

Requests go to the four nodes that remain, at any time, by clients that try nothing twice; none of them fails. Whoever
was expelled says so itself, and its keys, also those of a copy of its disk from before, open nothing that is sealed
later. Each step is told from the one before by what it alone changes: an epoch, a serial number, an authority, an
issuer, and that the issuer then does what issuers do.
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
from frys_node.secure.identity import Identity, load_identity
from frys_node.secure.keyring import KEYRING_PATH, Keyring
from frys_node.secure.packet import PacketSealer
from frys_node.transport.disk import DirectoryDisk
from tests.e2e.test_e2e_cluster import frys, wait

pytestmark = pytest.mark.slow

NAMES = ("alpha", "beta", "gamma", "delta", "mallory")
NEWCOMER = "epsilon"
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

START_S = 120.0
"""Longest wait for five nodes that start at once, on a machine that is busy besides."""

STEP_PACKETS = 40
"""So many packets are looked at behind an expulsion, and at the end."""


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
        self.newcomer = NodeProcess(NEWCOMER, home / NEWCOMER, settings=settings)
        self.tap = Tap(port, int(self.nodes[0].bind.rpartition(":")[2]))

    def start(self) -> None:
        """Start all, until each sees all and all are on the ring."""
        first = self.nodes[0]
        first.start()
        wait("alpha ready", lambda: first.is_ready, START_S)
        for node in self.nodes[1:]:
            node.start([first.bind])
        wait("five alive", lambda: all(list(n.statuses().values()) == ["alive"] * 5 for n in self.nodes), START_S)
        wait("a ring of five", lambda: self.ring() == set(NAMES), START_S)

    def ring(self) -> set[str]:
        """The names on a ring that is stable; none before there is a record."""
        status, body = self.nodes[1].request("GET", "/v1/ring")
        is_stable = status == 200 and body["phase"] == "stable"
        return {member["name"] for member in body["members"]} if is_stable else set()

    def join(self, seed: NodeProcess, token: str) -> None:
        """Have one more node come in by a token, until all that are left see it and it is on the ring."""
        self.newcomer._settings["FRYS_TOKEN"] = token
        self.newcomer.start([seed.bind])
        wait(f"{NEWCOMER} ready", lambda: self.newcomer.is_ready, START_S)
        there = [*self.nodes[:-1], self.newcomer]
        wait("five alive again", lambda: all([*n.statuses().values()].count("alive") == 5 for n in there), START_S)
        wait(f"{NEWCOMER} on the ring", lambda: NEWCOMER in self.ring(), START_S)

    def packets_behind(self, what: str) -> tuple[list[bytes], list[bytes]]:
        """Return all packets, once there are enough of after now, and those."""
        start = len(self.tap.udp_payloads)
        wait(f"packets sealed behind {what}", lambda: len(self.tap.udp_payloads) >= start + STEP_PACKETS)
        heard = list(self.tap.udp_payloads)
        return heard, heard[start:]

    def stop(self) -> None:
        """End all."""
        for node in (*self.nodes, self.newcomer):
            node.stop()
        self.tap.close()


def tell(node: NodeProcess, *arguments: str) -> Any:
    """Run a verb on a node and return what it tells."""
    done = frys(*arguments, "--json", "--data-dir", str(node.data_dir), cwd=node.home)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr, node.log_tail(20))
    return json.loads(done.stdout)


def identity(node: NodeProcess) -> Identity:
    """What a node has stored of itself."""
    return load_identity(DirectoryDisk(node.data_dir))


def keyring(node: NodeProcess) -> bytes:
    """The keyring that a node has stored."""
    return (node.data_dir / KEYRING_PATH).read_bytes()


def senders(stored: bytes, heard: list[bytes], packets: list[bytes]) -> set[NodeId]:
    """Whose packets open with a stored keyring, for somebody who heard all the others too.

    It knows each sender and boot that long headers have told, so that short ones are no obstacle.
    """
    sealer = PacketSealer(Keyring.decode(stored), NodeId("ee" * 16), BootId(1))
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


def rotate_keys(load: Load, asked: NodeProcess, epoch: int, members: int) -> None:
    """One key more, and every member seals with it."""
    rotated = tell(asked, "keys", "rotate")
    assert (rotated["epoch"], rotated["converged"], rotated["total"]) == (epoch, members, members)
    load.goes_on("keys rotate")


def renew_certificates(load: Load, nodes: list[NodeProcess]) -> None:
    """Another certificate for the same key, by the same authority, at each node."""
    for node in nodes:
        before = identity(node)
        assert tell(node, "ca", "renew")["left_days"] > 300
        after = identity(node)
        assert after.certificate.serial_number != before.certificate.serial_number
        assert after.certificate.public_key() == before.certificate.public_key()
        assert after.ca_hash == before.ca_hash
    load.goes_on("ca renew")


def expel(load: Load, cluster: Cluster, asked: NodeProcess) -> bytes:
    """Expel the last node; return its keyring as it was just before. That opened packets, and opens none from now on.

    What happens to the keys later, with a change of the authority, has no part in this.
    """
    mallory, other = cluster.nodes[-1], cluster.nodes[-2]
    heard = list(cluster.tap.udp_payloads)
    stolen = keyring(mallory)
    assert len(senders(stolen, heard, heard)) > 1
    revoked = tell(asked, "node", "revoke", "mallory", "--yes")
    assert revoked["is_new"]
    assert (revoked["epoch"], revoked["converged"], revoked["refusing"], revoked["total"]) == (3, 4, 4, 4)
    wait("mallory says so", lambda: "expelled" in tell(mallory, "status")["trouble"])
    load.goes_on("node revoke")
    heard, later = cluster.packets_behind("the expulsion")
    assert tell(other, "keys", "list")["epoch"] == 3
    opens_nothing(cluster, stolen, heard, later)
    # What was heard before is as readable as it was: the copy is what it was, it lacks the new key alone.
    assert len(senders(stolen, heard, heard[: -len(later)])) > 1
    return stolen


def opens_nothing(cluster: Cluster, stolen: bytes, heard: list[bytes], later: list[bytes]) -> None:
    """The expelled node's keys, as they were and as it has them now, open none of these; a member's do."""
    mallory, other = cluster.nodes[-1], cluster.nodes[-2]
    for stored in (stolen, keyring(mallory)):
        # It may be calling still, under the key that only it has: that is all it can read.
        assert senders(stored, heard, later) <= {identity(mallory).node_id}
    assert len(senders(keyring(other), heard, later)) >= 2


def replace_authority(load: Load, asked: NodeProcess, epoch: int) -> str:
    """Another authority for all, and then one gossip key more; return the authority's hash."""
    before = identity(asked)
    changed = tell(asked, "ca", "rotate")
    assert (changed["stage"], changed["moved"], changed["total"]) == ("stable", 4, 4)
    after = identity(asked)
    assert after.ca_hash == changed["authority"] != before.ca_hash
    assert after.certificate.serial_number != before.certificate.serial_number
    wait("another key", lambda: (said := tell(asked, "keys", "list"))["epoch"] == epoch and said["converged"] == 4)
    load.goes_on("ca rotate")
    return str(changed["authority"])


def hand_over(load: Load, cluster: Cluster) -> None:
    """The role goes from the first node to the third, which then makes tokens, admits a node and rotates the keys."""
    alpha, beta, gamma, delta, _ = cluster.nodes
    tell(alpha, "issuer", "handover", "gamma")
    load.goes_on("issuer handover")
    assert tell(delta, "issuer")["name"] == "gamma"
    reader = tell(delta, "token", "create", "--role", "read")
    assert reader["id"] in {token["id"] for token in tell(beta, "token", "list")["tokens"]}
    cluster.join(beta, tell(delta, "token", "create", "--uses", "1")["token"])
    let_in = identity(cluster.newcomer)
    assert (let_in.issuer, let_in.ca_hash) == (identity(gamma).node_id, identity(delta).ca_hash)
    load.goes_on("a join")
    rotate_keys(load, beta, 5, 5)


def test_no_request_fails_while_everything_that_trust_rests_on_changes(cluster: Cluster) -> None:
    """Keys, certificates, an expulsion, the authority and the issuer change; `status --security` tells of each."""
    _, beta, gamma, delta, mallory = cluster.nodes
    remaining = cluster.nodes[:-1]
    begun_s, begun_unix_s = time.monotonic(), int(time.time())
    beta.call("PUT", f"/collections/{COLLECTION}", {"vectors": {"size": 2, "distance": "Euclid"}})
    before = tell(delta, "status", "--security")
    assert (before["keys"]["epoch"], before["expelled"], before["last_expulsion_by"]) == (1, [], None)
    assert (before["issuer"]["name"], before["issuer"]["term"]) == ("alpha", 1)
    with Load(remaining) as load:
        load.goes_on("the start")
        rotate_keys(load, gamma, 2, 5)
        renew_certificates(load, remaining)
        expelled_after_s = int(time.time())
        stolen = expel(load, cluster, beta)
        expelled_before_s = time.time()
        authority = replace_authority(load, delta, 4)
        hand_over(load, cluster)
    assert load.failed == []

    opens_nothing(cluster, stolen, *cluster.packets_behind("it all"))
    assert "channel.expelled" in mallory.log_tail(4_000)

    after = tell(delta, "status", "--security")
    assert (after["keys"]["converged"], after["keys"]["total"], after["keys"]["refusing"]) == (5, 5, 5)
    assert after["keys"]["epoch"] == 5
    assert [entry["name"] for entry in after["expelled"]] == ["mallory"]
    assert expelled_after_s <= after["last_expulsion_by"] <= expelled_before_s
    assert after["post_quantum"]["sessions"] == after["post_quantum"]["of"] > 0
    assert after["post_quantum"]["answered"] == 5
    assert (before["authority"]["trusted"], after["authority"]["trusted"]) == (1, 1)
    assert after["authority"]["id"] == authority != before["authority"]["id"]
    assert begun_unix_s <= after["authority"]["changed_at"]
    assert begun_unix_s <= after["certificate"]["issued_at"]
    shown = after["issuer"]
    assert (shown["name"], shown["term"], shown["answers"], shown["can_admit"]) == ("gamma", 2, True, True)
    page = frys("status", "--security", "--data-dir", str(delta.data_dir), cwd=delta.home).stdout
    assert "issuer:       gamma, term 2" in page
    assert "expelled:     1, refused by 5/5 members; the last by " in page
    print(f"{load.done} requests in {time.monotonic() - begun_s:.1f} s, {len(cluster.tap.udp_payloads)} packets heard")

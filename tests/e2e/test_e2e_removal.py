"""Real processes: a member in wrong hands writes a record that removes everybody else, and ends nobody by it."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from balancer.driver import NOTE
from balancer.proof import CertifiedProofs
from balancer.record import RECORD, TopologyRecord, after, taken_over
from balancer.topology_messages import TOPOLOGY_MESSAGES, RecordDigest, RecordPush, SignedRecord
from frys_node.base.errors import NodeUnreachable
from frys_node.base.types import Address, NodeId, Term
from frys_node.demo.cluster import NodeProcess
from frys_node.removal import NOTED_PATH
from frys_node.secure.identity import load_identity
from frys_node.secure.keyring import KEYRING_PATH, Keyring
from frys_node.secure.signer import NodeSigner
from frys_node.secure.stored import IDENTITY_PATH, LEFT_PATH
from frys_node.transport.disk import DirectoryDisk
from frys_node.trust.credentials import DEPARTED_PATH
from frys_node.trust.departures import DEPARTURES_PATH
from tests.e2e.e2e_clusters import open_ring, ring
from tests.e2e.test_e2e_cluster import frys, wait
from tests.integration.channel.channel_rig import open_node, running

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    """Three members; the first is the issuer, the last will be in wrong hands."""
    with open_ring(tmp_path, ("alpha", "beta", "gamma")) as made:
        yield made


def trouble(node: NodeProcess) -> str:
    """Return why a node is not at home, as it says itself; empty if it is, or does not answer yet."""
    try:
        found = node.request("GET", "/v1/status")[1].get("trouble", "")
    except NodeUnreachable:
        return ""
    assert isinstance(found, str)
    return found


async def lie(
    copy: Path,
    others: list[NodeProcess],
    lies: Callable[[TopologyRecord, NodeId, list[NodeId]], list[TopologyRecord]],
    until: Callable[[], bool],
) -> NodeId:
    """With a member's disk alone: write records and push them to others; returns who it was.

    `lies` makes them of the record in force, the liar and the others.
    """
    disk = DirectoryDisk(copy)
    identity = load_identity(disk)
    assert identity is not None
    assert identity.ca_key is None
    node = await open_node(disk, identity)
    held: list[TopologyRecord] = []

    def hear(_source: NodeId, payload: bytes) -> None:
        message = TOPOLOGY_MESSAGES.decode(payload)
        if isinstance(message, RecordPush):
            held.append(RECORD.decode(message.record.data))

    node.channel.on_note(NOTE, hear)
    async with running(node):
        ids = [await node.channel.connect_address(Address.parse(other.bind)) for other in others]
        node.channel.note(ids[0], NOTE, TOPOLOGY_MESSAGES.encode(RecordDigest(None, None, True)))
        with trio.fail_after(20):
            while not held:  # noqa: ASYNC110 - a plain list has nothing to wait on
                await trio.sleep(0.02)
        for record in lies(max(held, key=lambda one: one.epoch), node.id, ids):
            data = RECORD.encode(record)
            push = RecordPush(SignedRecord(data, CertifiedProofs(NodeSigner(identity)).prove(data)))
            for other in ids:
                node.channel.note(other, NOTE, TOPOLOGY_MESSAGES.encode(push))
        with trio.fail_after(30):
            while not await trio.to_thread.run_sync(until):  # noqa: ASYNC110 - processes have no event
                await trio.sleep(0.1)
    return node.id


def copied(node: NodeProcess, home: Path) -> Path:
    """Copy what proves that a node is that node."""
    (home / "identity").mkdir(parents=True, mode=0o700)
    shutil.copy(node.data_dir / IDENTITY_PATH, home / IDENTITY_PATH)
    return home


def seized(record: TopologyRecord, by: NodeId, **changes: Any) -> TopologyRecord:
    """Return the record under a term of its own that a member writes without asking anybody."""
    return msgspec.structs.replace(taken_over(record, Term(record.epoch.term.number + 1, by)), **changes)


def without(record: TopologyRecord, *nodes: NodeId) -> dict[str, Any]:
    """Return what removes some nodes from a record."""
    ring = tuple(member for member in record.ring if member.node not in nodes)
    return {"ring": ring, "next_ring": ring, "removed": nodes}


def test_a_member_in_wrong_hands_cannot_end_the_others_for_good(nodes: list[NodeProcess], tmp_path: Path) -> None:
    """They stop and keep everything; started again they serve nothing until it is expelled, and then all they held."""
    alpha, beta, gamma = nodes
    alpha.call("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}})
    alpha.call("PUT", "/collections/c/points?wait=true", {"points": [{"id": 7, "vector": [1, 2], "payload": {"n": 7}}]})
    gamma.kill()

    def removing_all(record: TopologyRecord, by: NodeId, others: list[NodeId]) -> list[TopologyRecord]:
        return [seized(record, by, **without(record, *others))]

    def have_stopped() -> bool:
        return not alpha.is_running and not beta.is_running

    liar = trio.run(lie, copied(gamma, tmp_path / "copy"), [alpha, beta], removing_all, have_stopped)
    for node in (alpha, beta):
        assert not (node.data_dir / LEFT_PATH).exists()
        node.start()
    for node in (alpha, beta):
        wait(f"{node.name} says why", lambda node=node: f"node revoke {liar}" in trouble(node))
        assert "says that this node was removed" in trouble(node)
        assert not node.is_ready
        assert node.request("GET", "/collections/c/points/7")[0] >= 400
    done = frys("node", "revoke", liar, "--yes", "--data-dir", str(alpha.data_dir), cwd=alpha.home)
    assert done.returncode == 0, (done, alpha.log_tail(30))
    for node in (alpha, beta):
        wait(f"{node.name} ready", lambda node=node: node.is_ready)
        assert node.call("GET", "/collections/c/points/7")["result"]["payload"] == {"n": 7}
        assert trouble(node) == ""
    assert {"alpha", "beta"} < set(ring(alpha))


def test_a_removal_that_another_one_wrote_ends_no_admission(nodes: list[NodeProcess], tmp_path: Path) -> None:
    """A member seizes the role, removes another and gives the role back: the issuer ends nobody by that."""
    alpha, beta, gamma = nodes
    gone = load_identity(DirectoryDisk(beta.data_dir))
    assert gone is not None
    gamma.kill()

    def removing_one(record: TopologyRecord, by: NodeId, others: list[NodeId]) -> list[TopologyRecord]:
        first = seized(record, by, **without(record, others[1], by))
        return [first, after(first, successor=others[0])]

    def has_the_role_back() -> bool:
        shown = alpha.call("GET", "/v1/issuer")
        return bool(shown["name"] == "alpha" and shown["term"] > 1)

    trio.run(lie, copied(gamma, tmp_path / "copy"), [alpha, beta], removing_one, has_the_role_back)
    wait("beta stops", lambda: not beta.is_running)
    wait("a ring of one", lambda: ring(alpha) == ["alpha"])
    for path in (DEPARTURES_PATH, DEPARTED_PATH):
        found = alpha.data_dir / path
        assert not found.exists() or gone.node_id not in found.read_text()


def test_a_node_that_an_operator_removed_is_shut_out_and_told_why(nodes: list[NodeProcess]) -> None:
    """Every member refuses it and tells it no key; what it is told is the record, and it keeps that."""
    alpha, beta, gamma = nodes
    gone = load_identity(DirectoryDisk(gamma.data_dir))
    assert gone is not None
    gamma.kill()
    wait("its death known", lambda: alpha.statuses().get("gamma") == "dead")
    done = frys("node", "remove", "gamma", "--accept-loss", "--yes", "--data-dir", str(beta.data_dir), cwd=beta.home)
    assert done.returncode == 0, done
    told = beta.data_dir / DEPARTED_PATH
    wait("the other member is told", lambda: told.exists() and gone.node_id in told.read_text())
    for node in (alpha, beta):
        # Within the first minute it would be heard out.
        node.stop()
        node.start()
    for node in (alpha, beta):
        wait(f"{node.name} ready", lambda node=node: node.is_ready)
    frys("keys", "rotate", "--data-dir", str(alpha.data_dir), cwd=alpha.home)
    gamma.start()
    wait("it is told", lambda: not gamma.is_running or "says that this node was removed" in trouble(gamma))
    assert (gamma.data_dir / NOTED_PATH).exists()
    assert not (gamma.data_dir / LEFT_PATH).exists()
    body = json.loads(frys("status", "--security", "--json", "--data-dir", str(alpha.data_dir), cwd=alpha.home).stdout)
    assert body["refusals"].get("left", 0) > 0
    newest, held = [Keyring.decode((node.data_dir / KEYRING_PATH).read_bytes()).newest for node in (alpha, gamma)]
    assert newest is not None
    assert held is not None
    assert newest.epoch > held.epoch
    gamma.stop()
    done = frys(*gamma.command()[3:], "--detach", "--json", cwd=gamma.home, env=gamma._settings)
    try:
        assert done.returncode == 4, done
        _, _, told_why = done.stderr.partition("gamma runs and is not ready: ")
        assert "says that this node was removed" in told_why
    finally:
        pid = json.loads(done.stdout)["pid"]
        os.kill(pid, signal.SIGTERM)
    wait("it ends", lambda: not Path(f"/proc/{pid}").exists())

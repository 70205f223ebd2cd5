"""Real processes: a member in wrong hands writes a record that removes everybody else, and ends nobody by it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from balancer.driver import NOTE
from balancer.proof import CertifiedProofs
from balancer.record import RECORD, TopologyRecord, taken_over
from balancer.topology_messages import TOPOLOGY_MESSAGES, RecordDigest, RecordPush, SignedRecord
from frys_node.base.errors import NodeUnreachable
from frys_node.base.types import Address, NodeId, Term
from frys_node.demo.cluster import NodeProcess
from frys_node.secure.identity import load_identity
from frys_node.secure.signer import NodeSigner
from frys_node.secure.stored import IDENTITY_PATH, LEFT_PATH
from frys_node.transport.disk import DirectoryDisk
from tests.e2e.test_e2e_cluster import frys, wait
from tests.integration.channel.channel_rig import open_node, running

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    """Three members; the first is the issuer, the last will be in wrong hands."""
    settings = {"FRYS_CLUSTER_PARTITIONS": "8", "XDG_STATE_HOME": str(tmp_path / "state")}
    made = [NodeProcess(name, tmp_path / name, settings=settings) for name in ("alpha", "beta", "gamma")]
    try:
        for node in made:
            node.start([] if node is made[0] else [made[0].bind])
            wait(f"{node.name} ready", lambda node=node: node.is_ready)
        wait("three on the ring", lambda: len(ring(made[0])) == 3)
        yield made
    finally:
        for node in made:
            node.stop()


def ring(node: NodeProcess) -> list[str]:
    """Return the names on the ring while the record is stable."""
    body = node.call("GET", "/v1/ring")
    return [member["name"] for member in body["members"]] if body["phase"] == "stable" else []


def trouble(node: NodeProcess) -> str:
    """Return why a node is not at home, as it says itself; empty if it is, or does not answer yet."""
    try:
        found = node.request("GET", "/v1/status")[1].get("trouble", "")
    except NodeUnreachable:
        return ""
    assert isinstance(found, str)
    return found


async def remove_all(copy: Path, others: list[NodeProcess]) -> NodeId:
    """With a member's disk alone: take the role, remove everybody else by one note to each; returns who it was."""
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
        record = max(held, key=lambda one: one.epoch)
        own = tuple(member for member in record.ring if member.node == node.id)
        seized = taken_over(record, Term(record.epoch.term.number + 1, node.id))
        lie = msgspec.structs.replace(seized, ring=own, next_ring=own, removed=tuple(ids))
        data = RECORD.encode(lie)
        push = RecordPush(SignedRecord(data, CertifiedProofs(NodeSigner(identity)).prove(data)))
        for other in ids:
            node.channel.note(other, NOTE, TOPOLOGY_MESSAGES.encode(push))
        with trio.fail_after(30):
            while any(other.is_running for other in others):  # noqa: ASYNC110 - processes have no event
                await trio.sleep(0.1)
    return node.id


def test_a_member_in_wrong_hands_cannot_end_the_others_for_good(nodes: list[NodeProcess], tmp_path: Path) -> None:
    """They stop and keep everything; started again they serve nothing until it is expelled, and then all they held."""
    alpha, beta, gamma = nodes
    alpha.call("PUT", "/collections/c", {"vectors": {"size": 2, "distance": "Dot"}})
    alpha.call("PUT", "/collections/c/points?wait=true", {"points": [{"id": 7, "vector": [1, 2], "payload": {"n": 7}}]})
    gamma.kill()
    (tmp_path / "copy" / "identity").mkdir(parents=True, mode=0o700)
    shutil.copy(gamma.data_dir / IDENTITY_PATH, tmp_path / "copy" / IDENTITY_PATH)
    liar = trio.run(remove_all, tmp_path / "copy", [alpha, beta])
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

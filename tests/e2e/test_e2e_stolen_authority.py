"""Real processes: who has stolen the authority's key puts itself on the ring, and is shut out all the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from balancer.driver import NOTE
from balancer.proof import CertifiedProofs
from balancer.record import RECORD, TopologyRecord, after, taken_over
from balancer.saved import ADOPTED_PATH
from balancer.spread import RingMember
from balancer.topology_messages import SIGNED_RECORD, TOPOLOGY_MESSAGES, RecordDigest, RecordPush, SignedRecord
from frys_node.base.errors import FrysError
from frys_node.base.types import Address, NodeId, Term
from frys_node.demo.cluster import NodeProcess
from frys_node.secure.errors import Unconfirmed
from frys_node.secure.identity import load_identity
from frys_node.secure.keyring import KEYRING_PATH, Keyring
from frys_node.secure.signer import NodeSigner
from frys_node.secure.stored import IDENTITY_PATH
from frys_node.transport.disk import DirectoryDisk
from tests.e2e.e2e_clusters import open_ring
from tests.e2e.test_e2e_cluster import frys, wait
from tests.integration.channel.channel_rig import Node, open_unadmitted, running

pytestmark = pytest.mark.slow


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[list[NodeProcess]]:
    """Two members; the first is the issuer."""
    with open_ring(tmp_path, ("alpha", "beta")) as made:
        yield made


def verb(node: NodeProcess, *arguments: str) -> Any:
    """Run a command at a node; returns its JSON, or its error text."""
    done = frys(*arguments, "--json", "--data-dir", str(node.data_dir), cwd=node.home)
    return json.loads(done.stdout) if done.returncode == 0 else done.stderr


async def seize_and_give_back(ghost: Node, issuer: NodeId, others: list[NodeId]) -> None:
    """Push two records to everybody: the ghost on the ring and as the issuer, then the role to who had it."""
    held: list[TopologyRecord] = []

    def hear(_source: NodeId, payload: bytes) -> None:
        message = TOPOLOGY_MESSAGES.decode(payload)
        if isinstance(message, RecordPush):
            held.append(RECORD.decode(message.record.data))

    ghost.channel.on_note(NOTE, hear)
    ghost.channel.note(issuer, NOTE, TOPOLOGY_MESSAGES.encode(RecordDigest(None, None, True)))
    with trio.fail_after(20):
        while not held:  # noqa: ASYNC110 - a plain list has nothing to wait on
            await trio.sleep(0.02)
    record = max(held, key=lambda one: one.epoch)
    grown = (*record.ring, RingMember(node=ghost.id, weight=0))
    term = Term(record.epoch.term.number + 1, ghost.id)
    seized = msgspec.structs.replace(taken_over(record, term), ring=grown, next_ring=grown)
    for one in (seized, after(seized, successor=issuer)):
        data = RECORD.encode(one)
        push = RecordPush(SignedRecord(data, CertifiedProofs(NodeSigner(ghost.identity)).prove(data)))
        for other in (issuer, *others):
            ghost.channel.note(other, NOTE, TOPOLOGY_MESSAGES.encode(push))


def strangers(node: NodeProcess) -> list[str]:
    """Ids that the issuer takes for no member's."""
    body = verb(node, "status", "--security")
    return [entry["id"] for entry in body["strangers"]]


async def attack(alpha: NodeProcess, beta: NodeProcess, home: Path) -> None:
    """Be the thief, and the operator who notices."""
    stolen = load_identity(DirectoryDisk(home / "copy"))
    assert stolen is not None
    ghost = await open_unadmitted(stolen, home / "ghost")
    async with running(ghost):
        issuer, other = [await ghost.channel.connect_address(Address.parse(node.bind)) for node in (alpha, beta)]
        await seize_and_give_back(ghost, issuer, [other])

        def has_the_role_back() -> bool:
            shown = alpha.call("GET", "/v1/issuer")
            return bool(shown["issuer"] == issuer and shown["term"] > 2 and ghost.id in strangers(alpha))

        await trio.to_thread.run_sync(wait, "the role back, and the ghost named", has_the_role_back)
        refused = await trio.to_thread.run_sync(verb, alpha, "ca", "rotate")
        assert f"ghost ({ghost.id})" in refused or f"node ({ghost.id})" in refused
        assert "frys-node node admit" in refused
        assert "frys-node node revoke" in refused
        elsewhere = await trio.to_thread.run_sync(verb, beta, "node", "admit", ghost.id)
        assert "this node is not the issuer" in elsewhere
        with pytest.raises(Unconfirmed):
            await ghost.channel.renew_certificate()
        done = await trio.to_thread.run_sync(verb, alpha, "node", "revoke", ghost.id, "--yes")
        assert done["is_new"]
        rotated = await trio.to_thread.run_sync(verb, alpha, "ca", "rotate")
        assert (rotated["stage"], rotated["moved"], rotated["total"], rotated["strangers"]) == ("stable", 2, 2, [])
        with pytest.raises(FrysError):
            await ghost.channel._upkeep._trust.come_home(Address.parse(alpha.bind))
        for node in (alpha, beta):
            with pytest.raises(FrysError):
                await ghost.channel.connect_address(Address.parse(node.bind))
        newest = Keyring.decode((beta.data_dir / KEYRING_PATH).read_bytes()).newest
        assert newest is not None
        assert newest.key not in {key.key for key in ghost.channel.secrets.keyring.keys}


def is_newly_signed(node: NodeProcess) -> bool:
    """True if the record that a node works under is proved under an authority that it trusts now."""
    disk = DirectoryDisk(node.data_dir)
    identity, data = load_identity(disk), disk.read(ADOPTED_PATH)
    assert identity is not None
    assert data is not None
    signed = SIGNED_RECORD.decode(data)
    proofs = CertifiedProofs(NodeSigner(identity, is_past_trusted=False))
    return proofs.is_proof_of(RECORD.decode(signed.data).epoch.term.node, signed.data, signed.proof)


def test_a_thief_of_the_authoritys_key_on_the_ring_is_named_and_shut_out(
    nodes: list[NodeProcess], tmp_path: Path
) -> None:
    """The issuer takes it for no member by a record's word: it is renewed nowhere, and a rotation waits for a verdict.

    After the change the issuer has written its record anew, under the authority that is trusted now.
    """
    alpha, beta = nodes
    (tmp_path / "copy" / "identity").mkdir(parents=True, mode=0o700)
    shutil.copy(alpha.data_dir / IDENTITY_PATH, tmp_path / "copy" / IDENTITY_PATH)
    trio.run(attack, alpha, beta, tmp_path)
    wait("the record anew", lambda: is_newly_signed(beta))

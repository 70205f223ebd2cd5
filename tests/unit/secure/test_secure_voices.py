"""The voices of members: made from identities, believed on statements, worth nothing after an expulsion."""

from __future__ import annotations

import pytest

from frys_node.base.types import NodeId
from frys_node.channel.bootstrap import create_cluster
from frys_node.secure import voices
from frys_node.secure.identity import Identity
from frys_node.secure.signer import SIGNED_CODEC, NodeSigner
from frys_node.secure.signing_keys import Kind
from frys_node.secure.voices import VERIFIED_MAX, NodeVoices
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy


def cluster(kind: Kind = "ed25519", seed: str = "a") -> Identity:
    """Found a cluster."""
    clock = FakeClock(source=lambda: 0.0)
    entropy = FakeEntropy(f"{kind}/{seed}")
    return create_cluster(FakeDisk(), entropy, clock, cluster_name="prod", node_name="n1", kind=kind)


def voiced(identity: Identity, revoked: set[NodeId] | None = None) -> NodeVoices:
    """Give a node its voice."""
    expelled = set() if revoked is None else revoked
    return NodeVoices(identity, expelled)


@pytest.mark.parametrize("kind", ["ed25519", "ml-dsa-65"])
def test_a_voice_is_the_same_as_long_as_the_identity_is(kind: Kind) -> None:
    """After a restart it says the same; its signatures fit into packets whatever the identity's key is."""
    identity = cluster(kind)
    first, second = voiced(identity), voiced(identity)
    word = first.sign(b"claim")
    assert len(word) == 64
    assert second.verify(identity.node_id, b"claim", word) is True
    assert second.verify(identity.node_id, b"other", word) is False
    assert second.learn(first.statement(identity.node_id)) == identity.node_id


def test_a_voice_that_is_not_known_is_told_from_a_forged_one() -> None:
    """Until its statement was seen nobody can say; then everybody can."""
    identity = cluster()
    mine = voiced(identity)
    stranger = NodeId("f" * 32)
    assert mine.verify(stranger, b"claim", b"x" * 64) is None
    assert mine.statement(stranger) == b""
    assert mine.verify(identity.node_id, b"claim", b"short") is False


def test_statements_of_others_are_not_believed() -> None:
    """Those of another cluster, junk, a changed one, and what the identity has signed for another purpose."""
    identity = cluster()
    mine, foreign = voiced(identity), cluster(seed="b")
    statement = mine.statement(identity.node_id)
    changed = bytes([*statement[:40], statement[40] ^ 1, *statement[41:]])
    record = SIGNED_CODEC.encode(NodeSigner(identity).sign_with_certificate(b"r" * 46))
    for data in (b"", b"junk", changed, record, voiced(foreign).statement(foreign.node_id)):
        assert mine.learn(data) is None
    assert len(mine) == 1


def test_an_expelled_node_has_no_voice() -> None:
    """From the moment that it is known to be expelled, whatever was verified before."""
    identity, revoked = cluster(), set[NodeId]()
    mine = voiced(identity, revoked)
    word = mine.sign(b"claim")
    assert mine.verify(identity.node_id, b"claim", word) is True
    revoked.add(identity.node_id)
    assert mine.verify(identity.node_id, b"claim", word) is False
    assert mine.statement(identity.node_id) == b""
    assert mine.learn(voiced(identity).statement(identity.node_id)) is None


def test_a_signature_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A claim arrives a dozen times; what is remembered is bounded, and voices are too."""
    identity = cluster()
    mine = voiced(identity)
    word = mine.sign(b"claim")
    for _ in range(3):
        assert mine.verify(identity.node_id, b"claim", word)
    assert mine.verified == 1
    for number in range(VERIFIED_MAX + 10):
        mine.verify(identity.node_id, b"%d" % number, word)
    assert len(mine._verified) == VERIFIED_MAX
    monkeypatch.setattr(voices, "VOICES_MAX", 1)
    assert mine.learn(mine.statement(identity.node_id)) == identity.node_id
    assert len(mine) == 1

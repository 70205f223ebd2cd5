"""When the issuer takes the next step, and what it keeps on disk; a crash between any two writes loses nothing."""

from __future__ import annotations

import pytest

from frys_node.base.errors import CorruptData, NotReady, StorageError
from frys_node.base.types import NodeId
from frys_node.channel.bootstrap import create_cluster
from frys_node.secure.identity import Identity, load_identity
from frys_node.secure.token import parse_token
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.trust.authority import AuthorityHolder
from frys_node.trust.issuer import JOIN_PATH
from frys_node.trust.pending import ROTATION_PATH, read_pending
from frys_node.trust.rotation import Rotation, Stage, Step, Trusted, Wanted, held_by
from frys_node.trust.rotation_desk import RotationDesk

A, B, C = (NodeId(letter * 32) for letter in "abc")


def test_a_step_waits_for_every_live_member() -> None:
    """Both authorities trusted before the new one issues; certificates of the new one before the old one goes."""
    rotation = Rotation()
    introduced = Wanted(Stage.INTRODUCED, ("old", "new"))
    assert rotation.behind(introduced, [A, B]) == [A, B]
    rotation.answered(A, Trusted(("old", "new"), "old"))
    rotation.answered(B, Trusted(("old",), "old"))
    assert rotation.behind(introduced, [A, B]) == [B]
    assert rotation.step(introduced, [A, B]) is None
    assert rotation.step(introduced, [A]) is Step.SWITCH
    rotation.answered(B, Trusted(("old", "new"), "old"))
    assert rotation.step(introduced, [A, B]) is Step.SWITCH
    assert rotation.step(introduced, []) is None
    issuing = Wanted(Stage.ISSUING, ("new", "old"))
    assert rotation.step(issuing, [A, B]) is None
    rotation.answered(A, Trusted(("new", "old"), "new"))
    rotation.answered(B, Trusted(("new", "old"), "old"))
    assert rotation.step(issuing, [A, B]) is None
    rotation.answered(B, Trusted(("new", "old"), "new"))
    assert rotation.step(issuing, [A, B, C]) is None
    assert rotation.step(issuing, [A, B]) is Step.RETIRE
    assert rotation.step(Wanted(Stage.STABLE, ("new",)), [A, B]) is None
    rotation.forget([A])
    assert rotation.behind(issuing, [A, B]) == [B]


class Issuer:
    """An issuer's desks on a disk that a test may break."""

    def __init__(self, disk: FakeDisk, identity: Identity) -> None:
        self.disk, self.identity = disk, identity
        entropy, clock = FakeEntropy("next"), FakeClock(source=lambda: 0.0)
        self.holder = AuthorityHolder(identity, disk, entropy, clock, issuer=lambda: identity.node_id)
        self.desk = RotationDesk(identity, self.holder, disk, entropy, clock)

    @classmethod
    def founded(cls) -> Issuer:
        """A new cluster's."""
        disk = FakeDisk()
        entropy, clock = FakeEntropy(0), FakeClock(source=lambda: 0.0)
        return cls(disk, create_cluster(disk, entropy, clock, cluster_name="prod", node_name="n1"))

    def restarted(self) -> Issuer:
        """The same disk after a crash."""
        self.disk.crash()
        identity = load_identity(self.disk)
        assert identity is not None
        return Issuer(self.disk, identity)


def test_each_stage_survives_a_crash_and_the_key_is_never_lost() -> None:
    """Introduced, issuing, stable again; the join token pins whoever issues; the old key is nowhere at the end."""
    issuer = Issuer.founded()
    assert issuer.holder.desk is not None
    issuer.holder.desk.renew_join_token()
    first = issuer.identity.ca_certificate
    assert (issuer.desk.wanted.stage, issuer.desk.was_rotated) == (Stage.STABLE, False)
    issuer.desk.begin()
    issuer = issuer.restarted()
    assert (issuer.desk.wanted.stage, issuer.desk.was_rotated) == (Stage.INTRODUCED, True)
    assert issuer.identity.ca_certificate == first
    with pytest.raises(NotReady):
        issuer.desk.begin()
    issuer.desk.switch()
    issuer = issuer.restarted()
    second = issuer.identity.ca_certificate
    assert issuer.desk.wanted.stage is Stage.ISSUING
    assert issuer.identity.authorities == (second, first)
    assert held_by(issuer.identity).issued_by == issuer.identity.ca_hash
    assert issuer.identity.ca_key is not None
    assert issuer.identity.ca_key.public_key() == second.public_key()
    token = issuer.disk.read(JOIN_PATH)
    assert token is not None
    assert parse_token(token.decode()).ca_hash == issuer.identity.ca_hash
    issuer.desk.retire()
    issuer = issuer.restarted()
    assert (issuer.desk.wanted.stage, issuer.identity.authorities) == (Stage.STABLE, (second,))
    assert issuer.identity.retired == (first,)
    assert read_pending(issuer.disk) is None


def test_a_crash_between_key_and_identity_leaves_the_stage_before() -> None:
    """A key that nobody trusts yet is replaced by the next try; one that issues and was not removed is no harm."""
    issuer = Issuer.founded()
    issuer.desk.begin()
    kept = issuer.disk.read(ROTATION_PATH)
    assert kept is not None
    fresh = Issuer.founded()
    fresh.disk.write(ROTATION_PATH, kept)
    assert fresh.desk.wanted.stage is Stage.STABLE
    fresh.desk.begin()
    assert fresh.desk.wanted.stage is Stage.INTRODUCED
    fresh.desk.switch()
    issuer.desk.switch()
    issuer.disk.write(ROTATION_PATH, kept)
    assert issuer.desk.wanted.stage is Stage.ISSUING
    issuer.desk.retire()
    issuer.desk.begin()
    assert issuer.desk.wanted.stage is Stage.INTRODUCED


def test_a_standby_takes_the_waiting_key_and_goes_on() -> None:
    """Its copy carries the next key; once it trusts the new authority it holds that key and can admit nodes."""
    issuer = Issuer.founded()
    issuer.desk.begin()
    disk = FakeDisk()
    standby = Issuer(disk, issuer.identity.renewed(issuer.identity.certificate))
    standby.identity.ca_key = None
    standby.holder.take(issuer.holder.export())
    assert standby.holder.can_admit
    issuer.desk.switch()
    key = standby.holder.key_for(issuer.identity.ca_certificate)
    assert key is not None
    assert issuer.identity.ca_key is not None
    assert key.private_bytes_raw() == issuer.identity.ca_key.private_bytes_raw()
    assert read_pending(disk) is not None
    standby.identity.become(standby.identity.trusting(issuer.identity.trust, key))
    standby.holder.trust_changed()
    assert read_pending(disk) is None
    standby.holder.take(issuer.holder.export())
    assert disk.read(ROTATION_PATH) is None
    assert standby.identity.ca_key is not None
    assert standby.identity.ca_key.private_bytes_raw() == key.private_bytes_raw()


def test_what_cannot_be_done_changes_nothing() -> None:
    """A node without the key, a lost key file, a damaged one."""
    issuer = Issuer.founded()
    key, issuer.identity.ca_key = issuer.identity.ca_key, None
    with pytest.raises(NotReady, match="does not hold"):
        issuer.desk.begin()
    issuer.identity.ca_key = key
    issuer.desk.begin()
    before = issuer.identity.trust
    issuer.disk.write(ROTATION_PATH, b"{}")
    with pytest.raises(CorruptData, match="damaged"):
        issuer.desk.switch()
    issuer.disk.remove(ROTATION_PATH)
    with pytest.raises((CorruptData, StorageError), match="gone"):
        issuer.desk.switch()
    assert issuer.identity.trust == before

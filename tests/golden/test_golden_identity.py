"""Identity files of earlier releases load for good."""

from __future__ import annotations

from pathlib import Path

import pytest

from frys_node.base.errors import UnsupportedVersion
from frys_node.secure import certificates
from frys_node.secure.identity import load_identity, save_identity
from frys_node.secure.stored import IDENTITY_PATH, VERSION, read_stored
from frys_node.secure.trust import reaches
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.trust.authority import AuthorityHolder
from frys_node.trust.pending import ROTATION_PATH, read_pending
from frys_node.trust.rotation import Stage
from frys_node.trust.rotation_desk import RotationDesk

GOLDEN = Path(__file__).parent


def test_an_identity_of_version_1_loads_and_is_ed25519() -> None:
    """It had no kind; names, keys and certificates come back, and it is written again as the present version."""
    disk = FakeDisk()
    disk.write(IDENTITY_PATH, (GOLDEN / "identity-1.json").read_bytes())
    identity = load_identity(disk)
    assert identity is not None
    assert (identity.kind, identity.is_issuer) == ("ed25519", True)
    assert (identity.node_id, identity.ca_hash) == (
        "4daacf9b14516aa8a073aad2251dd611",
        "4b1f2728ac626c34719cd4c02243078b",
    )
    assert certificates.read_subject(identity.certificate) == (identity.cluster_id, identity.node_id, "n1")
    save_identity(disk, identity)
    stored = read_stored(disk)
    assert stored is not None
    assert (stored.version, stored.kind) == (VERSION, "ed25519")


def test_an_identity_of_version_2_amid_its_second_change_loads_with_the_key_that_waits() -> None:
    """Two trusted authorities, two links, one retired; the next one's key is that of the second authority."""
    disk = FakeDisk()
    disk.write(IDENTITY_PATH, (GOLDEN / "identity-2.json").read_bytes())
    disk.write(ROTATION_PATH, (GOLDEN / "rotation-1.json").read_bytes())
    identity, pending = load_identity(disk), read_pending(disk)
    assert identity is not None
    assert pending is not None
    assert (len(identity.authorities), len(identity.links), len(identity.retired)) == (2, 2, 1)
    assert pending.certificate == identity.authorities[1]
    assert pending.key.public_key() == pending.certificate.public_key()
    assert reaches(pending.certificate, identity.links, identity.retired, identity.cluster_id)
    held = AuthorityHolder(
        identity, disk, FakeEntropy(), FakeClock(source=lambda: 0.0), issuer=lambda: identity.node_id
    )
    desk = RotationDesk(identity, held, disk, FakeEntropy(), FakeClock(source=lambda: 0.0))
    assert desk.wanted.stage is Stage.INTRODUCED


def test_an_identity_of_a_later_version_is_refused_and_kept() -> None:
    """It may hold what this release would lose; the error says which release to start."""
    disk = FakeDisk()
    later = (GOLDEN / "identity-1.json").read_bytes().replace(b'"version": 1', b'"version": 99')
    disk.write(IDENTITY_PATH, later)
    with pytest.raises(UnsupportedVersion, match="version 99") as caught:
        load_identity(disk)
    assert "start the release that wrote it" in caught.value.hint
    assert disk.read(IDENTITY_PATH) == later

"""Certificates, identities on disk, boot ids, signatures and admin tokens."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from frys_node.base.errors import CorruptData, SecurityError
from frys_node.base.types import Address, ClusterId, NodeId
from frys_node.channel.bootstrap import create_cluster
from frys_node.secure import certificates
from frys_node.secure.admin import AdminTokens, create_admin_token
from frys_node.secure.errors import ForeignCluster, InvalidCertificate, UnsafePermissions
from frys_node.secure.identity import Identity, load_identity, new_key, save_identity
from frys_node.secure.keyring import KEYRING_PATH
from frys_node.secure.signer import SIGNED_CODEC, BadSignature, NodeSigner, SignedBytes
from frys_node.secure.stored import BOOT_PATH, IDENTITY_PATH, next_boot, read_secret
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy
from frys_node.testing.identities import issue_member
from frys_node.transport.disk import DirectoryDisk

DAY_NS = 86_400 * 10**9


def _clock() -> FakeClock:
    return FakeClock(source=lambda: 0.0)


def _cluster(seed: int = 0, disk: FakeDisk | None = None) -> Identity:
    return create_cluster(disk or FakeDisk(), FakeEntropy(seed), _clock(), cluster_name="prod", node_name="n1")


def _member(issuer: Identity, seed: int = 1) -> Identity:
    seeds = (Address("10.0.0.1", 7946), Address("::1", 7946))
    return issue_member(issuer, f"n{seed}", FakeEntropy(seed), _clock(), seeds=seeds)


def test_a_node_certificate_says_who_and_where() -> None:
    """Cluster, node and name come back from it; it is for client and server; it began a day ago."""
    issuer = _cluster()
    subject = certificates.verify_issued(issuer.certificate, issuer.ca_certificate, _clock().unix_ns())
    assert subject == (issuer.cluster_id, issuer.node_id, "n1")
    assert issuer.node_id == certificates.node_id_of(issuer.key.public_key())
    assert len(issuer.node_id) == len(issuer.cluster_id) == len(issuer.ca_hash) == 32
    assert certificates.has_both_usages(issuer.certificate)
    for shift, is_valid in ((-1.5, False), (-0.5, True), (0, True), (365 + 5, True), (365 + 7, False)):
        now = _clock().unix_ns() + int(shift * DAY_NS)
        assert certificates.within_life(issuer.certificate, now) is is_valid, shift


def test_certificates_of_others_are_refused() -> None:
    """Another authority, one that leaves its cluster, a certificate without usages, one out of its time."""
    issuer, other = _cluster(0), _cluster(1)
    now = _clock().unix_ns()
    with pytest.raises(ForeignCluster):
        certificates.verify_issued(other.certificate, issuer.ca_certificate, now)
    assert issuer.ca_key is not None
    stray = certificates.Subject(other.cluster_id, issuer.node_id, "n1")
    public = issuer.key.public_key()
    certificate = certificates.issue(issuer.ca_key, issuer.ca_certificate, public, subject=stray, unix_ns=now)
    with pytest.raises(ForeignCluster):
        certificates.verify_issued(certificate, issuer.ca_certificate, now)
    bare = (
        x509.CertificateBuilder()
        .subject_name(issuer.certificate.subject)
        .issuer_name(issuer.ca_certificate.subject)
        .public_key(public)
        .serial_number(1)
        .not_valid_before(issuer.certificate.not_valid_before_utc)
        .not_valid_after(issuer.certificate.not_valid_after_utc)
    )
    with pytest.raises(InvalidCertificate, match="frys://"):
        certificates.verify_issued(bare.sign(issuer.ca_key, None), issuer.ca_certificate, now)
    uri = x509.UniformResourceIdentifier(f"frys://{issuer.cluster_id}/{issuer.node_id}")
    named = bare.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    with pytest.raises(InvalidCertificate, match="clients and servers"):
        certificates.verify_issued(named.sign(issuer.ca_key, None), issuer.ca_certificate, now)
    with pytest.raises(InvalidCertificate, match="expired"):
        certificates.verify_issued(issuer.certificate, issuer.ca_certificate, now + 400 * DAY_NS)
    with pytest.raises(InvalidCertificate, match="authority"):
        certificates.authority_cluster(issuer.certificate)


def test_signing_requests_must_prove_an_ed25519_key() -> None:
    """Noise, a changed signature and another kind of key are refused."""
    key = new_key(FakeEntropy(5))
    der = certificates.create_request(key)
    assert certificates.read_request(der) == key.public_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    classical = builder.sign(ec.generate_private_key(ec.SECP256R1()), SHA256()).public_bytes(Encoding.DER)
    for wrong in (b"", b"noise", der[:-1] + bytes([der[-1] ^ 1]), der[:-5], classical):
        with pytest.raises(InvalidCertificate):
            certificates.read_request(wrong)
    with pytest.raises(InvalidCertificate):
        certificates.load_der(b"noise")


def test_an_identity_survives_the_disk() -> None:
    """Issuer and member load as they were stored; only the issuer has the authority's key."""
    disk = FakeDisk()
    assert load_identity(disk) is None
    issuer = _cluster(0, disk)
    loaded = load_identity(disk)
    assert loaded is not None
    assert loaded.is_issuer
    assert (loaded.node_id, loaded.cluster_id, loaded.chain) == (issuer.node_id, issuer.cluster_id, issuer.chain)
    member = _member(issuer)
    save_identity(disk, member)
    loaded = load_identity(disk)
    assert loaded is not None
    assert not loaded.is_issuer
    assert (loaded.node_name, loaded.seeds, loaded.issuer) == ("n1", member.seeds, issuer.node_id)
    assert loaded.key.private_bytes_raw() == member.key.private_bytes_raw()


def test_a_damaged_identity_is_refused_and_kept() -> None:
    """Cut, changed or mixed files are corrupt data, never a half identity."""
    disk = FakeDisk()
    issuer = _cluster(0, disk)
    stored = disk.read(IDENTITY_PATH)
    assert stored is not None
    swapped = stored.replace(issuer.node_id.encode(), b"0" * 32)
    other = FakeDisk()
    _cluster(1, other)
    foreign = other.read(IDENTITY_PATH)
    assert foreign is not None
    mixed = stored.replace(_field(stored, b"key"), _field(foreign, b"key"), 1)
    for wrong in (stored[:-20], b"", b"{}", swapped, mixed):
        disk.write(IDENTITY_PATH, wrong)
        with pytest.raises(CorruptData):
            load_identity(disk)
        assert disk.read(IDENTITY_PATH) == wrong


def _field(stored: bytes, name: bytes) -> bytes:
    start = stored.index(b'"' + name + b'": "')
    return stored[start : stored.index(b'",', start)]


def test_secrets_that_others_can_read_are_refused(tmp_path: Path) -> None:
    """Identity, keyring and admin token are 0600 in a 0700 directory, and anything wider is not used."""
    disk = DirectoryDisk(tmp_path / "n")
    create_cluster(disk, FakeEntropy(), _clock(), cluster_name="prod", node_name="n1")
    for path in (IDENTITY_PATH, KEYRING_PATH, "admin-token"):
        file = tmp_path / "n" / path
        assert file.stat().st_mode & 0o777 == 0o600
        assert file.parent.stat().st_mode & 0o777 == 0o700
        os.chmod(file, 0o644)
        with pytest.raises(UnsafePermissions) as caught:
            read_secret(disk, path)
        assert "chmod 600" in caught.value.hint
    assert read_secret(disk, "none") is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to another user")
def test_a_secret_that_another_user_put_there_is_refused(tmp_path: Path) -> None:
    """Mode 0600 is not enough: who planted an admin token knows it."""
    disk = DirectoryDisk(tmp_path / "n")
    disk.write("admin-token", b"frysadmin.planted")
    os.chown(tmp_path / "n" / "admin-token", 12_345, 12_345)
    with pytest.raises(UnsafePermissions, match="belongs to another user") as caught:
        read_secret(disk, "admin-token")
    assert "chown" in caught.value.hint
    assert not disk.is_foreign("none")
    os.chown(tmp_path / "n" / "admin-token", 0, 0)
    assert read_secret(disk, "admin-token") == b"frysadmin.planted"


def test_the_boot_id_grows_with_every_start_even_after_a_crash() -> None:
    """Counter above, randomness below; the counter is durable before the id is used."""
    disk, entropy = FakeDisk(), FakeEntropy(1)
    boots = [next_boot(disk, entropy) for _ in range(5)]
    assert [boot >> 32 for boot in boots] == [1, 2, 3, 4, 5]
    assert len({boot & 0xFFFF_FFFF for boot in boots}) == 5
    disk.crash()
    assert next_boot(disk, entropy) >> 32 == 6
    disk.write(BOOT_PATH, b"garbage")
    with pytest.raises(CorruptData):
        next_boot(disk, entropy)


def test_signatures_travel_with_their_certificate() -> None:
    """A member's signed bytes name it; changed bytes, foreign certificates and expelled nodes do not pass."""
    issuer = _cluster()
    member, stranger = _member(issuer, 1), _member(_cluster(9), 2)
    revoked: set[NodeId] = set()
    mine, theirs = NodeSigner(issuer, revoked), NodeSigner(member)
    signed = SIGNED_CODEC.decode(SIGNED_CODEC.encode(theirs.sign_with_certificate(b"record")))
    assert not mine.verify(member.node_id, b"record", signed.signature)
    assert mine.verify_signed(signed) == member.node_id
    assert mine.verify(member.node_id, b"record", signed.signature)
    assert not mine.verify(member.node_id, b"other", signed.signature)
    assert not mine.verify(issuer.node_id, b"record", signed.signature)
    assert mine.verify(issuer.node_id, b"x", mine.sign(b"x"))
    own = certificates.der(issuer.certificate)
    for wrong in (
        SignedBytes(b"forged", signed.signature, signed.certificate),
        SignedBytes(b"record", signed.signature, own),
        SignedBytes(b"record", b"short", signed.certificate),
        SignedBytes(b"record", member.key.sign(b"record"), signed.certificate),
        NodeSigner(stranger).sign_with_certificate(b"record"),
        SignedBytes(b"record", signed.signature, b"noise"),
    ):
        with pytest.raises(SecurityError):
            mine.verify_signed(wrong)
    revoked.add(member.node_id)
    with pytest.raises(BadSignature, match="expelled"):
        mine.verify_signed(signed)
    assert not mine.verify(member.node_id, b"record", signed.signature)


def test_what_was_signed_long_ago_is_believed_still() -> None:
    """A record may be older than its certificate's life; one whose certificate names another node's key is refused."""
    issuer = _cluster()
    assert issuer.ca_key is not None
    member = _member(issuer, 1)
    for node, ago_days, is_believed in ((member.node_id, 400, True), (issuer.node_id, 0, False)):
        subject = certificates.Subject(issuer.cluster_id, node, "n1")
        made_ns = _clock().unix_ns() - ago_days * DAY_NS
        certificate = certificates.issue(
            issuer.ca_key, issuer.ca_certificate, member.key.public_key(), subject=subject, unix_ns=made_ns
        )
        signed = NodeSigner(member).sign_with_certificate(b"record")
        shown = SignedBytes(signed.data, signed.signature, certificates.der(certificate))
        if is_believed:
            assert NodeSigner(issuer).verify_signed(shown) == node
        else:
            with pytest.raises(InvalidCertificate, match="another node"):
                NodeSigner(issuer).verify_signed(shown)


def test_only_the_hash_of_the_admin_token_is_shared() -> None:
    """The first start writes it once; members check a bearer by hash; there is room for sixteen."""
    disk, entropy = FakeDisk(), FakeEntropy()
    token = create_admin_token(disk, entropy)
    assert create_admin_token(disk, entropy) == token
    own = AdminTokens.load(disk)
    member = AdminTokens()
    assert not member.check(token)
    assert member.merge(own.hashes)
    assert not member.merge(own.hashes)
    assert member.check(token + "\n")
    assert not member.check("")
    assert not member.check(token[:-1])
    member.save(disk)
    assert token.encode() not in (disk.read("identity/admin-hashes") or b"")
    disk.remove("admin-token")
    assert AdminTokens.load(disk).check(token)
    member.merge(bytes([number]) * 32 for number in range(40))
    member.merge([b"short"])
    assert len(member.hashes) == 16


def test_a_cluster_id_is_its_authoritys() -> None:
    """Two clusters of one name are two clusters."""
    one, two = _cluster(0), _cluster(1)
    assert certificates.authority_cluster(one.ca_certificate) == one.cluster_id
    assert one.cluster_id != two.cluster_id
    assert one.ca_hash != two.ca_hash
    assert isinstance(ClusterId(one.cluster_id), str)

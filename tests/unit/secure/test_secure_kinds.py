"""The two kinds of identity: keys, certificates and signatures of each, and that they never mix in one cluster."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from frys_node.channel.bootstrap import create_cluster
from frys_node.secure import certificates
from frys_node.secure.errors import CryptographyTooOld, InvalidCertificate
from frys_node.secure.identity import Identity, load_identity
from frys_node.secure.posture import WORDING, posture
from frys_node.secure.selfcheck import Abilities, check_cryptography, installed
from frys_node.secure.signer import BadSignature, NodeSigner, SignedBytes
from frys_node.secure.signing_keys import Kind, key_from_seed, kind_of, new_key
from frys_node.testing.clock import FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy

KINDS: tuple[Kind, ...] = ("ed25519", "ml-dsa-65")
DAY_NS = 86_400 * 10**9


def _clock() -> FakeClock:
    return FakeClock(source=lambda: 0.0)


def _cluster(kind: Kind, disk: FakeDisk | None = None) -> Identity:
    return create_cluster(
        disk or FakeDisk(), FakeEntropy(kind), _clock(), cluster_name="prod", node_name="n1", kind=kind
    )


@pytest.mark.parametrize("kind", KINDS)
def test_an_identity_of_either_kind_survives_the_disk_and_signs(kind: Kind) -> None:
    """All three keys are of the kind; what is loaded signs as before, and a changed signature is refused."""
    disk = FakeDisk()
    made, loaded = _cluster(kind, disk), load_identity(disk)
    assert loaded is not None
    assert made.kind == loaded.kind == kind_of(made.ca_certificate.public_key()) == kind
    assert loaded.key.private_bytes_raw() == made.key.private_bytes_raw()
    subject = certificates.verify_issued(made.certificate, made.ca_certificate, _clock().unix_ns())
    assert subject.node == made.node_id == certificates.node_id_of(made.key.public_key())
    signer = NodeSigner(loaded)
    signed = signer.sign_with_certificate(b"record")
    assert len(signed.signature) == {"ed25519": 64, "ml-dsa-65": 3_309}[kind]
    assert NodeSigner(made).verify_signed(signed) == made.node_id
    changed = bytes([signed.signature[0] ^ 1]) + signed.signature[1:]
    with pytest.raises(BadSignature):
        signer.verify_signed(SignedBytes(signed.data, changed, signed.certificate))


def test_a_cluster_has_one_kind_of_key() -> None:
    """No request for a key of another kind is granted, and such a certificate does not pass if it exists."""
    for kind, other in (KINDS, KINDS[::-1]):
        cluster, key = _cluster(kind), new_key(FakeEntropy(1), other)
        request = certificates.create_request(key)
        assert certificates.read_request(request) == key.public_key()
        with pytest.raises(InvalidCertificate, match=f"of kind {other}; this cluster's is {kind}"):
            certificates.read_request(request, kind)
        assert cluster.ca_key is not None
        subject = certificates.Subject(cluster.cluster_id, certificates.node_id_of(key.public_key()), "n2")
        now = _clock().unix_ns()
        mixed = certificates.issue(
            cluster.ca_key, cluster.ca_certificate, key.public_key(), subject=subject, unix_ns=now
        )
        with pytest.raises(InvalidCertificate, match="of kind"):
            certificates.verify_issued(mixed, cluster.ca_certificate, now)
    with pytest.raises(InvalidCertificate, match="must be"):
        kind_of(ec.generate_private_key(ec.SECP256R1()))


def test_a_seed_makes_the_same_key_again() -> None:
    """The authority's key is handed over as 32 bytes, of either kind."""
    for kind in KINDS:
        key = new_key(FakeEntropy(3), kind)
        assert key_from_seed(key.private_bytes_raw(), kind).public_key() == key.public_key()
        with pytest.raises(ValueError, match="32"):
            key_from_seed(b"short", kind)


def test_a_library_that_lacks_an_algorithm_is_named_with_the_fix() -> None:
    """Without ML-KEM nothing starts; without ML-DSA only clusters of that kind do not."""
    check_cryptography("ml-dsa-65", installed())
    check_cryptography("ed25519", Abilities("44.0", True, False))
    for kind, found, missing in (
        ("ed25519", Abilities("43.0", False, False), "ML-KEM"),
        ("ml-dsa-65", Abilities("44.0", True, False), "ML-DSA"),
    ):
        with pytest.raises(CryptographyTooOld, match=missing) as caught:
            check_cryptography(kind, found)
        assert found.version in caught.value.message
        assert "pip install" in caught.value.hint


def test_the_posture_says_no_more_than_is_true() -> None:
    """Authentication is called post-quantum with ML-DSA alone; the days left count down through the grace."""
    for kind in KINDS:
        identity = _cluster(kind)
        states = []
        for day in (0, 363, 365, 372, -2):
            now = _clock().unix_ns() + day * DAY_NS
            shown = posture(identity.certificate, identity.ca_certificate, now)
            states.append((shown.certificate_days_left, shown.certificate_state))
        assert states == [(364, "valid"), (1, "valid"), (-1, "grace"), (-8, "expired"), (366, "early")]
        assert (shown.identity, shown.summary, shown.authority) == (kind, WORDING[kind], identity.ca_hash)
        assert (shown.group, shown.cipher) == ("X25519MLKEM768", "TLS_AES_256_GCM_SHA384")
    assert "classical authentication" in WORDING["ed25519"]

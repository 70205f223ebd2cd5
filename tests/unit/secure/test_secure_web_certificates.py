"""Certificates of HTTP listeners: for which hosts, for how long, and that none opens the node-to-node channel."""

from __future__ import annotations

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from frys_node.base.types import ClusterId
from frys_node.secure.certificates import create_authority, verify_issued
from frys_node.secure.errors import InvalidCertificate
from frys_node.secure.web_certificates import clean_name, covers, is_for, is_literal, issue_web, life_left_s

NOW_NS = 1_800_000_000 * 10**9
CLUSTER = ClusterId("c" * 32)
CA_KEY = Ed25519PrivateKey.from_private_bytes(b"\1" * 32)
CA = create_authority(CA_KEY, CLUSTER, "test", NOW_NS)
KEY = Ed25519PrivateKey.from_private_bytes(b"\2" * 32).public_key()


def issued(*names: str, at_ns: int = NOW_NS) -> x509.Certificate:
    """A certificate for names."""
    return issue_web(CA_KEY, CA, KEY, names, at_ns)


@pytest.mark.parametrize(
    ("host", "fits"),
    [
        ("api.example.org", True),
        ("API.Example.ORG.", True),
        ("a.b.example.org", False),
        ("x.wild.example.org", True),
        ("wild.example.org", False),
        ("x.y.wild.example.org", False),
        ("example.org", False),
        ("10.0.0.5", True),
        ("10.0.0.50", False),
        ("fd00::5", True),
        ("fd00:0:0::5", True),
        ("[fd00::5]", True),
        ("", False),
        ("*.wild.example.org", True),
        ("org", False),
    ],
)
def test_a_certificate_is_for_its_names_and_no_others(host: str, fits: bool) -> None:
    """Names without regard to case, one label for a star, addresses by value."""
    certificate = issued("api.example.org", "*.wild.example.org", "10.0.0.5", "fd00::5")
    assert is_for(certificate, host) is fits


def test_a_certificate_without_names_is_for_nobody() -> None:
    """The common name does not count, as nowhere any more."""
    bare = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "api.example.org")]))
        .issuer_name(CA.subject)
        .public_key(KEY)
        .serial_number(1)
        .not_valid_before(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
        .not_valid_after(dt.datetime(2027, 1, 1, tzinfo=dt.UTC))
        .sign(CA_KEY, None)
    )
    assert not is_for(bare, "api.example.org")
    assert covers(bare, ())


def test_no_certificate_of_a_listener_passes_for_a_members() -> None:
    """The authority's signature alone does not make a member: the name and the usages do."""
    with pytest.raises(InvalidCertificate):
        verify_issued(issued("n1"), CA, NOW_NS)
    with pytest.raises(InvalidCertificate):
        clean_name(f"frys://{CLUSTER}/{'a' * 32}")


def test_it_lives_ninety_days_and_not_longer_than_its_authority() -> None:
    """Less the day by which it is dated back."""
    certificate = issued("n1")
    assert life_left_s(certificate, NOW_NS) == 89 * 86_400
    late_ns = int(CA.not_valid_after_utc.timestamp() - 86_400) * 10**9
    assert issued("n1", at_ns=late_ns).not_valid_after_utc == CA.not_valid_after_utc


@pytest.mark.parametrize(
    ("text", "clean"),
    [("N1.", "n1"), ("*.a.b", "*.a.b"), (" 10.0.0.5 ", "10.0.0.5"), ("[::1]", "::1"), ("FD00::0:5", "fd00::5")],
)
def test_names_are_compared_in_one_form(text: str, clean: str) -> None:
    """Case, dots at the end, brackets and ways to write an address do not count."""
    assert clean_name(text) == clean
    assert is_literal(clean) is (":" in clean or clean[0].isdigit())


@pytest.mark.parametrize(
    "text", ["", "*", "*.*.a", "a..b", "-a", "a-", "a b", "é.example", "x" * 64, "a." * 130, "a\nb"]
)
def test_what_is_no_hosts_name_is_refused(text: str) -> None:
    """Before anything is signed."""
    with pytest.raises(InvalidCertificate, match="no name of a host"):
        clean_name(text)


def test_a_certificate_has_a_bounded_number_of_names() -> None:
    """None is as bad as too many."""
    for names in ((), tuple(f"n{number}" for number in range(33))):
        with pytest.raises(InvalidCertificate, match="1 to 32"):
            issue_web(CA_KEY, CA, KEY, names, NOW_NS)

"""Links between authorities: whom a member trusts because another one vouches for it."""

from __future__ import annotations

import pytest
from cryptography import x509

from frys_node.base.errors import NotReady
from frys_node.base.types import ClusterId
from frys_node.channel.bootstrap import create_cluster
from frys_node.secure import certificates
from frys_node.secure.errors import ForeignCluster
from frys_node.secure.identity import Identity
from frys_node.secure.signing_keys import Kind, PrivateKey, new_key
from frys_node.secure.trust import (
    LINKS_MAX,
    LINKS_UNASKED,
    TrustSet,
    check_change,
    issuer_of,
    links_behind,
    make_link,
    reaches,
)
from frys_node.testing.clock import UNIX_START_NS, FakeClock
from frys_node.testing.disk import FakeDisk
from frys_node.testing.entropy import FakeEntropy

KINDS: tuple[Kind, ...] = ("ed25519", "ml-dsa-65")


def _cluster(kind: Kind, seed: int = 0) -> Identity:
    clock = FakeClock(source=lambda: 0.0)
    return create_cluster(FakeDisk(), FakeEntropy(seed), clock, cluster_name="prod", node_name="n1", kind=kind)


def _next(cluster: ClusterId, kind: Kind, seed: int) -> tuple[PrivateKey, x509.Certificate]:
    key = new_key(FakeEntropy(seed), kind)
    return key, certificates.create_authority(key, cluster, "prod", UNIX_START_NS, is_first=False)


@pytest.mark.parametrize("kind", KINDS)
def test_links_carry_trust_from_one_authority_to_the_next_and_no_further(kind: Kind) -> None:
    """Over as many changes as are remembered; without the first link, or with one of another key, nothing follows."""
    one = _cluster(kind)
    assert one.ca_key is not None
    authorities, links, key = [one.ca_certificate], [], one.ca_key
    for seed in range(1, LINKS_MAX + 1):
        new, authority = _next(one.cluster_id, kind, seed)
        links.append(make_link(key, authorities[-1], authority, one.cluster_id, UNIX_START_NS))
        authorities.append(authority)
        key = new
    first, last = authorities[:1], authorities[-1]
    assert reaches(last, links, first, one.cluster_id)
    assert reaches(authorities[0], (), first, one.cluster_id)
    assert not reaches(last, links[1:], first, one.cluster_id)
    assert not reaches(last, links[::-1], first, one.cluster_id)
    assert not reaches(last, links, first, ClusterId("0" * 32))
    assert not reaches(authorities[0], links, authorities[-1:], one.cluster_id)
    assert len({authority.subject for authority in authorities}) == len(authorities), "OpenSSL looks by name"


def test_nobody_else_vouches_for_an_authority() -> None:
    """Not the new key itself, not another cluster's authority, not a node of this cluster, not one of another kind."""
    one, other = _cluster("ed25519"), _cluster("ed25519", 7)
    assert one.ca_key is not None
    assert other.ca_key is not None
    key, authority = _next(one.cluster_id, "ed25519", 1)
    foreign_key, foreign = _next(other.cluster_id, "ed25519", 2)
    strong_key, strong = _next(one.cluster_id, "ml-dsa-65", 3)
    trusted = one.authorities
    for wanted, link in (
        (authority, make_link(key, authority, authority, one.cluster_id, UNIX_START_NS)),
        (authority, make_link(other.ca_key, other.ca_certificate, authority, one.cluster_id, UNIX_START_NS)),
        (authority, make_link(one.key, one.certificate, authority, one.cluster_id, UNIX_START_NS)),
        (authority, make_link(foreign_key, one.ca_certificate, authority, one.cluster_id, UNIX_START_NS)),
        (foreign, make_link(one.ca_key, one.ca_certificate, foreign, other.cluster_id, UNIX_START_NS)),
        (strong, make_link(one.ca_key, one.ca_certificate, strong, one.cluster_id, UNIX_START_NS)),
        (one.certificate, make_link(one.ca_key, one.ca_certificate, authority, one.cluster_id, UNIX_START_NS)),
    ):
        assert not reaches(wanted, (link,), trusted, one.cluster_id)
    assert strong_key != key
    vouched = make_link(one.ca_key, one.ca_certificate, authority, one.cluster_id, UNIX_START_NS)
    assert reaches(authority, (vouched,), trusted, one.cluster_id)


def test_a_member_never_drops_the_authority_of_its_own_certificate() -> None:
    """It may trust both, and the new one alone only with a certificate of the new one."""
    one = _cluster("ed25519")
    assert one.ca_key is not None
    key, authority = _next(one.cluster_id, "ed25519", 1)
    link = make_link(one.ca_key, one.ca_certificate, authority, one.cluster_id, UNIX_START_NS)
    introduced = one.trust.introducing(authority, link)
    switched = introduced.switched(authority)
    retired = switched.retiring()
    assert (introduced.authorities, switched.authorities) == (
        switched.authorities[::-1],
        (authority, one.ca_certificate),
    )
    assert (retired.authorities, retired.retired) == ((authority,), (one.ca_certificate,))
    for wanted in (introduced, switched):
        check_change(one.trust, wanted, one.certificate, one.cluster_id)
    with pytest.raises(NotReady, match="renewed first"):
        check_change(switched, retired, one.certificate, one.cluster_id)
    renewed = certificates.issue(
        key,
        authority,
        one.key.public_key(),
        subject=certificates.Subject(one.cluster_id, one.node_id, "n1"),
        unix_ns=UNIX_START_NS,
    )
    check_change(switched, retired, renewed, one.cluster_id)
    assert issuer_of(renewed, (one.ca_certificate,)) is None
    with pytest.raises(ForeignCluster, match="1 to 2"):
        check_change(one.trust, TrustSet(()), one.certificate, one.cluster_id)


def test_a_member_is_told_the_links_behind_what_it_trusts_and_no_others() -> None:
    """Sixteen links of ML-DSA are 90 KB: strangers, who prove nothing, are told a few."""
    one = _cluster("ed25519")
    assert one.ca_key is not None
    trust, key, hashes = one.trust, one.ca_key, [one.ca_hash]
    for seed in range(1, LINKS_MAX + 3):
        new, authority = _next(one.cluster_id, "ed25519", seed)
        link = make_link(key, trust.authorities[0], authority, one.cluster_id, UNIX_START_NS)
        trust, key = trust.introducing(authority, link).switched(authority).retiring(), new
        hashes.append(certificates.spki_hash(authority))
    links = trust.links
    assert len(links) == LINKS_MAX
    assert [certificates.spki_hash(link) for link in links] == hashes[-LINKS_MAX:]
    assert links_behind(links, ()) == links[-LINKS_UNASKED:]
    assert links_behind(links, (hashes[-1],)) == ()
    assert links_behind(links, (hashes[-4],)) == links[-3:]
    assert links_behind(links, (hashes[-4], hashes[-3])) == links[-2:]
    assert links_behind(links, (hashes[-LINKS_MAX],)) == links[1:]
    assert links_behind(links, (hashes[0],)) == links
    # The first authority, to which nobody made a link, is known by its own certificate as long as by a link.
    first = one.trust.introducing(trust.authorities[0], links[-1]).links
    assert [certificates.spki_hash(link) for link in first] == [hashes[0], hashes[-1]]

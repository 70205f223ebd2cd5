"""Which authorities a member trusts, and how one follows another.

Sans-I/O. Theory of operation. A cluster has one authority that issues, and, while that changes, a second one that is
trusted too. The old authority signs the new one's key: that certificate, the *link*, is all that a member which trusts
the old one needs to trust the new one, however it got there. Chains of links bring home who was away for several
changes. An authority that is not trusted any more stays known as *retired*: what it once certified still tells whose
signature is under a stored record, and opens no connection.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from frys_node.base.errors import NotReady
from frys_node.base.types import ClusterId
from frys_node.secure import certificates
from frys_node.secure.errors import ForeignCluster, InvalidCertificate
from frys_node.secure.signing_keys import PrivateKey, kind_of

AUTHORITIES_MAX = 2
LINKS_MAX = 16
"""Links that are kept. They are told only to whoever asks for them: each is 6 KB with ML-DSA."""
LINKS_UNASKED = 3
MISSED_MAX = LINKS_MAX - 1
"""Changes of the authority that a member may miss and still come home. The link of the one before its own is needed,
too: it is by that that the issuer knows the authority of its certificate."""
RETIRED_MAX = 3
"""Each is 6 KB with ML-DSA, and a joiner is told them all."""


class TrustSet(NamedTuple):
    """What a member trusts."""

    authorities: tuple[x509.Certificate, ...]
    """The first one issues."""
    links: tuple[x509.Certificate, ...] = ()
    """Oldest first."""
    retired: tuple[x509.Certificate, ...] = ()
    """Latest first."""

    def introducing(self, authority: x509.Certificate, link: x509.Certificate) -> TrustSet:
        """Trust another authority too, by the link; the present one goes on issuing.

        Nobody made a link to the first authority: its own certificate stands for that, so that it is known as long.
        """
        links = (*(self.links or self.authorities[:1]), link)
        return self._replace(authorities=(*self.authorities, authority), links=links[-LINKS_MAX:])

    def switched(self, authority: x509.Certificate) -> TrustSet:
        """Have that authority issue from now on; the old one is trusted still."""
        others = tuple(other for other in self.authorities if other != authority)
        return self._replace(authorities=(authority, *others))

    def retiring(self) -> TrustSet:
        """Trust the one that issues alone."""
        first, *others = self.authorities
        return self._replace(authorities=(first,), retired=(*others, *self.retired)[:RETIRED_MAX])


def make_link(
    old_key: PrivateKey, old: x509.Certificate, new: x509.Certificate, cluster: ClusterId, unix_ns: int
) -> x509.Certificate:
    """Return the old authority's signature over the new one's key, as a certificate."""
    start = certificates.instant(unix_ns) - dt.timedelta(seconds=certificates.BACKDATE_S)
    end = min(old.not_valid_after_utc, new.not_valid_after_utc)
    return certificates.authority_builder(new.public_key(), cluster, new.subject, old.subject, start, end).sign(
        old_key, None
    )


def links_behind(links: Sequence[x509.Certificate], trusted: Sequence[str]) -> tuple[x509.Certificate, ...]:
    """Return the links that follow the authorities with these hashes; all, if none of the links leads to one.

    Without a hash, the last `LINKS_UNASKED`: who asks so is no member, or one of an earlier version.
    """
    if not trusted:
        return tuple(links[-LINKS_UNASKED:])
    known = [index for index, link in enumerate(links) if certificates.spki_hash(link) in trusted]
    return tuple(links[known[-1] + 1 :] if known else links)


def reaches(
    authority: x509.Certificate,
    links: Sequence[x509.Certificate],
    trusted: Sequence[x509.Certificate],
    cluster: ClusterId,
) -> bool:
    """True if the authority speaks for the cluster and is trusted, itself or by links that begin at one that is.

    Args:
        authority: Whom to trust.
        links: Oldest first; those that lead nowhere are ignored.
        trusted: Where to begin.
        cluster: The cluster that everything has to be confined to.
    """
    known = list(trusted)
    try:
        kind = kind_of(trusted[0].public_key())
        for link in links[-LINKS_MAX:]:
            if certificates.authority_cluster(link) == cluster and any(_is_issued_by(link, one) for one in known):
                known.append(link)
        if certificates.authority_cluster(authority) != cluster or kind_of(authority.public_key()) != kind:
            return False
    except InvalidCertificate:
        return False
    wanted = certificates.spki_hash(authority)
    return any(certificates.spki_hash(one) == wanted for one in known)


def _is_issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def issuer_of(certificate: x509.Certificate, authorities: Sequence[x509.Certificate]) -> x509.Certificate | None:
    """Return which of the authorities issued a certificate, None if none did."""
    return next((authority for authority in authorities if _is_issued_by(certificate, authority)), None)


def check_change(present: TrustSet, wanted: TrustSet, own: x509.Certificate, cluster: ClusterId) -> None:
    """Check what the issuer asks a member to trust from now on.

    Raises:
        ForeignCluster: An authority is not vouched for by one that this member trusts. Nothing was changed.
        NotReady: This member's own certificate would not be trusted any more; it has to be renewed first.
    """
    if not 1 <= len(wanted.authorities) <= AUTHORITIES_MAX:
        raise ForeignCluster(f"a cluster has 1 to {AUTHORITIES_MAX} authorities, not {len(wanted.authorities)}")
    for authority in wanted.authorities:
        if not reaches(authority, wanted.links, present.authorities, cluster):
            raise ForeignCluster("an authority that no trusted one vouches for")
    if issuer_of(own, wanted.authorities) is None:
        raise NotReady("this node's certificate is of the authority that is to be dropped: it is renewed first")

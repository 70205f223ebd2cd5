"""Members of a cluster made on the spot, as its authority would make them: for tests and benchmarks.

Whoever has the authority's key can do the same, which is what a stolen one is worth.
"""

from __future__ import annotations

from frys_node.base.ports import Clock, Entropy
from frys_node.base.types import Address
from frys_node.secure import certificates
from frys_node.secure.identity import Identity, new_key


def issue_member(
    issuer: Identity, name: str, entropy: Entropy, clock: Clock, *, seeds: tuple[Address, ...] = ()
) -> Identity:
    """Return another node with a certificate of the cluster's present authority, whose key the issuer holds.

    Nobody is told of it: no table of the issuer has it.
    """
    assert issuer.ca_key is not None
    key = new_key(entropy, issuer.kind)
    subject = certificates.Subject(issuer.cluster_id, certificates.node_id_of(key.public_key()), name)
    certificate = certificates.issue(
        issuer.ca_key, issuer.ca_certificate, key.public_key(), subject=subject, unix_ns=clock.unix_ns()
    )
    return Identity(
        cluster_id=issuer.cluster_id,
        cluster_name=issuer.cluster_name,
        node_name=name,
        issuer=issuer.node_id,
        key=key,
        certificate=certificate,
        ca_certificate=issuer.ca_certificate,
        seeds=seeds,
    )

"""Who this node is: its key, its certificate, its cluster, and, on the issuer, the cluster's authority key.

Sans-I/O: everything is kept through the `Disk` port. The identity is one file, replaced atomically, so that a join
that is cut off leaves either no identity or a whole one. The boot id (design, fine print 4) is a fsynced u32 counter
followed by 4 random bytes: it grows with every start, so a restarted node never seals packets or stamps versions under
an id that it has used before.
"""

from __future__ import annotations

import copy

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization

from frys_node.base.errors import CorruptData
from frys_node.base.ports import Disk
from frys_node.base.types import Address, ClusterId, NodeId
from frys_node.secure import certificates
from frys_node.secure.errors import InvalidCertificate
from frys_node.secure.signing_keys import Kind, PrivateKey, key_pem, kind_of, load_key, new_key
from frys_node.secure.stored import IDENTITY_PATH, VERSION, StoredIdentity, damaged, read_stored
from frys_node.secure.trust import TrustSet

__all__ = ["Identity", "load_identity", "new_key", "save_identity"]


class Identity:
    """A node's place in a cluster; `ca_key` is None unless this node holds the authority's key.

    Only a renewal of the certificate and a change of the authority alter it.
    """

    __slots__ = (
        "also_trusted",
        "ca_certificate",
        "ca_key",
        "certificate",
        "cluster_id",
        "cluster_name",
        "issuer",
        "key",
        "links",
        "node_id",
        "node_name",
        "retired",
        "seeds",
    )

    def __init__(
        self,
        *,
        cluster_id: ClusterId,
        cluster_name: str,
        node_name: str,
        issuer: NodeId,
        key: PrivateKey,
        certificate: x509.Certificate,
        ca_certificate: x509.Certificate,
        ca_key: PrivateKey | None = None,
        seeds: tuple[Address, ...] = (),
        also_trusted: tuple[x509.Certificate, ...] = (),
        links: tuple[x509.Certificate, ...] = (),
        retired: tuple[x509.Certificate, ...] = (),
    ) -> None:
        self.cluster_id = cluster_id
        self.cluster_name = cluster_name
        self.node_name = node_name
        self.node_id = certificates.read_subject(certificate).node
        self.issuer = issuer
        """Node id of the issuer at the time of the join; the topology record says who it is later."""
        self.key = key
        self.certificate = certificate
        self.ca_certificate = ca_certificate
        self.ca_key = ca_key
        self.seeds = seeds
        """Addresses of members known at the join, the issuer's first."""
        self.also_trusted = also_trusted
        self.links = links
        self.retired = retired

    @property
    def is_issuer(self) -> bool:
        """True if this node holds the authority's key."""
        return self.ca_key is not None

    def renewed(self, certificate: x509.Certificate) -> Identity:
        """Return the same identity with another certificate."""
        fresh = copy.copy(self)
        fresh.certificate = certificate
        return fresh

    @property
    def trust(self) -> TrustSet:
        """The authorities that this node trusts, and how they follow one another."""
        return TrustSet(self.authorities, self.links, self.retired)

    @property
    def authorities(self) -> tuple[x509.Certificate, ...]:
        """The trusted authorities; the first one issues."""
        return (self.ca_certificate, *self.also_trusted)

    def trusting(self, trust: TrustSet, ca_key: PrivateKey | None) -> Identity:
        """Return the same identity with other authorities; `ca_key` is that of the one that issues, if held here."""
        fresh = copy.copy(self)
        (fresh.ca_certificate, *others), fresh.links, fresh.retired = trust
        fresh.also_trusted = tuple(others)
        fresh.ca_key = ca_key
        return fresh

    def become(self, other: Identity) -> None:
        """Take over what may change, for everybody who holds this object; the other one is stored already."""
        self.certificate, self.ca_key = other.certificate, other.ca_key
        self.ca_certificate, self.also_trusted = other.ca_certificate, other.also_trusted
        self.links, self.retired = other.links, other.retired

    @property
    def kind(self) -> Kind:
        """Kind of every key of the cluster."""
        return kind_of(self.key)

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """The node's certificate and the authority's."""
        return (self.certificate, self.ca_certificate)

    @property
    def ca_hash(self) -> str:
        """What join tokens pin: 32 hex digits over the authority's public key."""
        return certificates.spki_hash(self.ca_certificate)


def load_identity(disk: Disk) -> Identity | None:
    """Return the stored identity, or None if this data directory has none.

    Raises:
        CorruptData: The file is damaged; it is left as it is.
        UnsafePermissions: The file can be read by others; it was not used.
    """
    stored = read_stored(disk)
    if stored is None:
        return None
    try:
        key = load_key(stored.key)
        identity = Identity(
            cluster_id=ClusterId(stored.cluster_id),
            cluster_name=stored.cluster_name,
            node_name=stored.node_name,
            issuer=NodeId(stored.issuer),
            key=key,
            certificate=x509.load_pem_x509_certificate(stored.certificate.encode()),
            ca_certificate=x509.load_pem_x509_certificate(stored.ca_certificate.encode()),
            ca_key=None if stored.ca_key is None else load_key(stored.ca_key),
            seeds=tuple(Address.parse(seed) for seed in stored.seeds),
            also_trusted=_read_pems(stored.also_trusted),
            links=_read_pems(stored.links),
            retired=_read_pems(stored.retired),
        )
    except (ValueError, TypeError, InvalidCertificate) as error:
        raise damaged(error) from error
    if identity.certificate.public_key() != key.public_key() or identity.node_id != stored.node_id:
        raise CorruptData(f"{IDENTITY_PATH} is damaged: its key is not its certificate's", hint="restore a backup")
    return identity


def save_identity(disk: Disk, identity: Identity) -> None:
    """Store the identity in one atomic, durable write."""
    stored = StoredIdentity(
        version=VERSION,
        cluster_id=identity.cluster_id,
        cluster_name=identity.cluster_name,
        node_id=identity.node_id,
        node_name=identity.node_name,
        issuer=identity.issuer,
        key=key_pem(identity.key),
        certificate=_certificate_pem(identity.certificate),
        ca_certificate=_certificate_pem(identity.ca_certificate),
        ca_key=None if identity.ca_key is None else key_pem(identity.ca_key),
        seeds=tuple(str(seed) for seed in identity.seeds),
        kind=identity.kind,
        also_trusted=tuple(map(_certificate_pem, identity.also_trusted)),
        links=tuple(map(_certificate_pem, identity.links)),
        retired=tuple(map(_certificate_pem, identity.retired)),
    )
    disk.write(IDENTITY_PATH, msgspec.json.format(msgspec.json.encode(stored), indent=2))


def _read_pems(pems: tuple[str, ...]) -> tuple[x509.Certificate, ...]:
    return tuple(x509.load_pem_x509_certificate(pem.encode()) for pem in pems)


def _certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()

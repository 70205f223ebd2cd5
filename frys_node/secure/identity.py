"""Who this node is: its key, its certificate, its cluster, and, on the issuer, the cluster's authority key.

Sans-I/O: everything is kept through the `Disk` port. The identity is one file, replaced atomically, so that a join
that is cut off leaves either no identity or a whole one. The boot id (design, fine print 4) is a fsynced u32 counter
followed by 4 random bytes: it grows with every start, so a restarted node never seals packets or stamps versions under
an id that it has used before.
"""

from __future__ import annotations

from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from frys_node.base.errors import CorruptData, NotReady
from frys_node.base.ports import Disk, Entropy
from frys_node.base.types import Address, BootId, ClusterId, NodeId
from frys_node.secure import certificates
from frys_node.secure.errors import UnsafePermissions

IDENTITY_PATH: Final = "identity/identity.json"
BOOT_PATH: Final = "identity/boot"
_BOOT_MAX = 0xFFFF_FFFF


class _StoredIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The file. Keys are PKCS#8 PEM, certificates PEM."""

    version: int
    cluster_id: str
    cluster_name: str
    node_id: str
    node_name: str
    issuer: str
    key: str
    certificate: str
    ca_certificate: str
    ca_key: str | None = None
    seeds: tuple[str, ...] = ()


class Identity:
    """A node's place in a cluster; `ca_key` is None unless this node is the issuer. Only a renewal changes it."""

    __slots__ = (
        "ca_certificate",
        "ca_key",
        "certificate",
        "cluster_id",
        "cluster_name",
        "issuer",
        "key",
        "node_id",
        "node_name",
        "seeds",
    )

    def __init__(
        self,
        *,
        cluster_id: ClusterId,
        cluster_name: str,
        node_name: str,
        issuer: NodeId,
        key: Ed25519PrivateKey,
        certificate: x509.Certificate,
        ca_certificate: x509.Certificate,
        ca_key: Ed25519PrivateKey | None = None,
        seeds: tuple[Address, ...] = (),
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

    @property
    def is_issuer(self) -> bool:
        """True if this node holds the authority's key."""
        return self.ca_key is not None

    def renewed(self, certificate: x509.Certificate) -> Identity:
        """Return the same identity with another certificate."""
        return Identity(
            cluster_id=self.cluster_id,
            cluster_name=self.cluster_name,
            node_name=self.node_name,
            issuer=self.issuer,
            key=self.key,
            certificate=certificate,
            ca_certificate=self.ca_certificate,
            ca_key=self.ca_key,
            seeds=self.seeds,
        )

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
    data = read_secret(disk, IDENTITY_PATH)
    if data is None:
        return None
    try:
        stored = msgspec.json.decode(data, type=_StoredIdentity)
        key = _load_key(stored.key)
        identity = Identity(
            cluster_id=ClusterId(stored.cluster_id),
            cluster_name=stored.cluster_name,
            node_name=stored.node_name,
            issuer=NodeId(stored.issuer),
            key=key,
            certificate=x509.load_pem_x509_certificate(stored.certificate.encode()),
            ca_certificate=x509.load_pem_x509_certificate(stored.ca_certificate.encode()),
            ca_key=None if stored.ca_key is None else _load_key(stored.ca_key),
            seeds=tuple(Address.parse(seed) for seed in stored.seeds),
        )
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise CorruptData(
            f"{IDENTITY_PATH} is damaged: {error}", hint="restore it from a backup, or join again in an empty directory"
        ) from error
    if identity.certificate.public_key() != key.public_key() or identity.node_id != stored.node_id:
        raise CorruptData(f"{IDENTITY_PATH} is damaged: its key is not its certificate's", hint="restore a backup")
    return identity


def save_identity(disk: Disk, identity: Identity) -> None:
    """Store the identity in one atomic, durable write."""
    stored = _StoredIdentity(
        version=1,
        cluster_id=identity.cluster_id,
        cluster_name=identity.cluster_name,
        node_id=identity.node_id,
        node_name=identity.node_name,
        issuer=identity.issuer,
        key=_key_pem(identity.key),
        certificate=_certificate_pem(identity.certificate),
        ca_certificate=_certificate_pem(identity.ca_certificate),
        ca_key=None if identity.ca_key is None else _key_pem(identity.ca_key),
        seeds=tuple(str(seed) for seed in identity.seeds),
    )
    disk.write(IDENTITY_PATH, msgspec.json.format(msgspec.json.encode(stored), indent=2))


def next_boot(disk: Disk, entropy: Entropy) -> BootId:
    """Count one more start, durably, and return its boot id.

    Raises:
        CorruptData: The counter's file is damaged. Starting anyway could reuse a boot id.
        NotReady: The counter is used up (4 thousand million starts); join again in an empty directory.
    """
    data = disk.read(BOOT_PATH)
    try:
        count = 0 if data is None else int(data)
    except ValueError as error:
        raise CorruptData(f"{BOOT_PATH} does not hold a number", hint="restore it from a backup") from error
    if not 0 <= count < _BOOT_MAX:
        raise NotReady("the boot counter is used up", hint="join again in an empty data directory")
    disk.write(BOOT_PATH, b"%d\n" % (count + 1))
    return BootId((count + 1) << 32 | int.from_bytes(entropy.token_bytes(4), "big"))


def read_secret(disk: Disk, path: str) -> bytes | None:
    """Return a file with secrets, or None if there is none.

    Raises:
        UnsafePermissions: Others may read it. It was not used.
    """
    data = disk.read(path)
    # Simulated disks have no permissions; the real one says its mode.
    mode_of = getattr(disk, "mode", None)
    mode = mode_of(path) if data is not None and mode_of is not None else None
    if mode is not None and mode & 0o077:
        raise UnsafePermissions(f"{path} is readable by others (mode {mode & 0o777:04o})", hint=f"chmod 600 {path}")
    return data


def new_key(entropy: Entropy) -> Ed25519PrivateKey:
    """Return a fresh Ed25519 key."""
    return Ed25519PrivateKey.from_private_bytes(entropy.token_bytes(32))


def _load_key(pem: str) -> Ed25519PrivateKey:
    key = serialization.load_pem_private_key(pem.encode(), password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise TypeError("not an Ed25519 key")
    return key


def _key_pem(key: Ed25519PrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def _certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()

"""What is read of an identity without any cryptography: names and ids, the boot counter, permissions.

Sans-I/O: everything comes through the `Disk` port. A starting node needs no more than this to answer for itself; keys
and certificates are loaded when the channel is built.
"""

from __future__ import annotations

from typing import Final, Literal

import msgspec

from frys_node.base.errors import CorruptData, NotReady, UnsupportedVersion
from frys_node.base.ports import Disk, Entropy
from frys_node.base.types import BootId
from frys_node.secure.errors import UnsafePermissions

IDENTITY_PATH: Final = "identity/identity.json"
BOOT_PATH: Final = "identity/boot"
LEFT_PATH: Final = "identity/left"
"""There once the node has left its cluster for good: its name may be another's by now."""
REMOVED: Final = b"removed"
"""Content of that file where a version before this one was told that an operator removed the node; else it is empty."""
_BOOT_MAX = 0xFFFF_FFFF
ED25519: Final = "ed25519"
ML_DSA_65: Final = "ml-dsa-65"
VERSION: Final = 2
"""1: without `kind`, all keys Ed25519, and one authority for good."""


class StoredIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The file. Keys are PKCS#8 PEM, certificates PEM; fields are added at the end, with defaults."""

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
    kind: Literal["ed25519", "ml-dsa-65"] = ED25519
    """Kind of every key of the cluster."""
    also_trusted: tuple[str, ...] = ()
    """The other authority while one follows another."""
    links: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()


def read_stored(disk: Disk) -> StoredIdentity | None:
    """Return the identity's file, or None if this data directory has none.

    Raises:
        CorruptData: The file is damaged; it is left as it is.
        UnsafePermissions: The file can be read by others; it was not used.
        UnsupportedVersion: A newer release wrote it; it is left as it is.
    """
    data = read_secret(disk, IDENTITY_PATH)
    if data is None:
        return None
    try:
        stored = msgspec.json.decode(data, type=StoredIdentity)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise damaged(error) from error
    if not 1 <= stored.version <= VERSION:
        raise UnsupportedVersion(
            f"{IDENTITY_PATH} has version {stored.version}; this release reads 1 to {VERSION}",
            hint="start the release that wrote it",
        )
    return stored


def damaged(error: Exception) -> CorruptData:
    """Build the error for an identity that cannot be read."""
    return CorruptData(
        f"{IDENTITY_PATH} is damaged: {error}", hint="restore it from a backup, or join again in an empty directory"
    )


def next_boot(disk: Disk, entropy: Entropy) -> BootId:
    """Count one more start, durably, and return its boot id.

    Raises:
        CorruptData: The counter's file is damaged. Starting anyway could reuse a boot id.
        UnsafePermissions: Another user put the file there, or others may read it.
        NotReady: The counter is used up (4 thousand million starts); join again in an empty directory.
    """
    data = read_secret(disk, BOOT_PATH)
    try:
        count = 0 if data is None else int(data)
    except ValueError as error:
        raise CorruptData(f"{BOOT_PATH} does not hold a number", hint="restore it from a backup") from error
    if not 0 <= count < _BOOT_MAX:
        raise NotReady("the boot counter is used up", hint="join again in an empty data directory")
    disk.write(BOOT_PATH, b"%d\n" % (count + 1))
    return BootId((count + 1) << 32 | int.from_bytes(entropy.token_bytes(4), "big"))


def read_secret(disk: Disk, path: str) -> bytes | None:
    """Return a file with secrets, or one that says who may do what; None if there is none.

    Raises:
        UnsafePermissions: Others may read it, or another user put it there. It was not used.
    """
    data = disk.read(path)
    # Simulated disks have no permissions; the real one says its mode and whose it is.
    mode_of = getattr(disk, "mode", None)
    mode = mode_of(path) if data is not None and mode_of is not None else None
    if mode is not None and mode & 0o077:
        raise UnsafePermissions(f"{path} is readable by others (mode {mode & 0o777:04o})", hint=f"chmod 600 {path}")
    is_foreign = getattr(disk, "is_foreign", None)
    if data is not None and is_foreign is not None and is_foreign(path):
        hint = f"see who put it there; if it is the node's own: give it back to the node's user with chown {path}"
        raise UnsafePermissions(f"{path} belongs to another user", hint=hint)
    return data

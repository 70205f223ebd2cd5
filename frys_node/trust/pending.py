"""The next authority's key while it waits to issue: ``issuer/rotation.json``, on the issuer and its standbys.

Sans-I/O: the file comes through the `Disk` port.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from frys_node.base.errors import CorruptData
from frys_node.base.ports import Disk
from frys_node.secure.errors import InvalidCertificate
from frys_node.secure.signing_keys import PrivateKey, key_pem, load_key
from frys_node.secure.stored import read_secret

ROTATION_PATH: Final = "issuer/rotation.json"
_VERSION: Final = 1


class Pending(NamedTuple):
    """The next authority."""

    key: PrivateKey
    certificate: x509.Certificate
    link: x509.Certificate
    """The present authority's signature over it."""


class _StoredPending(msgspec.Struct, frozen=True):
    version: int
    key: str
    certificate: str
    link: str


def encode_pending(pending: Pending) -> bytes:
    """Return the file."""
    pems = [one.public_bytes(Encoding.PEM).decode() for one in (pending.certificate, pending.link)]
    stored = _StoredPending(_VERSION, key_pem(pending.key), *pems)
    return msgspec.json.format(msgspec.json.encode(stored), indent=2)


def read_pending(disk: Disk) -> Pending | None:
    """Return the next authority, None if no change is under way.

    Raises:
        CorruptData: The file is damaged; it is left as it is.
        UnsafePermissions: Others may read it. It was not used.
    """
    data = read_secret(disk, ROTATION_PATH)
    if data is None:
        return None
    try:
        stored = msgspec.json.decode(data, type=_StoredPending)
        certificate, link = (x509.load_pem_x509_certificate(pem.encode()) for pem in (stored.certificate, stored.link))
        return Pending(load_key(stored.key), certificate, link)
    except (msgspec.MsgspecError, ValueError, TypeError, InvalidCertificate) as error:
        raise CorruptData(
            f"{ROTATION_PATH} is damaged: {error}", hint="restore it from a backup, or from a standby of the issuer"
        ) from error

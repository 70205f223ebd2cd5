r"""The head of a sealed file: for whom it is, and the key of its content, wrapped for each of them.

Sans-I/O. Layout, integers big-endian::

    "frys-sealed\0" | version u16 | recipients u8
    per recipient: fingerprint 15 | ML-KEM-768 ciphertext 1,088 | wrapped file key 48
    HMAC-SHA384 of all of that under a key derived from the file key, 48

The tag also commits to the file key: AES-GCM alone would let a malicious maker write a file that two recipients open
to different contents. The content's key is derived from the file key *and* that tag, so chunks belong to one head.

The fingerprint says which of one's keys opens a file, and so tells a thief for whom it is. Nothing else is readable.
"""

from __future__ import annotations

import hmac
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from frys_node.base.errors import UsageError
from frys_node.secure.errors import NotSealed, SealedCut, SealedDamaged, SealedFormat, SealedKey
from frys_node.secure.hpke import HASH_BYTES, KEY_BYTES, WRAPPED_BYTES, Wrapped, hkdf, unwrap, wrap
from frys_node.secure.kem import CIPHERTEXT_BYTES, Kem
from frys_node.secure.recipient import FINGERPRINT_BYTES, Recipient, SealKey, shown

VERSION: Final = 1
MAGIC: Final = b"frys-sealed\x00"

RECIPIENTS_MAX: Final = 16
"""Of one file: a head stays below 20 KiB."""

_FRONT = struct.Struct(">12sHB")
_LABEL: Final = b"frys sealed v1 wrap"
ENTRY_BYTES: Final = FINGERPRINT_BYTES + CIPHERTEXT_BYTES + WRAPPED_BYTES
FRONT_BYTES: Final = _FRONT.size


class Entry(NamedTuple):
    """One recipient's part of the head."""

    fingerprint: bytes
    wrapped: Wrapped


class Head(NamedTuple):
    """A head that was read; nothing of it is proven before `unlock`."""

    version: int
    entries: tuple[Entry, ...]
    body: bytes
    """Everything before the tag."""
    tag: bytes

    @property
    def size_bytes(self) -> int:
        """Bytes up to the first chunk."""
        return len(self.body) + len(self.tag)


def head_bytes(recipients: int) -> int:
    """Return the size of a head for so many recipients."""
    return FRONT_BYTES + ENTRY_BYTES * recipients + HASH_BYTES


def make_head(kem: Kem, recipients: Sequence[Recipient], file_key: bytes) -> tuple[bytes, bytes]:
    """Return the bytes of a head and the key of the content; a recipient that is named twice is in it once.

    Raises:
        UsageError: There is no recipient, or too many. Nothing was made.
        KemError: A recipient's key is not one. Nothing was made.
    """
    distinct = list(dict.fromkeys(recipients))
    if not 1 <= len(distinct) <= RECIPIENTS_MAX:
        raise UsageError(
            f"a file is sealed to 1 to {RECIPIENTS_MAX} recipients, not {len(distinct)}",
            hint="name who may open it: --to RECIPIENT",
        )
    parts = [_FRONT.pack(MAGIC, VERSION, len(distinct))]
    for recipient in distinct:
        wrapped = wrap(kem, recipient.public, file_key, _LABEL)
        parts += [recipient.fingerprint, wrapped.ciphertext, wrapped.sealed]
    body = b"".join(parts)
    tag = _tag(file_key, body)
    return body + tag, _content_key(file_key, tag)


def read_head(data: bytes | bytearray | memoryview) -> Head | None:
    """Return the head that a file begins with, or None if that takes more bytes than these.

    Raises:
        NotSealed: The file is something else.
        SealedFormat: A newer version wrote it.
        SealedDamaged: It is for nobody, or for more than there may be.
    """
    begin = bytes(data[: len(MAGIC)])
    if begin != MAGIC[: len(begin)]:
        raise NotSealed("this is not a sealed file of frys", hint="make one: frys-node snapshot export NAME --to ...")
    if len(data) < FRONT_BYTES:
        return None
    _, version, count = _FRONT.unpack_from(data)
    if version != VERSION:
        raise SealedFormat(
            f"a sealed file of format {version}, this version reads {VERSION}", hint="use a newer frys-node"
        )
    if not 1 <= count <= RECIPIENTS_MAX:
        raise SealedDamaged("the head of the sealed file is damaged", hint="use another copy of the file")
    size = head_bytes(count)
    if len(data) < size:
        return None
    body = bytes(data[: size - HASH_BYTES])
    entries = tuple(_entry(body[start : start + ENTRY_BYTES]) for start in range(FRONT_BYTES, len(body), ENTRY_BYTES))
    return Head(version, entries, body, bytes(data[size - HASH_BYTES : size]))


def _entry(data: bytes) -> Entry:
    end = FINGERPRINT_BYTES + CIPHERTEXT_BYTES
    return Entry(data[:FINGERPRINT_BYTES], Wrapped(data[FINGERPRINT_BYTES:end], data[end:]))


def unlock(kem: Kem, key: SealKey, head: Head) -> bytes:
    """Return the key of the content, once the whole head is proven.

    Raises:
        SealedKey: The file is for others.
        SealedDamaged: The head was changed.
    """
    mine = key.recipient.fingerprint
    entry = next((entry for entry in head.entries if entry.fingerprint == mine), None)
    if entry is None:
        others = ", ".join(shown(entry.fingerprint) for entry in head.entries)
        raise SealedKey(
            f"the file is sealed to {others}, and the key is {shown(mine)}", hint="use the key of one of its recipients"
        )
    file_key = unwrap(kem, key.private, key.recipient.public, entry.wrapped, _LABEL)
    if file_key is None or not hmac.compare_digest(_tag(file_key, head.body), head.tag):
        raise SealedDamaged("the head of the sealed file is damaged", hint="use another copy of the file")
    return _content_key(file_key, head.tag)


def cut_off(size_bytes: int) -> SealedCut:
    """Build the error for a file that ends too early."""
    return SealedCut(
        f"the sealed file is cut off after {size_bytes} bytes", hint="copy it again, or use another copy of the file"
    )


def _tag(file_key: bytes, body: bytes) -> bytes:
    return hmac.digest(hkdf(file_key, b"frys sealed v1 head", HASH_BYTES), body, "sha384")


def _content_key(file_key: bytes, tag: bytes) -> bytes:
    return hkdf(file_key, b"frys sealed v1 content", KEY_BYTES, salt=tag)

"""Sealed files: what leaves the cluster, for named recipients only, FRYS-S/1.

Sans-I/O. After the head (`sealed_header`) come chunks of 64 KiB, each sealed by AES-256-GCM, the last one shorter or as
long, never empty unless the content is. The nonce is the chunk's number (u88) and one byte that is 1 for the last chunk
(STREAM: Hoang, Reyhanitabar, Rogaway, Vizar, "Online Authenticated-Encryption and its Nonce-Reuse Misuse-Resistance",
CRYPTO 2015). So a chunk opens only in its own place of its own file, and a file that ends early or late is seen. The
content's key is of one file only, which makes counting nonces safe.

Two stream machines; each holds one chunk and what it was just given. What `Opener.push` returns is proven to be what
was sealed at that place, and is not yet known to be all of it: nothing may be made visible before `finish`.

A seal says who can read, not who wrote: whoever knows a recipient can make a file for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from frys_node.base.errors import UsageError
from frys_node.base.ports import Entropy
from frys_node.secure.errors import SealedDamaged
from frys_node.secure.hpke import KEY_BYTES
from frys_node.secure.kem import Kem
from frys_node.secure.recipient import Recipient, SealKey
from frys_node.secure.sealed_header import cut_off, head_bytes, make_head, read_head, unlock

CHUNK_BYTES: Final = 64 * 1024
TAG_BYTES: Final = 16

CHUNKS_MAX: Final = 1 << 30
"""64 TiB in one file, far below what one AES-GCM key may seal."""

_SEALED_BYTES: Final = CHUNK_BYTES + TAG_BYTES
_LAST: Final = b"\x01"
_NOT_LAST: Final = b"\x00"
_COPY: Final = "use another copy of the file"


def sealed_bytes(size_bytes: int, recipients: int) -> int:
    """Return how long a file is whose content has `size_bytes`."""
    chunks = max(1, -(-size_bytes // CHUNK_BYTES))
    return head_bytes(recipients) + size_bytes + TAG_BYTES * chunks


def content_bytes(size_bytes: int) -> int | None:
    """Return how much content chunks of `size_bytes` in all hold, or None if no content has chunks of that size."""
    chunks = max(1, -(-size_bytes // _SEALED_BYTES))
    content = size_bytes - TAG_BYTES * chunks
    return content if content > CHUNK_BYTES * (chunks - 1) or content == 0 == chunks - 1 else None


def _nonce(number: int, end: bytes) -> bytes:
    return number.to_bytes(11, "big") + end


class Sealer:
    """Seals content that is pushed in pieces of any size."""

    __slots__ = ("_cipher", "_head", "_kept", "_number")

    def __init__(self, recipients: Sequence[Recipient], *, kem: Kem, entropy: Entropy) -> None:
        self._head, content_key = make_head(kem, recipients, entropy.token_bytes(KEY_BYTES))
        self._cipher: AESGCM | None = AESGCM(content_key)
        self._kept = bytearray()
        self._number = 0

    def push(self, data: bytes) -> bytes:
        """Take content; returns the part of the file that is ready now, perhaps nothing.

        Raises:
            UsageError: The content is longer than a file may hold. What was returned before is of no use.
        """
        return self._seal(data, is_end=False)

    def finish(self) -> bytes:
        """End the content; returns the rest of the file. The machine is of no more use, its key is let go."""
        rest = self._seal(b"", is_end=True)
        self._cipher = None
        return rest

    def _seal(self, data: bytes, *, is_end: bool) -> bytes:
        assert self._cipher is not None, "the file is finished"
        ready = [self._head]
        self._head = b""
        # A full chunk is kept until more comes: only then is it not the last.
        for chunk in _whole(self._kept, data, CHUNK_BYTES):
            ready.append(self._cipher.encrypt(_nonce(self._number, _NOT_LAST), chunk, None))
            self._number += 1
            if self._number >= CHUNKS_MAX:
                raise UsageError("this is more than a sealed file holds (64 TiB)", hint="export fewer units")
        if is_end:
            ready.append(self._cipher.encrypt(_nonce(self._number, _LAST), bytes(self._kept), None))
        return b"".join(ready)


class Opener:
    """Opens a file that is pushed in pieces of any size."""

    __slots__ = ("_cipher", "_kem", "_kept", "_key", "_number", "_read_bytes")

    def __init__(self, key: SealKey, *, kem: Kem) -> None:
        self._key = key
        self._kem = kem
        self._cipher: AESGCM | None = None
        self._kept = bytearray()
        self._number = 0
        self._read_bytes = 0

    def push(self, data: bytes) -> bytes:
        """Take a part of the file; returns content that is proven now, perhaps nothing.

        Raises:
            NotSealed, SealedFormat: The file is something else, or of a newer version.
            SealedKey: The file is for others.
            SealedDamaged: Something was changed, left out, repeated, moved or appended. The content so far is as it
                was sealed, and the machine is of no more use.
        """
        self._read_bytes += len(data)
        if self._cipher is None:
            self._kept += data
            head = read_head(self._kept)
            if head is None:
                return b""
            self._cipher = AESGCM(unlock(self._kem, self._key, head))
            data = bytes(self._kept[head.size_bytes :])
            self._kept.clear()
        return b"".join([self._open(chunk) for chunk in _whole(self._kept, data, _SEALED_BYTES)])

    def finish(self) -> bytes:
        """Say that the file ends here; returns the last content. Only now is it known to be all.

        Raises:
            SealedCut: The file goes on, elsewhere.
            SealedDamaged: Its last chunk was changed, or cut.
        """
        if self._cipher is None or len(self._kept) < TAG_BYTES:
            raise cut_off(self._read_bytes)
        chunk = bytes(self._kept)
        content = self._decrypt(chunk, _LAST)
        if content is None:
            if self._decrypt(chunk, _NOT_LAST) is not None:
                raise cut_off(self._read_bytes)
            raise SealedDamaged(
                f"the sealed file is damaged or cut off in its last chunk, of {self._read_bytes} bytes in all",
                hint=_COPY,
            )
        if not content and self._number:
            raise SealedDamaged("the sealed file ends in an empty chunk, which nobody writes", hint=_COPY)
        self._cipher = None
        return content

    def _open(self, chunk: bytes) -> bytes:
        content = self._decrypt(chunk, _NOT_LAST)
        if content is None:
            if self._decrypt(chunk, _LAST) is not None:
                raise SealedDamaged("something was appended to the sealed file", hint=_COPY)
            raise SealedDamaged(f"chunk {self._number} of the sealed file is damaged or not its own", hint=_COPY)
        self._number += 1
        if self._number >= CHUNKS_MAX:
            raise SealedDamaged("the sealed file is longer than one may be", hint=_COPY)
        return content

    def _decrypt(self, chunk: bytes, end: bytes) -> bytes | None:
        assert self._cipher is not None
        try:
            return self._cipher.decrypt(_nonce(self._number, end), chunk, None)
        except InvalidTag:
            return None


def _whole(kept: bytearray, data: bytes, size: int) -> Iterator[bytes]:
    """Yield the chunks that more bytes follow, and leave the rest in `kept`, from which the first is made up."""
    view = memoryview(data)
    if kept and len(kept) + len(view) > size:
        need = size - len(kept)
        kept += view[:need]
        view = view[need:]
        yield bytes(kept)
        kept.clear()
    start = 0
    while len(view) - start > size:
        yield bytes(view[start : start + size])
        start += size
    kept += view[start:]

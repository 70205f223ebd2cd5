"""The admin bearer token of a cluster (design, fine print 10).

Sans-I/O. The first start of a cluster writes ``admin-token`` into its data directory; every member knows only the
SHA-256 of it, learned inside ``frys/1`` connections, so that any node can check a bearer and none can leak it. Hashes
only ever come to be known, until the token is replaced: then the authority says which ones count (`AdminWord`), and
nothing else does, whoever tells it and whatever lies in a data directory.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable
from typing import Annotated, Final

import msgspec

from frys_node.base.errors import CorruptData
from frys_node.base.ports import Disk, Entropy
from frys_node.secure.stored import read_secret

ADMIN_PATH: Final = "admin-token"
ADMIN_HASHES_PATH: Final = "identity/admin-hashes"
HASHES_MAX = 16

ADMIN_WORD_PATH: Final = "identity/admin-word"

ADMIN_NUMBER_MAX: Final = 1 << 53

_HASH_BYTES = 32


class AdminWord(msgspec.Struct, frozen=True, array_like=True):
    """These are the admin tokens, signed by the cluster's authority; a higher number takes the place of a lower."""

    number: Annotated[int, msgspec.Meta(ge=1, le=ADMIN_NUMBER_MAX)]
    hashes: Annotated[tuple[bytes, ...], msgspec.Meta(max_length=HASHES_MAX)]
    """SHA-256 of each token, sorted."""
    signature: Annotated[bytes, msgspec.Meta(max_length=4_096)]


class AdminTokens:
    """The hashes of the admin tokens that this cluster accepts."""

    __slots__ = ("_hashes", "word")

    def __init__(self, hashes: Iterable[bytes] = ()) -> None:
        self.word: AdminWord | None = None
        """What the authority said last; None until the token is replaced for the first time."""
        self._hashes: tuple[bytes, ...] = ()
        self.merge(hashes)

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """SHA-256 of each token, sorted."""
        return self._hashes

    def merge(self, hashes: Iterable[bytes]) -> bool:
        """Take the issuer's hashes, `HASHES_MAX` at most in all; True if anything changed. None besides a word."""
        if self.word is not None:
            return False
        merged = list(self._hashes)
        for value in hashes:
            if len(value) == _HASH_BYTES and value not in merged and len(merged) < HASHES_MAX:
                merged.append(value)
        ordered = tuple(sorted(merged))
        if ordered == self._hashes:
            return False
        self._hashes = ordered
        return True

    def use(self, word: AdminWord) -> None:
        """Accept what the word says and nothing else; whoever calls has verified it."""
        self.word, self._hashes = word, tuple(sorted(word.hashes))

    def check(self, bearer: str) -> bool:
        """True if the bearer is an admin token; takes the same time whichever of them it is."""
        shown = hashlib.sha256(bearer.strip().encode()).digest()
        is_right = False
        for value in self._hashes:
            is_right |= hmac.compare_digest(shown, value)
        return is_right

    def save(self, disk: Disk) -> None:
        """Store the hashes, and the word first: without it the tokens of before would be accepted after a crash."""
        if self.word is not None:
            disk.write(ADMIN_WORD_PATH, msgspec.msgpack.encode(self.word))
        disk.write(ADMIN_HASHES_PATH, b"".join(self._hashes))

    @classmethod
    def load(cls, disk: Disk) -> AdminTokens:
        """Read what the authority said; without that the stored hashes, and this directory's own token if it has one.

        Raises:
            CorruptData: The stored word is damaged; it is left as it is.
            UnsafePermissions: Others may read a file of these, or another user put it there. It was not used.
        """
        said = read_secret(disk, ADMIN_WORD_PATH)
        if said is not None:
            tokens = cls()
            tokens.use(_decode(said))
            return tokens
        stored = read_secret(disk, ADMIN_HASHES_PATH) or b""
        tokens = cls(stored[start : start + _HASH_BYTES] for start in range(0, len(stored), _HASH_BYTES))
        own = read_secret(disk, ADMIN_PATH)
        if own is not None and own.strip():
            tokens.merge((hashlib.sha256(own.strip()).digest(),))
        return tokens


def _decode(data: bytes) -> AdminWord:
    try:
        return msgspec.msgpack.decode(data, type=AdminWord)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise CorruptData(
            f"{ADMIN_WORD_PATH} is damaged: {error}",
            hint=f"remove it and {ADMIN_HASHES_PATH}; the other members send it again",
        ) from error


def replace_admin_token(disk: Disk, entropy: Entropy, accept: Callable[[bytes], object]) -> None:
    """Make a new token, have its hash accepted in the place of the others, and write it to ``admin-token``.

    Raises:
        StorageError: The disk refused. If the old token is refused by then, do it again: on the node itself the
            command needs none.
        FrysError: What `accept` raises. Nothing was changed.
    """
    text = _new_text(entropy)
    accept(hashlib.sha256(text.encode()).digest())
    disk.write(ADMIN_PATH, text.encode() + b"\n")


def _new_text(entropy: Entropy) -> str:
    return "frysadmin." + base64.b32encode(entropy.token_bytes(32)).decode().rstrip("=").lower()


def create_admin_token(disk: Disk, entropy: Entropy) -> str:
    """Write ``admin-token`` unless it is there already, and return it (256 bits, base32)."""
    present = read_secret(disk, ADMIN_PATH)
    if present is not None and present.strip():
        return present.decode().strip()
    text = _new_text(entropy)
    disk.write(ADMIN_PATH, text.encode() + b"\n")
    return text

"""The admin bearer token of a cluster (design, fine print 10).

Sans-I/O. The first start of a cluster writes ``admin-token`` into its data directory; every member knows only the
SHA-256 of it, learned inside ``frys/1`` connections, so that any node can check a bearer and none can leak it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable
from typing import Final

from frys_node.base.ports import Disk, Entropy
from frys_node.secure.stored import read_secret

ADMIN_PATH: Final = "admin-token"
ADMIN_HASHES_PATH: Final = "identity/admin-hashes"
HASHES_MAX = 16

_HASH_BYTES = 32


class AdminTokens:
    """The hashes of the admin tokens that this cluster accepts."""

    __slots__ = ("_hashes",)

    def __init__(self, hashes: Iterable[bytes] = ()) -> None:
        self._hashes: tuple[bytes, ...] = ()
        self.merge(hashes)

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """SHA-256 of each token, sorted."""
        return self._hashes

    def merge(self, hashes: Iterable[bytes]) -> bool:
        """Take another member's hashes, `HASHES_MAX` at most in all; True if anything changed."""
        merged = list(self._hashes)
        for value in hashes:
            if len(value) == _HASH_BYTES and value not in merged and len(merged) < HASHES_MAX:
                merged.append(value)
        ordered = tuple(sorted(merged))
        if ordered == self._hashes:
            return False
        self._hashes = ordered
        return True

    def check(self, bearer: str) -> bool:
        """True if the bearer is an admin token; takes the same time whichever of them it is."""
        shown = hashlib.sha256(bearer.strip().encode()).digest()
        is_right = False
        for value in self._hashes:
            is_right |= hmac.compare_digest(shown, value)
        return is_right

    def save(self, disk: Disk) -> None:
        """Store the hashes."""
        disk.write(ADMIN_HASHES_PATH, b"".join(self._hashes))

    @classmethod
    def load(cls, disk: Disk) -> AdminTokens:
        """Read the stored hashes, and that of this directory's own token if it has one."""
        stored = disk.read(ADMIN_HASHES_PATH) or b""
        tokens = cls(stored[start : start + _HASH_BYTES] for start in range(0, len(stored), _HASH_BYTES))
        own = read_secret(disk, ADMIN_PATH)
        if own is not None and own.strip():
            tokens.merge((hashlib.sha256(own.strip()).digest(),))
        return tokens


def create_admin_token(disk: Disk, entropy: Entropy) -> str:
    """Write ``admin-token`` unless it is there already, and return it (256 bits, base32)."""
    present = read_secret(disk, ADMIN_PATH)
    if present is not None and present.strip():
        return present.decode().strip()
    text = "frysadmin." + base64.b32encode(entropy.token_bytes(32)).decode().rstrip("=").lower()
    disk.write(ADMIN_PATH, text.encode() + b"\n")
    return text

"""Keys for sealed files, as people keep and pass them: recipients (public), keys (secret), fingerprints (for the eye).

Sans-I/O.

- ``frysr1`` and base32 of the ML-KEM-768 public key and a checksum of 48 bits, 1,910 characters: a recipient. It may
  be shown to anybody, stand in a command line, and be kept beside the data.
- ``frysk1`` and base32 of provider, public key, private key and checksum: a key. Only in files that nobody else reads.
- six groups of four letters and digits, 120 bits of SHA-384: what two people compare by telephone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from typing import Final, NamedTuple

from frys_node.secure.errors import InvalidRecipient, InvalidSealKey
from frys_node.secure.kem import PROVIDERS, PUBLIC_BYTES, KemKeys

FINGERPRINT_BYTES: Final = 15
KEY_TEXT_MAX: Final = 64 * 1024
"""Longest text that is looked through for recipients or a key."""

RECIPIENT_PREFIX: Final = "frysr1"
KEY_PREFIX: Final = "frysk1"
KEYGEN_HINT: Final = "make one: frys-node snapshot keygen"

_CHECK_BYTES: Final = 6
_PRIVATE_BYTES: Final = {"cryptography": 64, "pqcrypto": 2_400}
_BASE32 = re.compile(r"[a-z2-7]+")


class Recipient(NamedTuple):
    """Who may open a file: an ML-KEM-768 public key (1,184 bytes)."""

    public: bytes

    @property
    def fingerprint(self) -> bytes:
        """Its short name."""
        return hashlib.sha384(b"frys recipient v1" + self.public).digest()[:FINGERPRINT_BYTES]

    def __repr__(self) -> str:
        return f"Recipient({shown(self.fingerprint)})"


class SealKey(NamedTuple):
    """What opens a file. `private` is in its provider's form; see `kem`."""

    provider: str
    recipient: Recipient
    private: bytes

    @classmethod
    def of(cls, provider: str, keys: KemKeys) -> SealKey:
        """Take a key pair that a provider made."""
        return cls(provider, Recipient(keys.public), keys.private)

    def __repr__(self) -> str:
        return f"SealKey({shown(self.recipient.fingerprint)})"


def shown(fingerprint: bytes) -> str:
    """Return a fingerprint for people: ``abcd-efgh-...``."""
    text = base64.b32encode(fingerprint).decode().lower()
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def format_recipient(recipient: Recipient) -> str:
    """Return a recipient's text."""
    return RECIPIENT_PREFIX + _encode(RECIPIENT_PREFIX, recipient.public)


def format_key(key: SealKey) -> str:
    """Return a key's text, which is a secret."""
    provider = bytes([PROVIDERS.index(key.provider)])
    return KEY_PREFIX + _encode(KEY_PREFIX, provider + key.recipient.public + key.private)


def key_file(key: SealKey) -> str:
    """Return the content of a key file."""
    return (
        "# A key for exports of frys. Who has it reads every export that was sealed to it; without it nobody can.\n"
        f"# fingerprint: {shown(key.recipient.fingerprint)}\n{format_key(key)}\n"
    )


def recipient_file(recipient: Recipient) -> str:
    """Return the content of a file that names a recipient."""
    return f"# fingerprint: {shown(recipient.fingerprint)}\n{format_recipient(recipient)}\n"


def parse_recipient(text: str) -> Recipient:
    """Read a recipient; blanks around it are ignored.

    Raises:
        InvalidRecipient: It is cut off, mistyped or something else.
    """
    text = text.strip()
    if text.startswith(KEY_PREFIX):
        raise InvalidRecipient(
            "this is the secret key, not the recipient", hint="name the file that ends in .pub, or the text in it"
        )
    data = _decode(RECIPIENT_PREFIX, text)
    if data is None or len(data) != PUBLIC_BYTES:
        raise InvalidRecipient(
            f"this is not a whole recipient ({len(text)} characters)", hint=f"copy it again, or {KEYGEN_HINT}"
        )
    return Recipient(data)


def parse_recipients(text: str) -> list[Recipient]:
    """Read the recipients in a file, one a line; empty lines and those with ``#`` do not count.

    Raises:
        InvalidRecipient: There is none, or one is not whole.
    """
    found = [parse_recipient(line) for line in _lines(text)]
    if not found:
        raise InvalidRecipient("there is no recipient in the file", hint=KEYGEN_HINT)
    return found


def parse_key(text: str) -> SealKey:
    """Read the one key in a file. No message repeats any of it.

    Raises:
        InvalidSealKey: There is none, or more than one, or it was changed.
    """
    lines = _lines(text)
    if len(lines) == 1 and lines[0].startswith(RECIPIENT_PREFIX):
        raise InvalidSealKey("this is the recipient, not the key", hint="name the file without .pub")
    data = _decode(KEY_PREFIX, lines[0]) if len(lines) == 1 else None
    if data is not None and len(data) > PUBLIC_BYTES and data[0] < len(PROVIDERS):
        provider, private = PROVIDERS[data[0]], data[1 + PUBLIC_BYTES :]
        if len(private) == _PRIVATE_BYTES[provider]:
            return SealKey(provider, Recipient(data[1 : 1 + PUBLIC_BYTES]), private)
    raise InvalidSealKey("this is not a whole key for sealed files", hint="use a file that `snapshot keygen` made")


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _checksum(prefix: str, data: bytes) -> bytes:
    return hashlib.sha384(prefix.encode() + data).digest()[:_CHECK_BYTES]


def _encode(prefix: str, data: bytes) -> str:
    return base64.b32encode(data + _checksum(prefix, data)).decode().rstrip("=").lower()


def _decode(prefix: str, text: str) -> bytes | None:
    """Return what a text holds, None if it is not one, whole and in its only form."""
    rest = text.removeprefix(prefix)
    if not text.startswith(prefix) or len(text) > KEY_TEXT_MAX or not _BASE32.fullmatch(rest):
        return None
    try:
        whole = base64.b32decode(rest.upper() + "=" * (-len(rest) % 8))
    except ValueError:
        return None
    data = whole[:-_CHECK_BYTES]
    return data if whole[-_CHECK_BYTES:] == _checksum(prefix, data) and _encode(prefix, data) == rest else None

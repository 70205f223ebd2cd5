"""What the cache stores: names of entries, lifetimes, and how values are packed.

Sans-I/O. A value is a string of bytes with a content type, or a hash: fields with values of their own. What travels
between nodes is the MessagePack array of `CacheValue`; fields are only ever added at its end (D10, D14).
"""

from __future__ import annotations

import re

import msgspec

from frys_node.base.errors import ConfigError, UsageError
from frys_node.kernel.services.replication import Entry, Version

OCTETS = "application/octet-stream"
"""Content type of what came without one."""

TTL_MS_MAX = 10 * 365 * 86_400_000
"""Ten years: longer is a mistake in the unit."""

_NAMESPACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_TTL = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,3})?)(ms|s|m|h|d)?")
_TTL_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


class CacheMiss(UsageError):
    """There is no such entry, or it has expired or was evicted. State is unchanged."""

    code = "cache.miss"
    status = 404


class InvalidCacheRequest(UsageError):
    """A key, value, namespace or lifetime is outside its limits. State is unchanged."""

    code = "cache.invalid"


class CacheTooLarge(UsageError):
    """A value or batch is over its limit. State is unchanged."""

    code = "cache.too_large"
    status = 413


class CacheConflict(UsageError):
    """The entry is not as the request demands: another version, there already, or not there. State is unchanged."""

    code = "cache.conflict"
    status = 412


class RespTokenNeeded(ConfigError):
    """Redis clients would be served off loopback, and this node has no token to ask them for. Nothing was bound."""

    code = "cache.resp_token_needed"


class CacheValue(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A stored value. `expires_unix_ms` 0 means never; a hash has `fields`, and no body."""

    expires_unix_ms: int
    content_type: str
    body: bytes
    fields: dict[bytes, bytes] | None = None

    def is_expired(self, now_unix_ms: int) -> bool:
        """True once the lifetime is over."""
        return 0 < self.expires_unix_ms <= now_unix_ms


pack = msgspec.msgpack.Encoder().encode
"""Return the bytes of a `CacheValue` that are replicated."""

decode_value = msgspec.msgpack.Decoder(CacheValue).decode
"""Return the `CacheValue` of replicated bytes."""


_PLAIN = pack(CacheValue(0, OCTETS, b""))[:-2]
"""How a short string without an end begins: it is stored so often that it is packed and read by hand."""

_HEADS = tuple(_PLAIN + bytes([length]) for length in range(256))
_NIL = b"\xc0"
_PLAIN_BYTES = len(_PLAIN) + 1


def pack_plain(body: bytes, expires_unix_ms: int = 0) -> bytes:
    """Pack a string of bytes without a type."""
    if expires_unix_ms or len(body) > 255:
        return pack(CacheValue(expires_unix_ms, OCTETS, body))
    return _HEADS[len(body)] + body + _NIL


def plain_body(packed: bytes) -> bytes | None:
    """Return the string if it was packed in the short form, which also says that it has no end; else None."""
    length = len(packed) - _PLAIN_BYTES - 1
    if 0 <= length <= 255 and packed.startswith(_HEADS[length]) and packed.endswith(_NIL):
        return packed[_PLAIN_BYTES:-1]
    return None


def full_key(namespace: str, key: bytes) -> bytes:
    """Return the key under which an entry is stored in its unit.

    Raises:
        InvalidCacheRequest: The namespace is not 1 to 64 letters, digits, dots, dashes and underscores.
    """
    return prefix_of(namespace) + key


def prefix_of(namespace: str) -> bytes:
    """Return what stands before each key of a namespace; see `full_key`."""
    if not _NAMESPACE.fullmatch(namespace):
        raise InvalidCacheRequest(
            f"namespace '{namespace[:80]}' is not valid", hint="use 1 to 64 of letters, digits, '.', '_', '-'"
        )
    return namespace.encode() + b"\x00"


def parse_ttl_ms(text: str) -> int:
    """Read ``30``, ``30s``, ``500ms``, ``5m``, ``2h`` or ``1d`` as milliseconds, 1 to TTL_MS_MAX.

    Raises:
        InvalidCacheRequest: Not a lifetime, or out of range.
    """
    match = _TTL.fullmatch(text.strip())
    if match is None:
        raise InvalidCacheRequest(f"ttl '{text[:40]}' is not a lifetime", hint="write 30, 30s, 500ms, 5m, 2h or 1d")
    ttl_ms = round(float(match[1]) * _TTL_UNIT_MS[match[2] or "s"])
    if not 1 <= ttl_ms <= TTL_MS_MAX:
        raise InvalidCacheRequest(f"ttl '{text[:40]}' is not between 1 ms and 10 years")
    return ttl_ms


def unpack(entry: Entry | None, now_unix_ms: int) -> CacheValue | None:
    """Return the value of an entry, or None for a miss: absent, deleted or expired."""
    if entry is None or entry.value is None:
        return None
    value = decode_value(entry.value)
    return None if value.is_expired(now_unix_ms) else value


def just_above(version: Version) -> Version:
    """Return the smallest version above one that anybody wrote; nobody stamps it, since boots are sparse."""
    return Version(version.hlc_ms, version.counter, version.node, version.boot + 1)


def etag_of(version: Version) -> str:
    """Return the version as text: time, counter, node prefix and boot, unique and free of quotes."""
    return f"{version.hlc_ms:x}.{version.counter:x}.{version.node[:12]}.{version.boot:x}"

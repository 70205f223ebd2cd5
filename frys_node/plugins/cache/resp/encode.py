"""Replies as bytes, in RESP2 and RESP3.

Sans-I/O. Values are encoded where they are made, so that a pipeline's replies are joined and sent at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

OK = b"+OK\r\n"
NULL_2 = b"$-1\r\n"
NULL_3 = b"_\r\n"
NULL_ARRAY_2 = b"*-1\r\n"
EMPTY_ARRAY = b"*0\r\n"
WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
NOT_INTEGER = "ERR value is not an integer or out of range"
SYNTAX = "ERR syntax error"

_INTEGERS = tuple(b":%d\r\n" % number for number in range(1_024))


def simple(text: str) -> bytes:
    """Return a status reply."""
    return f"+{text}\r\n".encode()


def error(text: str) -> bytes:
    """Return an error; the text begins with its code, and breaks of lines in it become blanks."""
    return b"-%b\r\n" % text.replace("\r", " ").replace("\n", " ").encode(errors="replace")


def integer(number: int) -> bytes:
    """Return an integer."""
    return _INTEGERS[number] if 0 <= number < len(_INTEGERS) else b":%d\r\n" % number


def bulk(value: bytes) -> bytes:
    """Return a string."""
    return b"$%d\r\n%b\r\n" % (len(value), value)


def null(protocol: int) -> bytes:
    """Return the reply for what is not there."""
    return NULL_3 if protocol == 3 else NULL_2


def bulk_or_null(value: bytes | None, protocol: int) -> bytes:
    """Return a string, or the reply for none."""
    return null(protocol) if value is None else b"$%d\r\n%b\r\n" % (len(value), value)


def array(parts: Sequence[bytes]) -> bytes:
    """Return an array of encoded parts."""
    return b"*%d\r\n%b" % (len(parts), b"".join(parts))


def bulks(values: Iterable[bytes]) -> bytes:
    """Return an array of strings."""
    return array([bulk(value) for value in values])


def mapping(parts: Sequence[bytes], protocol: int) -> bytes:
    """Return a map of encoded parts, keys and values in turn; in RESP2 an array."""
    return b"%b%d\r\n%b" % (b"%", len(parts) // 2, b"".join(parts)) if protocol == 3 else array(parts)


def statuses(names: Iterable[str], protocol: int) -> bytes:
    """Return a set of statuses; in RESP2 an array."""
    parts = [simple(name) for name in names]
    return b"~%d\r\n%b" % (len(parts), b"".join(parts)) if protocol == 3 else array(parts)


def text(content: str, protocol: int) -> bytes:
    """Return a text for people; in RESP3 a verbatim string, which says so."""
    raw = content.encode()
    return b"=%d\r\ntxt:%b\r\n" % (len(raw) + 4, raw) if protocol == 3 else bulk(raw)


def push(parts: Sequence[bytes], protocol: int) -> bytes:
    """Return what comes unasked; in RESP2 an array."""
    return b">%d\r\n%b" % (len(parts), b"".join(parts)) if protocol == 3 else array(parts)


def encode(value: Any, protocol: int) -> bytes:
    """Encode Python values: bytes and text as strings, numbers, None, lists as arrays, dicts as maps."""
    match value:
        case None:
            return null(protocol)
        case bool() | int():
            return integer(int(value))
        case bytes():
            return bulk(value)
        case str():
            return bulk(value.encode())
        case dict():
            return mapping([encode(part, protocol) for pair in value.items() for part in pair], protocol)
        case _:
            return array([encode(part, protocol) for part in value])

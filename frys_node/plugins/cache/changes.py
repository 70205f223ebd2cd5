"""Read-modify-write of one entry: what each operation does to what is there.

Sans-I/O. A change runs at one node, on the newest value that a quorum knows, while nothing else changes that key there
(`changer`). It either leaves the entry as it is or replaces the whole of it, and has an answer either way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from frys_node.plugins.cache.cache import OCTETS, CacheValue
from frys_node.wire.codec import Message

WRONGTYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
NOT_INTEGER = "ERR value is not an integer or out of range"
NOT_HASH_INTEGER = "ERR hash value is not an integer"
OVERFLOW = "ERR increment or decrement would overflow"
TOO_LONG = "ERR string exceeds maximum allowed size (proto-max-bulk-len)"

INTEGER_MIN, INTEGER_MAX = -(1 << 63), (1 << 63) - 1

VERSION_CHARS = 64
"""A version as text has no more."""

KEEP = -1
"""As the end of a lifetime: that of the value before."""


class Change(Message, frozen=True):
    """One operation on one entry, by its full key; what `args` are depends on the operation."""

    key: bytes
    operation: str
    args: Sequence[int | bytes] = ()


class ChangeRefused(Exception):
    """The operation does not apply to what is there; the text is Redis'."""


class Cell:
    """An entry while changes are applied to it."""

    __slots__ = ("bytes_max", "is_changed", "now_unix_ms", "value", "version")

    def __init__(self, value: CacheValue | None, version: str, now_unix_ms: int, bytes_max: int) -> None:
        self.value = value
        self.version = version
        """Of what is there, as text; empty if nothing is, or a change has replaced it."""
        self.now_unix_ms = now_unix_ms
        self.bytes_max = bytes_max
        self.is_changed = False

    def put(self, value: CacheValue | None) -> None:
        """Replace the entry; one whose lifetime is over is none.

        Raises:
            ChangeRefused: It is too long.
        """
        if value is not None and value.is_expired(self.now_unix_ms):
            value = None
        if value is not None and _length(value) > self.bytes_max:
            raise ChangeRefused(TOO_LONG)
        self.value, self.is_changed, self.version = value, True, ""

    @property
    def text(self) -> bytes | None:
        """The string that is there; None if nothing is.

        Raises:
            ChangeRefused: It is a hash.
        """
        if self.value is None:
            return None
        if self.value.fields is not None:
            raise ChangeRefused(WRONGTYPE)
        return self.value.body

    @property
    def hash(self) -> dict[bytes, bytes]:
        """A copy of the hash that is there, empty if nothing is.

        Raises:
            ChangeRefused: It is a string.
        """
        if self.value is None:
            return {}
        if self.value.fields is None:
            raise ChangeRefused(WRONGTYPE)
        return dict(self.value.fields)

    def put_text(self, body: bytes) -> None:
        """Replace the string and keep its lifetime and content type."""
        old = self.value
        if old is None:
            self.put(CacheValue(0, OCTETS, body))
        else:
            self.put(CacheValue(old.expires_unix_ms, old.content_type, body))

    def put_hash(self, fields: dict[bytes, bytes]) -> None:
        """Replace the fields and keep the lifetime; a hash without fields is none."""
        expires_unix_ms = self.value.expires_unix_ms if self.value is not None else 0
        self.put(CacheValue(expires_unix_ms, OCTETS, b"", fields) if fields else None)


def _length(value: CacheValue) -> int:
    if value.fields is None:
        return len(value.body)
    return sum(len(field) + len(body) + 8 for field, body in value.fields.items())


def parse_integer(text: bytes) -> int | None:
    """Read a signed 64-bit number as Redis does: no blanks, no plus, no leading zeros."""
    if not 0 < len(text) <= 20 or not text.removeprefix(b"-").isdigit() or text == b"-0":
        return None
    if text.lstrip(b"-").startswith(b"0") and text != b"0":
        return None
    number = int(text)
    return number if INTEGER_MIN <= number <= INTEGER_MAX else None


def _set(cell: Cell, body: bytes, content_type: bytes, expires_unix_ms: int, when: bytes, wants_old: int) -> Any:
    """Store a string: always, only if nothing is there (``nx``) or only if something is (``xx``).

    Returns 1 or 0, or with `wants_old` what was there.
    """
    old = cell.text if wants_old else None
    there = cell.value
    is_wanted = when not in (b"nx", b"xx") or (there is None) is (when == b"nx")
    if is_wanted:
        if expires_unix_ms == KEEP:
            expires_unix_ms = there.expires_unix_ms if there is not None else 0
        cell.put(CacheValue(expires_unix_ms, content_type.decode(), body))
    return old if wants_old else int(is_wanted)


def _compare_and_set(cell: Cell, expected: bytes, body: bytes, content_type: bytes, expires_unix_ms: int) -> int:
    """Store a string if the version is the expected one (``*``: any; empty: nothing may be there)."""
    if not _matches(cell, expected):
        return 0
    cell.put(CacheValue(expires_unix_ms, content_type.decode(), body))
    return 1


def _compare_and_delete(cell: Cell, expected: bytes) -> int:
    if not _matches(cell, expected):
        return 0
    cell.put(None)
    return 1


def _matches(cell: Cell, expected: bytes) -> bool:
    if expected == b"*":
        return cell.value is not None
    return cell.value is None if not expected else cell.version.encode() == expected


def _delete(cell: Cell) -> int:
    if cell.value is None:
        return 0
    cell.put(None)
    return 1


def _get_delete(cell: Cell) -> bytes | None:
    old = cell.text
    if old is not None:
        cell.put(None)
    return old


def _get_expire(cell: Cell, expires_unix_ms: int) -> bytes | None:
    """Return the string and give it another lifetime (0: none)."""
    old = cell.text
    if cell.value is not None and cell.value.expires_unix_ms != expires_unix_ms:
        cell.put(msgspec.structs.replace(cell.value, expires_unix_ms=expires_unix_ms))
    return old


def _expire(cell: Cell, expires_unix_ms: int, *conditions: bytes) -> int:
    """Give another lifetime if there is none yet (``nx``), one (``xx``), a shorter (``gt``) or longer one (``lt``)."""
    value = cell.value
    if value is None:
        return 0
    old = value.expires_unix_ms
    is_refused = {
        b"nx": old != 0,
        b"xx": old == 0,
        b"gt": old == 0 or expires_unix_ms <= old,
        b"lt": old != 0 and expires_unix_ms >= old,
    }
    if any(is_refused.get(condition, False) for condition in conditions):
        return 0
    # What has been over since before 1970 is over, not without end.
    cell.put(msgspec.structs.replace(value, expires_unix_ms=max(expires_unix_ms, 1)))
    return 1


def _persist(cell: Cell) -> int:
    if cell.value is None or not cell.value.expires_unix_ms:
        return 0
    cell.put(msgspec.structs.replace(cell.value, expires_unix_ms=0))
    return 1


def _add(old: bytes, by: int, complaint: str) -> int:
    number = parse_integer(old)
    if number is None:
        raise ChangeRefused(complaint)
    if not INTEGER_MIN <= number + by <= INTEGER_MAX:
        raise ChangeRefused(OVERFLOW)
    return number + by


def _increment(cell: Cell, by: int) -> int:
    text = cell.text
    number = _add(b"0" if text is None else text, by, NOT_INTEGER)
    cell.put_text(b"%d" % number)
    return number


def _append(cell: Cell, tail: bytes) -> int:
    body = (cell.text or b"") + tail
    cell.put_text(body)
    return len(body)


def _hash_set(cell: Cell, *pairs: bytes) -> int:
    """Set fields; returns how many are new."""
    fields = cell.hash
    before = len(fields)
    fields.update(zip(pairs[::2], pairs[1::2], strict=True))
    cell.put_hash(fields)
    return len(fields) - before


def _hash_set_new(cell: Cell, field: bytes, body: bytes) -> int:
    fields = cell.hash
    if field in fields:
        return 0
    fields[field] = body
    cell.put_hash(fields)
    return 1


def _hash_delete(cell: Cell, *names: bytes) -> int:
    fields = cell.hash
    gone = sum(1 for name in dict.fromkeys(names) if fields.pop(name, None) is not None)
    if gone:
        cell.put_hash(fields)
    return gone


def _hash_increment(cell: Cell, field: bytes, by: int) -> int:
    fields = cell.hash
    number = _add(fields.get(field, b"0"), by, NOT_HASH_INTEGER)
    fields[field] = b"%d" % number
    cell.put_hash(fields)
    return number


OPERATIONS: dict[str, Callable[..., Any]] = {
    "set": _set,
    "cas": _compare_and_set,
    "cad": _compare_and_delete,
    "del": _delete,
    "getdel": _get_delete,
    "getex": _get_expire,
    "expire": _expire,
    "persist": _persist,
    "incr": _increment,
    "append": _append,
    "hset": _hash_set,
    "hsetnx": _hash_set_new,
    "hdel": _hash_delete,
    "hincr": _hash_increment,
}


class Outcome(Message, frozen=True):
    """What a change answers: a number, a string or nothing, or why it was refused. `version` names what it wrote."""

    result: int | bytes | None = None
    refusal: str = ""
    version: str = ""


def is_lookup(change: Change) -> bool:
    """True if a change answers with the value that was there: for hit ratios it is a read as well."""
    return change.operation in ("getdel", "getex") or (change.operation == "set" and bool(change.args[-1]))


def apply(cell: Cell, change: Change) -> Outcome:
    """Apply a change to the entry; one that is refused leaves it as it is."""
    operation = OPERATIONS.get(change.operation)
    if operation is None:
        return Outcome(refusal=f"ERR this node does not know the operation '{change.operation}'")
    try:
        return Outcome(operation(cell, *change.args))
    except ChangeRefused as refused:
        return Outcome(refusal=str(refused))
    except (TypeError, ValueError, AttributeError):
        return Outcome(refusal=f"ERR '{change.operation}' does not take these arguments")


def apply_within(
    cells: dict[bytes, Cell], changes: Sequence[Change], bytes_max: int | None, overhead_bytes: int
) -> list[Outcome]:
    """Apply changes in their order, at least one; stop before the one whose outcome does not fit beside the others."""
    outcomes: list[Outcome] = []
    total_bytes = 0
    for change in changes:
        cell = cells[change.key]
        before = cell.value, cell.version, cell.is_changed
        outcome = apply(cell, change)
        if bytes_max is not None:
            size_bytes = len(outcome.result) if isinstance(outcome.result, bytes) else 0
            total_bytes += overhead_bytes + size_bytes + len(outcome.refusal) + VERSION_CHARS
            if outcomes and total_bytes > bytes_max:
                cell.value, cell.version, cell.is_changed = before
                break
        outcomes.append(outcome)
    return outcomes

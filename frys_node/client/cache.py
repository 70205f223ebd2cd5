"""What can be asked of the cache, as plans.

Sans-I/O. Batches are split by the nodes that own their keys, and put together again in the order in which they were
given.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from frys_node.base.errors import RemoteError, UsageError
from frys_node.base.units import slot_of
from frys_node.client.batches import query_of, split
from frys_node.client.calls import Answer, Call, Place, Plan, answer, answers
from frys_node.client.core import Core

OCTETS = "application/octet-stream"

BATCH_KEYS_MAX = 500
"""Keys in one request of a batch; a node takes twice as many, unless it is told otherwise."""

BATCH_BYTES_MAX = 4 << 20
"""Values in one request of a batch; a node takes four times as much."""


class Entry(msgspec.Struct, frozen=True):
    """A value that was found."""

    key: str
    value: bytes
    version: str
    """Names the write that stored it: what `cas` and `delete` compare."""
    content_type: str = OCTETS
    ttl_s: float | None = None
    """Seconds it has left, None for no end."""


class Lookup(msgspec.Struct, frozen=True):
    """A value, or who shall load it."""

    entry: Entry | None
    is_leader: bool = False
    """This caller shall load the value and put it; the others that miss wait meanwhile."""


class Namespace:
    """The namespace that plans of the cache are about."""

    def __init__(self, core: Core, name: str) -> None:
        if not name or "/" in name:
            raise UsageError(f"namespace '{name[:80]}' is not valid", hint="letters, digits, '.', '_' and '-'")
        self.core = core
        self._path = f"/v1/cache/{quote(name, safe='')}"

    def call(
        self,
        method: str,
        key: str,
        query: Mapping[str, str | None] = {},
        **others: Any,
    ) -> Call:
        """Return a request about one key."""
        place = self.place(key)
        return Call(method, f"{self._path}/{quote(key, safe='')}{query_of(query)}", place=place, **others)

    def batch(self, body: Mapping[str, Any], place: Place, consistency: str | None) -> Call:
        """Return a request about many keys."""
        return Call("POST", self._path + query_of({"consistency": consistency}), msgspec.json.encode(body), place=place)

    def place(self, key: str) -> Place:
        """Return where a key lives."""
        try:
            return ("cache", slot_of(key.encode()))
        except UnicodeEncodeError:
            raise UsageError("a key is not valid UTF-8") from None

    def split(self, keys: Iterable[str], size_of: Mapping[str, int] | None = None) -> list[list[str]]:
        """Return the keys in groups that one node serves best, each small enough for one request."""
        return split(self.core, keys, self.place, BATCH_KEYS_MAX, BATCH_BYTES_MAX, size_of)


def _ttl(ttl: str | float | None) -> str | None:
    """Return a lifetime as the node reads it: seconds, or a text such as ``30s``, ``5m``."""
    if ttl is None or isinstance(ttl, str):
        return ttl
    return f"{max(1, round(ttl * 1_000))}ms"


# ---------------------------------------------------------------------- one key


def get(space: Namespace, key: str, *, consistency: str | None = None) -> Plan[Entry | None]:
    """Return the entry of a key, None for a miss. `consistency` is ``one`` (default), ``quorum`` or ``all``."""
    call = space.call("GET", key, {"consistency": consistency}, accepts=(404,))
    return _entry(key, (yield from answer(call)))


def lookup(space: Namespace, key: str, *, lease: str | float = 5.0) -> Plan[Lookup]:
    """Return the entry, or, on a miss, whether this caller, one of all that miss, shall load it."""
    call = space.call("GET", key, {"lease": _ttl(lease)}, accepts=(404,))
    found = yield from answer(call)
    return Lookup(_entry(key, found), found.headers.get("x-frys-lease") == "granted")


def put(
    space: Namespace,
    key: str,
    value: bytes,
    *,
    ttl: str | float | None = None,
    content_type: str = OCTETS,
    consistency: str | None = None,
) -> Plan[str]:
    """Store a value, whatever is there; returns its version."""
    query = {"ttl": _ttl(ttl), "consistency": consistency}
    return _version((yield from answer(space.call("PUT", key, query, body=value, content_type=content_type))))


def cas(
    space: Namespace,
    key: str,
    value: bytes,
    *,
    version: str | None,
    ttl: str | float | None = None,
    content_type: str = OCTETS,
    consistency: str | None = None,
) -> Plan[str]:
    """Store a value if the entry still has a version, or, with None, if there is none; returns the new version.

    Never sent again when its answer is lost: `NodeUnreachable` or `DeadlineExceeded` then; read the entry to know.

    Raises:
        CacheConflict: The entry is not so. Nothing was changed.
    """
    call = space.call(
        "PUT",
        key,
        {"ttl": _ttl(ttl), "consistency": consistency},
        body=value,
        content_type=content_type,
        headers=(("If-None-Match", "*"),) if version is None else (("If-Match", f'"{version}"'),),
        is_idempotent=False,
    )
    return _version((yield from answer(call)))


def delete(space: Namespace, key: str, *, version: str | None = None, consistency: str | None = None) -> Plan[None]:
    """Delete a key, whether or not it is there; with a version only if it still has that (`CacheConflict`)."""
    call = space.call(
        "DELETE",
        key,
        {"consistency": consistency},
        headers=(("If-Match", f'"{version}"'),) if version is not None else (),
        is_idempotent=version is None,
    )
    yield from answer(call)


def incr(space: Namespace, key: str, by: int = 1, *, consistency: str | None = None) -> Plan[int]:
    """Add to the number that is stored, 0 if nothing is, and return the sum.

    Never sent again when its answer is lost: it would count twice.
    """
    call = space.call("POST", key, {"add": str(by), "consistency": consistency}, is_idempotent=False)
    value = (yield from answer(call)).json()
    return int(value["value"])


# ---------------------------------------------------------------------- many keys


def mget(space: Namespace, keys: Sequence[str], *, consistency: str | None = None) -> Plan[list[Entry | None]]:
    """Return the entries of many keys, in their order; None for a miss."""
    groups = space.split(dict.fromkeys(keys))
    calls = [space.batch({"get": group}, space.place(group[0]), consistency) for group in groups]
    found: dict[str, Entry | None] = {}
    for group, reply in zip(groups, (yield from answers(calls)), strict=True):
        rows = _rows(reply, "get", len(group))
        found.update(zip(group, map(_row, rows), strict=True))
    return [found[key] for key in keys]


def mset(
    space: Namespace, items: Mapping[str, bytes], *, ttl: str | float | None = None, consistency: str | None = None
) -> Plan[dict[str, str]]:
    """Store many values; returns their versions by key.

    Nodes are asked at the same time. On an error some of them may be stored; storing all again is safe.
    """
    life = _ttl(ttl)
    groups = space.split(items, {key: len(key) + len(value) for key, value in items.items()})
    calls = [
        space.batch({"put": [_item(key, items[key], life) for key in group]}, space.place(group[0]), consistency)
        for group in groups
    ]
    versions: dict[str, str] = {}
    for group, reply in zip(groups, (yield from answers(calls)), strict=True):
        versions.update(zip(group, map(str, _rows(reply, "put", len(group))), strict=True))
    return {key: versions[key] for key in items}


def mdelete(space: Namespace, keys: Sequence[str], *, consistency: str | None = None) -> Plan[None]:
    """Delete many keys, whether or not they are there; see `mset`."""
    groups = space.split(dict.fromkeys(keys))
    yield from answers([space.batch({"delete": group}, space.place(group[0]), consistency) for group in groups])


def _item(key: str, value: bytes, ttl: str | None) -> dict[str, Any]:
    item: dict[str, Any] = {"key": key, "base64": b64encode(value).decode(), "content_type": OCTETS}
    return item if ttl is None else item | {"ttl": ttl}


def _rows(reply: Answer, part: str, count: int) -> list[Any]:
    body = reply.json()
    rows = body.get(part) if isinstance(body, dict) else None
    if not isinstance(rows, list) or len(rows) != count:
        raise RemoteError(f"the answer to a batch of {count} keys has no '{part}' of that length")
    return rows


def _row(row: Any) -> Entry | None:
    if row is None:
        return None
    value = row["value"].encode() if "value" in row else b64decode(row.get("base64", ""))
    return Entry(row["key"], value, row["version"], row["content_type"], row.get("ttl_s"))


def _entry(key: str, found: Answer) -> Entry | None:
    if found.status == 404:
        error = found.error()
        if error.code != "cache.miss":
            raise error
        return None
    ttl = found.headers.get("x-frys-ttl")
    version = found.headers.get("etag", "").strip('"')
    content_type = found.headers.get("content-type", OCTETS)
    return Entry(key, found.body, version, content_type, None if ttl is None else float(ttl))


def _version(found: Answer) -> str:
    return found.headers.get("etag", "").strip('"')

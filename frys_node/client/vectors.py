"""What can be asked of a vector collection, as plans. The bodies are those of Qdrant's REST API.

Sans-I/O. Points are split by the nodes that own their shards; a search goes to a node that holds most of the
collection, which asks the others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from frys_node.base.errors import RemoteError, UsageError
from frys_node.base.units import point_key
from frys_node.client.batches import query_of, split
from frys_node.client.calls import Answer, Call, Place, Plan, answer, answers
from frys_node.client.core import Core

PointId = int | str
Filter = Mapping[str, Any]
"""A filter of Qdrant's: ``{"must": [{"key": "colour", "match": {"value": "red"}}]}``."""

POINTS_MAX = 500
"""Points in one request; a node takes 10,000, unless it is told otherwise."""

NUMBER_BYTES = 20
"""What a number of a vector takes in JSON, at most."""

BATCH_BYTES_MAX = 8 << 20
"""Vectors in one request, estimated; a node reads bodies of 32 MiB."""


class Point(msgspec.Struct, frozen=True):
    """A point to store: an id (unsigned 64-bit integer or UUID), a vector, a payload."""

    id: PointId
    vector: Sequence[float]
    payload: Mapping[str, Any] | None = None


class Hit(msgspec.Struct, frozen=True):
    """A point that was found; `score` None when it was not searched for but listed or asked for."""

    id: PointId
    score: float | None = None
    payload: dict[str, Any] | None = None
    vector: list[float] | None = None
    version: int | None = None


class Page(msgspec.Struct, frozen=True):
    """Points in the order of their ids, and where the next page begins (None: there is none)."""

    points: list[Hit]
    next_offset: PointId | None


class Collection:
    """The collection that plans of vectors are about."""

    def __init__(self, core: Core, name: str) -> None:
        if not name or "/" in name:
            raise UsageError(f"'{name[:80]}' is not the name of a collection")
        self.core = core
        self.name = name
        self.path = f"/collections/{quote(name, safe='')}"

    def call(
        self,
        method: str,
        path: str = "",
        body: Any = None,
        *,
        place: Place | None = None,
        consistency: str | None = None,
        is_idempotent: bool = True,
    ) -> Call:
        """Return a request about the collection."""
        data = b"" if body is None else msgspec.json.encode(body)
        target = self.path + path + query_of({"consistency": consistency})
        return Call(
            method, target, data, place=place or ("collection", self.name), is_idempotent=is_idempotent, accepts=()
        )

    def place(self, point: PointId) -> Place:
        """Return where a point lives; of an id that is none, a node says so."""
        key = point_key(point)
        return ("point", self.name, key) if key is not None else ("collection", self.name)


# ---------------------------------------------------------------------- the collection


def create(
    collection: Collection,
    size: int,
    *,
    distance: str = "Cosine",
    shard_number: int | None = None,
    replication_factor: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Plan[None]:
    """Create the collection; returns when it is writable. `options` are more fields of Qdrant's body.

    Never sent again when its answer is lost.

    Raises:
        CollectionExists: There is one of that name.
    """
    given = {"shard_number": shard_number, "replication_factor": replication_factor}
    body = {"vectors": {"size": size, "distance": distance}, **(options or {})}
    body |= {name: value for name, value in given.items() if value is not None}
    yield from answer(collection.call("PUT", body=body, is_idempotent=False))
    collection.core.doubt()  # its shards are in no table yet


def drop(collection: Collection) -> Plan[bool]:
    """Delete the collection with its points; False when there was none (or a lost answer had deleted it)."""
    return bool(_result((yield from answer(collection.call("DELETE")))))


def exists(collection: Collection) -> Plan[bool]:
    """Say whether there is a collection of the name."""
    return bool(_result((yield from answer(collection.call("GET", "/exists"))))["exists"])


def info(collection: Collection) -> Plan[dict[str, Any]]:
    """Return Qdrant's description of the collection."""
    return dict(_result((yield from answer(collection.call("GET")))))


# ---------------------------------------------------------------------- points


def upsert(collection: Collection, points: Sequence[Point], *, consistency: str | None = None) -> Plan[int]:
    """Store points, the last of equal ids; returns how many. Every one is durable when this returns.

    Nodes are asked at the same time. On an error some of them may be stored; storing all again is safe.
    """
    last = {point.id: point for point in points}
    sizes = {id_: len(point.vector) * NUMBER_BYTES for id_, point in last.items()}
    groups = split(collection.core, last, collection.place, POINTS_MAX, BATCH_BYTES_MAX, sizes)
    calls = [
        collection.call(
            "PUT",
            "/points",
            {"points": [_point(last[id_]) for id_ in group]},
            place=collection.place(group[0]),
            consistency=consistency,
        )
        for group in groups
    ]
    yield from answers(calls)
    return len(last)


def delete(
    collection: Collection,
    ids: Sequence[PointId] = (),
    *,
    filter: Filter | None = None,  # noqa: A002 (Qdrant's word)
    consistency: str | None = None,
) -> Plan[None]:
    """Delete points by id, or all that a filter lets through; see `upsert`."""
    if (not ids) == (filter is None):
        raise UsageError("delete takes either ids or a filter")
    if filter is not None:
        yield from answer(collection.call("POST", "/points/delete", {"filter": filter}, consistency=consistency))
        return
    groups = split(collection.core, dict.fromkeys(ids), collection.place, POINTS_MAX)
    calls = [
        collection.call(
            "POST", "/points/delete", {"points": group}, place=collection.place(group[0]), consistency=consistency
        )
        for group in groups
    ]
    yield from answers(calls)


def get(
    collection: Collection,
    ids: Sequence[PointId],
    *,
    with_payload: bool = True,
    with_vector: bool = False,
    consistency: str | None = None,
) -> Plan[list[Hit | None]]:
    """Return the points of some ids, in their order; None for one that does not exist."""
    groups = split(collection.core, dict.fromkeys(ids), collection.place, POINTS_MAX)
    shown = {"with_payload": with_payload, "with_vector": with_vector}
    calls = [
        collection.call(
            "POST", "/points", {"ids": group, **shown}, place=collection.place(group[0]), consistency=consistency
        )
        for group in groups
    ]
    found: dict[bytes | None, Hit] = {}
    for reply in (yield from answers(calls)):
        found.update({point_key(hit.id): hit for hit in _hits(_result(reply))})
    return [found.get(point_key(id_)) for id_ in ids]


def query(
    collection: Collection,
    vector: Sequence[float] | PointId | None,
    *,
    limit: int = 10,
    offset: int = 0,
    filter: Filter | None = None,  # noqa: A002
    score_threshold: float | None = None,
    with_payload: bool = True,
    with_vector: bool = False,
    exact: bool = False,
    consistency: str | None = None,
) -> Plan[list[Hit]]:
    """Return the nearest points to a vector or to a point, best first; with None the first ones by id."""
    body = {
        "query": vector,
        "limit": limit,
        "offset": offset,
        "filter": filter,
        "score_threshold": score_threshold,
        "with_payload": with_payload,
        "with_vector": with_vector,
        "params": {"exact": exact},
    }
    reply = yield from answer(collection.call("POST", "/points/query", _given(body), consistency=consistency))
    return _hits(_result(reply)["points"])


def query_many(
    collection: Collection,
    vectors: Sequence[Sequence[float] | PointId],
    *,
    limit: int = 10,
    filter: Filter | None = None,  # noqa: A002
    with_payload: bool = True,
    consistency: str | None = None,
) -> Plan[list[list[Hit]]]:
    """Answer several queries in one go, in their order."""
    searches = [
        _given({"query": vector, "limit": limit, "filter": filter, "with_payload": with_payload}) for vector in vectors
    ]
    call = collection.call("POST", "/points/query/batch", {"searches": searches}, consistency=consistency)
    return [_hits(one["points"]) for one in _result((yield from answer(call)))]


def scroll(
    collection: Collection,
    *,
    limit: int = 100,
    offset: PointId | None = None,
    filter: Filter | None = None,  # noqa: A002
    with_payload: bool = True,
    with_vector: bool = False,
    consistency: str | None = None,
) -> Plan[Page]:
    """Return a page of points in the order of their ids, from `offset` on."""
    shown = {"with_payload": with_payload, "with_vector": with_vector}
    body = _given({"limit": limit, "offset": offset, "filter": filter, **shown})
    found = _result((yield from answer(collection.call("POST", "/points/scroll", body, consistency=consistency))))
    return Page(_hits(found["points"]), found["next_page_offset"])


def count(
    collection: Collection,
    *,
    filter: Filter | None = None,  # noqa: A002
    consistency: str | None = None,
) -> Plan[int]:
    """Count points, all of them or those that a filter lets through."""
    call = collection.call("POST", "/points/count", _given({"filter": filter}), consistency=consistency)
    return int(_result((yield from answer(call)))["count"])


def _point(point: Point) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": point.id, "vector": list(point.vector)}
    return shown if point.payload is None else shown | {"payload": point.payload}


def _given(body: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if value is not None}


def _result(reply: Answer) -> Any:
    body = reply.json()
    if not isinstance(body, dict) or "result" not in body:
        raise RemoteError("the answer is not in Qdrant's envelope", hint="is this a node of frys?")
    return body["result"]


def _hits(rows: Any) -> list[Hit]:
    return msgspec.convert(rows, list[Hit])

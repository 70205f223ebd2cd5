"""Bodies of Qdrant's REST API as typed Structs, and their rules.

Sans-I/O. Unknown words are refused, as Qdrant refuses them, so that nothing that was asked for is silently left out.
What Qdrant has and frys has not yet is refused by its name.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from frys_node.base.errors import FrysError
from frys_node.plugins.vector.collection import PointId
from frys_node.plugins.vector.errors import InvalidVectorRequest, UnsupportedFeature

T = TypeVar("T")

PAYLOAD_DEPTH_MAX = 64
"""Deepest nesting of a payload."""


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of the bodies."""


class VectorParams(_Body, frozen=True, kw_only=True):
    """The unnamed vector of a collection. Settings of Qdrant's storage are taken and kept, but mean nothing here."""

    size: int
    distance: str
    hnsw_config: dict[str, Any] | None = None
    on_disk: bool | None = None
    memory: str | None = None
    datatype: str | None = None
    quantization_config: msgspec.Raw = msgspec.Raw(b"")
    multivector_config: msgspec.Raw = msgspec.Raw(b"")


class FrysOptions(_Body, frozen=True, kw_only=True):
    """What frys has and Qdrant has not: the levels of requests that do not say one."""

    read_consistency: Literal["one", "quorum", "all"] | None = None
    write_consistency: Literal["one", "quorum", "all"] | None = None
    read_repair: Literal["async", "wait"] | None = None


class CreateCollection(_Body, frozen=True, kw_only=True):
    """``PUT /collections/{name}``."""

    vectors: msgspec.Raw = msgspec.Raw(b"")
    shard_number: int | None = None
    sharding_method: str | None = None
    replication_factor: int | None = None
    write_consistency_factor: int | None = None
    read_fan_out_factor: int | None = None
    on_disk_payload: bool | None = None
    payload: Any = None
    id_tracker: Any = None
    hnsw_config: dict[str, Any] | None = None
    wal_config: dict[str, Any] | None = None
    optimizers_config: dict[str, Any] | None = None
    init_from: msgspec.Raw = msgspec.Raw(b"")
    quantization_config: msgspec.Raw = msgspec.Raw(b"")
    sparse_vectors: dict[str, Any] | None = None
    strict_mode_config: msgspec.Raw = msgspec.Raw(b"")
    metadata: dict[str, Any] | None = None
    frys: FrysOptions | None = None


class PointStruct(_Body, frozen=True, kw_only=True):
    """One point. `vector` is a list of numbers; a dict would name vectors."""

    id: int | str
    vector: list[float] | dict[str, msgspec.Raw]
    payload: msgspec.Raw = msgspec.Raw(b"")


class PointsBatch(_Body, frozen=True, kw_only=True):
    """Points as columns."""

    ids: list[int | str]
    vectors: list[list[float]] | dict[str, msgspec.Raw]
    payloads: list[msgspec.Raw] | None = None


class UpsertBody(_Body, frozen=True, kw_only=True):
    """``PUT /collections/{name}/points``: `points` or `batch`."""

    points: list[PointStruct] | None = None
    batch: PointsBatch | None = None
    shard_key: msgspec.Raw = msgspec.Raw(b"")
    update_filter: msgspec.Raw = msgspec.Raw(b"")
    update_mode: str | None = None


class SearchParams(_Body, frozen=True, kw_only=True):
    """How to search; what is meant for quantised vectors changes nothing here."""

    hnsw_ef: int | None = None
    exact: bool | None = None
    quantization: dict[str, Any] | None = None
    indexed_only: bool | None = None
    acorn: dict[str, Any] | None = None
    idf: Any = None


WithPayload = bool | list[str] | dict[str, list[str]] | None
WithVector = bool | list[str] | None


class QueryBody(_Body, frozen=True, kw_only=True):
    """``POST .../points/query``."""

    query: list[float] | int | str | dict[str, msgspec.Raw] | None = None
    limit: int | None = None
    offset: int | None = None
    filter: msgspec.Raw = msgspec.Raw(b"")
    params: SearchParams | None = None
    score_threshold: float | None = None
    with_payload: WithPayload = None
    with_vector: WithVector = None
    with_vectors: WithVector = None
    using: str | None = None
    prefetch: msgspec.Raw = msgspec.Raw(b"")
    lookup_from: msgspec.Raw = msgspec.Raw(b"")
    shard_key: msgspec.Raw = msgspec.Raw(b"")


class QueryBatchBody(_Body, frozen=True, kw_only=True):
    """``POST .../points/query/batch``."""

    searches: list[QueryBody]


class SearchBody(_Body, frozen=True, kw_only=True):
    """``POST .../points/search`` (the older form)."""

    vector: list[float] | dict[str, msgspec.Raw]
    limit: int
    offset: int | None = None
    filter: msgspec.Raw = msgspec.Raw(b"")
    params: SearchParams | None = None
    score_threshold: float | None = None
    with_payload: WithPayload = None
    with_vector: WithVector = None
    with_vectors: WithVector = None
    shard_key: msgspec.Raw = msgspec.Raw(b"")

    def as_query(self) -> QueryBody:
        """Return the same search in the newer form."""
        if isinstance(self.vector, dict):
            raise named_vectors()
        return QueryBody(
            query=self.vector,
            limit=self.limit,
            offset=self.offset,
            filter=self.filter,
            params=self.params,
            score_threshold=self.score_threshold,
            with_payload=self.with_payload,
            with_vector=self.with_vector,
            with_vectors=self.with_vectors,
            shard_key=self.shard_key,
        )


class SearchBatchBody(_Body, frozen=True, kw_only=True):
    """``POST .../points/search/batch``."""

    searches: list[SearchBody]


class RetrieveBody(_Body, frozen=True, kw_only=True):
    """``POST .../points``."""

    ids: list[int | str]
    with_payload: WithPayload = None
    with_vector: WithVector = None
    with_vectors: WithVector = None
    shard_key: msgspec.Raw = msgspec.Raw(b"")


class SelectorBody(_Body, frozen=True, kw_only=True):
    """``POST .../points/delete``: ids or a filter."""

    points: list[int | str] | None = None
    filter: msgspec.Raw = msgspec.Raw(b"")
    shard_key: msgspec.Raw = msgspec.Raw(b"")


class CountBody(_Body, frozen=True, kw_only=True):
    """``POST .../points/count``; every count is exact."""

    filter: msgspec.Raw = msgspec.Raw(b"")
    exact: bool | None = None
    shard_key: msgspec.Raw = msgspec.Raw(b"")


class ScrollBody(_Body, frozen=True, kw_only=True):
    """``POST .../points/scroll``."""

    offset: int | str | None = None
    limit: int | None = None
    filter: msgspec.Raw = msgspec.Raw(b"")
    with_payload: WithPayload = None
    with_vector: WithVector = None
    with_vectors: WithVector = None
    order_by: msgspec.Raw = msgspec.Raw(b"")
    shard_key: msgspec.Raw = msgspec.Raw(b"")


class PointOut(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A point in an answer; `score` and `version` only in results of searches."""

    id: PointId
    version: int | None = None
    score: float | None = None
    payload: Any = None
    vector: list[float] | None = None


class Decoders:
    """One decoder per body, made once."""

    def __init__(self) -> None:
        self._decoders: dict[type, msgspec.json.Decoder[Any]] = {}

    def decode(self, body: bytes, form: type[T]) -> T:
        """Return the body as its Struct.

        Raises:
            InvalidVectorRequest: Not JSON, nested too deeply, or not of this form; the message says where.
        """
        decoder = self._decoders.get(form)
        if decoder is None:
            decoder = self._decoders[form] = msgspec.json.Decoder(form)
        try:
            value: T = decoder.decode(body)
        except RecursionError as error:
            raise InvalidVectorRequest("Format error in JSON body: it is nested too deeply") from error
        except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
            raise InvalidVectorRequest(f"Format error in JSON body: {error}") from error
        return value


def is_set(raw: msgspec.Raw | None) -> bool:
    """True if a raw field says something: neither missing nor null."""
    return raw is not None and bytes(raw) not in {b"", b"null"}


def refuse(*features: tuple[str, msgspec.Raw | None]) -> None:
    """Refuse what was asked for and does not exist here (`UnsupportedFeature`)."""
    for name, raw in features:
        if is_set(raw):
            raise UnsupportedFeature(f"`{name}` is not supported by this version of frys", hint=f"leave `{name}` out")


def named_vectors() -> FrysError:
    """Return the error for named vectors."""
    return UnsupportedFeature(
        "named vectors are not supported by this version of frys: a collection has one unnamed dense vector",
        hint="send `vector` as a list of numbers, or use one collection per vector",
    )


def check_payload(raw: msgspec.Raw, bytes_max: int) -> bytes:
    """Return a payload's JSON, empty for none.

    Raises:
        InvalidVectorRequest: Not an object, too large, or nested too deeply.
    """
    source = bytes(raw).strip()
    if source in {b"", b"null", b"{}"}:
        return b""
    if not source.startswith(b"{"):
        raise InvalidVectorRequest("a payload is a JSON object")
    if len(source) > bytes_max:
        raise InvalidVectorRequest(
            f"a payload of {len(source)} bytes is over the limit of {bytes_max}",
            hint="raise [plugins.vector] payload_bytes_max, or keep large texts elsewhere",
        )
    if source.count(b"{") + source.count(b"[") > PAYLOAD_DEPTH_MAX and _depth(msgspec.json.decode(source)) > (
        PAYLOAD_DEPTH_MAX
    ):
        raise InvalidVectorRequest(f"a payload is nested deeper than {PAYLOAD_DEPTH_MAX} levels")
    return source


def _depth(value: Any) -> int:
    """Return how deep lists and dicts are nested, without recursion."""
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            child
            for holder in level
            for child in (holder.values() if isinstance(holder, dict) else holder)
            if isinstance(child, dict | list)
        ]
    return deepest


def select_payload(source: bytes, selector: WithPayload) -> Any:
    """Return what of a stored payload is shown: all, nothing, or some keys (``a.b`` reaches into objects)."""
    if selector is None or selector is False:
        return None
    raw = msgspec.Raw(source or b"{}")
    if selector is True:
        return raw
    payload = msgspec.json.decode(raw)
    if isinstance(selector, list):
        return _included(payload, [key.split(".") for key in selector])
    if len(selector) != 1:
        raise InvalidVectorRequest("`with_payload` takes either `include` or `exclude`")
    ((word, keys),) = selector.items()
    paths = [key.split(".") for key in keys]
    if word == "include":
        return _included(payload, paths)
    if word == "exclude":
        return _excluded(payload, paths)
    raise InvalidVectorRequest(f"`with_payload` takes `include` or `exclude`, not `{word[:40]}`")


def _included(payload: dict[str, Any], paths: list[list[str]]) -> dict[str, Any]:
    chosen: dict[str, Any] = {}
    for path in paths:
        source, target = payload, chosen
        for key in path[:-1]:
            inner = source.get(key)
            if not isinstance(inner, dict):
                break
            source, target = inner, target.setdefault(key, {})
        else:
            if path[-1] in source:
                target[path[-1]] = source[path[-1]]
    return chosen


def _excluded(payload: dict[str, Any], paths: list[list[str]]) -> dict[str, Any]:
    for path in paths:
        holder: Any = payload
        for key in path[:-1]:
            holder = holder.get(key) if isinstance(holder, dict) else None
        if isinstance(holder, dict):
            holder.pop(path[-1], None)
    return payload

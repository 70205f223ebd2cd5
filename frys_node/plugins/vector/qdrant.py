"""Qdrant's REST dialect: points. Collections and the version banner are in `qdrant_collections`.

Answers are ``{"result": ..., "status": "ok", "time": seconds}``, errors ``{"status": {"error": text}, "time": ...}``
with Qdrant's status codes. Beyond Qdrant: ``?consistency=one|quorum|all`` on writes too, and ``?partial=true`` on
searches, which answers without the shards that cannot be reached and names them in ``missing_shards``. ``?ordering=``
is taken and means nothing: writes are ordered by version.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import trio

from frys_node.base.access import Resource
from frys_node.base.errors import DeadlineExceeded, FrysError
from frys_node.base.ports import Clock
from frys_node.base.types import Consistency
from frys_node.kernel.services.http import Http, HttpHandler, HttpRequest, HttpResponse
from frys_node.kernel.services.replication import Entry, Version
from frys_node.kernel.services.sessions import in_session
from frys_node.kernel.services.topology import Collection
from frys_node.plugins.vector import rest
from frys_node.plugins.vector.collection import (
    StoredPoint,
    decode_id,
    decode_point,
    encode_id,
    encode_point,
    operation_number,
)
from frys_node.plugins.vector.driver import VectorService
from frys_node.plugins.vector.errors import InvalidVectorRequest, TooMany, UnknownPoint, UnsupportedFeature
from frys_node.plugins.vector.filters import compile_filter
from frys_node.plugins.vector.messages import Hit, Query

BODY_BYTES_MAX = 32 * 1024 * 1024
"""Largest body, as Qdrant's default."""

LIMIT_DEFAULT = 10

Answer = Callable[[HttpRequest], Awaitable[Any]]


class Partial(msgspec.Struct, frozen=True):
    """A result that some shards are missing from."""

    result: Any
    missing_shards: list[int]


def parse_consistency(request: HttpRequest, default: Consistency) -> Consistency:
    """Read ``?consistency=``: our levels, and Qdrant's ``majority`` and numbers of replicas.

    Raises:
        InvalidVectorRequest: None of these.
    """
    text = request.query.get("consistency")
    if text is None:
        return default
    if text in {"one", "quorum", "all"}:
        return Consistency(text)
    if text == "majority":
        return Consistency.QUORUM
    if text.isascii() and text.isdigit() and int(text) > 0:
        return Consistency.ONE if int(text) == 1 else Consistency.QUORUM
    raise InvalidVectorRequest(
        f"consistency `{text[:40]}` is not a level", hint="use one, quorum, majority, all or a number of replicas"
    )


def read_level(request: HttpRequest, collection: Collection) -> Consistency:
    """Return the level of a read: the request's, the collection's default, or one."""
    return parse_consistency(request, Consistency(collection.options.get("read_consistency", "one")))


def write_level(request: HttpRequest, collection: Collection) -> Consistency:
    """Return the level of a write: the request's, the collection's default, or a quorum."""
    return parse_consistency(request, Consistency(collection.options.get("write_consistency", "quorum")))


def parse_wait(request: HttpRequest) -> bool:
    """Return `wait`. It changes what the answer says, not what it means: every acknowledged write is durable."""
    text = request.query.get("wait", "false")
    if text not in {"true", "false"}:
        raise InvalidVectorRequest(f"wait `{text[:40]}` is neither true nor false")
    return text == "true"


def error_shape(error: FrysError) -> HttpResponse:
    """Return an error in Qdrant's envelope, with our code and hint beside its text."""
    text = f"{error.message} ({error.hint})" if error.hint else error.message
    prefix = "Wrong input: " if error.status in {400, 409} and not text.startswith("Format") else ""
    status = 503 if error.status == 421 else error.status
    body = {"status": {"error": prefix + text, "code": error.code}, "time": 0.0}
    headers = {"Retry-After": "1"} if error.retryable else {}
    return HttpResponse(status=status, body=msgspec.json.encode(body), headers=headers)


class Dialect:
    """What the handlers share: the envelope, the deadline, decoding."""

    def __init__(self, service: VectorService, clock: Clock) -> None:
        self.service = service
        self.clock = clock
        self.decoders = rest.Decoders()

    def handler(self, answer: Answer) -> HttpHandler:
        """Return a handler that puts an answer in the envelope, within the request's time."""

        async def handle(request: HttpRequest) -> HttpResponse:
            found = self.service.find(request.params.get("collection", ""))
            is_waiting = found is not None and found.options.get("read_repair") == "wait"
            return await in_session(request, answer_it, waits_repair=is_waiting)

        async def answer_it(request: HttpRequest) -> HttpResponse:
            began_s = self.clock.now_s()
            try:
                with trio.fail_after(self._timeout_s(request)):
                    result = await answer(request)
            except trio.TooSlowError:
                raise DeadlineExceeded("the request's time is over; a write may still be done") from None
            envelope: dict[str, Any] = {"result": result}
            if isinstance(result, Partial):
                envelope = {"result": result.result, "missing_shards": result.missing_shards}
            envelope |= {"status": "ok", "time": round(self.clock.now_s() - began_s, 9)}
            return HttpResponse.json(envelope)

        return handle

    def _timeout_s(self, request: HttpRequest) -> float:
        text = request.query.get("timeout")
        limit_s = self.service.config.request_timeout_s
        if text is None:
            return limit_s
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            raise InvalidVectorRequest(f"timeout `{text[:40]}` is not a number of seconds above 0")
        return min(limit_s, int(text))

    async def collection(self, request: HttpRequest) -> Collection:
        """Return the collection that the path names."""
        return await self.service.collection(request.params["collection"])


class PointRoutes:
    """Handlers of ``/collections/{collection}/points``."""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect
        self._service = dialect.service
        self._decode = dialect.decoders.decode

    def register(self, http: Http) -> None:
        """Add the routes."""
        points = "/collections/{collection}/points"
        routes: list[tuple[str, str, Answer, str]] = [
            ("PUT", points, self.upsert, "write"),
            ("POST", points, self.retrieve, "read"),
            ("GET", points + "/{id}", self.get, "read"),
            ("POST", points + "/delete", self.delete, "write"),
            ("POST", points + "/count", self.count, "read"),
            ("POST", points + "/scroll", self.scroll, "read"),
            ("POST", points + "/query", self.query, "read"),
            ("POST", points + "/query/batch", self.query_batch, "read"),
            ("POST", points + "/search", self.search, "read"),
            ("POST", points + "/search/batch", self.search_batch, "read"),
        ]
        for method, template, answer, scope in routes:
            http.route(
                method,
                template,
                self._dialect.handler(answer),
                scope=scope,
                resource=Resource.COLLECTION,
                error_shape=error_shape,
                body_bytes_max=BODY_BYTES_MAX,
            )

    async def upsert(self, request: HttpRequest) -> Any:
        """Write points; all of them are checked before the first is written."""
        collection = await self._dialect.collection(request)
        consistency, waits = write_level(request, collection), parse_wait(request)
        body = self._decode(request.body, rest.UpsertBody)
        rest.refuse(("shard_key", body.shard_key), ("update_filter", body.update_filter))
        if body.update_mode not in {None, "upsert"}:
            raise UnsupportedFeature(f"update_mode `{body.update_mode}` is not supported", hint="leave it out")
        if (body.points is None) == (body.batch is None):
            raise InvalidVectorRequest("a body needs either `points` or `batch`")
        ids, raw, payloads = _columns(body.batch) if body.batch is not None else _rows(body.points or [])
        self._check_count("points", len(ids), self._service.config.points_per_request_max)
        keys = [encode_id(point) for point in ids]
        vectors = (await self._service.vectors(collection)).prepare(raw, [f"point {point}" for point in ids])
        bytes_max = self._service.config.payload_bytes_max
        items: list[tuple[bytes, bytes | None]] = [
            (key, encode_point(StoredPoint(vector, rest.check_payload(payload, bytes_max))))
            for key, vector, payload in zip(keys, vectors, payloads, strict=True)
        ]
        return _updated(waits, await self._service.write(collection, items, consistency))

    async def delete(self, request: HttpRequest) -> Any:
        """Delete points by id or by filter."""
        collection = await self._dialect.collection(request)
        consistency, waits = write_level(request, collection), parse_wait(request)
        body = self._decode(request.body, rest.SelectorBody)
        rest.refuse(("shard_key", body.shard_key))
        if body.points is not None and not rest.is_set(body.filter):
            self._check_count("points", len(body.points), self._service.config.points_per_request_max)
            items: list[tuple[bytes, bytes | None]] = [(encode_id(point), None) for point in body.points]
            return _updated(waits, await self._service.write(collection, items, consistency))
        if body.points is not None or not rest.is_set(body.filter):
            raise InvalidVectorRequest("a body needs either `points` or `filter`")
        source = _filter(body.filter)
        return _updated(waits, await self._service.delete_matching(collection, source, consistency))

    async def get(self, request: HttpRequest) -> Any:
        """Return one point with payload and vector."""
        collection = await self._dialect.collection(request)
        text = request.params["id"]
        key = encode_id(int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else text)
        (entry,) = await self._service.read(collection, [key], read_level(request, collection))
        if entry is None:
            raise UnknownPoint(f"Not found: Point with id {text[:64]} does not exists!")
        return _record(entry, with_payload=True, with_vector=True)

    async def retrieve(self, request: HttpRequest) -> Any:
        """Return the points of some ids; those that do not exist are left out."""
        collection = await self._dialect.collection(request)
        body = self._decode(request.body, rest.RetrieveBody)
        rest.refuse(("shard_key", body.shard_key))
        self._check_count("ids", len(body.ids), self._service.config.points_per_request_max)
        keys = list(dict.fromkeys(encode_id(point) for point in body.ids))
        entries = await self._service.read(collection, keys, read_level(request, collection))
        with_payload = True if body.with_payload is None else body.with_payload
        with_vector = _with_vector(body.with_vector, body.with_vectors)
        return [
            _record(entry, with_payload=with_payload, with_vector=with_vector) for entry in entries if entry is not None
        ]

    async def count(self, request: HttpRequest) -> Any:
        """Count points."""
        collection = await self._dialect.collection(request)
        body = self._decode(request.body or b"{}", rest.CountBody)
        rest.refuse(("shard_key", body.shard_key))
        consistency = read_level(request, collection)
        return {"count": await self._service.count(collection, _filter(body.filter), consistency)}

    async def scroll(self, request: HttpRequest) -> Any:
        """Return a page of points in the order of their ids."""
        collection = await self._dialect.collection(request)
        body = self._decode(request.body or b"{}", rest.ScrollBody)
        rest.refuse(("shard_key", body.shard_key), ("order_by", body.order_by))
        limit = LIMIT_DEFAULT if body.limit is None else body.limit
        self._check_limit(limit, 0)
        start = b"" if body.offset is None else encode_id(body.offset)
        consistency = read_level(request, collection)
        hits = (await self._service.listing(collection, _filter(body.filter), start, limit + 1, consistency)).hits
        with_payload = True if body.with_payload is None else body.with_payload
        with_vector = _with_vector(body.with_vector, body.with_vectors)
        points = [
            _record(Entry(hit.id, hit.version, hit.value), with_payload=with_payload, with_vector=with_vector)
            for hit in hits[:limit]
        ]
        return {"points": points, "next_page_offset": decode_id(hits[limit].id) if len(hits) > limit else None}

    async def query(self, request: HttpRequest) -> Any:
        """Answer one query in the newer form."""
        body = self._decode(request.body, rest.QueryBody)
        (found,), missing = await self._answer(request, [body])
        return _shown({"points": found}, missing)

    async def query_batch(self, request: HttpRequest) -> Any:
        """Answer several queries in one go."""
        body = self._decode(request.body, rest.QueryBatchBody)
        found, missing = await self._answer(request, body.searches)
        return _shown([{"points": points} for points in found], missing)

    async def search(self, request: HttpRequest) -> Any:
        """Answer one query in the older form."""
        body = self._decode(request.body, rest.SearchBody)
        (found,), missing = await self._answer(request, [body.as_query()])
        return _shown(found, missing)

    async def search_batch(self, request: HttpRequest) -> Any:
        """Answer several queries in the older form."""
        body = self._decode(request.body, rest.SearchBatchBody)
        found, missing = await self._answer(request, [one.as_query() for one in body.searches])
        return _shown(found, missing)

    async def _answer(
        self, request: HttpRequest, bodies: Sequence[rest.QueryBody]
    ) -> tuple[list[list[rest.PointOut]], list[int]]:
        collection = await self._dialect.collection(request)
        consistency = read_level(request, collection)
        is_partial = request.query.get("partial", "false") == "true"
        self._check_count("searches", len(bodies), self._service.config.queries_per_request_max)
        plans = [await self._plan(collection, body, consistency) for body in bodies]
        nearest = [plan.query for plan in plans if plan.query.vector]
        found = iter(await self._service.search(collection, nearest, consistency, is_partial=is_partial))
        shown: list[list[rest.PointOut]] = []
        missing: set[int] = set()
        for plan in plans:
            if plan.query.vector:
                answer = next(found)
            else:
                answer = await self._service.listing(
                    collection, plan.query.filter, b"", plan.query.limit, consistency, is_partial=is_partial
                )
            missing.update(answer.missing)
            shown.append(plan.show(answer.hits))
        return shown, sorted(missing)

    async def _plan(self, collection: Collection, body: rest.QueryBody, consistency: Consistency) -> _Plan:
        rest.refuse(("prefetch", body.prefetch), ("lookup_from", body.lookup_from), ("shard_key", body.shard_key))
        if body.using:
            raise rest.named_vectors()
        limit = LIMIT_DEFAULT if body.limit is None else body.limit
        offset = body.offset or 0
        self._check_limit(limit, offset)
        params = body.params or rest.SearchParams()
        if params.hnsw_ef is not None and params.hnsw_ef < 1:
            raise InvalidVectorRequest(f"hnsw_ef {params.hnsw_ef} is below 1")
        with_vector = _with_vector(body.with_vector, body.with_vectors)
        vector, itself = await self._query_vector(collection, body.query, consistency)
        query = Query(
            vector=vector,
            limit=limit + offset + (itself is not None),
            filter=_filter(body.filter),
            exact=bool(params.exact),
            ef=params.hnsw_ef or 0,
            score_threshold=body.score_threshold,
            with_value=bool(body.with_payload) or isinstance(body.with_payload, list | dict) or with_vector,
        )
        return _Plan(query, offset, limit, itself, body.with_payload, with_vector=with_vector)

    async def _query_vector(
        self, collection: Collection, query: Any, consistency: Consistency
    ) -> tuple[bytes, bytes | None]:
        """Return the vector to search for, empty for a listing, and the id to leave out when it is a point's own."""
        if query is None:
            return b"", None
        if isinstance(query, dict):
            if set(query) - {"nearest", "mmr"} or "nearest" not in query or rest.is_set(query.get("mmr")):
                words = ", ".join(sorted(query))[:80]
                raise UnsupportedFeature(f"query of kind `{words}` is not supported", hint="use `nearest`")
            query = self._decode(bytes(query["nearest"]), list[float] | int | str)  # type: ignore[arg-type]
        if isinstance(query, list):
            return (await self._service.vectors(collection)).prepare([query], ["the query"])[0], None
        key = encode_id(query)
        (entry,) = await self._service.read(collection, [key], consistency)
        if entry is None or entry.value is None:
            raise UnknownPoint(f"Not found: No point with id {str(query)[:64]} found")
        return decode_point(entry.value).vector, key

    def _check_count(self, noun: str, count: int, most: int) -> None:
        if count > most:
            raise TooMany(f"{count} {noun} in one request are over the limit of {most}", hint="send several requests")

    def _check_limit(self, limit: int, offset: int) -> None:
        if limit < 1 or offset < 0:
            raise InvalidVectorRequest(f"limit {limit} is below 1 or offset {offset} below 0")
        if limit + offset > self._service.config.limit_max:
            raise TooMany(
                f"limit + offset of {limit + offset} is over the limit of {self._service.config.limit_max}",
                hint="scroll through the points instead",
            )


class _Plan:
    """One search: what is asked, and how its hits are shown."""

    __slots__ = ("_itself", "_limit", "_offset", "_with_payload", "_with_vector", "query")

    def __init__(
        self,
        query: Query,
        offset: int,
        limit: int,
        itself: bytes | None,
        with_payload: rest.WithPayload,
        *,
        with_vector: bool,
    ) -> None:
        self.query = query
        self._offset = offset
        self._limit = limit
        self._itself = itself
        self._with_payload = with_payload
        self._with_vector = with_vector

    def show(self, hits: Sequence[Hit]) -> list[rest.PointOut]:
        """Return the page of hits that was asked for."""
        others = [hit for hit in hits if hit.id != self._itself]
        return [self._point(hit) for hit in others[self._offset : self._offset + self._limit]]

    def _point(self, hit: Hit) -> rest.PointOut:
        stored = decode_point(hit.value) if hit.value is not None else None
        return rest.PointOut(
            id=decode_id(hit.id),
            version=operation_number(hit.version),
            score=hit.score,
            payload=rest.select_payload(stored.payload, self._with_payload) if stored is not None else None,
            vector=_floats(stored.vector) if stored is not None and self._with_vector else None,
        )


def _shown(result: Any, missing: list[int]) -> Any:
    return Partial(result, missing) if missing else result


def _rows(points: Sequence[rest.PointStruct]) -> tuple[list[int | str], list[list[float]], list[msgspec.Raw]]:
    vectors = []
    for point in points:
        if isinstance(point.vector, dict):
            raise rest.named_vectors()
        vectors.append(point.vector)
    return [point.id for point in points], vectors, [point.payload for point in points]


def _columns(batch: rest.PointsBatch) -> tuple[list[int | str], list[list[float]], list[msgspec.Raw]]:
    if isinstance(batch.vectors, dict):
        raise rest.named_vectors()
    payloads = batch.payloads if batch.payloads is not None else [msgspec.Raw(b"")] * len(batch.ids)
    if not len(batch.ids) == len(batch.vectors) == len(payloads):
        raise InvalidVectorRequest(
            f"a batch has {len(batch.ids)} ids, {len(batch.vectors)} vectors and {len(payloads)} payloads"
        )
    return batch.ids, batch.vectors, payloads


def _filter(raw: msgspec.Raw | None) -> bytes:
    """Return a filter's JSON after it has been compiled once, so that the client hears what is wrong with it."""
    if raw is None or not rest.is_set(raw):
        return b""
    source = bytes(raw)
    compile_filter(source)
    return b"" if source == b"{}" else source


def _with_vector(first: rest.WithVector, second: rest.WithVector) -> bool:
    wanted = second if first is None else first
    if isinstance(wanted, list):
        if any(wanted):
            raise rest.named_vectors()
        return bool(wanted)
    return bool(wanted)


def _updated(waits: bool, version: Version | None) -> dict[str, Any]:
    status = "completed" if waits else "acknowledged"
    return {"operation_id": operation_number(version) if version is not None else 0, "status": status}


def _floats(vector: bytes) -> list[float]:
    from frys_node.plugins.vector.index import to_list

    return to_list(vector)


def _record(entry: Entry, *, with_payload: rest.WithPayload, with_vector: bool) -> rest.PointOut:
    stored = decode_point(entry.value) if entry.value is not None else StoredPoint(b"")
    return rest.PointOut(
        id=decode_id(entry.key),
        payload=rest.select_payload(stored.payload, with_payload),
        vector=_floats(stored.vector) if with_vector else None,
    )

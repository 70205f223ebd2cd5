"""The cache over HTTP.

``GET | PUT | DELETE /v1/cache/{namespace}/{key}`` with raw bodies. The ETag is the entry's version; ``PUT`` and
``DELETE`` with ``If-Match: "<etag>"`` or ``*``, and ``PUT`` with ``If-None-Match: *``, are done only if it is as they
say, else 412. ``POST /v1/cache/{namespace}/{key}?add=5`` counts. ``GET ...?lease=5s`` makes one of those that miss the
loader: its 404 has ``X-Frys-Lease: granted``, the others' ``X-Frys-Lease: wait``, until the lease is over or the value
is there.

``POST /v1/cache/{namespace}`` is for batches: ``{"delete": [keys], "put": [{"key", "value" | "base64", "ttl",
"content_type"}], "get": [keys]}``, done in that order, answered by ``{"deleted": n, "put": [versions], "get": [entry
| null]}``. An entry of a batch carries ``value`` when its bytes are UTF-8 text and ``base64`` otherwise.
``?consistency=one|quorum|all`` applies to the whole request; without it writes wait for a quorum and reads ask one
replica. With the header ``Frys-Session`` (``new``, then what the last response said) a client reads its own writes
and never older than it has read; ``?read_repair=wait`` makes a read above one return only what a quorum holds.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence
from functools import partial

import msgspec

from frys_node.base.access import Level, Resource
from frys_node.base.errors import UsageError
from frys_node.base.types import Consistency
from frys_node.kernel.services.http import Http, HttpHandler, HttpRequest, HttpResponse
from frys_node.kernel.services.sessions import SESSION, in_session
from frys_node.plugins.cache.cache import (
    OCTETS,
    CacheConflict,
    CacheMiss,
    CacheValue,
    InvalidCacheRequest,
    etag_of,
    pack,
    parse_ttl_ms,
)
from frys_node.plugins.cache.changer import Changer
from frys_node.plugins.cache.changes import Change, Outcome, parse_integer
from frys_node.plugins.cache.driver import CacheService, Stored

PREFIX = "/v1/cache"
BATCH_BODY_BYTES_MAX = 16 * 1024 * 1024
"""Largest batch request; each value in it has its own limit."""
RAW_BODY_BYTES_MAX = 1 << 20
"""Largest body read at all; `value_bytes_max` is checked by name below it."""
CONTENT_TYPE_CHARS_MAX = 128
LEASE_S_MAX = 600
"""Longest lease of a loader: those that wait for one that died wait no longer."""

LEASES = b".lease"
"""Stands for the namespace in the keys of loaders' leases; no namespace has such a name."""


class PutItem(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One write of a batch: text in `value`, or any bytes in `base64`."""

    key: str
    value: str | None = None
    base64: str | None = None
    ttl: str | int | None = None
    content_type: str = "text/plain; charset=utf-8"


class BatchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A batch request."""

    get: list[str] = []
    put: list[PutItem] = []
    delete: list[str] = []


class BatchEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One entry of a batch answer."""

    key: str
    version: str
    content_type: str
    value: str | None = None
    base64: str | None = None
    ttl_s: float | None = None


_decode_batch = msgspec.json.Decoder(BatchBody).decode


def parse_consistency(request: HttpRequest, default: Consistency) -> Consistency:
    """Read ``?consistency=``.

    Raises:
        UsageError: Not a level; the message names them.
    """
    text = request.query.get("consistency")
    if text is None:
        return default
    try:
        return Consistency(text)
    except ValueError:
        raise UsageError(f"consistency '{text[:40]}' is not a level", hint="use one, quorum or all") from None


class CacheHttp:
    """Routes of the cache."""

    def __init__(self, service: CacheService, changer: Changer) -> None:
        self._service = service
        self._changer = changer

    def register(self, http: Http) -> None:
        """Add the routes."""
        entry = PREFIX + "/{namespace}/{key...}"
        batch = PREFIX + "/{namespace}"
        routes: list[tuple[str, str, HttpHandler, str, int]] = [
            ("GET", entry, self.get, "read", RAW_BODY_BYTES_MAX),
            ("PUT", entry, self.put, "write", RAW_BODY_BYTES_MAX),
            ("DELETE", entry, self.delete, "write", RAW_BODY_BYTES_MAX),
            ("POST", entry, self.add, "write", RAW_BODY_BYTES_MAX),
            ("POST", batch, self.batch, "read", BATCH_BODY_BYTES_MAX),
        ]
        for method, template, answer, scope, body_bytes_max in routes:
            handler = partial(in_session, answer=answer)
            http.route(
                method, template, handler, scope=scope, resource=Resource.NAMESPACE, body_bytes_max=body_bytes_max
            )

    async def get(self, request: HttpRequest) -> HttpResponse:
        """Answer one value with its content type, ETag and remaining life; 304 when the client has it already."""
        consistency = parse_consistency(request, Consistency.ONE)
        key = self._key(request)
        (found,) = await self._service.get([key], consistency)
        if found is None:
            return await self._missed(request, key)
        if found.value.fields is not None:
            raise InvalidCacheRequest("this entry is a hash", hint="read it over the Redis protocol: HGETALL")
        headers = {"ETag": f'"{etag_of(found.version)}"'}
        if found.ttl_s is not None:
            headers["X-Frys-Ttl"] = f"{found.ttl_s:.3f}"
        if headers["ETag"] in _tags(request, "if-none-match"):
            return HttpResponse(status=304, content_type=found.value.content_type, headers=headers)
        return HttpResponse(body=found.value.body, content_type=found.value.content_type, headers=headers)

    async def _missed(self, request: HttpRequest, key: bytes) -> HttpResponse:
        """Answer a miss; with ``?lease=`` say who shall load the value."""
        miss = CacheMiss(f"no entry '{request.params['key'][:80]}' in namespace '{request.params['namespace']}'")
        text = request.query.get("lease")
        if text is None and SESSION.get() is not None:
            # A miss was seen, too: the client must get its token.
            return HttpResponse(status=404, body=_error_body(miss))
        if text is None:
            raise miss
        request.demand(Level.WRITE)
        lease_ms = parse_ttl_ms(text)
        if lease_ms > LEASE_S_MAX * 1_000:
            raise InvalidCacheRequest(
                f"a lease of '{text[:40]}' is over the limit of {LEASE_S_MAX} s",
                hint="ask for as long as loading takes",
            )
        until_unix_ms = self._service.now_unix_ms() + lease_ms
        lease = Change(LEASES + key[key.index(0) :], "set", [b"", OCTETS.encode(), until_unix_ms, b"nx", 0])
        (outcome,) = await self._changer.run([lease], Consistency.QUORUM)
        body = _error_body(miss)
        is_granted = outcome.result == 1
        headers = {"X-Frys-Lease": "granted" if is_granted else "wait"}
        return HttpResponse(status=404, body=body, headers=headers if is_granted else headers | {"Retry-After": "1"})

    async def put(self, request: HttpRequest) -> HttpResponse:
        """Store the body under its content type; with ``If-Match`` or ``If-None-Match: *`` only if that is so."""
        consistency = parse_consistency(request, Consistency.QUORUM)
        key = self._key(request)
        value = self._value(request.body, request.headers.get("content-type", OCTETS), request.query.get("ttl"))
        expected = _expected(request)
        if expected is None:
            return _written(request, etag_of((await self._service.put({key: pack(value)}, consistency))[key]))
        args: list[int | bytes] = [expected.encode(), value.body, value.content_type.encode(), value.expires_unix_ms]
        return _changed(request, await self._changer.run([Change(key, "cas", args)], consistency))

    async def delete(self, request: HttpRequest) -> HttpResponse:
        """Delete a key, whether or not it is there; with ``If-Match`` only if it is as that says."""
        consistency = parse_consistency(request, Consistency.QUORUM)
        key = self._key(request)
        if "if-none-match" in request.headers:
            raise UsageError("a DELETE takes no 'If-None-Match'", hint="use 'If-Match' with an ETag or '*', or neither")
        expected = _expected(request)
        if expected is None:
            return _written(request, etag_of((await self._service.put({key: None}, consistency))[key]))
        return _changed(request, await self._changer.run([Change(key, "cad", [expected.encode()])], consistency))

    async def add(self, request: HttpRequest) -> HttpResponse:
        """Add to the number that is stored (0 if nothing is), and answer the sum."""
        consistency = parse_consistency(request, Consistency.QUORUM)
        by = parse_integer(request.query.get("add", "").encode())
        if by is None:
            raise UsageError("a POST to an entry counts", hint="say by how much: ?add=1")
        (outcome,) = await self._changer.run([Change(self._key(request), "incr", [by])], consistency)
        if outcome.refusal:
            raise InvalidCacheRequest(outcome.refusal.partition(" ")[2])
        return HttpResponse.json({"key": request.params["key"], "value": outcome.result, "version": outcome.version})

    async def batch(self, request: HttpRequest) -> HttpResponse:
        """Delete, put and get many keys; units are written in parallel and a failure may leave some of them done."""
        try:
            body = _decode_batch(request.body)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidCacheRequest(
                f"the body is not a batch: {error}", hint='send {"get": [...], "put": [...], "delete": [...]}'
            ) from error
        if body.put or body.delete:
            request.demand(Level.WRITE)
        self._service.check_batch(len(body.get) + len(body.put) + len(body.delete))
        namespace = request.params["namespace"]
        wanted, gone = self._keys(namespace, body.get), self._keys(namespace, body.delete)
        kept = self._keys(namespace, [item.key for item in body.put])
        if len(set(kept)) != len(kept):
            raise InvalidCacheRequest("a batch writes one key twice", hint="send the last value only")
        items = dict(zip(kept, [pack(self._item_value(item)) for item in body.put], strict=True))
        write = parse_consistency(request, Consistency.QUORUM)
        deleted = await self._service.put(dict.fromkeys(gone), write) if gone else {}
        put = await self._service.put(items, write) if items else {}
        found = await self._service.get(wanted, parse_consistency(request, Consistency.ONE))
        answer = {
            "deleted": len(deleted),
            "put": [etag_of(put[key]) for key in kept],
            "get": _entries(body.get, found),
        }
        return HttpResponse.json(answer)

    def _key(self, request: HttpRequest) -> bytes:
        return self._service.key(request.params["namespace"], _encode(request.params["key"]))

    def _keys(self, namespace: str, keys: Sequence[str]) -> list[bytes]:
        return [self._service.key(namespace, _encode(key)) for key in keys]

    def _value(self, body: bytes, content_type: str, ttl: str | int | None) -> CacheValue:
        if len(content_type) > CONTENT_TYPE_CHARS_MAX or not content_type.isprintable():
            raise InvalidCacheRequest(
                f"a content type has up to {CONTENT_TYPE_CHARS_MAX} printable characters, not {len(content_type)}"
            )
        return self._service.value(body, content_type, None if ttl is None else parse_ttl_ms(str(ttl)))

    def _item_value(self, item: PutItem) -> CacheValue:
        if (item.value is None) == (item.base64 is None):
            raise InvalidCacheRequest(f"key '{item.key[:80]}' needs either 'value' or 'base64'")
        try:
            body = item.value.encode() if item.value is not None else b64decode(item.base64 or "", validate=True)
        except (Base64Error, ValueError) as error:
            raise InvalidCacheRequest(f"the base64 of key '{item.key[:80]}' is not valid: {error}") from error
        return self._value(body, item.content_type, item.ttl)


def _error_body(error: CacheMiss) -> bytes:
    return msgspec.json.encode({"error": {"code": error.code, "message": error.message, "hint": error.hint}})


def _encode(key: str) -> bytes:
    try:
        return key.encode()
    except UnicodeEncodeError:
        raise InvalidCacheRequest("a key is not valid UTF-8") from None


def _tags(request: HttpRequest, header: str) -> list[str]:
    return [tag.strip().removeprefix("W/") for tag in request.headers.get(header, "").split(",") if tag.strip()]


def _expected(request: HttpRequest) -> str | None:
    """Return the version that a write demands: ``*`` any, empty none at all; None if it demands nothing.

    Raises:
        UsageError: No tag or more than one, or ``If-None-Match`` with anything but ``*``.
    """
    match, none_match = _tags(request, "if-match"), _tags(request, "if-none-match")
    for header, tags in (("if-match", match), ("if-none-match", none_match)):
        if header in request.headers and not any(tag.strip('"') for tag in tags):
            # To take it for none would make a write unconditional that somebody wanted conditional.
            raise UsageError(f"the header '{header}' is empty", hint="send an ETag or '*', or leave the header out")
    if none_match:
        if match or none_match != ["*"]:
            raise UsageError("a write takes 'If-None-Match: *' alone", hint="or 'If-Match' with one ETag")
        return ""
    if not match:
        return None
    if len(match) > 1:
        raise UsageError("a write takes one ETag in 'If-Match'")
    return match[0].strip('"')


def _written(request: HttpRequest, tag: str) -> HttpResponse:
    body = msgspec.json.encode({"key": request.params["key"], "version": tag})
    return HttpResponse(body=body, headers={"ETag": f'"{tag}"'})


def _changed(request: HttpRequest, outcomes: list[Outcome]) -> HttpResponse:
    (outcome,) = outcomes
    if outcome.refusal:
        raise InvalidCacheRequest(outcome.refusal.partition(" ")[2])
    if not outcome.result:
        raise CacheConflict(
            f"'{request.params['key'][:80]}' is not as the request demands", hint="read it again and decide anew"
        )
    return _written(request, outcome.version)


def _entries(keys: Sequence[str], found: Sequence[Stored | None]) -> list[BatchEntry | None]:
    entries: list[BatchEntry | None] = []
    for key, stored in zip(keys, found, strict=True):
        if stored is None or stored.value.fields is not None:
            # A hash has no bytes of its own; Redis' MGET answers nothing for it, too.
            entries.append(None)
            continue
        text: str | None
        try:
            text, encoded = stored.value.body.decode(), None
        except UnicodeDecodeError:
            text, encoded = None, b64encode(stored.value.body).decode()
        entries.append(
            BatchEntry(
                key=key,
                version=etag_of(stored.version),
                content_type=stored.value.content_type,
                value=text,
                base64=encoded,
                ttl_s=stored.ttl_s,
            )
        )
    return entries

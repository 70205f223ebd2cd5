"""The cache over HTTP.

``GET | PUT | DELETE /v1/cache/{namespace}/{key}`` with raw bodies, and ``POST /v1/cache/{namespace}`` for batches:
``{"delete": [keys], "put": [{"key", "value" | "base64", "ttl", "content_type"}], "get": [keys]}``, done in that order,
answered by ``{"deleted": n, "put": [versions], "get": [entry | null]}``. An entry of a batch carries ``value`` when its
bytes are UTF-8 text and ``base64`` otherwise. ``?consistency=one|quorum|all`` applies to the whole request; without it
writes wait for a quorum and reads ask one replica. The ETag is the entry's version.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Sequence

import msgspec

from frys_node.base.errors import UsageError
from frys_node.base.types import Consistency
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.kernel.services.replication import Version
from frys_node.plugins.cache.cache import CacheMiss, CacheValue, InvalidCacheRequest, parse_ttl_ms
from frys_node.plugins.cache.driver import CacheService, Stored

PREFIX = "/v1/cache"
BATCH_BODY_BYTES_MAX = 16 * 1024 * 1024
"""Largest batch request; each value in it has its own limit."""
RAW_BODY_BYTES_MAX = 1 << 20
"""Largest body read at all; `value_bytes_max` is checked by name below it."""
CONTENT_TYPE_CHARS_MAX = 128


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


def etag_of(version: Version) -> str:
    """Return the version as text: time, counter, node prefix and boot, unique and free of quotes."""
    return f"{version.hlc_ms:x}.{version.counter:x}.{version.node[:12]}.{version.boot:x}"


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

    def __init__(self, service: CacheService) -> None:
        self._service = service

    def register(self, http: Http) -> None:
        """Add the routes."""
        entry = PREFIX + "/{namespace}/{key...}"
        http.route("GET", entry, self.get, scope="read")
        http.route("PUT", entry, self.put, scope="write", body_bytes_max=RAW_BODY_BYTES_MAX)
        http.route("DELETE", entry, self.delete, scope="write")
        batch = PREFIX + "/{namespace}"
        http.route("POST", batch, self.batch, scope="write", body_bytes_max=BATCH_BODY_BYTES_MAX)

    async def get(self, request: HttpRequest) -> HttpResponse:
        """Answer one value with its content type, ETag and remaining life; 304 when the client has it already."""
        consistency = parse_consistency(request, Consistency.ONE)
        namespace, key = request.params["namespace"], request.params["key"]
        (found,) = await self._service.get(namespace, [key], consistency)
        if found is None:
            raise CacheMiss(f"no entry '{key[:80]}' in namespace '{namespace}'")
        headers = {"ETag": f'"{etag_of(found.version)}"'}
        if found.ttl_s is not None:
            headers["X-Frys-Ttl"] = f"{found.ttl_s:.3f}"
        known = [tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")]
        if headers["ETag"] in known:
            return HttpResponse(status=304, content_type=found.value.content_type, headers=headers)
        return HttpResponse(body=found.value.body, content_type=found.value.content_type, headers=headers)

    async def put(self, request: HttpRequest) -> HttpResponse:
        """Store the body under its content type."""
        consistency = parse_consistency(request, Consistency.QUORUM)
        key = request.params["key"]
        value = self._value(
            request.body, request.headers.get("content-type", "application/octet-stream"), request.query.get("ttl")
        )
        (version,) = await self._service.put(request.params["namespace"], [(key, value)], consistency)
        return _written(key, version)

    async def delete(self, request: HttpRequest) -> HttpResponse:
        """Delete a key, whether or not it is there."""
        consistency = parse_consistency(request, Consistency.QUORUM)
        key = request.params["key"]
        (version,) = await self._service.delete(request.params["namespace"], [key], consistency)
        return _written(key, version)

    async def batch(self, request: HttpRequest) -> HttpResponse:
        """Delete, put and get many keys; units are written in parallel and a failure may leave some of them done."""
        try:
            body = _decode_batch(request.body)
        except (msgspec.DecodeError, msgspec.ValidationError, RecursionError, UnicodeDecodeError) as error:
            raise InvalidCacheRequest(
                f"the body is not a batch: {error}", hint='send {"get": [...], "put": [...], "delete": [...]}'
            ) from error
        self._service.check_batch(len(body.get) + len(body.put) + len(body.delete))
        namespace = request.params["namespace"]
        items = [(item.key, self._item_value(item)) for item in body.put]
        self._service.check(namespace, [*body.get, *body.delete], items)
        write = parse_consistency(request, Consistency.QUORUM)
        deleted = await self._service.delete(namespace, body.delete, write)
        put = await self._service.put(namespace, items, write)
        found = await self._service.get(namespace, body.get, parse_consistency(request, Consistency.ONE))
        answer = {
            "deleted": len(deleted),
            "put": [etag_of(version) for version in put],
            "get": _entries(body.get, found),
        }
        return HttpResponse.json(answer)

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


def _written(key: str, version: Version) -> HttpResponse:
    tag = etag_of(version)
    body = msgspec.json.encode({"key": key, "version": tag})
    return HttpResponse(body=body, headers={"ETag": f'"{tag}"'})


def _entries(keys: Sequence[str], found: Sequence[Stored | None]) -> list[BatchEntry | None]:
    entries: list[BatchEntry | None] = []
    for key, stored in zip(keys, found, strict=True):
        if stored is None:
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

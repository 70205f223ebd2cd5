"""Qdrant's REST dialect: collections, and the banner by which clients check the version."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec

from frys_node import __version__
from frys_node.base.access import Resource
from frys_node.base.errors import AlreadyExists, PluginError
from frys_node.base.ports import Entropy
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.kernel.services.topology import Collection
from frys_node.plugins.vector import qdrant, rest
from frys_node.plugins.vector.collection import Distance, check_name
from frys_node.plugins.vector.errors import CollectionExists, InvalidVectorRequest, UnsupportedFeature
from frys_node.plugins.vector.qdrant import Answer, Dialect, Partial, error_shape

DIALECT_VERSION = "1.19.0"
"""The Qdrant release whose API this follows; clients warn when theirs is more than one minor version away."""

SHARD_NUMBER_MAX = 64
REPLICATION_FACTOR_MAX = 5
OPTIONS_BYTES_MAX = 16_384
"""Settings and metadata of a collection, which travel in the topology record."""

KEPT = ("hnsw_config", "optimizers_config", "wal_config", "metadata", "on_disk_payload", "write_consistency_factor")
"""Settings that are kept and shown. `hnsw_config` and the like tune Qdrant's storage, not this one."""

LEVELS = ("read_consistency", "write_consistency", "read_repair")
BODY_BYTES_MAX = 65_536
METHODS = ("GET", "PUT", "POST", "PATCH", "DELETE")


class CollectionRoutes:
    """Handlers of ``/``, ``/collections`` and ``/collections/{collection}``."""

    def __init__(self, dialect: Dialect, entropy: Entropy) -> None:
        self._dialect = dialect
        self._service = dialect.service
        self._entropy = entropy

    def register(self, http: Http) -> None:
        """Add the routes."""
        one = "/collections/{collection}"
        routes: list[tuple[str, str, Answer, str]] = [
            ("GET", "/collections", self.list, "read"),
            ("PUT", one, self.create, "write"),
            ("GET", one, self.info, "read"),
            ("DELETE", one, self.delete, "write"),
            ("GET", one + "/exists", self.exists, "read"),
        ]
        # The root cannot be unrouted alone, so a reload finds the banner of the first load still standing.
        with suppress(PluginError):
            http.route("GET", "/", self.banner, scope="open")
        for method, template, answer, scope in routes:
            http.route(
                method,
                template,
                self._dialect.handler(answer),
                scope=scope,
                resource=Resource.COLLECTION if "{collection}" in template else Resource.SHARED,
                error_shape=error_shape,
                body_bytes_max=BODY_BYTES_MAX,
            )
        for method in METHODS:
            # As large as a batch of points: the client shall hear that this is not served, not that it is too large.
            http.route(
                method,
                "/collections/{rest...}",
                self._dialect.handler(self.unsupported),
                scope="read",
                resource=Resource.SHARED,
                error_shape=error_shape,
                body_bytes_max=qdrant.BODY_BYTES_MAX,
            )

    async def banner(self, _request: HttpRequest) -> HttpResponse:
        """Say what this is, in the form that Qdrant's clients read."""
        title = "frys - vector search, workflows and cache; Qdrant's REST dialect"
        return HttpResponse.json({"title": title, "version": DIALECT_VERSION, "frys": __version__})

    async def unsupported(self, request: HttpRequest) -> Any:
        """Refuse the rest of Qdrant's API by name, in the form that its clients read."""
        raise UnsupportedFeature(
            f"{request.method} {request.path[:256]} is not in the part of Qdrant's API that frys serves",
            hint="docs/limits.md lists that part",
        )

    async def list(self, request: HttpRequest) -> Any:
        """List the collections by name; those that the caller may see."""
        names = [one.name for one in self._service.collections()]
        return {"collections": [{"name": n} for n in names if request.principal.reaches(Resource.COLLECTION, n)]}

    async def exists(self, request: HttpRequest) -> Any:
        """Say whether there is a collection of the name."""
        return {"exists": await self._service.lookup(request.params["collection"]) is not None}

    async def create(self, request: HttpRequest) -> Any:
        """Create a collection; returns when its shards are writable."""
        name = request.params["collection"]
        check_name(name)
        body = self._dialect.decoders.decode(request.body, rest.CreateCollection)
        collection = self._definition(name, body)
        if self._service.find(name) is not None:
            raise _exists(name)
        try:
            await self._service.create(collection)
        except AlreadyExists as error:
            raise _exists(name) from error
        return True

    async def delete(self, request: HttpRequest) -> Any:
        """Delete a collection; false when there is none."""
        return await self._service.delete(request.params["collection"])

    async def info(self, request: HttpRequest) -> Any:
        """Describe a collection."""
        collection = await self._dialect.collection(request)
        sizes = await self._service.sizes(collection)
        options = collection.options
        from_hnsw = dict(options.get("hnsw_config") or {})
        hnsw = {"m": 16, "ef_construct": 128, "full_scan_threshold": 10_000} | _numbers(from_hnsw)
        optimizers = {"deleted_threshold": 0.2, "default_segment_number": 0, "flush_interval_sec": 0}
        params = {
            "vectors": {"size": collection.dimension, "distance": collection.distance},
            "shard_number": collection.shard_number,
            "replication_factor": collection.replication_factor,
            "write_consistency_factor": options.get("write_consistency_factor") or 1,
            "on_disk_payload": bool(options.get("on_disk_payload")),
        }
        levels = {key: options[key] for key in LEVELS if key in options}
        if levels:
            params["frys"] = levels
        config = {
            "params": params,
            "hnsw_config": hnsw,
            "optimizer_config": optimizers | _numbers(dict(options.get("optimizers_config") or {})),
            "wal_config": {"wal_capacity_mb": 32, "wal_segments_ahead": 0}
            | _numbers(dict(options.get("wal_config") or {})),
        }
        if options.get("metadata"):
            config["metadata"] = options["metadata"]
        info: dict[str, Any] = {
            "status": "red" if sizes.missing else "green",
            "optimizer_status": "ok",
            "points_count": sizes.points,
            "indexed_vectors_count": sizes.indexed,
            "segments_count": sizes.segments,
            "config": config,
            "payload_schema": {},
        }
        if not sizes.missing:
            return info
        names = ", ".join(map(str, sizes.missing))
        # Where Qdrant says why a collection is red; its clients know both forms.
        info["optimizer_status"] = {"error": f"shards {names} do not answer: their points are not counted"}
        return Partial(info, list(sizes.missing))

    def _definition(self, name: str, body: rest.CreateCollection) -> Collection:
        rest.refuse(
            ("init_from", body.init_from),
            ("quantization_config", body.quantization_config),
            ("strict_mode_config", body.strict_mode_config),
        )
        if body.sparse_vectors:
            raise UnsupportedFeature(
                "`sparse_vectors` are not supported by this version of frys", hint="leave them out"
            )
        if body.sharding_method not in {None, "auto"}:
            raise UnsupportedFeature(f"sharding_method `{body.sharding_method}` is not supported", hint="use `auto`")
        params = self._vector_params(body)
        limits = self._service.config
        shard_number = limits.shard_number_default if body.shard_number is None else body.shard_number
        copies = limits.replication_factor_default if body.replication_factor is None else body.replication_factor
        for noun, value, most in (
            ("vectors.size", params.size, limits.dimension_max),
            ("shard_number", shard_number, SHARD_NUMBER_MAX),
            ("replication_factor", copies, REPLICATION_FACTOR_MAX),
        ):
            if not 1 <= value <= most:
                raise InvalidVectorRequest(f"{noun} {value} is not between 1 and {most}")
        options = {key: getattr(body, key) for key in KEPT if getattr(body, key) is not None}
        if body.frys is not None:
            options |= _numbers(msgspec.structs.asdict(body.frys))
        if len(msgspec.json.encode(options)) > OPTIONS_BYTES_MAX:
            raise InvalidVectorRequest(f"settings and metadata are over the limit of {OPTIONS_BYTES_MAX} bytes")
        return Collection(
            name=name,
            id=self._entropy.token_bytes(8).hex(),
            dimension=params.size,
            distance=Distance(params.distance).value,
            shard_number=shard_number,
            replication_factor=copies,
            options=options,
        )

    def _vector_params(self, body: rest.CreateCollection) -> rest.VectorParams:
        if not rest.is_set(body.vectors):
            raise InvalidVectorRequest(
                "`vectors` is missing", hint='send {"vectors": {"size": 4, "distance": "Cosine"}}'
            )
        source = bytes(body.vectors)
        words = self._dialect.decoders.decode(source, dict[str, msgspec.Raw])
        if not words or all(bytes(word).lstrip().startswith(b"{") for word in words.values()):
            raise rest.named_vectors()
        params = self._dialect.decoders.decode(source, rest.VectorParams)
        rest.refuse(
            ("quantization_config", params.quantization_config), ("multivector_config", params.multivector_config)
        )
        if params.datatype not in {None, "float32"}:
            raise UnsupportedFeature(f"datatype `{params.datatype}` is not supported", hint="use float32")
        if params.distance not in set(Distance):
            known = ", ".join(Distance)
            raise InvalidVectorRequest(f"distance `{params.distance[:40]}` is unknown", hint=f"use one of {known}")
        return params


def _exists(name: str) -> CollectionExists:
    return CollectionExists(f"Collection `{name}` already exists!")


def _numbers(settings: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}

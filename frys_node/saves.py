"""Routes for saved snapshots: what `frys-node snapshot` asks of a node."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from frys_node.base.errors import UsageError
from frys_node.base.types import UnitId
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from snapshots.desk import Desk


class SnapshotWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of the routes that name one snapshot."""

    name: str
    store: str = ""
    """Where snapshots are kept; empty: where the node's settings say."""
    units: tuple[UnitId, ...] | None = None
    """None: all."""
    kinds: tuple[str, ...] | None = None
    """Only units of these kinds: ``cache``, ``vector``, ``workflow``. None: of all."""
    cluster: bool = False
    """Save every node's share."""
    partial: bool = False
    """Save the cluster also if units cannot be saved."""
    replace: bool = False
    """Restoring may lose what happened since, in workflow partitions."""


class PruneWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/snapshots/prune``."""

    store: str = ""
    keep: Annotated[int, msgspec.Meta(ge=0)] | None = None
    older_than_s: Annotated[float, msgspec.Meta(ge=0)] | None = None
    dry_run: bool = False
    """Only say what would be deleted."""


class SnapshotRoutes:
    """Answers requests about saved snapshots."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def register(self, http: Http) -> None:
        """Add the routes."""
        http.route("GET", "/v1/snapshots", self._list, scope="admin")
        http.route("POST", "/v1/snapshots", self._create, scope="admin")
        http.route("DELETE", "/v1/snapshots/{name}", self._delete, scope="admin")
        http.route("POST", "/v1/snapshots/verify", self._verify, scope="admin")
        http.route("POST", "/v1/snapshots/restore", self._restore, scope="admin")
        http.route("POST", "/v1/snapshots/prune", self._prune, scope="admin")

    async def _list(self, request: HttpRequest) -> HttpResponse:
        found, problems = await self._desk.list(request.query.get("store", ""))
        body: dict[str, Any] = {"snapshots": found, "problems": problems}
        return HttpResponse.json(body)

    async def _create(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(SnapshotWanted)
        saved = await self._desk.create(
            wanted.name,
            place=wanted.store,
            units=wanted.units,
            kinds=wanted.kinds,
            is_cluster=wanted.cluster,
            is_partial=wanted.partial,
        )
        return HttpResponse.json(saved, 201)

    async def _delete(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json(await self._desk.delete(request.params["name"], request.query.get("store", "")))

    async def _verify(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(SnapshotWanted)
        return HttpResponse.json(await self._desk.verify(wanted.name, wanted.store))

    async def _restore(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(SnapshotWanted)
        if wanted.cluster:
            raise UsageError("a snapshot of a cluster is restored like any other", hint="leave 'cluster' away")
        done = await self._desk.restore(
            wanted.name, place=wanted.store, units=wanted.units, kinds=wanted.kinds, replace=wanted.replace
        )
        return HttpResponse.json(done)

    async def _prune(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(PruneWanted)
        done = await self._desk.prune(
            place=wanted.store, keep=wanted.keep, older_than_s=wanted.older_than_s, is_dry_run=wanted.dry_run
        )
        return HttpResponse.json(done)

"""Routes for saved snapshots: what `frys-node snapshot` asks of a node."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from frys_node.base.errors import UsageError
from frys_node.base.types import UnitId
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from snapshots.desk import Desk

OLDER_MAX_S: Final = 1e10
"""Three hundred years."""

STORE: Final = frozenset({"store"})


class VerifyWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/snapshots/verify``, and of the routes that say more."""

    name: str
    store: str = ""
    """Where snapshots are kept; empty: where the node's settings say."""


class SomeWanted(VerifyWanted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which units of a snapshot."""

    units: tuple[UnitId, ...] | None = None
    """None: all."""
    kinds: tuple[str, ...] | None = None
    """Only units of these kinds: ``cache``, ``vector``, ``workflow``. None: of all."""


class CreateWanted(SomeWanted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/snapshots``."""

    cluster: bool = False
    """Save every node's share."""
    partial: bool = False
    """Save the cluster also if units cannot be saved."""


class RestoreWanted(SomeWanted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/snapshots/restore``."""

    replace: bool = False
    """Restoring may lose what happened since, in workflow partitions."""


class PruneWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/snapshots/prune``."""

    store: str = ""
    keep: Annotated[int, msgspec.Meta(ge=0)] | None = None
    older_than_s: Annotated[float, msgspec.Meta(ge=0, le=OLDER_MAX_S)] | None = None
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
        found, problems = await self._desk.list(_store_of(request))
        body: dict[str, Any] = {"snapshots": found, "problems": problems}
        return HttpResponse.json(body)

    async def _create(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(CreateWanted)
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
        return HttpResponse.json(await self._desk.delete(request.params["name"], _store_of(request)))

    async def _verify(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(VerifyWanted)
        return HttpResponse.json(await self._desk.verify(wanted.name, wanted.store))

    async def _restore(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(RestoreWanted)
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


def _store_of(request: HttpRequest) -> str:
    """Return the place that a query names; one that says something else may have meant another place."""
    if strange := sorted(request.query.keys() - STORE):
        raise UsageError(f"the query has no '{strange[0]}'", hint="it takes 'store'")
    return request.query.get("store", "")

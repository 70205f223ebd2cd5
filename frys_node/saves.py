"""Routes for saved snapshots: what `frys-node snapshot` asks of a node."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any, Final

import msgspec

from frys_node.base.errors import UsageError
from frys_node.base.types import UnitId
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from snapshots.sizes import INDEX_BYTES_MAX, OBJECTS_BODY_MAX

if TYPE_CHECKING:
    from snapshots.desk import Desk

OLDER_MAX_S: Final = 1e10
"""Three hundred years."""

STORE: Final = frozenset({"store"})
IMPORT: Final = frozenset({"store", "name"})

OCTETS: Final = "application/octet-stream"

SIZE_HEADER: Final = "Frys-Sealed-Bytes"
"""Of an export: how long the file will be."""


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


class ExportWanted(VerifyWanted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/snapshots/export``."""

    recipients: tuple[str, ...] = ()
    """Who can open the file: texts that begin with ``frysr1``."""


class PruneWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/snapshots/prune``."""

    store: str = ""
    keep: Annotated[int, msgspec.Meta(ge=0)] | None = None
    older_than_s: Annotated[float, msgspec.Meta(ge=0, le=OLDER_MAX_S)] | None = None
    dry_run: bool = False
    """Only say what would be deleted."""


class SnapshotRoutes:
    """Answers requests about saved snapshots."""

    def __init__(self, desk: Callable[[], Awaitable[Desk]]) -> None:
        """`desk` makes the desk when it is first asked for."""
        self._desk = desk

    def register(self, http: Http) -> None:
        """Add the routes."""
        http.route("GET", "/v1/snapshots", self._list, scope="admin")
        http.route("POST", "/v1/snapshots", self._create, scope="admin")
        http.route("DELETE", "/v1/snapshots/{name}", self._delete, scope="admin")
        http.route("POST", "/v1/snapshots/verify", self._verify, scope="admin")
        http.route("POST", "/v1/snapshots/restore", self._restore, scope="admin")
        http.route("POST", "/v1/snapshots/prune", self._prune, scope="admin")
        http.route("POST", "/v1/snapshots/export", self._export, scope="admin")
        http.route("POST", "/v1/snapshots/objects", self._objects, scope="admin", body_bytes_max=OBJECTS_BODY_MAX)
        http.route("POST", "/v1/snapshots/import", self._import, scope="admin", body_bytes_max=INDEX_BYTES_MAX)

    async def _list(self, request: HttpRequest) -> HttpResponse:
        found, problems = await (await self._desk()).list(_store_of(request))
        body: dict[str, Any] = {"snapshots": found, "problems": problems}
        return HttpResponse.json(body)

    async def _create(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(CreateWanted)
        saved = await (await self._desk()).create(
            wanted.name,
            place=wanted.store,
            units=wanted.units,
            kinds=wanted.kinds,
            is_cluster=wanted.cluster,
            is_partial=wanted.partial,
        )
        return HttpResponse.json(saved, 201)

    async def _delete(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json(await (await self._desk()).delete(request.params["name"], _store_of(request)))

    async def _verify(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(VerifyWanted)
        return HttpResponse.json(await (await self._desk()).verify(wanted.name, wanted.store))

    async def _restore(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(RestoreWanted)
        done = await (await self._desk()).restore(
            wanted.name, place=wanted.store, units=wanted.units, kinds=wanted.kinds, replace=wanted.replace
        )
        return HttpResponse.json(done)

    async def _prune(self, request: HttpRequest) -> HttpResponse:
        wanted = request.json(PruneWanted)
        done = await (await self._desk()).prune(
            place=wanted.store, keep=wanted.keep, older_than_s=wanted.older_than_s, is_dry_run=wanted.dry_run
        )
        return HttpResponse.json(done)

    async def _export(self, request: HttpRequest) -> HttpResponse:
        from frys_node.secure.recipient import parse_recipient
        from frys_node.secure.sealed_header import RECIPIENTS_MAX

        wanted = request.json(ExportWanted)
        if len(wanted.recipients) > RECIPIENTS_MAX:
            raise UsageError(f"a file is sealed to at most {RECIPIENTS_MAX} recipients")
        recipients = [parse_recipient(text) for text in wanted.recipients]
        export = await (await self._desk()).export(wanted.name, recipients, wanted.store)
        headers = {SIZE_HEADER: str(export.size_bytes)}
        return HttpResponse(content_type=OCTETS, headers=headers, stream=export.stream)

    async def _objects(self, request: HttpRequest) -> HttpResponse:
        return HttpResponse.json({"objects": await (await self._desk()).put_objects(request.body, _store_of(request))})

    async def _import(self, request: HttpRequest) -> HttpResponse:
        place = _store_of(request, IMPORT)
        report = await (await self._desk()).adopt(request.body, name=request.query.get("name", ""), place=place)
        return HttpResponse.json(report, 201)


def _store_of(request: HttpRequest, known: frozenset[str] = STORE) -> str:
    """Return the place that a query names; one that says something else may have meant another place."""
    if strange := sorted(request.query.keys() - known):
        raise UsageError(f"the query has no '{strange[0]}'", hint=f"it takes {' and '.join(sorted(known))}")
    return request.query.get("store", "")

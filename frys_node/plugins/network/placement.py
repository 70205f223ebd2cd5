"""Who holds every unit, for clients that go straight to owners: ``GET /v1/placement``.

Nodes are listed once and named by their position after that, so that the whole table of a cluster of 256 units is a few
kilobytes. It says what the topology record says, and beside it, as a rumour, how the nodes do.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from frys_node.base.access import Resource
from frys_node.base.errors import NotReady
from frys_node.base.types import Address, Epoch, NodeId, UnitId
from frys_node.kernel.context import PluginContext
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.kernel.services.members import MEMBERS, MemberView
from frys_node.kernel.services.topology import TOPOLOGY, Topology, adopted
from frys_node.plugins.network.router import Router

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 (names addresses, binds none)


class PlacementRoutes:
    """The one route, over services that are looked up per request."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context
        self._table: _Table | None = None

    def register(self, router: Router) -> None:
        """Add the route."""
        router.route("GET", "/v1/placement", self.placement, scope="read", resource=Resource.SHARED)

    async def placement(self, request: HttpRequest) -> HttpResponse:
        """Answer the current set of every unit, its first member first; of the collections that the caller may see."""
        topology = self._context.services.find(TOPOLOGY)
        epoch = adopted(topology)
        if topology is None or epoch is None:
            raise NotReady("this node has no topology record yet", hint="retry when it has joined")
        table = self._table
        if table is None or table.epoch != epoch:
            table = self._table = _Table(topology, epoch)
        body: dict[str, Any] = {
            "epoch": str(epoch),
            "partitions": topology.partitions,
            "cache": table.cache,
            "workflow": table.workflow,
            "collections": {
                name: shards
                for name, shards in table.collections.items()
                if request.principal.reaches(Resource.COLLECTION, name)
            },
        }
        members = self._context.services.find(MEMBERS)
        views = {view.id: view for view in (members.all() if members is not None else ())}
        body["nodes"] = [_node(node, views.get(node)) for node in table.numbers]
        return HttpResponse.json(body)


class _Table:
    """What the record says, encoded once: at a new one all clients of a node ask for it within moments."""

    def __init__(self, topology: Topology, epoch: Epoch) -> None:
        self.epoch = epoch
        self.numbers: dict[NodeId, int] = {}
        """Nodes by the order in which they were first named."""
        self._topology = topology
        partitions = topology.partitions
        self.cache = self._encoded(f"cache/{number}" for number in range(partitions))
        self.workflow = self._encoded(f"workflow/{number}" for number in range(partitions))
        self.collections = {
            collection.name: self._encoded(
                f"vector/{collection.id}/{shard}" for shard in range(collection.shard_number)
            )
            for collection in topology.collections()
        }

    def _encoded(self, units: Iterable[str]) -> msgspec.Raw:
        return msgspec.Raw(msgspec.json.encode([self._holders(unit) for unit in units]))

    def _holders(self, unit: str) -> list[int]:
        sets = self._topology.sets(UnitId(unit))
        return [self.numbers.setdefault(node, len(self.numbers)) for node in sets.current]


def _node(node: NodeId, view: MemberView | None) -> dict[str, str]:
    if view is None:
        return {"id": node, "name": node, "http": "", "status": "dead", "condition": "ok"}
    return {
        "id": node,
        "name": view.name,
        "http": reachable(view),
        "status": view.status.value,
        "condition": view.condition.value,
    }


def reachable(view: MemberView) -> str:
    """Return where the node's HTTP is reached: one that listens on every address is reached at its advertised one."""
    if not view.http:
        return ""
    address = Address.parse(view.http)
    return str(Address(view.address.host, address.port) if address.host in WILDCARDS else address)

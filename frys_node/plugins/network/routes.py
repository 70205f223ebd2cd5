"""What the HTTP plugin serves itself besides health: metrics, members, ring, status, plugins, events."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import msgspec
import trio

import frys_node
from frys_node.base.errors import NotReady, UsageError
from frys_node.base.types import NodeId, UnitId
from frys_node.base.units import cache_unit_of, partition_of, workflow_unit
from frys_node.kernel.context import PluginContext
from frys_node.kernel.services.http import HttpRequest, HttpResponse
from frys_node.kernel.services.member_bodies import member_body
from frys_node.kernel.services.members import MEMBERS, MemberView
from frys_node.kernel.services.node import NODE
from frys_node.kernel.services.topology import TOPOLOGY, Topology, UnitSets, adopted
from frys_node.observe.exposition import load, render
from frys_node.plugins.network.events import EventStream
from frys_node.plugins.network.router import Router


class NodeRoutes:
    """Handlers over the node's own services, looked up per request: they come and go."""

    def __init__(self, context: PluginContext) -> None:
        self._context = context
        self._node = context.service(NODE)
        self._events = EventStream(context.bus)
        self._can_render = False
        build = context.metrics.gauge("frys_build_info", "Always 1; the labels say what runs", ("version", "python"))
        build.set(1, frys_node.__version__, platform.python_version())

    def register(self, router: Router) -> None:
        """Add every route."""
        router.route("GET", "/metrics", self.metrics, scope="read")
        router.route("GET", "/v1/members", self.members, scope="read")
        router.route("GET", "/v1/status", self.status, scope="read")
        router.route("GET", "/v1/ring", self.ring, scope="read")
        router.route("GET", "/v1/events", self._events.handle, scope="read")
        router.route("GET", "/v1/plugins", self.plugins, scope="read")
        router.route("POST", "/v1/plugins/{name}/{action}", self.change_plugin, scope="admin")
        router.route("GET", "/v1/routes", partial(self.routes, router), scope="read")

    async def metrics(self, request: HttpRequest) -> HttpResponse:
        """Prometheus or OpenMetrics text."""
        if not self._can_render:
            await self._context.executor.run(load)
            self._can_render = True
        is_open = "application/openmetrics-text" in request.headers.get("accept", "")
        body, content_type = render(self._context.metrics, openmetrics=is_open)
        return HttpResponse(body=body, content_type=content_type)

    async def members(self, request: HttpRequest) -> HttpResponse:
        """Everybody that this node knows of."""
        service = self._context.services.find(MEMBERS)
        members: Sequence[MemberView] = service.all() if service is not None else ()
        return HttpResponse.json({"members": [member_body(member) for member in members]})

    async def status(self, request: HttpRequest) -> HttpResponse:
        """What this node is and does; others contribute sections (`NodeControl.add_status`)."""
        context, node = self._context, self._node
        topology = context.services.find(TOPOLOGY)
        readiness = node.readiness()
        body: dict[str, Any] = {
            "node": {
                "id": context.node,
                "name": node.name,
                "boot": context.boot,
                "pid": os.getpid(),
                "data_dir": str(context.data_dir),
            },
            "versions": {"frys": frys_node.__version__, "trio": trio.__version__},
            "uptime_s": round(node.uptime_s, 3),
            "ready": all(check.ok for check in readiness),
            "waiting_for": [f"{check.name}: {check.detail}" for check in readiness if not check.ok],
            "epoch": _epoch(topology),
            "loop_lag_s": round(node.loop_lag_s, 6),
            "components": [msgspec.to_builtins(view) for view in node.components()],
        }
        for name, section in node.status().items():
            body.setdefault(name, section)
        return HttpResponse.json(body)

    async def ring(self, request: HttpRequest) -> HttpResponse:
        """Who owns what; ``?unit=workflow/17``, ``?key=`` (of the cache) or ``?run=`` looks an owner up."""
        topology = self._context.services.find(TOPOLOGY)
        if topology is None or _epoch(topology) is None:
            raise NotReady("this node has no topology record yet", hint="retry when it has joined")
        partitions = topology.partitions
        first = topology.sets(UnitId("cache/0"))
        body: dict[str, Any] = {
            "epoch": str(topology.epoch),
            "phase": first.phase,
            "partitions": partitions,
            "members": self._shares(topology),
        }
        if request.query.keys() & {"unit", "key", "run"}:
            unit = _unit(request.query, partitions)
            sets = topology.sets(unit)
            body["owner"] = {
                "unit": unit,
                "epoch": str(sets.epoch),
                "phase": sets.phase,
                "current": [self._name(node) for node in sets.current],
                "next": [self._name(node) for node in sets.next],
                "nodes": [self._holder(node, sets) for node in dict.fromkeys((*sets.current, *sets.next))],
            }
        return HttpResponse.json(body)

    def _shares(self, topology: Topology) -> list[dict[str, Any]]:
        """Count the units by node: all that it holds a replica of, and its share of the first places."""
        units = [UnitId(f"{kind}/{n}") for kind in ("cache", "workflow") for n in range(topology.partitions)]
        units += [UnitId(f"vector/{c.id}/{n}") for c in topology.collections() for n in range(c.shard_number)]
        held: dict[NodeId, int] = {}
        first: dict[NodeId, int] = {}
        for unit in units:
            current = topology.sets(unit).current
            for node in current:
                held[node] = held.get(node, 0) + 1
            if current:
                first[current[0]] = first.get(current[0], 0) + 1
        weights: Mapping[NodeId, float] = getattr(topology, "weights", None) or {}
        members = [
            {
                "name": self._name(node),
                "id": node,
                "weight": weights.get(node, 1.0),
                "share": round(first.get(node, 0) / len(units), 6),
                "units": count,
            }
            for node, count in held.items()
        ]
        return sorted(members, key=lambda member: str(member["name"]))

    def _holder(self, node: NodeId, sets: UnitSets) -> dict[str, Any]:
        """Tell of a node that holds the unit, or will: where it is, whether it is up, and in which sets."""
        members = self._context.services.find(MEMBERS)
        view = members.get(node) if members is not None else None
        tags = view.tags if view is not None else {}
        return {
            "name": self._name(node),
            "id": node,
            "zone": tags.get("zone", ""),
            "rack": tags.get("rack", ""),
            "status": view.status.value if view is not None else "",
            "sets": [name for name, nodes in (("current", sets.current), ("next", sets.next)) if node in nodes],
        }

    def _name(self, node: NodeId) -> str:
        members = self._context.services.find(MEMBERS)
        view = members.get(node) if members is not None else None
        return view.name if view is not None else node

    async def plugins(self, request: HttpRequest) -> HttpResponse:
        """Every plugin with its state."""
        views = [msgspec.to_builtins(view) for view in self._node.components() if view.version]
        return HttpResponse.json({"plugins": views})

    async def routes(self, router: Router, request: HttpRequest) -> HttpResponse:
        """Every route with the role that it takes, and what of its path a token's scopes have to name."""
        del request
        await trio.lowlevel.checkpoint()
        listed = [
            {"method": route.method, "path": route.template, "role": route.level, "resource": route.resource}
            for route in router.routes
        ]
        return HttpResponse.json({"routes": listed})

    async def change_plugin(self, request: HttpRequest) -> HttpResponse:
        """Load, unload or reload a plugin while the node runs."""
        name, action = request.params["name"], request.params["action"]
        actions = {"load": self._node.load, "unload": self._node.unload, "reload": self._node.reload}
        if action not in actions:
            raise UsageError(f"'{action[:64]}' is no action of a plugin", hint="use load, unload or reload")
        if name == "network":
            raise UsageError("the plugin that answers this request cannot be taken down by it", hint="restart the node")
        await actions[action](name)
        return await self.plugins(request)


def _epoch(topology: Topology | None) -> str | None:
    """Return the adopted record's epoch, None while there is none."""
    epoch = adopted(topology)
    return None if epoch is None else str(epoch)


def _unit(query: Mapping[str, str], partitions: int) -> UnitId:
    if "unit" in query:
        kind, slash, rest = query["unit"].partition("/")
        is_numbered = kind in ("cache", "workflow") and rest.isascii() and rest.isdigit() and int(rest) < partitions
        if not slash or not (is_numbered or kind == "vector"):
            raise UsageError(
                f"'{query['unit'][:64]}' is no unit", hint=f"write cache/N or workflow/N, N below {partitions}"
            )
        return UnitId(query["unit"])
    if "run" in query:
        return workflow_unit(partition_of(query["run"], partitions))
    return cache_unit_of(query["key"].encode(), partitions)

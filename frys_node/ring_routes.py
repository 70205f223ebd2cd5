"""The ring for people: who holds how much, what a change would move, and what moves now, over the whole cluster.

Every node can answer: placement follows from the record that it has, and the other nodes are asked what they hold. One
that does not answer in time is named, and shown without bytes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from typing import Annotated, Any

import msgspec

from balancer import plan
from balancer.driver import BalancerComponent
from balancer.methods import RingView
from balancer.record import STABLE, TopologyRecord, next_ring_of, ring_of
from balancer.spread import RingMember
from frys_node import ring_plan
from frys_node.base.errors import FrysError, NotFound, UsageError
from frys_node.base.ports import Executor
from frys_node.base.types import NodeId
from frys_node.kernel.services.http import Http, HttpRequest, HttpResponse
from frys_node.kernel.services.members import Members, not_sole
from frys_node.kernel.services.snapshots import MoveProgress
from snapshots.driver import SnapshotComponent
from snapshots.survey import Silent

SECTORS = 720
"""Parts of the circle in its picture: one for half a degree."""

CHANGES_MAX = 32
"""Nodes that one plan adds and removes."""


class Newcomer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A node that a plan adds: a member that is not on the ring, by name or id, or one that is still to be made."""

    node: str
    weight: Annotated[float, msgspec.Meta(ge=0.01, le=100)] = 1.0
    zone: str = ""
    rack: str = ""


class PlanWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of ``POST /v1/ring/plan``."""

    add: tuple[Newcomer, ...] = ()
    remove: tuple[str, ...] = ()
    replication_factor: int | None = None
    """Of cache units, or of the collection's shards: what the commands that change it change."""
    collection: str = ""


class RingRoutes:
    """Handlers over the balancer, the snapshots and the member list."""

    def __init__(
        self, *, balancer: BalancerComponent, snapshots: SnapshotComponent, members: Members, executor: Executor
    ) -> None:
        self._balancer = balancer
        self._snapshots = snapshots
        self._members = members
        self._executor = executor

    def register(self, http: Http) -> None:
        """Add the routes."""
        http.route("GET", "/v1/ring/show", self._show, scope="read")
        http.route("POST", "/v1/ring/plan", self._plan, scope="read")
        http.route("GET", "/v1/moves", self._moves, scope="read")

    def _name(self, node: NodeId) -> str:
        view = self._members.get(node)
        return view.name if view is not None else node

    async def _show(self, request: HttpRequest) -> HttpResponse:
        """Everything that there is to say about the ring; see `describe` of the balancer for the step under way."""
        placement = self._balancer.placement
        record = placement.record
        view = await self._balancer.describe()
        reports, silent = await self._snapshots.survey.holdings(record.members())
        errors = {each.node: each.error for each in silent}
        sets = [placement.sets(unit) for unit in placement.units()]
        current, following = (_places(each.current for each in sets), _places(each.next for each in sets))
        firsts = _places(each.current[:1] for each in sets)
        ring = {member.node: member for member in record.ring}
        after = {member.node: member for member in record.next_ring}
        members = [
            {
                "name": self._name(node),
                "id": node,
                "weight": (after.get(node) or ring[node]).weight / 100,
                "zone": (after.get(node) or ring[node]).zone,
                "rack": (after.get(node) or ring[node]).rack,
                "change": "" if node in ring and node in after else "joins" if node in after else "leaves",
                "share": round(firsts.get(node, 0) / len(sets), 6),
                "arc": round(view.share.get(node, 0.0), 6),
                "units": current.get(node, 0),
                "next_units": following.get(node, 0),
                "bytes": sum(reports[node].values()) if node in reports else None,
                "error": errors.get(node, ""),
            }
            for node in sorted(record.members(), key=lambda node: (self._name(node), node))
        ]
        body = self._head(view, record.members()) | {"members": members}
        index = {member["id"]: number for number, member in enumerate(members)}
        body["sectors"] = [index[node] for node in ring_of(record).sectors(SECTORS)]
        if record.phase != STABLE:
            body["next_sectors"] = [index[node] for node in next_ring_of(record).sectors(SECTORS)]
        return HttpResponse.json(body)

    def _head(self, view: RingView, members: Sequence[NodeId]) -> dict[str, Any]:
        return {
            "epoch": view.epoch,
            "phase": view.phase,
            "settled": view.settled,
            "issuer": {"name": self._name(view.issuer), "id": view.issuer, "answers": view.issuer_answers},
            "partitions": view.partitions,
            "replication_factor": min(view.replication_factor, len(members)),
            "collections": len(view.collections),
            "copies_to_make": view.moving,
            "waits_for": self._waits(view.waits_for),
            "queued": [self._name(node) for node in view.queued],
            "pinned": view.pinned,
            "bypassed": {self._name(NodeId(node)): units for node, units in view.bypassed.items()},
        }

    def _waits(self, lines: Sequence[str]) -> list[dict[str, str]]:
        """Tell lines of ``node: reason`` with the names of the nodes."""
        found = [line.partition(": ") for line in lines]
        return [{"name": self._name(NodeId(node)), "id": node, "reason": reason} for node, _, reason in found]

    async def _plan(self, request: HttpRequest) -> HttpResponse:
        """What joins, leaves and another replication factor would move, as the issuer would do it. Nothing changes."""
        wanted = request.json(PlanWanted)
        if not wanted.add and not wanted.remove and wanted.replication_factor is None:
            raise UsageError("a plan needs a change", hint="add or remove nodes, or give another replication factor")
        if len(wanted.add) + len(wanted.remove) > CHANGES_MAX:
            raise UsageError(f"a plan has at most {CHANGES_MAX} nodes that come or go")
        record = self._balancer.placement.record
        start = ring_plan.start_of(record)
        changes, names = self._checked(start, wanted)
        reports, silent = await self._snapshots.survey.holdings(record.members())
        dead = frozenset(member.node for member in start.ring if not self._members.is_usable(member.node))
        work = partial(
            ring_plan.planned, start, changes, sizes=plan.sizes_of(reports), dead=dead, names=self._names(start) | names
        )
        # Placing is work for tens of milliseconds.
        made = await self._executor.run(work)
        body = msgspec.to_builtins(made) | {
            "epoch": str(record.epoch),
            "after_change": record.phase != STABLE,
            "copies": made.copies,
            "bytes": made.bytes,
            "unknown": sum(step.unknown for step in made.steps),
            "waits_for": self._waits(made.waits_for),
            "silent": self._silent(silent),
        }
        for node in body["nodes"]:
            node["name"] = names.get(node["node"]) or self._name(node["node"])
            node["id"] = node.pop("node")
        body["nodes"].sort(key=lambda node: (node["name"], node["id"]))
        return HttpResponse.json(body)

    def _names(self, record: TopologyRecord) -> dict[NodeId, str]:
        return {member.node: self._name(member.node) for member in record.ring}

    def _checked(self, record: TopologyRecord, wanted: PlanWanted) -> tuple[ring_plan.Wanted, dict[NodeId, str]]:
        """Return what is asked for with ids, and the names of nodes that come; errors say which change is wrong."""
        joining: list[RingMember] = []
        leaving: list[NodeId] = []
        names: dict[NodeId, str] = {}
        what = ""
        try:
            for each in wanted.add:
                what = f"add {each.node[:64]}: "
                member = RingMember(
                    node=self._newcomer(each.node), weight=round(each.weight * 100), zone=each.zone, rack=each.rack
                )
                record = plan.with_member(record, member)
                joining.append(member)
                names[member.node] = each.node
            for name in wanted.remove:
                what = f"remove {name[:64]}: "
                gone = self._on_ring(name, record)
                if gone in names:
                    raise UsageError("a plan adds a node or removes it")
                record = plan.without_member(record, gone)
                leaving.append(gone)
            what = "replication_factor: "
            if wanted.replication_factor is not None:
                plan.with_copies(record, wanted.replication_factor)
            elif wanted.collection:
                raise UsageError("a collection is named, and no replication factor", hint="give both")
            whose = self._collection(record, wanted.collection)
        except FrysError as error:
            raise type(error)(f"{what}{error.message}", hint=error.hint) from None
        changes = ring_plan.Wanted(joining=joining, leaving=leaving, factor_of=whose, factor=wanted.replication_factor)
        return changes, names

    @staticmethod
    def _collection(record: TopologyRecord, name: str) -> str:
        """Return the id of a collection, empty without a name."""
        found = [each.id for each in record.collections if each.name == name]
        if name and not found:
            raise NotFound(f"there is no collection '{name[:64]}'", hint="`frys-node collection list` lists them")
        return found[0] if found else ""

    def _newcomer(self, name: str) -> NodeId:
        """Return the id of a member with that name or id; without one, an id made of the name.

        A node that does not exist yet has no id, and its units will be others; how many they are hardly depends on it.
        """
        found = [view.id for view in self._members.all() if name in (view.name, view.id)]
        if len(found) > 1:
            raise not_sole(name, self._members.all())
        return found[0] if found else NodeId(f"new/{name}")

    def _on_ring(self, name: str, record: TopologyRecord) -> NodeId:
        """Return the id of the node on the planned ring that has the name or id."""
        nodes = [member.node for member in record.ring]
        if name in nodes:
            return NodeId(name)
        if f"new/{name}" in nodes:
            return NodeId(f"new/{name}")
        found = [view.id for view in self._members.all() if view.name == name and view.id in nodes]
        if len(found) == 1:
            return found[0]
        raise not_sole(name, [view for view in self._members.all() if view.id in nodes])

    async def _moves(self, request: HttpRequest) -> HttpResponse:
        """Moves to this node, or with ``?cluster`` to any, and the change that they belong to."""
        if "cluster" not in request.query:
            here = [self._told(move, self._members.self_id) for move in self._snapshots.moves()]
            return HttpResponse.json({"moves": here})
        view = await self._balancer.describe()
        nodes = [view.id for view in self._members.all() if self._members.is_usable(view.id)]
        answers, silent = await self._snapshots.survey.moves(nodes)
        found = [self._told(move, node) for node, moves in answers.items() for move in moves]
        head = self._head(view, ())
        step = {key: head[key] for key in ("epoch", "phase", "settled", "waits_for")} | {"copies": view.moving}
        return HttpResponse.json({"step": step, "moves": found, "silent": self._silent(silent)})

    def _told(self, move: MoveProgress, target: NodeId) -> dict[str, Any]:
        """Tell of a move, with the names of both ends."""
        told: dict[str, Any] = msgspec.to_builtins(move)
        return told | {
            "source_name": self._name(move.source),
            "target": target,
            "target_name": self._name(target),
        }

    def _silent(self, silent: Sequence[Silent]) -> list[dict[str, str]]:
        return [{"name": self._name(each.node), "id": each.node, "error": each.error} for each in silent]


def _places(sets: Iterable[Sequence[NodeId]]) -> dict[NodeId, int]:
    """Count places by node."""
    places: dict[NodeId, int] = {}
    for nodes in sets:
        for node in nodes:
            places[node] = places.get(node, 0) + 1
    return places
